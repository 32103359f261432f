package step

import (
	"testing"
	"time"
)

// A group's offset never goes past a message that it has not had: where something else was stored between
// the messages sent again, the group gets those after it once more.
func TestOffsetsGoBackToWhereTheirGroupWas(t *testing.T) {
	even, moved, shifted, behind := &Resent{}, &Resent{}, &Resent{}, &Resent{}
	for i := range int64(10) {
		even.sent(100+i, 100+i)
		behind.sent(100+i, 102+i) // a producer with the old master's address came first
		shifted.sent(100+i, 97+i) // the new group had written three by itself before it was opened
		at := 100 + i
		if i >= 6 {
			at++ // the old master wrote one by itself after the sixth
		}
		moved.sent(100+i, at)
	}
	for _, c := range []struct {
		name   string
		r      *Resent
		offset int64
		want   int64
	}{
		{"had none of the old ones", even, 7, 7},
		{"had all old ones", even, 100, 100},
		{"had some", even, 104, 104},
		{"had all", even, 110, 110},
		{"before something else came between", moved, 106, 106},
		{"after it", moved, 109, 106},
		{"old ones, shifted", shifted, 98, 97},
		{"had some, shifted", shifted, 104, 101},
		{"had some, others before them", behind, 104, 100},
		{"had some of the old ones, others behind those", behind, 98, 98},
	} {
		if got := c.r.back(c.offset, 100); got != c.want {
			t.Errorf("%s: %d goes back to %d, want %d", c.name, c.offset, got, c.want)
		}
	}
}

// Before the first peer is stopped, a way back that fails is undone; after that it is gone on with.
func TestWhenNothingIsUndoneAnyMore(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		s    State
		want bool
	}{
		"before the opening":        {State{}, false},
		"opened":                    {State{OpeningAt: now}, true},
		"on the way back, serving":  {State{OpeningAt: now, Replay: &Replay{FencedAt: now}}, false},
		"on the way back, given up": {State{OpeningAt: now, Replay: &Replay{FencedAt: now, StoppingAt: now}}, true},
	} {
		if got := c.s.Final(); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
