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
