package probe

import (
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mqlift/internal/rocketmq"
)

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestFreshSenderFollowsTheRouteWithTheNextSend(t *testing.T) {
	g := newGroup(t)
	tl, sent := &Timeline{}, &Sent{}
	runs(t, (&FreshSender{Router: g.router(), Brokers: g.brokers(), Broker: testBroker, Topic: testTopic, Group: "probe",
		KeyPrefix: "w", Start: 7, Every: 5 * time.Millisecond, Timeout: 10 * time.Second, Timeline: tl, Sent: sent}).Run)
	if err := tl.WaitSteady(within(t, time.Minute), time.Time{}, 10); err != nil {
		t.Fatal(err)
	}
	g.nodes[0].kill()
	g.with(func() { g.leader = -1 })
	killed := time.Now()
	if err := waitFailure(t, tl, killed); !strings.Contains(err, "no broker id 0") {
		t.Errorf("failure without a leader: %s", err)
	}
	g.with(func() { g.leader = 1 })
	elected := time.Now()
	if err := tl.WaitSteady(within(t, time.Minute), elected, 10); err != nil {
		t.Fatal(err)
	}
	if s := tl.Between(elected, elected.Add(time.Nanosecond)); len(s.Outages) != 1 {
		t.Errorf("at the election the outages are %+v", s.Outages)
	}
	for _, e := range sent.Acked() {
		if n, err := strconv.Atoi(strings.TrimPrefix(e.Key, "w")); err != nil || n < 7 || e.Broker != testBroker || e.MsgID == "" {
			t.Errorf("odd entry %+v", e)
		}
	}
	if len(sent.Unacked()) == 0 {
		t.Error("nothing unacknowledged in the ledger")
	}
}

func TestFreshSenderSeesAFenceByThePermission(t *testing.T) {
	g := newGroup(t)
	g.with(func() { g.perm = 4 })
	tl := &Timeline{}
	stop := runs(t, (&FreshSender{Router: g.router(), Brokers: g.brokers(), Topic: testTopic, Group: "probe",
		Every: 5 * time.Millisecond, Timeout: 10 * time.Second, Timeline: tl, Sent: &Sent{}}).Run)
	if err := waitFailure(t, tl, time.Time{}); !strings.Contains(err, "perm 4") {
		t.Errorf("failure: %s", err)
	}
	stop()
	if n := g.stored(); n != 0 {
		t.Errorf("%d messages stored", n)
	}
}

func TestStuckSendsDoNotStopTheRate(t *testing.T) {
	g := newGroup(t)
	held := make(chan struct{})
	g.with(func() { g.nodes[0].held = held })
	t.Cleanup(func() { close(held) })
	tl := &Timeline{}
	stop := runs(t, (&FreshSender{Router: g.router(), Brokers: g.brokers(), Topic: testTopic, Group: "probe",
		Every: 5 * time.Millisecond, Timeout: 400 * time.Millisecond, Timeline: tl, Sent: &Sent{}}).Run)
	waitFailure(t, tl, time.Time{})
	g.with(func() { g.leader = 1 })
	if err := tl.WaitSteady(within(t, time.Minute), time.Now(), 10); err != nil {
		t.Fatal(err)
	}
	stop()
	all := tl.Attempts()
	begun := 0
	for _, a := range all {
		if a.Start.Before(all[0].End) {
			begun++
		}
	}
	if begun < 20 {
		t.Errorf("%d sends begun while the first was stuck for %s", begun, all[0].End.Sub(all[0].Start))
	}
}

func TestFreshReaderReadsFromASlaveWithoutAMaster(t *testing.T) {
	g := newGroup(t)
	send(t, g, "m1", "m2")
	tl := &Timeline{}
	runs(t, (&FreshReader{Router: g.router(), Brokers: g.brokers(), Broker: testBroker, Timeline: tl,
		Keys: []MessageKey{{testTopic, "m1"}, {testTopic, "m2"}}, Every: 5 * time.Millisecond}).Run)
	if err := tl.WaitSteady(within(t, time.Minute), time.Time{}, 10); err != nil {
		t.Fatal(err)
	}
	g.nodes[0].kill()
	g.with(func() { g.leader = -1 })
	if err := tl.WaitSteady(within(t, time.Minute), time.Now(), 10); err != nil {
		t.Errorf("two slaves have the keys: %v; %s", err, tl.LastError(time.Time{}))
	}
}

