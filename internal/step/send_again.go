package step

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/message"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/replay"
	"mqlift/internal/rocketmq"
)

// sendAgain sends the messages to the old master, each queue in its order.
type sendAgain struct{}

func (sendAgain) Name() string { return "send-again" }
func (sendAgain) Title() string {
	return "send the messages to the old master, each queue in its order"
}
func (sendAgain) UndoText() string { return "" }
func (sendAgain) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"old-group"}, Proves: []string{"sent-again"}}
}
func (sendAgain) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: "send every message that was taken, to its queue, with property " + replay.PropertyOrigin + " beside its own"})
	}
	return l
}

func (sendAgain) Done(_ context.Context, e *Env) (bool, string, error) {
	return !e.State.Replay.OpenedAt.IsZero(), "all were sent before the old master was opened", nil
}

func (sendAgain) Do(ctx context.Context, e *Env) error {
	spool, err := e.spool()
	if err != nil {
		return err
	}
	queues, err := spool.Queues()
	if err != nil {
		return err
	}
	r := e.State.Replay
	resumed := !r.SendingAt.IsZero()
	if !resumed {
		r.SendingAt = time.Now()
		if err := e.Save(); err != nil {
			r.SendingAt = time.Time{}
			return err
		}
	}
	if r.Queues == nil {
		r.Queues = map[string]*Resent{}
	}
	stop := e.saveEverySecond(ctx)
	defer stop()
	eg, gctx := errgroup.WithContext(ctx)
	eg.SetLimit(8)
	for _, q := range replay.Sorted(queues) {
		eg.Go(func() error { return e.sendQueue(gctx, spool, q, resumed) })
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	n := 0
	for _, q := range r.Queues {
		n += q.Sent
	}
	if n != r.Taken {
		return fmt.Errorf("%d messages were taken and %d sent: some are missing from %s", r.Taken, n, e.Options.Dir)
	}
	e.note(e.Master().Host, "%d messages sent again", n)
	return nil
}

func (sendAgain) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// saveEverySecond journals how far the queues have got, until it is stopped.
func (e *Env) saveEverySecond(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				e.mu.Lock()
				err := e.Save()
				e.mu.Unlock()
				if err != nil { // the next one to be written says so to the step
					return
				}
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// sendQueue sends one queue's messages from where it got. After a run that was killed the next ones may be
// there already: they are looked up by key, until the first that is not.
func (e *Env) sendQueue(ctx context.Context, spool *replay.Spool, q replay.Queue, resumed bool) error {
	e.mu.Lock()
	at := e.State.Replay.Queues[q.String()]
	if at == nil {
		at = &Resent{}
		e.State.Replay.Queues[q.String()] = at
	}
	skip := at.Sent
	e.mu.Unlock()
	look := resumed
	b := e.Master().broker(e)
	_, _, err := spool.Each(q, func(m message.Message) error {
		if skip > 0 {
			skip--
			return nil
		}
		request, unique := replay.Again(e.State.Run, m)
		offset := int64(-1)
		if look {
			found, err := e.sentBefore(ctx, b, request, unique)
			if err != nil {
				return err
			}
			offset, look = found, found >= 0
		}
		if offset < 0 {
			var err error
			if offset, err = e.sendOne(ctx, b, request, unique); err != nil {
				return fmt.Errorf("message %d of queue %d of %s: %w", m.QueueOffset, q.ID, q.Topic, err)
			}
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		at.sent(m.QueueOffset, offset)
		return nil
	})
	return err
}

// sent notes a message and where it stands now; Even stops to grow where the distance changes.
func (r *Resent) sent(was, is int64) {
	if r.Sent == 0 {
		r.First, r.FirstAt = was, is
	}
	r.Sent++
	r.Uneven = r.Uneven || is-was != r.FirstAt-r.First
	if !r.Uneven {
		r.Even = was + 1
	}
}

// sentBefore is the queue offset of a message that an earlier try has sent; -1 when it has not.
func (e *Env) sentBefore(ctx context.Context, b *rocketmq.Broker, r rocketmq.SendRequest, unique string) (int64, error) {
	topics := []string{r.Topic}
	if replay.Delayed(r) {
		topics = append(topics, scheduleTopic) // until it is due
	}
	for _, topic := range topics {
		found, err := b.QueryByKey(ctx, topic, unique, 32, time.Time{}, time.Time{})
		if err != nil {
			return 0, err
		}
		for _, m := range found {
			if m.Properties[replay.PropertyOrigin] == r.Properties[replay.PropertyOrigin] {
				return m.QueueOffset, nil
			}
		}
	}
	return -1, nil
}

// sendOne sends a message until it is acknowledged. One whose answer was lost is looked up before it is
// sent once more.
func (e *Env) sendOne(ctx context.Context, b *rocketmq.Broker, r rocketmq.SendRequest, unique string) (offset int64, err error) {
	unsure := false
	err = e.until(ctx, 2*time.Minute, "the old master to take a message", func(ctx context.Context) error {
		if unsure {
			if offset, err = e.sentBefore(ctx, b, r, unique); err != nil || offset >= 0 {
				return err
			}
		}
		result, err := b.Send(ctx, r)
		var refused *rocketmq.ResponseError
		switch {
		case err == nil:
			offset = result.QueueOffset
		case errors.As(err, &refused) && refused.Code == rocketmq.ResponseNoPermission:
			// An ordered topic: the broker's own permission holds for it. Its producers may come in between.
			return e.openOldMaster(ctx)
		case errors.As(err, &refused) && (refused.Code == rocketmq.ResponseTopicNotExist || refused.Code == rocketmq.ResponseMessageIllegal):
			return permanent(err)
		default:
			unsure = true
		}
		return err
	})
	return offset, err
}

// giveBack brings consumer offsets to the old master and opens it.
type giveBack struct{}

func (giveBack) Name() string { return "give-back" }
func (giveBack) Title() string {
	return "bring consumer offsets to the old master and open it to clients"
}
func (giveBack) UndoText() string { return "" }
func (giveBack) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"sent-again"}, Proves: []string{"old-group-open"}}
}
func (giveBack) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: "set consumer offsets, none past a message that its group has not had; set brokerPermission back, put the old broker.conf back"})
	}
	return append(l, plan.Action{Text: "send a tracer until it is acknowledged"})
}

