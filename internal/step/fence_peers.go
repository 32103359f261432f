package step

import (
	"context"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// lateAnswer is how long after the fence a send that was under way may still be acknowledged: a leader
// waits up to 3 s for its quorum (DLedgerCommitLog.putMessage, 4.5.2 to 4.9.8).
const lateAnswer = 4 * time.Second

// fencePeers makes the new group refuse every send: from then on nothing more is acknowledged that would
// have to be sent again.
type fencePeers struct{}

func (fencePeers) Name() string     { return "fence-peers" }
func (fencePeers) Title() string    { return "refuse sends on the new group, keep its reads" }
func (fencePeers) UndoText() string { return "take sends on the new group again" }
func (fencePeers) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"messages-taken"}, Proves: []string{"peers-fenced"}}
}

func (fencePeers) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Members {
		l = append(l, plan.Action{Host: m.Host, Text: "set brokerPermission=4 and startAcceptSendRequestTimeStamp far ahead in the running broker and in " + m.ConfPath})
	}
	return l
}

func (fencePeers) Done(_ context.Context, e *Env) (bool, string, error) {
	return !e.State.Replay.TakenAt.IsZero(), "sends had been refused when the last message was read", nil
}

func (fencePeers) Do(ctx context.Context, e *Env) error {
	err := e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		p, err := n.process(ctx)
		if err != nil {
			return err
		}
		if p == nil { // whatever starts it later finds it closed
			if n.Kind == plan.Master && e.State.JoiningAt.IsZero() {
				return nil
			}
			return e.useConf(ctx, n, n.ClosedConf, "closed DLedger")
		}
		return e.updateConfig(ctx, n, closed(), n.ClosedConf)
	})
	if err != nil {
		return err
	}
	e.State.Replay.FencedAt = time.Now()
	e.note("", "sends are refused by all peers")
	return nil
}

func (fencePeers) Undo(ctx context.Context, e *Env) error {
	return e.each(ctx, e.peersNow(), func(ctx context.Context, n *Node) error {
		p, err := n.process(ctx)
		if err != nil {
			return err
		}
		if p == nil {
			return e.useConf(ctx, n, n.NewConf, "new")
		}
		open, err := e.opened(e.Master())
		if err != nil {
			return err
		}
		return e.updateConfig(ctx, n, open, n.NewConf)
	})
}

// takeRest reads what came between the first reading and the fence, and what goes with the messages.
type takeRest struct{}

func (takeRest) Name() string     { return "take-rest" }
func (takeRest) Title() string    { return "read the rest of the messages, offsets, topics and groups" }
func (takeRest) UndoText() string { return "" }
func (takeRest) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"peers-fenced"}, Proves: []string{"all-taken"}}
}
func (takeRest) Describe(*plan.Plan) []plan.Action {
	return []plan.Action{{Text: fmt.Sprintf("%s after the fence, when no send under way can be acknowledged any more: pull what is left, read consumer offsets, topics and groups; all of it is on this machine's disk then", lateAnswer)}}
}
func (takeRest) Done(ctx context.Context, e *Env) (bool, string, error) {
	return takeMessages{}.Done(ctx, e)
}

func (takeRest) Do(ctx context.Context, e *Env) error {
	r := e.State.Replay
	if r.FencedAt.IsZero() {
		return fmt.Errorf("the new group takes sends")
	}
	select {
	case <-time.After(time.Until(r.FencedAt.Add(lateAnswer))):
	case <-ctx.Done():
		return ctx.Err()
	}
	var leader *Node
	err := e.until(ctx, 2*time.Minute, "the leader to have all its messages in its queues", func(ctx context.Context) (err error) {
		if leader, err = e.raftLeader(ctx, e.peersNow()); err != nil {
			return err
		}
		live, err := leader.broker(e).Config(ctx)
		if err != nil {
			return err
		}
		if !isSet(live, closed()) {
			return permanent(fmt.Errorf("%s leads and takes sends", leader.Host))
		}
		info, err := leader.broker(e).RuntimeInfo(ctx)
		if err != nil {
			return err
		}
		behind, err := info.DispatchBehind()
		if err == nil && behind > 0 {
			err = fmt.Errorf("%s: %d bytes are not in its queues yet", leader.Host, behind)
		}
		return err
	})
	if err != nil {
		return err
	}
	b := leader.broker(e)
	if r.Topics, _, err = b.Topics(ctx); err != nil {
		return err
	}
	if r.Groups, _, err = b.SubscriptionGroups(ctx); err != nil {
		return err
	}
	if r.Offsets, err = b.ConsumerOffsets(ctx); err != nil {
		return err
	}
	// First how far delayed messages were delivered, then the queues: one that becomes due between is in
	// both, and not in neither.
	if r.Delays, err = b.DelayOffsets(ctx); err != nil {
		return err
	}
	spool, err := e.spool()
	if err != nil {
		return err
	}
	if err := spool.Drop(scheduleTopic); err != nil { // from an earlier try: they may have been due since
		return err
	}
	if _, err := e.take(ctx, leader, r.Delays); err != nil {
		return err
	}
	if r.Taken, err = e.taken(); err != nil {
		return err
	}
	r.TakenAt = time.Now()
	e.note("", "%d messages are on this machine's disk, in %s", r.Taken, e.Options.Dir)
	return nil
}

func (takeRest) Undo(context.Context, *Env) error { return ErrNothingToUndo }
