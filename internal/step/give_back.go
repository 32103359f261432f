package step

import (
	"context"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/replay"
	"mqlift/internal/rocketmq"
)

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

// forgotten is how long after the old master was registered, closed to reads, a consumer goes on only where
// the broker says: clients look at routes every 30 s, and give up queues that nobody may read within 20 s
// (ClientConfig.pollNameServerInterval, RebalanceService.waitInterval, 4.5.2; client-go v2 the same). Until
// then one goes on at the number that it had reached in the new group.
const forgotten = 60 * time.Second

// offset is where a consumer group is to go on in a queue of the old master.
type offset struct {
	group, topic string
	queue        int
	to           int64
}

// offsetsBack brings each consumer group's offsets to the old master, so that no group has a message
// skipped that it has not had.
func (e *Env) offsetsBack(ctx context.Context) error {
	b := e.Master().broker(e)
	now, err := b.ConsumerOffsets(ctx)
	if err != nil {
		return err
	}
	var set []offset
	back := 0
	for key, queues := range e.State.Replay.Offsets {
		topic, group, ok := rocketmq.TopicAndGroup(key)
		if !ok || e.own(topic) {
			continue
		}
		for id, reached := range queues {
			end, err := b.MaxOffset(ctx, topic, id)
			if err != nil {
				return err
			}
			to := reached
			if r := e.State.Replay.Queues[(replay.Queue{Topic: topic, ID: id}).String()]; r != nil && r.Sent > 0 {
				to = r.back(reached, e.endThen(topic, id))
			}
			to = min(to, end)
			if to < reached {
				back++
			} else if to <= now[key][id] {
				continue
			}
			set = append(set, offset{group, topic, id, to})
		}
	}
	if back > 0 {
		if err := e.consumersForget(ctx, back); err != nil {
			return err
		}
	}
	for _, o := range set {
		if err := b.UpdateConsumerOffset(ctx, o.group, o.topic, o.queue, o.to); err != nil {
			return fmt.Errorf("bringing the offset of group %s for queue %d of %s back: %w", o.group, o.queue, o.topic, err)
		}
	}
	return nil
}

// consumersForget waits until consumers go on where the old master tells them to.
func (e *Env) consumersForget(ctx context.Context, queues int) error {
	left := time.Until(e.State.Replay.ShutAt.Add(forgotten))
	if left <= 0 {
		return nil
	}
	e.note(e.Master().Host, "in %d queue(s) of consumer groups messages stand elsewhere than in the new group, since the old master has taken others between: for %s more it stays closed, so that consumers ask where to go on, and skip none", queues, left.Round(time.Second))
	select {
	case <-time.After(left):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// back is where a group that has had everything before offset in the new group goes on; then is where the
// queue ended when that was opened. Messages stand at the same distance from where they stood in the new
// group as long as nobody else writes to the queue between; from there on a group gets them once more.
func (r *Resent) back(offset, then int64) int64 {
	if r.FirstAt > then { // others came first, which nobody has had
		return min(offset, then)
	}
	if offset <= r.First {
		return min(offset, r.FirstAt)
	}
	return min(offset, r.Even) - r.First + r.FirstAt
}
