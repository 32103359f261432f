package plan

import (
	"strconv"
	"testing"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/diag"
	"mqlift/internal/hostinfo"
	"mqlift/internal/observe"
	"mqlift/internal/rocketmq"
)

// A group whose brokers take long to start, over large heaps for instance, is told so.
func TestThePredictionTakesAGroupsOwnStarts(t *testing.T) {
	started := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	member := func(took time.Duration) observe.Member {
		return observe.Member{
			Process: &agent.RocketMQ{Process: hostinfo.Process{Started: started}},
			Runtime: rocketmq.RuntimeInfo{"bootTimestamp": strconv.FormatInt(started.Add(took).UnixMilli(), 10)},
		}
	}
	form := func(members ...observe.Member) (low, high time.Duration) {
		return (&Plan{}).predict(&observe.Facts{Members: members}).Of("form").Sum()
	}
	low, high := form(member(2*time.Second), observe.Member{}, member(20*time.Second))
	if low < 20*time.Second || low > 25*time.Second || high < 40*time.Second || high > 50*time.Second {
		t.Errorf("brokers that take 20 s to open their stores: %s to %s", low, high)
	}
	usualLow, usualHigh := form()
	for name, odd := range map[string]observe.Member{
		"no boot time":             {Process: member(0).Process, Runtime: rocketmq.RuntimeInfo{}},
		"booted before its start":  member(-time.Second),
		"booted an hour later":     member(time.Hour),
		"no process that is known": {Runtime: member(time.Second).Runtime},
	} {
		if low, high := form(odd); low != usualLow || high != usualHigh {
			t.Errorf("%s: %s to %s", name, low, high)
		}
	}
}

// What is built from the log takes as long as the log is, and a release that does not build it is refused.
func TestRebuildingTheIndexHasItsPrice(t *testing.T) {
	for release, want := range map[string]diag.Severity{"4.5.2": diag.Warn, "4.9.7": diag.Warn, "5.3.3": diag.Fail} {
		found := (&Plan{Release: release, RebuildIndex: true}).rebuild()
		if len(found) != 1 || found[0].Severity != want || found[0].Check != "plan.rebuild" {
			t.Errorf("%s: %v, want one %s", release, found, want)
		}
		if found := (&Plan{Release: release}).rebuild(); len(found) > 0 {
			t.Errorf("%s, nothing rebuilt: %v", release, found)
		}
	}
	p := &Plan{Copies: []Copy{{What: CopyLog, Bytes: 500 << 30}}}
	_, carried := p.predict(&observe.Facts{}).Sum()
	p.RebuildIndex = true
	low, high := p.predict(&observe.Facts{}).Of("form").Sum()
	if low < 500*time.Second || high < 50*time.Minute || high-carried > time.Hour {
		t.Errorf("500 GiB: %s to %s, and up to %s where they are carried", low, high, carried)
	}
}
