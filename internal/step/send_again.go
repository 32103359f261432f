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
	count := e.tally(e.Master().Host, "sent again", int64(r.Taken))
	stop := e.saveEverySecond(ctx)
	defer stop()
	eg, gctx := errgroup.WithContext(ctx)
	eg.SetLimit(8)
	for _, q := range replay.Sorted(queues) {
		eg.Go(func() error { return e.sendQueue(gctx, spool, q, resumed, count) })
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
func (e *Env) sendQueue(ctx context.Context, spool *replay.Spool, q replay.Queue, resumed bool, count *tally) error {
	e.mu.Lock()
	at := e.State.Replay.Queues[q.String()]
	if at == nil {
		at = &Resent{}
		e.State.Replay.Queues[q.String()] = at
	}
	skip := at.Sent
	e.mu.Unlock()
	count.Known(skip)
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
		count.Add(1)
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
