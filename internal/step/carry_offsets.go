package step

import (
	"context"
	"errors"
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
	return playbook.Requirement{Needs: []string{"routes-moved", "peers-proven"}, Proves: []string{"offsets"}}
}

func (carryOffsets) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: "take all consumer offsets as the running master has them, and topics.json and subscriptionGroup.json in " + join(m.OldRoot, "config")})
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
	return e.raiseOffsets(ctx, leader, false)
}

// raiseOffsets brings each consumer offset of the old master, running or stopped, that is ahead of the leader's
// there; with since set only those that have moved since it was called without: once writes are open the leader
// knows better, unless a client with an old route went on at the old master.
func (e *Env) raiseOffsets(ctx context.Context, leader *Node, since bool) error {
	m := e.Master()
	data, err := e.metadataNow(ctx, m, "consumerOffset.json")
	if err != nil || data == nil {
		return err
	}
	old, err := rocketmq.ParseConsumerOffsets(data)
	if err != nil {
		return fmt.Errorf("%s: consumerOffset.json: %w", m.Host, err)
	}
	now, err := leader.broker(e).ConsumerOffsets(ctx)
	if err != nil {
		return err
	}
	moved, count := 0, 0
	for key, queues := range old {
		topic, group, ok := rocketmq.TopicAndGroup(key)
		if !ok {
			continue
		}
		for queue, offset := range queues {
			count++
			if then, ok := e.State.OffsetsThen[key][queue]; since && ok && offset <= then {
				continue
			}
			if has, ok := now[key][queue]; ok && has >= offset {
				continue
			}
			if err := leader.broker(e).UpdateConsumerOffset(ctx, group, topic, queue, offset); err != nil {
				return fmt.Errorf("bringing the offset of group %s for queue %d of %s to %s: %w", group, queue, topic, leader.Host, err)
			}
			moved++
		}
	}
	e.State.Offsets, e.State.OffsetsMoved = count, e.State.OffsetsMoved+moved
	if !since {
		e.State.OffsetsThen = old
	}
	e.note(leader.Host, "%d of %d consumer offsets brought up to what the old master has, none set back", moved, count)
	return nil
}

// carryTopics makes the old master's topics on the leader where they are not, or not the same, there.
func (e *Env) carryTopics(ctx context.Context, leader *Node) (err error) {
	b := leader.broker(e)
	brought, err := carry(ctx, e, leader, "topic", "topics.json", rocketmq.ParseTopics, b.Topics, b.CreateTopic,
		func(old, now rocketmq.TopicConfig) bool {
			now.Order = old.Order // which creating does not set (4.5.2)
			return reflect.DeepEqual(old, now)
		})
	e.State.Meanwhile.Topics = append(e.State.Meanwhile.Topics, brought...)
	return err
}

// carryGroups does the same for consumer groups.
func (e *Env) carryGroups(ctx context.Context, leader *Node) (err error) {
	b := leader.broker(e)
	brought, err := carry(ctx, e, leader, "consumer group", "subscriptionGroup.json", rocketmq.ParseSubscriptionGroups, b.SubscriptionGroups, b.CreateSubscriptionGroup,
		func(old, now rocketmq.SubscriptionGroupConfig) bool { return reflect.DeepEqual(old, now) })
	e.State.Meanwhile.Groups = append(e.State.Meanwhile.Groups, brought...)
	return err
}

// carry brings what one of the old master's files has to the leader, if the broker has changed it since it was
// copied, and returns what was brought. A refusal is no reason to go back: from 4.9.4 on a broker whose role is
// SLAVE, as both are now, takes neither from an administrator (AdminBrokerProcessor.validateSlave), so that what
// is new is from clients, which make it anew at the leader.
func carry[T any](ctx context.Context, e *Env, leader *Node, what, file string, parse func([]byte) (map[string]T, rocketmq.DataVersion, error),
	list func(context.Context) (map[string]T, rocketmq.DataVersion, error), create func(context.Context, T) error, same func(old, now T) bool) (brought []string, err error) {
	m := e.Master()
	data, err := m.metadataFile(ctx, file)
	if err != nil || data == nil {
		return nil, err
	}
	old, version, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", m.Host, file, err)
	}
	if version == e.State.Copied[file] {
		return nil, nil
	}
	defer func() {
		if err == nil {
			e.copied(file, version)
		}
	}()
	now, _, err := list(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if same(old[name], now[name]) {
			continue
		}
		var refused *rocketmq.ResponseError
		switch err := create(ctx, old[name]); {
		case errors.As(err, &refused):
			e.note(leader.Host, "%s %s, made or changed on %s after it was copied, is refused here (%v): look at it when writes are open", what, name, m.Host, refused)
		case err != nil:
			return nil, fmt.Errorf("bringing %s %s from %s to %s: %w", what, name, m.Host, leader.Host, err)
		default:
			brought = append(brought, name)
			e.note(leader.Host, "%s %s, made or changed on %s after it was copied, is the same here now", what, name, m.Host)
		}
	}
	return brought, nil
}

func (carryOffsets) Undo(context.Context, *Env) error { return ErrNothingToUndo }
