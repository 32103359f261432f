package e2e

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"

	"mqlift/e2e/refcase"
	"mqlift/internal/event"
	"mqlift/internal/message"
	"mqlift/internal/probe"
	"mqlift/internal/rocketmq"
	"mqlift/internal/step"
)

const (
	late   = "late"   // takes delayed messages
	paid   = "paid"   // takes transactions
	clerks = "clerks" // consumes all of it
	sales  = "sales"  // sends transactions
)

// Nothing that is under way while the group moves is lost: sends of a producer whose route is never
// renewed, delayed messages that come due in every part of the window, messages that consumers send
// back, transactions that are neither committed nor rolled back, and what a consumer group has still
// before it.
func TestNothingUnderWayIsLost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	master := b.broker("host-a")
	for _, name := range []string{late, paid} {
		must(t, master.CreateTopic(t.Context(), rocketmq.NewTopic(name, 1)))
	}
	must(t, master.CreateSubscriptionGroup(t.Context(), rocketmq.NewSubscriptionGroup(clerks)))
	for _, h := range []string{"host-a", "host-b"} { // for the new group; a running broker has read its own
		appendTo(t, b.conf(h), "transactionCheckInterval=5000")
	}
	eventually(t, time.Minute, "routes to all topics", func(ctx context.Context) error {
		for _, name := range []string{topic, late, paid} {
			if _, err := b.client.NameServers(b.NameServers()).Route(ctx, name); err != nil {
				return err
			}
		}
		return nil
	})

	var sent, stale probe.Sent
	consumer := &refcase.Consumer{NameServers: b.NameServers(), Group: clerks, Topics: []string{topic, late, paid},
		Fail: func(k probe.MessageKey) bool { return strings.HasPrefix(k.Key, "r") }}
	must(t, consumer.Start())
	t.Cleanup(func() {
		if err := consumer.Stop(); err != nil {
			t.Error(err)
		}
	})
	b.warmUp(t, consumer)
	b.run(t, call{}, "check").wants(t, 0, "1 consumer group(s) have clients in Go: "+clerks)

	background := newBackground(t)
	var staleSends, sends probe.Timeline
	background.run(func(ctx context.Context) error {
		return (&probe.ClientSender{NameServers: b.NameServers(), Topic: topic, Group: "stale", KeyPrefix: "p", PinRoute: true, Rate: 100, Timeline: &staleSends, Sent: &stale}).Run(ctx)
	})
	background.run(func(ctx context.Context) error {
		return (&probe.ClientSender{NameServers: b.NameServers(), Topic: topic, Group: "application", KeyPrefix: "f", Rate: 50, Timeline: &sends, Sent: &sent}).Run(ctx)
	})
	// Levels 1 to 3 wait 1, 5 and 10 s: of those acknowledged last some come due while sends are refused,
	// some while the old master stops, and some after.
	background.run(func(ctx context.Context) error { return b.sendDelayed(ctx, &sent) })

	pay := b.transactions(t, "one")
	for i := range 5 {
		pay(t, fmt.Sprintf("t%d", i), &sent)
	}
	a := b.startApply(t)
	// Until shortly before the fence messages are sent that are sent back at once.
	stopBack := make(chan struct{})
	background.run(func(ctx context.Context) error { return b.sendEvery(ctx, 200*time.Millisecond, stopBack, "r", &sent) })
	a.await(t, "the slaves to be stopped", began("stop-slaves"))
	close(stopBack)
	var open []primitive.SendResult
	for i := 5; i < 10; i++ {
		open = append(open, *pay(t, fmt.Sprintf("t%d", i), &sent).SendResult)
	}
	a.await(t, "the fence", func(e event.Event) bool { return e.Kind == event.StepEnd && e.Step == "fence-master" })

	// At the fenced broker: a commit and a send-back are refused in so many words.
	if err := b.endTransaction(t.Context(), open[0]); !answered(err, rocketmq.ResponseSlaveNotAvailable) {
		t.Errorf("a commit at the fenced broker: %v", err)
	}
	back := sent.Acked()[0]
	if err := b.sendBack(t.Context(), "host-a", back); !answered(err, rocketmq.ResponseSystemError) { // its store says no
		t.Errorf("a send-back at the fenced broker: %v", err)
	}
	// Nothing moves its log any more, whatever comes due.
	end, err := master.RuntimeInfo(t.Context())
	must(t, err)
	fenced, err := end.CommitLogMaxOffset()
	must(t, err)

	// What an administrator makes there after the metadata was copied: from 4.9.4 on such a broker refuses it.
	a.await(t, "the certificate", func(e event.Event) bool { return e.Kind == event.StepEnd && e.Step == "certify-logs" })
	made := rocketmq.NewTopic("meanwhile", 3)
	auditors := rocketmq.NewSubscriptionGroup("auditors")
	auditors.RetryMaxTimes = 5
	err = errors.Join(master.CreateTopic(t.Context(), made), master.CreateSubscriptionGroup(t.Context(), auditors))
	var refusal *rocketmq.ResponseError
	takes := !errors.As(err, &refusal)
	if takes {
		must(t, err)
	}

	if code := a.ended(t); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, a.screen.String())
	}
	hosts := b.Hosts()
	if !takes {
		hosts = nil
	}
	for _, h := range hosts {
		eventually(t, 10*time.Second, "topic and group of meanwhile on "+h.Name, func(ctx context.Context) error {
			topics, _, err := b.broker(h.Name).Topics(ctx)
			if err != nil {
				return err
			}
			groups, _, err := b.broker(h.Name).SubscriptionGroups(ctx)
			if err != nil {
				return err
			}
			if t, g := topics[made.Name], groups[auditors.Name]; !reflect.DeepEqual(t, made) || !reflect.DeepEqual(g, auditors) {
				return fmt.Errorf("it has %+v and %+v", t, g)
			}
			return nil
		})
	}
	report := b.report(t)
	if report.CertifiedEnd != fenced || report.FencedEnd != fenced {
		t.Errorf("the fenced master ended at %d, then at %d, and was certified at %d", fenced, report.FencedEnd, report.CertifiedEnd)
	}
	refused := staleSends.Between(report.FencedAt, report.OpenedAt)
	if refused.Failed == 0 {
		t.Error("the producer with the old route did not send while it was refused")
	}
	eventually(t, time.Minute, "the new leader to take the message back", func(ctx context.Context) error {
		return b.sendBack(ctx, report.Leader, back)
	})
	due := dueBetween(sent.Acked(), report.FencedAt, report.OpenedAt)
	if due == 0 {
		t.Error("no delayed message came due while sends were refused")
	}
	b.transactions(t, "two") // another producer of the group, which the leader can ask at once

	background.stop(t)
	acked := append(sent.Acked(), stale.Acked()...)
	t.Logf("%d messages acknowledged, %d of them to the producer with the old route, which was refused %d times", len(acked), len(stale.Acked()), refused.Failed)
	found, err := probe.Lookup{Brokers: probe.BrokersOf(b.client), Limit: time.Minute}.Find(t.Context(), unplaced(acked), b.addrs())
	must(t, err)
	for _, f := range found {
		if len(f.Found) != len(acked) {
			t.Errorf("%s: %d of %d acknowledged messages found; missing %v, unanswered %v %s", f.Addr, len(f.Found), len(acked), f.Missing, f.Unanswered, f.FirstError)
		}
		t.Logf("%s: %d messages found, %d of them stored more than once: %v", f.Addr, len(f.Found), len(f.Copies), f.Copies)
	}
	got := consumer.Await(t.Context(), time.Minute, acked)
	if len(got.Unseen) > 0 {
		t.Errorf("not consumed: %v", got.Unseen)
	}
	t.Log(got)
	for _, e := range acked {
		if k := (probe.MessageKey{Topic: e.Topic, Key: e.Key}); consumer.Fail(k) && consumer.Times(k) < 2 {
			eventually(t, time.Minute, k.Key+" to come back to the consumer", func(context.Context) error {
				if consumer.Times(k) < 2 {
					return errors.New("it was given once")
				}
				return nil
			})
		}
	}
	// Delayed messages that came due meanwhile stand in the new group's log, from its opening on: before
	// that nothing may be in it that going back would take away again.
	for _, e := range sent.Acked() {
		if e.Topic != late {
			continue
		}
		copies, err := b.broker(report.Leader).QueryByKey(t.Context(), e.Topic, e.Key, 10, time.Time{}, time.Time{})
		must(t, err)
		for _, m := range copies {
			if m.PhysicalOffset >= report.CertifiedEnd && m.Stored.Before(report.OpeningAt) {
				t.Errorf("%s was delivered %s before writes were opened", e.Key, report.OpeningAt.Sub(m.Stored))
			}
		}
	}
	// The report says the same.
	if report.Waiting == nil || report.Waiting.Transactions < 5 || report.Written || report.Offsets == 0 {
		t.Errorf("the report says of what was under way %+v; the new leader wrote by itself before writes opened: %t; %d offsets", report.Waiting, report.Written, report.Offsets)
	} else if waiting, delivered := report.Waiting.Count(); waiting < int64(due) {
		t.Errorf("%d delayed messages came due while sends were refused, and %d are said to have waited", due, waiting)
	} else {
		t.Logf("%d of %d delayed messages that waited came due while sends were refused, %d were delivered by the end\n%s", due, waiting, delivered, strings.Join(report.UnderWay(), "\n"))
	}
	b.verified(t)
}

