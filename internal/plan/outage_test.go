package plan

import (
	"strconv"
	"testing"
	"time"

	"mqlift/internal/agent"
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
		return predict(&observe.Facts{Members: members}).Of("form").Sum()
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
