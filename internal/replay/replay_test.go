package replay

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/message"
	"mqlift/internal/rocketmq"
)

func stored(queue int, offset int64, properties map[string]string) message.Message {
	host := netip.MustParseAddrPort("192.168.0.221:10911")
	return message.Message{
		QueueID: int32(queue), QueueOffset: offset, Topic: "orders", Body: []byte(fmt.Sprintf("body %d", offset)), Properties: properties,
		Born: time.UnixMilli(1_700_000_000_000), Stored: time.UnixMilli(1_700_000_000_500), BornHost: host, StoreHost: host,
	}
}

// queueOf is a queue that gives a few messages a time.
type queueOf struct {
	messages []message.Message
	failAt   int64 // 0: never
}

func (q *queueOf) Pull(_ context.Context, _ string, _ int, offset int64, _ int) (rocketmq.PullResult, error) {
	if q.failAt > 0 && offset >= q.failAt {
		return rocketmq.PullResult{}, fmt.Errorf("no answer")
	}
	r := rocketmq.PullResult{Max: int64(len(q.messages))}
	for _, m := range q.messages[min(int(offset), len(q.messages)):min(int(offset)+3, len(q.messages))] {
		r.Messages = append(r.Messages, m)
	}
	r.Next = offset + int64(len(r.Messages))
	return r, nil
}

// counter counts what Take says of itself.
type counter struct{ known, added int }

func (c *counter) Known(n int) { c.known += n }
func (c *counter) Add(n int)   { c.added += n }

// A reading that is cut short, even in the middle of a write, is gone on with: each message is in the file
// once, in its order.
func TestATakingIsGoneOnWithAfterATornWrite(t *testing.T) {
	var c counter
	s, err := OpenSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var all []message.Message
	for i := range int64(20) {
		all = append(all, stored(3, i, map[string]string{message.PropertyKeys: fmt.Sprint("k", i)}))
	}
	q := Queue{"%RETRY%billing/eu", 3}
	if _, err := s.Take(t.Context(), &queueOf{all, 11}, q, 5, 20, &c); err == nil {
		t.Fatal("a broker that does not answer is passed over")
	}
	info, err := os.Stat(s.file(q))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("others may read messages: %v", info.Mode())
	}
	if err := os.Truncate(s.file(q), info.Size()-7); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Take(t.Context(), &queueOf{all, 0}, q, 5, 18, &c); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Take(t.Context(), &queueOf{all, 0}, q, 5, 20, &c); err != nil || n != 2 {
		t.Errorf("%d added, %v; want the two that came since", n, err)
	}
	// 5 to 10, the last of which was torn; 10 to 17; 18 and 19.
	if c.added != 6+8+2 || c.known != 5+13 {
		t.Errorf("counted are %+v", c)
	}
	var got []int64
	_, _, err = s.Each(q, func(m message.Message) error {
		got = append(got, m.QueueOffset)
		if want := fmt.Sprintf("body %d", m.QueueOffset); string(m.Body) != want || m.Topic != "orders" || !m.Born.Equal(all[0].Born) {
			t.Errorf("message %d: %+v", m.QueueOffset, m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, got); diff != "" {
		t.Errorf("want (-), got (+)\n%s", diff)
	}
	queues, err := s.Queues()
	if diff := cmp.Diff([]Queue{q}, queues); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestWhatIsSentAgainKeepsWhatItsSenderGave(t *testing.T) {
	m := stored(2, 41, map[string]string{message.PropertyKeys: "k1 k2", message.PropertyTags: "tag", message.PropertyUniqueKey: "U1", "colour": "red", "TRAN_MSG": "true"})
	m.Flag, m.ReconsumeTimes, m.SysFlag = 9, 2, message.FlagCompressed|0x8|message.FlagBornHostV6
	r, unique := Again("run-1", m)
	want := rocketmq.SendRequest{
		Group: "mqlift", Topic: "orders", QueueID: 2, Body: m.Body, Flag: 9, ReconsumeTimes: 2, SysFlag: message.FlagCompressed, Born: m.Born,
		Properties: map[string]string{message.PropertyKeys: "k1 k2", message.PropertyTags: "tag", message.PropertyUniqueKey: "U1", "colour": "red", PropertyOrigin: "run-1/2/41"},
	}
	if diff := cmp.Diff(want, r); diff != "" || unique != "U1" {
		t.Errorf("found by %q; want (-), got (+)\n%s", unique, diff)
	}
	if m.Properties[PropertyOrigin] != "" {
		t.Error("the message itself was changed")
	}
}

func TestADelayedMessageGoesToWhereItWasOnItsWayTo(t *testing.T) {
	m := stored(15, 3, map[string]string{"DELAY": "16", "REAL_TOPIC": "orders", "REAL_QID": "5"})
	m.Topic = "SCHEDULE_TOPIC_XXXX"
	r, unique := Again("run-1", m)
	if r.Topic != "orders" || r.QueueID != 5 || r.Properties["DELAY"] != "16" || r.Properties["REAL_TOPIC"] != "" || !Delayed(r) {
		t.Errorf("%+v", r)
	}
	if unique != "SCHEDULE_TOPIC_XXXX/run-1/15/3" || r.Properties[message.PropertyUniqueKey] != unique {
		t.Errorf("found by %q", unique)
	}
	// One that was due carries its level no more; whatever it carries must not hold it back again.
	if r, _ := Again("run-1", stored(0, 1, map[string]string{"DELAY": "3"})); Delayed(r) {
		t.Errorf("%+v", r)
	}
}
