package main

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
)

// hostsScript is what the scripts of the hand procedures begin with.
//
//go:embed hosts.sh
var hostsScript string

//go:embed by-hand.sh
var byHandScript string

// byHand is the procedure as people do it by hand.
type byHand struct{}

func (byHand) name() string { return "by hand" }

func (byHand) upgrade(ctx context.Context, t *trial) error {
	return t.ground.operator.script(ctx, "by-hand.sh", hostsScript+byHandScript, t.ground.scriptEnv())
}

// scriptEnv is what the scripts of the hand procedures want to know.
func (g *ground) scriptEnv() map[string]string {
	var peers []string
	for _, h := range g.Hosts() {
		peers = append(peers, fmt.Sprintf("%s-%s:%d", h.Peer, h.Address, h.RaftPort))
	}
	return map[string]string{
		"DIR_A": g.host(master).InstallDir, "DIR_B": g.host(slave).InstallDir, "DIR_C": g.host(empty).InstallDir,
		"PEERS": strings.Join(peers, ";"), "PORT_C": fmt.Sprint(g.host(empty).ListenPort),
	}
}