func (giveBack) Done(_ context.Context, e *Env) (bool, string, error) {
	return !e.State.Replay.OpenedAt.IsZero(), "the old master takes sends", nil
}

func (giveBack) Do(ctx context.Context, e *Env) error {
	if err := e.offsetsBack(ctx); err != nil {
		return err
	}
	if err := e.openOldMaster(ctx); err != nil {
		return err
	}
	m := e.Master()
	err := e.until(ctx, time.Minute, m.Host+": the old master to take sends", func(ctx context.Context) error {
		if err := e.routeWritable(ctx); err != nil {
			return err
		}
		return e.sendTracer(ctx, m)
	})
	if err != nil {
		return err
	}
	r := e.State.Replay
	r.OpenedAt = time.Now()
	e.note(m.Host, "the old master takes sends; they had been refused for %s", r.OpenedAt.Sub(r.FencedAt).Round(time.Millisecond))
	return nil
}

func (giveBack) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// openOldMaster gives the old master the permission that its broker.conf says.
func (e *Env) openOldMaster(ctx context.Context) error {
	open, err := e.opened(e.Master())
	if err != nil {
		return err
	}
	return e.updateConfig(ctx, e.Master(), map[string]string{propPermission: open[propPermission]}, e.Master().OldConf)
}

// offsetsBack brings each consumer group's offsets to the old master, so that no group has a message
// skipped that it has not had. Messages stand at the same distance from where they stood in the new group
// as long as nobody else wrote to the queue between; beyond that a group gets them once more.
func (e *Env) offsetsBack(ctx context.Context) error {
	b := e.Master().broker(e)
	now, err := b.ConsumerOffsets(ctx)
	if err != nil {
		return err
	}
	for key, queues := range e.State.Replay.Offsets {
		topic, group, ok := rocketmq.TopicAndGroup(key)
		if !ok || e.own(topic) {
			continue
		}
		for id, offset := range queues {
			to := offset
			if r := e.State.Replay.Queues[(replay.Queue{Topic: topic, ID: id}).String()]; r != nil && r.Sent > 0 {
				to = r.back(offset)
			}
			end, err := b.MaxOffset(ctx, topic, id)
			if err != nil {
				return err
			}
			if to = min(to, end); to <= now[key][id] {
				continue
			}
			if err := b.UpdateConsumerOffset(ctx, group, topic, id, to); err != nil {
				return fmt.Errorf("bringing the offset of group %s for queue %d of %s back: %w", group, id, topic, err)
			}
		}
	}
	return nil
}

// back is where a group that has had everything before offset in the new group goes on.
func (r *Resent) back(offset int64) int64 {
	if offset <= r.First {
		return min(offset, r.FirstAt)
	}
	return min(offset, r.Even) - r.First + r.FirstAt
}

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
	found := map[string]int{}
	err = e.each(ctx, old, func(ctx context.Context, n *Node) error {
		eg, gctx := errgroup.WithContext(ctx)
		eg.SetLimit(8)
		var mu sync.Mutex
		for _, q := range queues {
			eg.Go(func() error {
				_, _, err := spool.Each(q, func(m message.Message) error {
					r, unique := replay.Again(e.State.Run, m)
					at, err := e.sentBefore(gctx, n.broker(e), r, unique)
					if err == nil && at < 0 {
						err = fmt.Errorf("message %d of queue %d of %s is not found by its key %s after it was sent again; it is kept in %s", m.QueueOffset, q.ID, q.Topic, unique, e.Options.Dir)
					}
					if err != nil {
						return err
					}
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

// endReplay ends the run on the hosts after a way back.
type endReplay struct{}

func (endReplay) Name() string { return "end-replay" }
func (endReplay) Title() string {
	return "remove what was temporary, and the run's record, and unlock the group"
}
func (endReplay) UndoText() string { return "" }
func (endReplay) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"replay-proven"}}
}
func (endReplay) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Members {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("remove %s and %s", RecordPath(m.WorkDir, p.Group), LockPath(m, p.Group))})
	}
	return l
}
func (endReplay) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (endReplay) Do(ctx context.Context, e *Env) error {
	if err := (renderConfigs{}).Undo(ctx, e); err != nil {
		return err
	}
	e.State.Replay.Locked = false
	if err := e.forget(ctx); err != nil {
		return err
	}
	return lockGroup{}.Undo(ctx, e)
}

func (endReplay) Undo(context.Context, *Env) error { return ErrNothingToUndo }

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
