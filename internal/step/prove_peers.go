package step

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// provePeers shows that the new group would serve, before a single message is entrusted to it.
type provePeers struct{}

func (provePeers) Name() string     { return "prove-peers" }
func (provePeers) Title() string    { return "one leader, old keys on each peer, nothing written" }
func (provePeers) UndoText() string { return "" }
func (provePeers) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"peers-started"}, Proves: []string{"peers-proven"}}
}

func (provePeers) Describe(p *plan.Plan) []plan.Action {
	l := []plan.Action{
		{Text: "wait for one leader that all first peers name"},
		{Text: "compare the end of every queue on each peer with the fenced master's"},
	}
	for _, m := range p.First() {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("look all old keys up at %s; see that DLedger's log is still empty", m.Addr())})
	}
	return l
}

func (provePeers) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (provePeers) Do(ctx context.Context, e *Env) error {
	defer e.keepSilent(ctx, e.First())()
	err := e.until(ctx, 90*time.Second, "the new peers to elect a leader", func(ctx context.Context) error {
		leader, err := e.raftLeader(ctx, e.First()) // the name servers may name the old master: it lives
		if err != nil {
			return e.unlessGone(ctx, e.First(), err)
		}
		e.State.Leader = leader.Host
		return nil
	})
	if err != nil {
		return err
	}
	e.note(e.State.Leader, "leads the new group")
	found := make(chan error, 1)
	go func() { found <- e.findOn(ctx, e.oldKeys(), e.First()) }()
	agree := e.queuesAgree(ctx)
	if err := errors.Join(<-found, agree); err != nil {
		return err
	}
	return e.each(ctx, e.First(), func(ctx context.Context, n *Node) error {
		empty, err := n.ledgerEmpty(ctx)
		if err != nil {
			return err
		}
		if !empty {
			e.mu.Lock()
			e.State.Written = true
			e.mu.Unlock()
			e.note(n.Host, "DLedger's log is not empty any more: the leader has written by itself, such as delayed messages that came due")
		}
		return nil
	})
}

func (provePeers) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// queuesAgree compares the end of every queue of every topic on each peer with the fenced master's. A
// consume queue that was carried incompletely and not completed at the start hides messages from
// consumers and says nothing of it (seen on 5.3.3).
func (e *Env) queuesAgree(ctx context.Context) error {
	m := e.Master()
	if p, err := m.process(ctx); err != nil || p == nil {
		return err // the old master is stopped by now: the first proof had it
	}
	queues, err := e.queues(ctx, m)
	if err != nil {
		return err
	}
	ends := make(map[*Node]map[string][]int64)
	err = e.each(ctx, append([]*Node{m}, e.First()...), func(ctx context.Context, n *Node) error {
		of, err := e.endsOf(ctx, n, queues)
		e.mu.Lock()
		defer e.mu.Unlock()
		ends[n] = of
		return err
	})
	if err != nil {
		return err
	}
	err = e.each(ctx, e.First(), func(ctx context.Context, n *Node) error {
		has := ends[n]
		for topic, ends := range ends[m] {
			for id, end := range ends {
				if has[topic][id] >= end { // a leader that has written by itself is ahead
					continue
				}
				return fmt.Errorf("%s: queue %d of %s ends at %d, and at %d on the old master: its consume queue is not complete", n.Host, id, topic, has[topic][id], end)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	e.State.Queues = 0
	for _, count := range queues {
		e.State.Queues += count
	}
	e.note("", "%d queues of %d topics end where they do on the old master, on %d peers", e.State.Queues, len(queues), len(e.First()))
	return nil
}