// began is the event of a step's beginning.
func began(name string) func(event.Event) bool {
	return func(e event.Event) bool { return e.Kind == event.StepBegin && e.Step == name }
}

// unplaced drops what is known of where a message was stored first: a delayed message and a prepared
// one are to be found where they are for consumers.
func unplaced(entries []probe.Entry) []probe.Entry {
	l := make([]probe.Entry, len(entries))
	for i, e := range entries {
		l[i] = probe.Entry{Topic: e.Topic, Key: e.Key}
	}
	return l
}

func (b *bench) addrs() []string {
	var l []string
	for _, h := range b.Hosts() {
		l = append(l, h.BrokerAddr())
	}
	return l
}

// answered tells that a broker refused with that code.
func answered(err error, code rocketmq.Code) bool {
	var r *rocketmq.ResponseError
	return errors.As(err, &r) && r.Code == code
}

// background runs what goes on beside a test, and is waited for at its end.
type background struct {
	ctx     context.Context
	end     context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	err     error
}

func newBackground(t *testing.T) *background {
	g := &background{}
	g.ctx, g.end = context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(func() { g.stop(t) })
	return g
}

func (g *background) run(f func(context.Context) error) {
	g.running.Go(func() {
		err := f(g.ctx)
		g.mu.Lock()
		g.err = errors.Join(g.err, err)
		g.mu.Unlock()
	})
}

