package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"mqlift/internal/event"
	"mqlift/internal/message"
	"mqlift/internal/probe"
	"mqlift/internal/replay"
	"mqlift/internal/rocketmq"
)

// After a finished upgrade the way back has a price, which is said in numbers, and with --replay it is
// paid: every message that the new group has acknowledged is on the old master and its slave, once and in
// order, also when the replay is killed in the middle of sending.
func TestReplayedAfterOpen(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	before := b.old(t)
	b.run(t, call{}, "apply", "--yes", "--no-failover", "--keys", oldKeys).wants(t, 0)
	must(t, os.RemoveAll(b.stateDir())) // what the hosts keep must do
	b.run(t, call{}, "status").wants(t, 0, "Going back costs 0 messages")

	const topic2, queues, count = "payments", 2, 1500
	leader := b.client.Broker(b.leader(t))
	must(t, leader.CreateTopic(t.Context(), rocketmq.NewTopic(topic2, queues)))
	must(t, leader.CreateSubscriptionGroup(t.Context(), rocketmq.NewSubscriptionGroup("billing")))
	var entries []probe.Entry
	for i := range count {
		key := probe.NumberedKey("p", i)
		_, err := leader.Send(t.Context(), rocketmq.SendRequest{
			Group: "application", Topic: topic2, QueueID: i % queues, Body: []byte(key), Flag: 7,
			Properties: map[string]string{message.PropertyKeys: key, message.PropertyTags: "tag", "colour": "red"},
		})
		must(t, err)
		entries = append(entries, probe.Entry{Topic: topic2, Key: key})
	}
	_, err := leader.Send(t.Context(), rocketmq.SendRequest{
		Group: "application", Topic: topic2, QueueID: 1, Body: []byte("later"),
		Properties: map[string]string{message.PropertyKeys: "later", "DELAY": "16"}, // 30 minutes
	})
	must(t, err)
	entries = append(entries, probe.Entry{Topic: "SCHEDULE_TOPIC_XXXX", Key: "later"})
	must(t, leader.UpdateConsumerOffset(t.Context(), "billing", topic2, 0, 200))

	costs := fmt.Sprintf("costs %d messages", count+1)
	b.run(t, call{}, "status").wants(t, 0, costs, "payments 1500", "delayed and not due yet 1")
	b.run(t, call{}, "rollback").wants(t, 3, costs, "mqlift rollback --replay")
	b.run(t, call{stdin: "no\n"}, "rollback", "--replay").wants(t, 3, "Not kept", fmt.Sprintf("%d messages take about ", count+1), "Type yes")
	b.run(t, call{}, "verify", "--keys", oldKeys).wants(t, 0)

	a := b.start(t, "rollback", "--replay", "--yes")
	a.await(t, "send-again to begin", func(e event.Event) bool { return e.Kind == event.StepBegin && e.Step == "send-again" })
	a.until(t, "some messages to be sent again", func(ctx context.Context) error {
		end, err := b.broker("host-a").MaxOffset(ctx, topic2, 0)
		if err == nil && end < 20 {
			err = fmt.Errorf("%d are", end)
		}
		return err
	})
	a.signal(t, syscall.SIGKILL)
	a.ended(t)
	b.run(t, call{}, "status").wants(t, 0, "rollback --replay` goes on")
	b.run(t, call{}, "apply", "--yes").wants(t, 3, "rollback --replay` goes on")
	b.run(t, call{}, "rollback", "--replay", "--yes").wants(t, 0, fmt.Sprintf("%d messages", count+1), "is the old master/slave group again", "dledger_store.mqlift-")

	b.serves(t, before)
	addrs := []string{b.host("host-a").BrokerAddr(), b.host("host-b").BrokerAddr()}
	found, err := probe.Lookup{Brokers: probe.BrokersOf(b.client)}.Find(t.Context(), entries, addrs)
	must(t, err)
	for i, f := range found {
		if len(f.Found) != len(entries) {
			t.Errorf("%s: %d of %d found, missing %v, unanswered %v %s", addrs[i], len(f.Found), len(entries), f.Missing, f.Unanswered, f.FirstError)
		}
	}
	for id := range queues {
		b.inOrder(t, topic2, id, count/queues)
	}
	offsets, err := b.broker("host-a").ConsumerOffsets(t.Context())
	must(t, err)
	if got := offsets[topic2+"@billing"][0]; got != 200 {
		t.Errorf("the consumer group goes on at %d, not at 200", got)
	}
	b.run(t, call{}, "rollback").wants(t, 0, "There is nothing to go back from")
	b.run(t, call{}, "check").wants(t, 0)
}

// leader is the address that the name servers give as the group's brokerId 0.
func (b *bench) leader(t *testing.T) string {
	t.Helper()
	info, err := b.client.NameServers(b.NameServers()).ClusterInfo(t.Context())
	must(t, err)
	return info.Brokers[group].Addrs[0]
}

// inOrder reads a queue of the old master and expects its messages once each, in their order, with all
// that they had.
func (b *bench) inOrder(t *testing.T, topic string, id, count int) {
	t.Helper()
	last, n := "", 0
	for at := int64(0); ; {
		r, err := b.broker("host-a").Pull(t.Context(), topic, id, at, 32)
		must(t, err)
		for _, m := range r.Messages {
			key := strings.Join(m.Keys(), " ")
			if key <= last {
				t.Fatalf("queue %d: %s comes after %s", id, key, last)
			}
			if string(m.Body) != key || m.Tags() != "tag" || m.Flag != 7 || m.Properties["colour"] != "red" || m.Properties[replay.PropertyOrigin] == "" {
				t.Fatalf("queue %d: %+v", id, m)
			}
			last = key
			n++
		}
		if at = r.Next; at >= r.Max {
			break
		}
	}
	if n != count {
		t.Errorf("queue %d holds %d messages, %d were acknowledged", id, n, count)
	}
}
