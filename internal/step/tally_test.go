package step

import (
	"testing"
	"time"

	"mqlift/internal/event"
)

// The time left follows from what this try has done alone: what an earlier one did took no time.
func TestTimeLeftFollowsFromTheRate(t *testing.T) {
	var got []event.Event
	e := &Env{Emit: func(e event.Event) { got = append(got, e) }}
	c := e.tally("host-a", "messages sent again:", 1100)
	c.Known(100)
	c.Add(1)
	c.began, c.last = time.Now().Add(-10*time.Second), time.Time{}
	c.Add(199)
	if len(got) != 2 || got[0].Left != 0 {
		t.Fatalf("%+v", got)
	}
	if e := got[1]; e.Done != 200 || e.Total != 1000 || e.Left != 40*time.Second {
		t.Errorf("%d of %d, %s left; want 200 of 1000, 40s", e.Done, e.Total, e.Left)
	}
}
