package step

import (
	"slices"
	"strings"
	"testing"
	"time"

	"mqlift/internal/plan"
)

// names of the steps before that one, and itself, in the order of the built-in playbook.
func upTo(name string) []string {
	var l []string
	for _, s := range All() {
		l = append(l, s.Name())
		if s.Name() == name {
			return l
		}
	}
	panic(name)
}

func TestWhatIsTemporaryIsNamed(t *testing.T) {
	p := &plan.Plan{Members: []*plan.Member{{Host: "host-a", Kind: plan.Master}, {Host: "host-b", Kind: plan.Slave}, {Host: "host-c", Kind: plan.Fresh}}}
	at := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	fenced := State{Run: "run-1", Fence: map[string]string{"brokerPermission": "6"}, FencedAt: at}
	opening, opened, failedOver := fenced, fenced, fenced
	opening.OpeningAt = at
	opened.OpeningAt, opened.OpenedAt = at, at
	failedOver.OpeningAt, failedOver.OpenedAt, failedOver.Failover = at, at, &FailoverResult{}
	const lock = "host-a, host-b, host-c: the lock of run run-1"
	for name, c := range map[string]struct {
		state State
		begun []string
		want  []string // how the lines begin
		back  string
	}{
		"nothing begun":          {State{Run: "run-1"}, nil, nil, "serves all the time"},
		"locked":                 {State{Run: "run-1"}, upTo("lock-group"), []string{lock}, "the old group serves all the time"},
		"slave stopped":          {State{Run: "run-1"}, upTo("align-logs"), []string{"host-b: the slave may be stopped", lock}, "the old master serves all the time"},
		"about to be fenced":     {State{Run: "run-1"}, upTo("fence-master"), []string{"host-b: the slave", lock}, "sends again in about 2 s"},
		"fenced":                 {fenced, upTo("fence-master"), []string{"host-a: the old master refuses sends since 2026-11-21T03:00:00Z", "host-b: the slave", lock}, "sends again in about 2 s"},
		"peers started":          {fenced, upTo("prove-peers"), []string{"host-a: the old master refuses sends", "host-b, host-c: may run as DLedger peers with writes closed", lock}, "in about 15 s"},
		"handing over":           {fenced, upTo("retire-master"), []string{"host-a: the old master refuses", "host-a: it may be registered as brokerId 1000", "host-b, host-c: may", lock}, "in about 15 s"},
		"undone but for slaves":  {fenced, []string{"lock-group", "stop-slaves"}, []string{"host-b: the slave", lock}, "the old master serves"},
		"opening":                {opening, upTo("open-writes"), []string{"host-b, host-c: writes were being opened", "host-a: the old master may be down", lock}, ""},
		"joining":                {opened, upTo("join-old-master"), []string{"host-a: the old master may be down", lock}, ""},
		"proving":                {opened, upTo("prove-group"), []string{lock}, ""},
		"failing over":           {opened, upTo("prove-failover"), []string{"host-a, host-b, host-c: the leader may have been killed", lock}, ""},
		"unlocking":              {failedOver, upTo("unlock-group"), []string{lock}, ""},
		"taken up, before steps": {opened, nil, []string{"host-a: the old master may be down", lock}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.state.Temporary(p, c.begun)
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if back := c.state.Back(c.begun); !strings.Contains(back, c.back) {
				t.Errorf("going back: %q, want %q", back, c.back)
			}
		})
	}
}
