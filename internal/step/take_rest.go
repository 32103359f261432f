package step

import (
	"context"
	"fmt"
	"time"

	"mqlift/internal/message"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// lateAnswer is how long after the fence a send that was under way may still be acknowledged: a leader
// waits up to 3 s for its quorum (DLedgerCommitLog.putMessage, 4.5.2 to 4.9.8).
const lateAnswer = 4 * time.Second

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

// taken counts the messages in the spool.
func (e *Env) taken() (int, error) {
	spool, err := e.spool()
	if err != nil {
		return 0, err
	}
	queues, err := spool.Queues()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, q := range queues {
		count, _, err := spool.Each(q, func(message.Message) error { return nil })
		if err != nil {
			return 0, err
		}
		n += count
	}
	return n, nil
}
