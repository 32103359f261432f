package step

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/rocketmq"
)

// carryOffsets brings to the new leader what consumers committed to the old master after its metadata was
// copied, and the topics and consumer groups that were made or changed there since: a fenced broker takes
// these as ever.
type carryOffsets struct{}

func (carryOffsets) Name() string { return "carry-offsets" }
func (carryOffsets) Title() string {
	return "bring consumer offsets, topics and groups changed meanwhile to the new leader"
}
func (carryOffsets) UndoText() string { return "" }
func (carryOffsets) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"master-stopped", "peers-proven"}, Proves: []string{"offsets"}}
}

func (carryOffsets) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: "read consumerOffset.json, topics.json and subscriptionGroup.json in " + join(m.OldRoot, "config")})
	}
	return append(l,
		plan.Action{Text: "make each topic and consumer group that is missing or another on the new leader there (codes 17 and 200)"},
		plan.Action{Text: "set each consumer offset that is ahead of the new leader's there (code 15), never one backwards"})
}

func (carryOffsets) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (carryOffsets) Do(ctx context.Context, e *Env) error {
	defer e.keepSilent(ctx, e.First())()
	leader, err := e.awaitLeader(ctx, e.First())
	if err != nil {
		return err
	}
	if err := e.carryTopics(ctx, leader); err != nil {
		return err
	}
	if err := e.carryGroups(ctx, leader); err != nil {
		return err
	}
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

// carryTopics makes the old master's topics on the leader where they are not, or not the same, there.
func (e *Env) carryTopics(ctx context.Context, leader *Node) error {
	m := e.Master()
	data, err := m.metadataFile(ctx, "topics.json")
	if err != nil || data == nil {
		return err
	}
	old, _, err := rocketmq.ParseTopics(data)
	if err != nil {
		return fmt.Errorf("%s: topics.json: %w", m.Host, err)
	}
	now, _, err := leader.broker(e).Topics(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		want, has := old[name], now[name]
		has.Order = want.Order // which creating does not set (4.5.2)
		if reflect.DeepEqual(want, has) {
			continue
		}
		if err := leader.broker(e).CreateTopic(ctx, want); err != nil {
			return fmt.Errorf("making topic %s of %s on %s: %w", name, m.Host, leader.Host, err)
		}
		e.note(leader.Host, "topic %s, made or changed on %s after its metadata was copied, is the same here", name, m.Host)
	}
	return nil
}

// carryGroups does the same for consumer groups.
func (e *Env) carryGroups(ctx context.Context, leader *Node) error {
	m := e.Master()
	data, err := m.metadataFile(ctx, "subscriptionGroup.json")
	if err != nil || data == nil {
		return err
	}
	old, _, err := rocketmq.ParseSubscriptionGroups(data)
	if err != nil {
		return fmt.Errorf("%s: subscriptionGroup.json: %w", m.Host, err)
	}
	now, _, err := leader.broker(e).SubscriptionGroups(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if reflect.DeepEqual(old[name], now[name]) {
			continue
		}
		if err := leader.broker(e).CreateSubscriptionGroup(ctx, old[name]); err != nil {
			return fmt.Errorf("making consumer group %s of %s on %s: %w", name, m.Host, leader.Host, err)
		}
		e.note(leader.Host, "consumer group %s, made or changed on %s after its metadata was copied, is the same here", name, m.Host)
	}
	return nil
}

func (carryOffsets) Undo(context.Context, *Env) error { return ErrNothingToUndo }
