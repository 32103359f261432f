package step

import (
	"context"
	"fmt"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/rocketmq"
)

// carryOffsets brings to the new leader what consumers committed to the old master after its
// metadata was copied.
type carryOffsets struct{}

func (carryOffsets) Name() string { return "carry-offsets" }
func (carryOffsets) Title() string {
	return "bring consumer offsets committed meanwhile to the new leader"
}
func (carryOffsets) UndoText() string { return "" }
func (carryOffsets) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"master-stopped", "peers-proven"}, Proves: []string{"offsets"}}
}

func (carryOffsets) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: "read " + join(m.OldRoot, "config/consumerOffset.json")})
	}
	return append(l, plan.Action{Text: "set each consumer offset that is ahead of the new leader's there (code 15), never one backwards"})
}

func (carryOffsets) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (carryOffsets) Do(ctx context.Context, e *Env) error {
	defer e.keepSilent(ctx, e.First())()
	m := e.Master()
	data, err := m.metadataFile(ctx, "consumerOffset.json")
	if err != nil {
		return err
	}
	if data == nil {
		return nil
	}
	old, err := rocketmq.ParseConsumerOffsets(data)
	if err != nil {
		return fmt.Errorf("%s: consumerOffset.json: %w", m.Host, err)
	}
	leader, err := e.awaitLeader(ctx, e.First())
	if err != nil {
		return err
	}
	now, err := leader.broker(e).ConsumerOffsets(ctx)
	if err != nil {
		return err
	}
	e.State.Offsets, e.State.OffsetsMoved = 0, 0
	for key, queues := range old {
		topic, group, ok := rocketmq.TopicAndGroup(key)
		if !ok {
			continue
		}
		for queue, offset := range queues {
			e.State.Offsets++
			if has, ok := now[key][queue]; ok && has >= offset {
				continue
			}
			if err := leader.broker(e).UpdateConsumerOffset(ctx, group, topic, queue, offset); err != nil {
				return fmt.Errorf("bringing the offset of group %s for queue %d of %s to %s: %w", group, queue, topic, leader.Host, err)
			}
			e.State.OffsetsMoved++
		}
	}
	e.note(leader.Host, "%d of %d consumer offsets brought up to what the old master had, none set back", e.State.OffsetsMoved, e.State.Offsets)
	return nil
}

func (carryOffsets) Undo(context.Context, *Env) error { return ErrNothingToUndo }
