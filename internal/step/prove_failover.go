package step

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/probe"
	"mqlift/internal/remote"
	"mqlift/internal/view"
)

// proveFailover kills the leader while messages are sent, and looks every acknowledged one up after.
type proveFailover struct{}

func (proveFailover) Name() string { return "prove-failover" }
func (proveFailover) Title() string {
	return "kill the leader during sends; every acknowledged message must be found"
}
func (proveFailover) UndoText() string { return "" }
func (proveFailover) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"group-proven"}, Proves: []string{"failover-proven"}}
}

func (proveFailover) Describe(p *plan.Plan) []plan.Action {
	return []plan.Action{
		{Text: "send to " + p.TracerTopic + " and look old keys up; SIGKILL to the leader's process; wait for the next leader"},
		{Text: "start the killed broker again, wait until it follows; look every acknowledged message up on every node"},
	}
}

func (proveFailover) Done(_ context.Context, e *Env) (bool, string, error) {
	return e.Options.NoFailover, "left out on request: run `mqlift failover` to prove it", nil
}

func (proveFailover) Do(ctx context.Context, e *Env) error {
	r, err := e.Failover(ctx, nil)
	e.State.Failover = r
	return err
}

func (proveFailover) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// FailoverResult is what a forced failover showed.
type FailoverResult = probe.FailoverResult

// Failover forces one failover of the group and measures it. Every acknowledged message is looked up
// on every node afterwards; one that is missing is an error. sent may be nil.
func (e *Env) Failover(ctx context.Context, sent *probe.Sent) (*FailoverResult, error) {
	var killed *Node
	addrs := make([]string, len(e.Nodes))
	for i, n := range e.Nodes {
		addrs[i] = n.Addr()
	}
	f := probe.Failover{
		NameServers: e.Plan.NameServers, Router: e.NameServers, Brokers: probe.BrokersOf(e.Client), Credentials: e.Options.Credentials,
		Broker: e.Plan.Group, Topic: e.Plan.TracerTopic, Group: "mqlift",
		ClientPrefix: e.State.Run + "-c", FreshPrefix: e.State.Run + "-f",
		OldKeys: e.oldKeys(), Nodes: addrs, Sent: sent,
		Moments: func(m probe.Moment) { e.note("", "%s", m.What) },
		Hooks: probe.Hooks{
			FindLeader: func(ctx context.Context) (string, string, error) {
				n, err := e.surviving(ctx, killed)
				if err != nil {
					return "", "", err
				}
				e.State.Leader = n.Host
				return n.Addr(), n.Peer, nil
			},
			KillLeader: func(ctx context.Context) error {
				n := e.byHost(e.State.Leader)
				p, err := n.process(ctx)
				if err != nil {
					return err
				}
				if p == nil {
					return fmt.Errorf("%s leads, but no broker process with %s is found there", n.Host, n.ConfPath)
				}
				killed = n
				return n.kill(ctx, p)
			},
			Revive: func(ctx context.Context) error {
				if err := e.keepIndex(ctx, killed); err != nil {
					return err
				}
				return killed.start(ctx)
			},
			WaitRejoined: func(ctx context.Context) error {
				n := killed
				if err := e.answers(ctx, n); err != nil {
					return err
				}
				killed = nil // from here on it counts again
				return e.caughtUp(ctx, n)
			},
		},
	}
	r, err := f.Run(ctx)
	if err != nil {
		return r, err
	}
	if err := r.Findings().Err(); err != nil {
		return r, err
	}
	e.note("", "%s led, %s leads: writes out for %s, reads for %s, an application for %s; %d acknowledged, all found on every node",
		r.Old.Addr, r.New.Addr, view.Duration(r.WriteOutage()), view.Duration(r.ReadOutage()), view.Duration(r.ClientOutage()), r.Acknowledged)
	return r, nil
}

// surviving finds the leader among the nodes that were not killed.
func (e *Env) surviving(ctx context.Context, killed *Node) (*Node, error) {
	var nodes []*Node
	for _, n := range e.Nodes {
		if n != killed {
			nodes = append(nodes, n)
		}
	}
	n, err := e.leader(ctx, nodes)
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (e *Env) byHost(host string) *Node {
	for _, n := range e.Nodes {
		if n.Host == host {
			return n
		}
	}
	return nil
}

// keepIndex keeps a killed broker's next start from throwing its key index away. A start that finds an
// abort file removes every index file newer than the checkpoint (IndexService.load), always the one in
// use among them, since the checkpoint's third long, the index's time in ms, is written only when an
// index file is full; and in DLedger mode nothing builds the old log's part anew (seen on 4.5.2 and
// 5.3.3: after a SIGKILL no old key was found on that node any more). It was the process that was
// killed and not the host: the mapped index files are whole, and the checkpoint may say so. The rest of
// the recovery goes on as the broker wants it.
func (e *Env) keepIndex(ctx context.Context, n *Node) error {
	var until [8]byte // a minute ahead, for clocks that are not quite alike
	binary.BigEndian.PutUint64(until[:], uint64(time.Now().Add(time.Minute).UnixMilli()))
	_, err := n.Remote.Run(ctx, remote.Cmd{
		Argv:  []string{"dd", "of=" + join(n.NewRoot, "checkpoint"), "bs=8", "seek=2", "conv=notrunc,fsync", "status=none"},
		Stdin: bytes.NewReader(until[:]),
	})
	if err != nil {
		return fmt.Errorf("%s: marking the key index as whole: %w", n.Host, err)
	}
	e.note(n.Host, "checkpoint says that the key index is whole, so that the start keeps it; after a real crash it drops the newest index file, and look-ups by key miss what was in it on that node")
	return nil
}