func (g *background) stop(t *testing.T) {
	g.end()
	g.running.Wait()
	if g.err != nil {
		t.Error(g.err)
	}
	g.err = nil
}

// warmUp sends until the consumer is given messages of every topic.
func (b *bench) warmUp(t *testing.T, c *refcase.Consumer) {
	t.Helper()
	n := 0
	eventually(t, time.Minute, "the consumer to be given messages", func(ctx context.Context) error {
		n++
		for _, name := range c.Topics {
			key := fmt.Sprintf("w%d", n)
			_, err := b.broker("host-a").Send(ctx, rocketmq.SendRequest{Group: "application", Topic: name, Body: []byte(key), Properties: map[string]string{message.PropertyKeys: key}})
			if err != nil {
				return err
			}
		}
		for _, name := range c.Topics {
			given := 0
			for i := range n {
				given += c.Times(probe.MessageKey{Topic: name, Key: fmt.Sprintf("w%d", i+1)})
			}
			if given == 0 {
				return fmt.Errorf("none of %s", name)
			}
		}
		return nil
	})
}

// put sends one message to the master and notes it when it is acknowledged.
func (b *bench) put(ctx context.Context, topic, key string, properties map[string]string, sent *probe.Sent) error {
	set := map[string]string{message.PropertyKeys: key}
	for k, v := range properties {
		set[k] = v
	}
	r, err := b.broker("host-a").Send(ctx, rocketmq.SendRequest{Group: "application", Topic: topic, Body: []byte(key), Properties: set})
	if err == nil {
		sent.Acknowledged(probe.Entry{Topic: topic, Key: key, Broker: group, MsgID: r.MsgID, Queue: r.QueueID, Offset: r.QueueOffset, At: time.Now()})
	}
	return err
}

// sendDelayed sends delayed messages until the first one is refused.
func (b *bench) sendDelayed(ctx context.Context, sent *probe.Sent) error {
	for i := 0; ctx.Err() == nil; i++ {
		level := i%3 + 1
		if err := b.put(ctx, late, fmt.Sprintf("d%d-%06d", level, i), map[string]string{"DELAY": strconv.Itoa(level)}, sent); err != nil {
			return nil // the fence
		}
		pause(ctx, 50*time.Millisecond)
	}
	return nil
}

// sendEvery sends messages at an interval until it is stopped.
func (b *bench) sendEvery(ctx context.Context, interval time.Duration, stop <-chan struct{}, prefix string, sent *probe.Sent) error {
	for i := 0; ctx.Err() == nil; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		if err := b.put(ctx, topic, probe.NumberedKey(prefix, i), nil, sent); err != nil {
			return err
		}
		pause(ctx, interval)
	}
	return nil
}

