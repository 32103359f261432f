package step

import (
	"context"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// proveGroup shows that the whole group serves: one leader, old and new messages on every node.
type proveGroup struct{}

func (proveGroup) Name() string     { return "prove-group" }
func (proveGroup) Title() string    { return "one leader, old keys and new sends on every node" }
func (proveGroup) UndoText() string { return "" }
func (proveGroup) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"open", "joined"}, Proves: []string{"group-proven"}}
}

func (proveGroup) Describe(p *plan.Plan) []plan.Action {
	l := []plan.Action{{Text: fmt.Sprintf("send %d messages to %s at the leader", tracers, p.TracerTopic)}}
	for _, m := range p.Members {
		l = append(l, plan.Action{Host: m.Host, Text: "look old and new keys up at " + m.Addr()})
	}
	return l
}

func (proveGroup) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (proveGroup) Do(ctx context.Context, e *Env) error {
	if _, err := e.prove(ctx); err != nil {
		return err
	}
	return e.meanwhileEverywhere(ctx)
}

// meanwhileEverywhere waits until every peer has what only the leader was given: followers take it over every
// 10 s (BrokerController.handleSlaveSynchronize, 4.5.2), and one of them may lead next.
func (e *Env) meanwhileEverywhere(ctx context.Context) error {
	want := e.State.Meanwhile
	if len(want.Topics)+len(want.Groups) == 0 {
		return nil
	}
	return e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		return e.until(ctx, 60*time.Second, n.Host+" to take over the topics and groups that were made meanwhile", func(ctx context.Context) error {
			topics, _, err := n.broker(e).Topics(ctx)
			if err != nil {
				return err
			}
			groups, _, err := n.broker(e).SubscriptionGroups(ctx)
			if err != nil {
				return err
			}
			for _, name := range want.Topics {
				if _, ok := topics[name]; !ok {
					return fmt.Errorf("it has no topic %s", name)
				}
			}
			for _, name := range want.Groups {
				if _, ok := groups[name]; !ok {
					return fmt.Errorf("it has no consumer group %s", name)
				}
			}
			return nil
		})
	})
}

func (proveGroup) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// Verify proves a running DLedger group and returns how many old keys were found on every node. Where
// none were given they are picked from the leader's copy of the old commit log.
func (e *Env) Verify(ctx context.Context) (int, error) {
	if len(e.Options.Keys) == 0 {
		if err := e.pick(ctx, e.Nodes[0]); err != nil {
			return 0, err
		}
	}
	return e.prove(ctx)
}

// prove waits for one leader, looks the old keys up on every node, and sends messages that must be
// found there, too.
func (e *Env) prove(ctx context.Context) (int, error) {
	var leader *Node
	err := e.until(ctx, 90*time.Second, "all peers to name one leader", func(ctx context.Context) (err error) {
		leader, err = e.leader(ctx, e.Nodes)
		return err
	})
	if err != nil {
		return 0, err
	}
	e.State.Leader = leader.Host
	old := len(e.oldKeys())
	if _, err := e.ensureTracerTopic(ctx, leader); err != nil {
		return 0, err
	}
	for range tracers {
		// A busy broker refuses a send now and then, which its clients bear, too.
		err := e.until(ctx, 30*time.Second, leader.Host+", which leads, to take a message", func(ctx context.Context) error {
			return e.sendTracer(ctx, leader)
		})
		if err != nil {
			return 0, err
		}
	}
	if err := e.findOn(ctx, e.oldKeys(), e.Nodes); err != nil {
		return old, err
	}
	return old, e.countDelivered(ctx, leader)
}
