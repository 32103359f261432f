package step

import (
	"context"
	"fmt"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// carryStores brings consume queues and index into the new roots, so that the new brokers need not
// build them from the whole commit log before they serve. Both or neither: the index is only ever
// completed from its own end (IndexService.buildIndex, 4.5.2).
type carryStores struct{}

func (carryStores) Name() string     { return "carry-stores" }
func (carryStores) Title() string    { return "carry consume queues and index into the new store roots" }
func (carryStores) UndoText() string { return "move the new store roots aside" }
func (carryStores) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"slaves-stopped", "aligned"}, Proves: []string{"carried"}}
}

// carried are the parts of a store root that go with it. consumequeue_ext is there with
// enableConsumeQueueExt, and what its entries are for is in the queues beside it.
var carried = []string{"consumequeue", "consumequeue_ext", "index", "checkpoint"}

func (carryStores) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.First() {
		if p.RebuildIndex {
			l = append(l, plan.Action{Host: m.Host, Text: "carry neither consumequeue nor index to " + m.NewRoot + ": the broker builds both from the whole log at its first start"})
			continue
		}
		text := fmt.Sprintf("copy consumequeue, index, checkpoint and config from %s to %s", m.OldRoot, m.NewRoot)
		if m.Kind == plan.Fresh {
			text = fmt.Sprintf("receive consumequeue, index, checkpoint and config in %s from a stopped slave", m.NewRoot)
		}
		l = append(l, plan.Action{Host: m.Host, Text: text})
	}
	return l
}

func (carryStores) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (carryStores) Do(ctx context.Context, e *Env) error {
	var source *Node // a slave whose queues belong to the log; those of a diverged one went aside
	for _, n := range e.Slaves() {
		switch _, err := n.Remote.Stat(ctx, join(n.OldRoot, "consumequeue")); {
		case err == nil:
			source = n
		case !isNotExist(err):
			return err
		}
	}
	return e.each(ctx, e.First(), func(ctx context.Context, n *Node) error {
		if e.Plan.RebuildIndex {
			return e.moveRootAside(ctx, n)
		}
		if err := e.carryTo(ctx, source, n); err != nil {
			return err
		}
		return e.seal(ctx, n, join(n.NewRoot, "consumequeue"), join(n.NewRoot, "consumequeue_ext"), join(n.NewRoot, "index"))
	})
}

// carryTo brings them to one node, from source where it has none of its own.
func (e *Env) carryTo(ctx context.Context, source, n *Node) error {
	if n.Kind == plan.Slave {
		return e.carryOnHost(ctx, n)
	}
	if err := e.moveRootAside(ctx, n); err != nil {
		return err
	}
	if source == nil {
		e.note(n.Host, "no slave's consume queues can be carried: they are built from the whole log at the first start, which takes longer")
		return nil
	}
	return e.copyTrees(ctx, source, n, e.inService(e.Fresh()), source.OldRoot, n.NewRoot, carried)
}

// carryOnHost carries within one host, from the old root to the new one.
func (e *Env) carryOnHost(ctx context.Context, n *Node) error {
	if err := e.moveRootAside(ctx, n); err != nil {
		return err
	}
	trees := []string{"config"}
	if !e.Plan.RebuildIndex {
		trees = append(trees, carried...)
	}
	return e.copyWithin(ctx, n, n.OldRoot, n.NewRoot, trees)
}

// moveRootAside makes room for a new root: what an earlier try left there belongs to another moment.
func (e *Env) moveRootAside(ctx context.Context, n *Node) error {
	to, err := n.Agent.MoveAside(ctx, n.NewRoot, e.State.Run)
	if isNotExist(err) {
		return nil
	}
	if err == nil {
		e.action(n.Host, "moved an earlier %s aside to %s", n.NewRoot, to)
	}
	return err
}

func (carryStores) Undo(ctx context.Context, e *Env) error {
	return e.each(ctx, e.First(), func(ctx context.Context, n *Node) error {
		_, err := n.Agent.MoveAside(ctx, n.NewRoot, e.State.Run)
		if isNotExist(err) {
			return nil
		}
		return err
	})
}
