package refcase

import (
	"context"
	"errors"
	"testing"
	"time"

	"mqlift/internal/probe"
)

func TestAGapIsMeasuredAtFullLengthAndWhereItHasNotEnded(t *testing.T) {
	at := func(second float64) time.Time {
		return time.Unix(1000, 0).Add(time.Duration(second * float64(time.Second)))
	}
	k := probe.MessageKey{Topic: "orders", Key: "a000001"}
	var r Received
	if got := r.Gap(at(0), at(100)); got != 0 {
		t.Errorf("nothing was given, and the gap is %s", got)
	}
	for _, s := range []float64{1, 1.5, 4.5, 4.4, 5, 12} { // one of two threads was slow
		r.Add(at(s), k, 1, 0)
	}
	for _, c := range []struct {
		from, to float64
		want     time.Duration
	}{
		{0, 4.9, 3 * time.Second},
		{2, 3, 3 * time.Second},
		{0, 12.5, 7 * time.Second},
		{4.6, 12.5, 7 * time.Second},
		{12, 12.9, 0},
		{12, 20, 8 * time.Second}, // it has not ended
		{13, 20, 8 * time.Second},
	} {
		if got := r.Gap(at(c.from), at(c.to)); got != c.want {
			t.Errorf("from %g to %g: %s, not %s", c.from, c.to, got, c.want)
		}
	}
}

func TestDuplicatesAreToldApart(t *testing.T) {
	entry := func(key string) probe.Entry { return probe.Entry{Topic: "orders", Key: key} }
	var r Received
	for _, s := range []struct {
		key      string
		physical int64
		retries  int32
	}{{"a", 10, 0}, {"b", 20, 0}, {"b", 20, 0}, {"c", 30, 0}, {"c", 40, 0}, {"d", 50, 0}, {"d", 60, 1}} {
		r.Add(time.Now(), probe.MessageKey{Topic: "orders", Key: s.key}, s.physical, s.retries)
	}
	got := r.Count([]probe.Entry{entry("a"), entry("b"), entry("c"), entry("d"), entry("e")})
	if got.Wanted != 5 || got.Again != 1 || got.Copies != 1 || got.Retries != 1 || len(got.Unseen) != 1 || got.Unseen[0].Key != "e" {
		t.Errorf("%+v", got)
	}
}

func TestWaitingForMessagesSaysSinceWhenThereAreNone(t *testing.T) {
	var r Received
	now := time.Now()
	if err := r.WaitAfter(t.Context(), time.Millisecond, now); err == nil {
		t.Error("nothing was given")
	}
	r.Add(now, probe.MessageKey{}, 1, 0)
	if err := r.WaitAfter(t.Context(), time.Millisecond, now); err == nil {
		t.Error("nothing was given after that")
	}
	go r.Add(now.Add(time.Millisecond), probe.MessageKey{}, 2, 0)
	if err := r.WaitAfter(t.Context(), time.Minute, now); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.WaitAfter(ctx, time.Minute, now.Add(time.Hour)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
