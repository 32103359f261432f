package step

import (
	"context"
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
	l := []plan.Action{{Text: "wait for one leader that all first peers and every answering name server name"}}
	for _, m := range p.First() {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("look all old keys up at %s; see that DLedger's log is still empty", m.Addr())})
	}
	return l
}

func (provePeers) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (provePeers) Do(ctx context.Context, e *Env) error {
	err := e.until(ctx, 90*time.Second, "the new peers to elect a leader", func(ctx context.Context) error {
		leader, err := e.leader(ctx, e.First())
		if err != nil {
			return err
		}
		e.State.Leader = leader.Host
		return nil
	})
	if err != nil {
		return err
	}
	e.note(e.State.Leader, "leads the new group")
	if err := e.findOn(ctx, e.oldKeys(), e.First()); err != nil {
		return err
	}
	return e.each(ctx, e.First(), func(ctx context.Context, n *Node) error {
		empty, err := n.ledgerEmpty(ctx)
		if err != nil {
			return err
		}
		if !empty {
			e.note(n.Host, "DLedger's log is not empty any more: the leader has written by itself, such as delayed messages that came due")
		}
		return nil
	})
}

func (provePeers) Undo(context.Context, *Env) error { return ErrNothingToUndo }
