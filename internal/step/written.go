package step

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/agent"
	"mqlift/internal/plan"
)

// scheduleTopic holds delayed messages until they are due, a queue for each level.
const scheduleTopic = "SCHEDULE_TOPIC_XXXX"

// queueEnds are the ends of all queues on a broker, by topic and queue.
func (e *Env) queueEnds(ctx context.Context, n *Node) (map[string][]int64, error) {
	queues, err := e.queues(ctx, n)
	if err != nil {
		return nil, err
	}
	return e.endsOf(ctx, n, queues)
}

// queues is how many queues each topic has that hold, or held, messages: those with a folder. To ask a broker
// for the end of one without takes as long and makes it one (DefaultMessageStore.findConsumeQueue, 4.5.2), and
// a topic may have a thousand of them, such as BenchmarkTest, which every broker makes.
func (e *Env) queues(ctx context.Context, n *Node) (map[string]int, error) {
	root := n.NewRoot
	if n.Kind == plan.Master && e.State.JoiningAt.IsZero() {
		root = n.OldRoot
	}
	queues := map[string]int{}
	for _, kind := range []string{"consumequeue", "batchconsumequeue"} { // the second from 5.0 on
		folders, err := n.Agent.ListTree(ctx, agent.ListRequest{Dir: join(root, kind), Depth: 2}, nil)
		if err != nil && !isNotExist(err) {
			return nil, err
		}
		for _, f := range folders {
			topic, queue, _ := strings.Cut(f.Path, "/")
			if id, err := strconv.Atoi(queue); err == nil {
				queues[topic] = max(queues[topic], id+1)
			}
		}
	}
	return queues, nil
}

// endsOf are the ends of so many queues of each topic on a broker; 0 for those that it does not have.
func (e *Env) endsOf(ctx context.Context, n *Node, queues map[string]int) (map[string][]int64, error) {
	ends := map[string][]int64{}
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(64)
	for topic, count := range queues {
		of := make([]int64, count)
		ends[topic] = of
		for id := range count {
			eg.Go(func() (err error) {
				of[id], err = n.broker(e).MaxOffset(ctx, topic, id)
				return err
			})
		}
	}
	return ends, eg.Wait()
}

// own tells topics whose messages nobody but mqlift and brokers send and read.
func (e *Env) own(topic string) bool {
	return topic == e.Plan.TracerTopic || topic == "OFFSET_MOVED_EVENT" || strings.HasPrefix(topic, "RMQ_SYS_TRANS_") ||
		topic == "SELF_TEST_TOPIC" || strings.HasPrefix(topic, "rmq_sys_")
}

// Written is what an opened group has taken since.
type Written struct {
	Messages int64
	Topics   []string // with how many in each, the most first
}

// Written counts the messages that the new group has taken since writes were opened, delayed ones
// included, its own broker's and mqlift's left out: what the old group would not see.
func (e *Env) Written(ctx context.Context) (Written, error) {
	if len(e.State.EndsThen) == 0 {
		return Written{}, fmt.Errorf("run %s did not keep where the queues ended when it opened writes: what was written since cannot be told", e.State.Run)
	}
	leader, err := e.raftLeader(ctx, e.peersNow())
	if err != nil {
		return Written{}, fmt.Errorf("what was written since %s cannot be counted: %w", e.State.OpeningAt.Format("15:04:05"), err)
	}
	ends, err := e.queueEnds(ctx, leader)
	if err != nil {
		return Written{}, err
	}
	delays, err := leader.broker(e).DelayOffsets(ctx)
	if err != nil {
		return Written{}, err
	}
	type count struct {
		topic string
		n     int64
	}
	var w Written
	var counts []count
	for topic, queues := range ends {
		if e.own(topic) {
			continue
		}
		n := int64(0)
		for id, end := range queues {
			from := e.endThen(topic, id)
			if topic == scheduleTopic { // those that were due are in their own topics by now
				from = max(from, delays[id+1])
			}
			n += max(0, end-from)
		}
		if topic == scheduleTopic {
			topic = "delayed and not due yet"
		}
		if n > 0 {
			w.Messages += n
			counts = append(counts, count{topic, n})
		}
	}
	slices.SortFunc(counts, func(a, b count) int {
		if a.n != b.n {
			return int(b.n - a.n)
		}
		return strings.Compare(a.topic, b.topic)
	})
	for _, c := range counts {
		w.Topics = append(w.Topics, fmt.Sprintf("%s %d", c.topic, c.n))
	}
	return w, nil
}

// endThen is where a queue ended when writes were opened; 0 for one that was not there.
func (e *Env) endThen(topic string, id int) int64 {
	if queues := e.State.EndsThen[topic]; id < len(queues) {
		return queues[id]
	}
	return 0
}
