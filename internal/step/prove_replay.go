package step

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/message"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/replay"
)

// proveReplay looks every message up on the old members.
type proveReplay struct{}

func (proveReplay) Name() string { return "prove-replay" }
func (proveReplay) Title() string {
	return "look every message up by key on the old master and its slaves"
}
func (proveReplay) UndoText() string { return "" }
func (proveReplay) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"old-group-open"}, Proves: []string{"replay-proven"}}
}
func (proveReplay) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range append(p.Of(plan.Master), p.Of(plan.Slave)...) {
		l = append(l, plan.Action{Host: m.Host, Text: "look up at " + m.Addr() + " every message that was sent again, and old keys"})
	}
	return l
}
func (proveReplay) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (proveReplay) Do(ctx context.Context, e *Env) error {
	old := append([]*Node{e.Master()}, e.Slaves()...)
	if err := e.caughtUpOld(ctx); err != nil {
		return err
	}
	spool, err := e.spool()
	if err != nil {
		return err
	}
	queues, err := spool.Queues()
	if err != nil {
		return err
	}
	var mu sync.Mutex // over found, which all hosts' look-ups count in
	found := map[string]int{}
	count := e.tally("", "found by key", int64(len(old)*e.State.Replay.Taken))
	err = e.each(ctx, old, func(ctx context.Context, n *Node) error {
		eg, gctx := errgroup.WithContext(ctx)
		eg.SetLimit(8)
		for _, q := range queues {
			eg.Go(func() error {
				_, _, err := spool.Each(q, func(m message.Message) error {
					r, unique := replay.Again(e.State.Run, m)
					at := int64(-1)
					err := e.until(gctx, 30*time.Second, "an answer about a message", func(ctx context.Context) (err error) {
						at, err = e.sentBefore(ctx, n.broker(e), r, unique)
						return err
					})
					if err == nil && at < 0 {
						err = fmt.Errorf("message %d of queue %d of %s is not found by its key %s after it was sent again; it is kept in %s", m.QueueOffset, q.ID, q.Topic, unique, e.Options.Dir)
					}
					if err != nil {
						return err
					}
					count.Add(1)
					mu.Lock()
					found[n.Host]++
					mu.Unlock()
					return nil
				})
				return err
			})
		}
		return eg.Wait()
	})
	if err != nil {
		return err
	}
	e.State.Replay.Found = found[e.Master().Host]
	e.note("", "%d messages that were sent again are found by key on each of %d old members", e.State.Replay.Found, len(old))
	samples := e.oldKeys()[:len(e.State.Samples)] // tracers of the new group are not among what is sent again
	return e.findOn(ctx, samples, old)
}

func (proveReplay) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// caughtUpOld waits until every slave holds what the master held a moment ago.
func (e *Env) caughtUpOld(ctx context.Context) error {
	end, err := e.logEnd(ctx, e.Master())
	if err != nil {
		return err
	}
	return e.each(ctx, append([]*Node{e.Master()}, e.Slaves()...), func(ctx context.Context, n *Node) error {
		return e.until(ctx, 5*time.Minute, n.Host+" to hold what the old master holds", func(ctx context.Context) error {
			has, err := e.dispatched(ctx, n)
			if err == nil && has < end {
				err = fmt.Errorf("it holds %d of %d bytes", has, end)
			}
			return err
		})
	})
}