func TestLookUpThatFindsNothingIsAFailure(t *testing.T) {
	g := newGroup(t)
	send(t, g, "m1")
	tl := &Timeline{}
	runs(t, (&FreshReader{Router: g.router(), Brokers: g.brokers(), Timeline: tl,
		Keys: []MessageKey{{testTopic, "m1"}, {testTopic, "m2"}}, Every: 5 * time.Millisecond}).Run)
	if err := waitFailure(t, tl, time.Time{}); !strings.Contains(err, "m2") || !strings.Contains(err, ErrNotFound.Error()) {
		t.Errorf("failure: %s", err)
	}
	if err := tl.WaitSteady(within(t, time.Minute), time.Time{}, 1); err != nil {
		t.Error("m1 was not found")
	}
}

func TestRunNeedsWhatItCannotDoWithout(t *testing.T) {
	if err := (&FreshSender{}).Run(t.Context()); err == nil {
		t.Error("a sender without a topic ran")
	}
	if err := (&FreshReader{Timeline: &Timeline{}}).Run(t.Context()); err == nil {
		t.Error("a reader without keys ran")
	}
}

func waitFailure(t *testing.T, tl *Timeline, after time.Time) string {
	t.Helper()
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); time.Sleep(time.Millisecond) {
		if err := tl.LastError(after); err != "" {
			return err
		}
	}
	t.Fatal("nothing failed within a minute")
	return ""
}

func TestWritableQueuesAreUsedInTurnAndOnlyThose(t *testing.T) {
	route := rocketmq.Route{
		Queues: []rocketmq.QueueData{{Broker: "a", Write: 2, Perm: 6}, {Broker: "fenced", Write: 4, Perm: 4},
			{Broker: "headless", Write: 4, Perm: 6}, {Broker: "b", Write: 1, Perm: 6}},
		Brokers: []rocketmq.BrokerData{{Name: "a", Addrs: map[int64]string{0: "a:1", 1: "a:2"}},
			{Name: "fenced", Addrs: map[int64]string{0: "f:1"}}, {Name: "headless", Addrs: map[int64]string{1: "h:2"}},
			{Name: "b", Addrs: map[int64]string{0: "b:1"}}},
	}
	type place struct {
		broker, addr string
		queue        int
	}
	all := []place{{"a", "a:1", 0}, {"a", "a:1", 1}, {"b", "b:1", 0}}
	for n := range 9 {
		broker, addr, queue, err := writable(route, "", n)
		if got := (place{broker, addr, queue}); err != nil || got != all[n%3] {
			t.Errorf("send %d: %v, %v", n, got, err)
		}
	}
	for group, want := range map[string]string{"fenced": "fenced takes no sends (perm 4)",
		"headless": "headless has no broker id 0", "other": "other does not serve the topic"} {
		if _, _, _, err := writable(route, group, 0); err == nil || err.Error() != want {
			t.Errorf("%s: %v", group, err)
		}
	}
	if _, _, _, err := writable(rocketmq.Route{}, "", 0); err == nil || err.Error() != "no broker serves the topic" {
		t.Errorf("empty route: %v", err)
	}
}

func TestPaceKeepsTheRateAndBoundsWhatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := within(t, 10*time.Second-time.Millisecond)
		var begun, running, most atomic.Int64
		pace(ctx, 10*time.Millisecond, time.Second, func(int) {
			begun.Add(1)
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(time.Second)
		})
		if n := begun.Load(); n != 1000 {
			t.Errorf("%d begun in 10 s at 10 ms", n)
		}
		if m := most.Load(); m > 102 || running.Load() != 0 {
			t.Errorf("%d at once, %d left", m, running.Load())
		}
	})
}