// dueBetween counts the delayed messages that came due in a stretch of time.
func dueBetween(sent []probe.Entry, from, to time.Time) int {
	n := 0
	for _, e := range sent {
		for prefix, delay := range map[string]time.Duration{"d1-": time.Second, "d2-": 5 * time.Second, "d3-": 10 * time.Second} {
			if due := e.At.Add(delay); strings.HasPrefix(e.Key, prefix) && due.After(from) && due.Before(to) {
				n++
			}
		}
	}
	return n
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// pending answers for transactions whose outcome is known only when the broker asks.
type pending struct{}

func (pending) ExecuteLocalTransaction(*primitive.Message) primitive.LocalTransactionState {
	return primitive.UnknowState
}

func (pending) CheckLocalTransaction(*primitive.MessageExt) primitive.LocalTransactionState {
	return primitive.CommitMessageState
}

// transactions starts a transaction producer and returns how to prepare a message with it.
func (b *bench) transactions(t *testing.T, instance string) func(t *testing.T, key string, sent *probe.Sent) *primitive.TransactionSendResult {
	t.Helper()
	probe.QuietClient()
	p, err := producer.NewTransactionProducer(pending{},
		producer.WithNsResolver(primitive.NewPassthroughResolver(b.NameServers())),
		producer.WithGroupName(sales), producer.WithInstanceName(b.dir+instance), producer.WithRetry(0))
	must(t, err)
	must(t, p.Start())
	t.Cleanup(func() {
		if err := p.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	prepare := func(t *testing.T, key string, sent *probe.Sent) *primitive.TransactionSendResult {
		t.Helper()
		r, err := p.SendMessageInTransaction(t.Context(), primitive.NewMessage(paid, []byte(key)).WithKeys([]string{key}))
		must(t, err)
		if r.Status != primitive.SendOK {
			t.Fatalf("preparing %s: %+v", key, r)
		}
		sent.Acknowledged(probe.Entry{Topic: paid, Key: key})
		return r
	}
	if instance != "one" { // whoever has sent nothing is not known to a broker
		prepare(t, instance, &probe.Sent{})
	}
	return prepare
}

// endTransaction commits a prepared message at host-a (END_TRANSACTION).
func (b *bench) endTransaction(ctx context.Context, r primitive.SendResult) error {
	offset, err := commitLogOffset(r.OffsetMsgID)
	if err != nil {
		return err
	}
	_, err = b.client.Call(ctx, b.host("host-a").BrokerAddr(), &rocketmq.Command{Code: 37, Fields: map[string]string{
		"producerGroup": sales, "tranStateTableOffset": strconv.FormatInt(r.QueueOffset, 10), "commitLogOffset": strconv.FormatInt(offset, 10),
		"commitOrRollback": "8", "fromTransactionCheck": "false", "msgId": r.MsgID, "transactionId": r.TransactionID,
	}})
	return err
}

// sendBack sends a message back as a consumer does (CONSUMER_SEND_MSG_BACK).
func (b *bench) sendBack(ctx context.Context, host string, e probe.Entry) error {
	offset, err := commitLogOffset(e.MsgID)
	if err != nil {
		return err
	}
	_, err = b.client.Call(ctx, b.host(host).BrokerAddr(), &rocketmq.Command{Code: 36, Fields: map[string]string{
		"offset": strconv.FormatInt(offset, 10), "group": clerks, "delayLevel": "1", "originMsgId": e.MsgID, "originTopic": e.Topic,
		"unitMode": "false", "maxReconsumeTimes": "16",
	}})
	return err
}

// commitLogOffset is the physical offset in a message id: the last 8 of its 16 bytes.
func commitLogOffset(id string) (int64, error) {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) < 16 {
		return 0, fmt.Errorf("message id %q: %w", id, err)
	}
	return int64(binary.BigEndian.Uint64(raw[len(raw)-8:])), nil
}

// report is the state in the report of the newest apply.
func (b *bench) report(t *testing.T) *step.State {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.stateDir(), "runs", group, "*", "report.json"))
	must(t, err)
	if len(files) == 0 {
		t.Fatal("there is no report")
	}
	data, err := os.ReadFile(files[len(files)-1])
	must(t, err)
	r := struct{ State *step.State }{&step.State{}}
	must(t, json.Unmarshal(data, &r))
	return r.State
}
