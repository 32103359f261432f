package step

import (
	"context"
	"fmt"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/replay"
	"mqlift/internal/rocketmq"
)

// takeMessages reads what was written since the opening, while the group serves.
type takeMessages struct{}

func (takeMessages) Name() string     { return "take-messages" }
func (takeMessages) Title() string    { return "read the messages written since, the group serving" }
func (takeMessages) UndoText() string { return "" }
func (takeMessages) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"locked"}, Proves: []string{"messages-taken"}}
}
func (takeMessages) Describe(*plan.Plan) []plan.Action {
	return []plan.Action{{Text: "pull every queue from where it ended when writes were opened into files on this machine"}}
}
func (takeMessages) Done(_ context.Context, e *Env) (bool, string, error) {
	return !e.State.Replay.TakenAt.IsZero(), fmt.Sprintf("%d messages are on this machine's disk", e.State.Replay.Taken), nil
}

func (takeMessages) Do(ctx context.Context, e *Env) error {
	if err := e.oldLogsWhole(ctx); err != nil {
		return err
	}
	leader, err := e.awaitLeader(ctx, e.peersNow())
	if err != nil {
		return err
	}
	n, err := e.take(ctx, leader, nil)
	e.note(leader.Host, "%d messages read so far, sends going on", n)
	return err
}

func (takeMessages) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// oldLogsWhole checks that the old group's logs still end where the new group began: DLedger writes none
// of it, but lets files of it expire.
func (e *Env) oldLogsWhole(ctx context.Context) error {
	return e.each(ctx, append([]*Node{e.Master()}, e.Slaves()...), func(ctx context.Context, n *Node) error {
		end, err := n.walkedEnd(ctx, e, e.State.AlignedEnd)
		if err != nil {
			return fmt.Errorf("the old commit log is not what it was (expired since?), so that the old group cannot be restored from it: %w", err)
		}
		if end != e.State.CertifiedEnd {
			return fmt.Errorf("the old commit log in %s ends at %d and not at the certified %d: the old group cannot be restored from it", n.CommitLog, end, e.State.CertifiedEnd)
		}
		return nil
	})
}

// take reads all queues of a broker up to their present end. Delayed messages that were due when delays
// was read are in their own topics by then.
func (e *Env) take(ctx context.Context, n *Node, delays rocketmq.DelayOffsets) (added int, err error) {
	spool, err := e.spool()
	if err != nil {
		return 0, err
	}
	ends, err := e.queueEnds(ctx, n)
	if err != nil {
		return 0, err
	}
	topics, _, err := n.broker(e).Topics(ctx)
	if err != nil {
		return 0, err
	}
	type part struct {
		replay.Queue
		from, end int64
	}
	var parts []part
	total := int64(0)
	for topic, queues := range ends {
		if e.own(topic) || topic == scheduleTopic && delays == nil {
			continue
		}
		for id, end := range queues {
			from := e.endThen(topic, id)
			if topic == scheduleTopic {
				from = max(from, delays[id+1])
			}
			if from < end {
				parts = append(parts, part{replay.Queue{Topic: topic, ID: id}, from, end})
				total += end - from
			}
		}
	}
	count := e.tally(n.Host, "read", total)
	for _, p := range parts {
		if err := e.makeReadable(ctx, n, topics, p.Topic, len(ends[p.Topic])); err != nil {
			return added, err
		}
		first, err := n.broker(e).MinOffset(ctx, p.Topic, p.ID)
		if err != nil {
			return added, err
		}
		if first > p.from {
			e.note(n.Host, "%d messages of queue %d of %s have expired since", first-p.from, p.ID, p.Topic)
		}
		got, err := spool.Take(ctx, n.broker(e), p.Queue, p.from, p.end, count)
		added += got
		if err != nil {
			return added, fmt.Errorf("%s: %w", n.Host, err)
		}
	}
	return added, spool.Sync()
}

// makeReadable lets a topic be pulled that is not meant to be: dead letters are write-only, and 4.5.2
// keeps delayed messages in a topic that it does not list. The new group is given up anyway.
func (e *Env) makeReadable(ctx context.Context, n *Node, topics map[string]rocketmq.TopicConfig, name string, queues int) error {
	t, ok := topics[name]
	if ok && t.Perm&rocketmq.PermRead != 0 {
		return nil
	}
	if !ok {
		t = rocketmq.NewTopic(name, queues)
	}
	t.Perm |= rocketmq.PermRead
	topics[name] = t
	return n.broker(e).CreateTopic(ctx, t)
}
