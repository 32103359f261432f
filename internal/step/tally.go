package step

import (
	"sync"
	"time"

	"mqlift/internal/event"
)

// tally reports, at most four times a second, how many of a number of messages are through.
type tally struct {
	e          *Env
	host, what string

	mu          sync.Mutex
	done, total int64
	began, last time.Time
}

func (e *Env) tally(host, what string, total int64) *tally {
	return &tally{e: e, host: host, what: what, total: total, began: time.Now()}
}

// Known takes n messages off that an earlier try has seen to: they say nothing of the rate.
func (t *tally) Known(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total -= int64(n)
}

// Add counts n more.
func (t *tally) Add(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += int64(n)
	now := time.Now()
	if now.Sub(t.last) < 250*time.Millisecond {
		return
	}
	t.last = now
	t.e.Emit(event.Event{Time: now, Kind: event.Progress, Stage: t.e.stage, Step: t.e.step, Host: t.host, Text: t.what,
		Done: t.done, Total: t.total, Unit: "messages", Left: t.left(now)})
}

// left is how long the rest takes at the rate so far; 0 before a second has shown one.
func (t *tally) left(now time.Time) time.Duration {
	took := now.Sub(t.began)
	if took < time.Second || t.done <= 0 {
		return 0
	}
	return time.Duration(float64(took) * float64(max(0, t.total-t.done)) / float64(t.done)).Round(time.Second)
}
