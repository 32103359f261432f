package step

import (
	"context"
	"errors"
	"fmt"

	"mqlift/internal/agent"
	"mqlift/internal/link"
	"mqlift/internal/transfer"
	"mqlift/internal/view"
)

// copying is how data is brought from one host to another.
type copying struct {
	planned bool  // the way that the plan has for the two hosts; otherwise through this machine
	secret  bool  // encrypted in any case
	rate    int64 // bytes a second; 0: no limit
}

// inService is how it is brought while the old group serves: the operator's limit holds for each host that
// sends, to all that receive from it at once.
func (e *Env) inService(receivers []*Node) copying {
	return copying{planned: true, rate: e.Options.LimitRate / int64(max(1, len(receivers)))}
}

// copy runs a copy the way that how has for it.
func (e *Env) copy(ctx context.Context, from, to *Node, how copying, spec agent.CopySpec, what string) (agent.CopyResult, error) {
	spec.BytesPerSecond = how.rate
	if route, ok := e.Plan.Route(from.Host, to.Host); ok && route.Direct && how.planned {
		spec.Direct = &agent.Direct{Address: to.RaftAddr(), Port: to.RaftPort, Mode: e.mode(how)}
	}
	r, err := agent.CopyAgain(ctx, from.Agent, to.Agent, spec, e.progress(to.Host, what), func(err error) {
		e.note(to.Host, "%v; once more, the same way", err)
	})
	if errors.Is(err, link.ErrBroken) {
		err = fmt.Errorf("%w; the plan has the data go directly, and that is not changed in the middle: mend what lies between the hosts and apply again, which copies what is missing, or make a plan that has it go through this machine (--transfer bastion)", err)
	}
	return r, err
}

// mode is what becomes of direct data.
func (e *Env) mode(how copying) link.Mode {
	if how.secret {
		return link.Encrypted
	}
	return e.Plan.Transfer.Mode()
}

// way says how a copy's data came.
func (e *Env) way(how copying, r agent.CopyResult) string {
	if r.Wire == 0 {
		return "through this machine"
	}
	return fmt.Sprintf("directly, %s, in %s on the wire,", e.mode(how), view.Bytes(r.Wire))
}

// copyLog writes the bytes from..to of m's commit log into n's. What n has after to, and files that m does
// not have, must not stay: they go aside.
func (e *Env) copyLog(ctx context.Context, m, n *Node, from, to int64, how copying) error {
	if err := n.Remote.MkdirAll(ctx, n.CommitLog, 0o755); err != nil {
		return err
	}
	if from == to { // nothing to move, which needs no connection
		how = copying{}
	}
	r, err := e.copy(ctx, m, n, how, agent.CopySpec{
		FromRoot: m.CommitLog, ToRoot: n.CommitLog,
		Logs:       []transfer.LogRange{{Dir: ".", FileSize: m.LogFileSize, From: from, To: to}},
		Quarantine: e.aside(n.CommitLog), Incoming: incoming(n.CommitLog),
	}, "commit log")
	if err != nil {
		return err
	}
	if r.Bytes > 0 {
		e.action(n.Host, "%s of commit log received %s up to offset %d, at %s/s", view.Bytes(r.Bytes), e.way(how, r), to, view.Bytes(int64(r.Rate())))
	}
	for _, file := range r.MovedAway {
		e.action(n.Host, "%s, which %s does not have, moved aside", file, m.Host)
	}
	return nil
}

// cutAt makes a node's commit log end at an offset again, zeros after it, as the master's does. It has no
// data to move, and is done to take things back: it depends on nothing that lies between the hosts.
func (e *Env) cutAt(ctx context.Context, n *Node, end int64) error {
	return e.copyLog(ctx, e.Master(), n, end, end, copying{})
}

// copyTrees makes trees below a folder of one node mirror those of another.
func (e *Env) copyTrees(ctx context.Context, from, to *Node, how copying, fromRoot, toRoot string, trees []string) error {
	if err := to.Remote.MkdirAll(ctx, toRoot, 0o755); err != nil {
		return err
	}
	r, err := e.copy(ctx, from, to, how, agent.CopySpec{
		FromRoot: fromRoot, ToRoot: toRoot, Trees: trees, Quarantine: e.aside(toRoot), Incoming: inside(toRoot),
	}, "files")
	if err == nil {
		e.action(to.Host, "%d files, %s of data, received %s in %s, at %s/s", r.Files, view.Bytes(r.Bytes), e.way(how, r), toRoot, view.Bytes(int64(r.Rate())))
	}
	return err
}
