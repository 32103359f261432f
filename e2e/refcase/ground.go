package refcase

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"mqlift/internal/lab"
)

// Ground is where the case takes place: hosts that carry the broker group as it is before its upgrade.
type Ground struct {
	Topology    string   // path of the topology file
	NameServers []string // IP:port
	Hosts       []Host   // the master's, the slave's, and the new one
	// Down ends everything on it.
	Down func(context.Context) error
}

// Host is one host of a Ground.
type Host struct {
	Name   string // as in the topology
	Broker string // address of its broker, IP:port, also where none runs yet
	Logs   string // the folder with its broker's logs, to be read from here
}

// Loopback makes the ground out of a lab on this machine, with mqlift's own command.
func Loopback(ctx context.Context, o Options) (Ground, error) {
	dir := filepath.Join(o.Dir, "lab")
	up := []string{"lab", "up", "--dir", dir, "--release", o.Release}
	if o.LogFileSize != "" {
		up = append(up, "--log-file-size", o.LogFileSize)
	}
	if err := o.Run(ctx, up...); err != nil {
		return Ground{}, err
	}
	down := func(ctx context.Context) error { return o.Run(ctx, "lab", "down", "--dir", dir) }
	text, err := o.output(ctx, "lab", "status", "--dir", dir, "--json")
	var status lab.Status
	if err == nil {
		err = json.Unmarshal(text, &status)
	}
	if err != nil {
		return Ground{}, errors.Join(fmt.Errorf("lab status: %w", err), down(context.WithoutCancel(ctx)))
	}
	g := Ground{Topology: status.Topology, Down: down}
	for _, ns := range status.NameServers {
		g.NameServers = append(g.NameServers, ns.Address)
	}
	for _, h := range status.Hosts {
		g.Hosts = append(g.Hosts, Host{Name: h.Name, Broker: h.BrokerAddr(), Logs: filepath.Join(h.Home(), "logs/rocketmqlogs")})
	}
	return g, nil
}

// Master is the host that carries the master before the upgrade.
func (g Ground) Master() Host { return g.Hosts[0] }

// Slave is the host that carries the slave before the upgrade.
func (g Ground) Slave() Host { return g.Hosts[1] }

// Addrs are all hosts' brokers.
func (g Ground) Addrs() []string {
	var l []string
	for _, h := range g.Hosts {
		l = append(l, h.Broker)
	}
	return l
}
