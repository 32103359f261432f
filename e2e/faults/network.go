package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"mqlift/e2e/netlab"
	"mqlift/internal/lab"
)

// net3 is a network lab.
type net3 struct {
	*netlab.Lab
	kept netlab.Snapshot
}

func newNetwork(ctx context.Context) (cluster, error) {
	l, err := netlab.Up(ctx, netlab.Options{LogFileSize: logFileSize}, nil)
	return &net3{Lab: l}, err
}

func (*net3) place() place { return network }

func (n *net3) name(r role) string { return n.Hosts()[r].Name }

func (n *net3) member(r role) member {
	h := n.Hosts()[r]
	return member{Name: h.Name, Peer: fmt.Sprintf("n%d", r), Addr: h.BrokerAddr(), RaftAddr: h.Address + ":40911", NameServer: h.NameServer,
		InstallDir: h.Path(netlab.InstallDir), Logs: h.Logs(), Tmp: h.Path("/tmp")}
}

func (n *net3) keep(ctx context.Context) (err error) {
	n.kept, err = n.Snapshot(ctx)
	return err
}

func (n *net3) reset(ctx context.Context) error { return n.Reset(ctx, n.kept) }

func (n *net3) startBroker(ctx context.Context, r role) error { return n.StartBroker(ctx, n.name(r)) }

func (n *net3) startNameServer(ctx context.Context, r role) error {
	return n.StartNameServer(ctx, n.name(r))
}

func (n *net3) pids(r role, kind string) ([]int, error) {
	if !n.IsUp(n.name(r)) {
		return nil, nil
	}
	k := netlab.Broker
	if kind != k.String() {
		k = netlab.NameServer
	}
	return n.PIDs(n.name(r), k)
}

func (n *net3) ssh(r role, fault lab.Fault) error {
	switch fault {
	case lab.Stall:
		return n.StallSSH(n.name(r))
	case lab.Restore:
		return n.Restore(n.name(r))
	}
	return fmt.Errorf("in the network lab SSH does not %s", fault)
}

func (n *net3) kill(_ context.Context, r role) error { return n.Kill(n.name(r)) }

// boot leaves /tmp as it was, but for what a reboot takes.
func (n *net3) boot(ctx context.Context, r role) error {
	if err := n.Boot(ctx, n.name(r)); err != nil {
		return err
	}
	_, err := n.Console(ctx, n.name(r), "rm -rf /tmp/*")
	return err
}

func (n *net3) smallDisk(role) error { return nil } // all are

func (n *net3) fillDisk(r role) error { return n.Fill(n.name(r), 0) }
func (n *net3) freeDisk(r role) error { return n.Free(n.name(r)) }

func (n *net3) plain(line string) string {
	return strings.ReplaceAll(line, netlab.InstallDir+"/", "")
}

func (n *net3) close(context.Context) error { return n.Down() }

// link changes the cables of hosts.
func link(l netlab.Link, hosts ...role) action {
	return func(_ context.Context, t *trial) error {
		n, ok := t.cluster.(*net3)
		if !ok {
			return errors.New("there are no cables on loopback")
		}
		for _, h := range hosts {
			if err := n.SetLink(n.name(h), l); err != nil {
				return err
			}
		}
		return nil
	}
}
