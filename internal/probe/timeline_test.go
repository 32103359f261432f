package probe

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at is a time some milliseconds into the record.
func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

func ok(start, end int) Attempt { return Attempt{Start: at(start), End: at(end)} }

func failed(start, end int, err string) Attempt {
	return Attempt{Start: at(start), End: at(end), Err: err}
}

func timeline(attempts ...Attempt) *Timeline {
	t := &Timeline{}
	for _, a := range attempts {
		t.Add(a)
	}
	return t
}

func TestOutageRunsFromTheLastSuccessToTheNext(t *testing.T) {
	for name, c := range map[string]struct {
		attempts []Attempt
		want     []Outage
	}{
		"nothing recorded":  {},
		"nothing failed":    {attempts: []Attempt{ok(0, 1), ok(20, 21)}},
		"slow but no error": {attempts: []Attempt{ok(0, 1), ok(20, 5000)}},
		"refused for a while": {
			attempts: []Attempt{ok(0, 5), failed(20, 21, "refused"), failed(40, 41, "later"), ok(60, 66)},
			want:     []Outage{{From: at(5), To: at(66), Failed: 2, FirstError: "refused"}},
		},
		"two outages": {
			attempts: []Attempt{ok(0, 1), failed(2, 3, "a"), ok(4, 5), failed(6, 7, "b"), ok(8, 9)},
			want: []Outage{{From: at(1), To: at(5), Failed: 1, FirstError: "a"},
				{From: at(5), To: at(9), Failed: 1, FirstError: "b"}},
		},
		"from the start": {
			attempts: []Attempt{failed(0, 1, "no route"), ok(20, 21)},
			want:     []Outage{{From: at(0), To: at(21), Failed: 1, FirstError: "no route"}},
		},
		"not over at the end": {
			attempts: []Attempt{ok(0, 1), failed(20, 21, "refused"), failed(40, 90, "later")},
			want:     []Outage{{From: at(1), To: at(90), Open: true, Failed: 2, FirstError: "refused"}},
		},
		"never any success": {
			attempts: []Attempt{failed(0, 1, "a"), failed(20, 21, "b")},
			want:     []Outage{{From: at(0), To: at(21), Open: true, Failed: 2, FirstError: "a"}},
		},
		"a time-out that ends when all is well again": {
			attempts: []Attempt{ok(0, 1), failed(2, 3002, "time-out"), failed(20, 21, "refused"), ok(1000, 1001),
				ok(2990, 2999), ok(3010, 3011)},
			want: []Outage{{From: at(1), To: at(1001), Failed: 2, FirstError: "refused"}},
		},
		"a time-out begun before the outage and ending after it": {
			attempts: []Attempt{ok(0, 1), failed(2, 3002, "time-out"), ok(5, 21), failed(40, 41, "refused"), ok(1000, 1001),
				ok(2990, 2999)},
			want: []Outage{{From: at(21), To: at(1001), Failed: 2, FirstError: "refused"}},
		},
		"a failure of no length at the very end": {
			attempts: []Attempt{ok(0, 10), failed(10, 10, "refused")},
			want:     []Outage{{From: at(10), To: at(10), Open: true, Failed: 1, FirstError: "refused"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := timeline(c.attempts...).Summary()
			if d := cmp.Diff(c.want, got.Outages); d != "" {
				t.Error(d)
			}
			var longest, total time.Duration
			for _, o := range c.want {
				longest, total = max(longest, o.Length()), total+o.Length()
			}
			if got.Longest != longest || got.Total != total {
				t.Errorf("longest %s total %s, want %s %s", got.Longest, got.Total, longest, total)
			}
		})
	}
}

func attemptsGenerator() *rapid.Generator[[]Attempt] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Attempt {
		start := rapid.IntRange(0, 200).Draw(t, "start")
		a := ok(start, start+rapid.IntRange(0, 50).Draw(t, "took"))
		if rapid.Bool().Draw(t, "fails") {
			a.Err = rapid.SampledFrom([]string{"refused", "time-out"}).Draw(t, "err")
		}
		return a
	}), 0, 40)
}

func TestOutagesAccountForEveryFailureAndHoldNoSuccess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attempts := attemptsGenerator().Draw(t, "attempts")
		s := timeline(attempts...).Summary()
		failures := 0
		for i, o := range s.Outages {
			if o.Failed == 0 || o.FirstError == "" || o.To.Before(o.From) {
				t.Fatalf("odd outage %+v", o)
			}
			if i > 0 && o.From.Before(s.Outages[i-1].To) {
				t.Fatalf("outages overlap: %+v and %+v", s.Outages[i-1], o)
			}
			if o.Open && i != len(s.Outages)-1 {
				t.Fatalf("an open outage that is not the last: %+v", o)
			}
			failures += o.Failed
		}
		oks := 0
		for _, a := range attempts {
			if !a.OK() {
				continue
			}
			oks++
			for _, o := range s.Outages {
				if a.End.After(o.From) && a.End.Before(o.To) {
					t.Fatalf("success %+v within outage %+v", a, o)
				}
			}
		}
		if failures != len(attempts)-oks || s.OK != oks || s.Failed != failures {
			t.Fatalf("%d failures in outages, summary %d ok %d failed, of %d attempts with %d ok",
				failures, s.OK, s.Failed, len(attempts), oks)
		}
	})
}

func TestTheOrderOfRecordingDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attempts := attemptsGenerator().Draw(t, "attempts")
		for i := range attempts { // which of two simultaneous failures is named is open
			if attempts[i].Err != "" {
				attempts[i].Err = "refused"
			}
		}
		shuffled := rapid.Permutation(attempts).Draw(t, "shuffled")
		if d := cmp.Diff(timeline(attempts...).Summary(), timeline(shuffled...).Summary()); d != "" {
			t.Fatal(d)
		}
	})
}

func TestBetweenCountsTheWindowAndKeepsOutagesWhole(t *testing.T) {
	tl := timeline(ok(0, 1), failed(20, 21, "refused"), failed(40, 41, "refused"), ok(60, 61), ok(80, 81), ok(100, 101))
	s := tl.Between(at(41), at(81))
	if s.OK != 1 || s.Failed != 1 {
		t.Errorf("%d ok, %d failed, want 1 and 1", s.OK, s.Failed)
	}
	if want := 25.0; s.Rate != want {
		t.Errorf("rate %v, want %v", s.Rate, want)
	}
	if d := cmp.Diff([]Outage{{From: at(1), To: at(61), Failed: 2, FirstError: "refused"}}, s.Outages); d != "" {
		t.Error(d)
	}
	if s := tl.Between(at(61), time.Time{}); len(s.Outages) != 0 || s.OK != 3 {
		t.Errorf("after the outage: %+v", s)
	}
}

func TestPercentilesAreMeasuredValuesByNearestRank(t *testing.T) {
	var all []Attempt
	for i := 100; i >= 1; i-- {
		all = append(all, ok(0, i))
	}
	all = append(all, failed(0, 5000, "time-out")) // latency is that of successes
	ms := time.Millisecond
	if d := cmp.Diff(Latency{50 * ms, 90 * ms, 99 * ms, 100 * ms}, timeline(all...).Summary().Latency); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(Latency{ms, ms, ms, ms}, timeline(ok(0, 1)).Summary().Latency); d != "" {
		t.Error(d)
	}
}

func TestSummaryAsJSONHoldsMillisecondsAndReadsBack(t *testing.T) {
	s := timeline(ok(0, 5), failed(20, 21, "refused"), ok(60, 66)).Summary()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"longest_outage_ms":61.000`, `"ms":61.000`, `"p50_ms":5.000`, `"first_error":"refused"`} {
		if !strings.Contains(string(b), part) {
			t.Errorf("no %s in %s", part, b)
		}
	}
	var back Summary
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(s, back); d != "" {
		t.Error(d)
	}
}

func TestMillisKeepMicroseconds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(-1e10, 1e10).Draw(t, "µs")) * time.Microsecond
		b, err := json.Marshal(millis(d))
		if err != nil {
			t.Fatal(err)
		}
		var back millis
		if err := json.Unmarshal(b, &back); err != nil || time.Duration(back) != d {
			t.Fatalf("%s became %s by %s (%v)", d, time.Duration(back), b, err)
		}
	})
}

func TestDownTellsSinceWhenNothingSucceeds(t *testing.T) {
	tl := &Timeline{}
	if d := tl.Down(at(1000)); d != 0 {
		t.Errorf("%s before anything happened", d)
	}
	tl.Add(failed(10, 20, "refused"))
	if d := tl.Down(at(1010)); d != time.Second {
		t.Errorf("%s, want 1 s since the first attempt", d)
	}
	tl.Add(ok(30, 40))
	if d := tl.Down(at(1010)); d != 0 {
		t.Errorf("%s after a success", d)
	}
	tl.Add(failed(50, 60, "refused"))
	if d := tl.Down(at(1040)); d != time.Second {
		t.Errorf("%s, want 1 s since the success", d)
	}
}

func TestWaitSteadyWantsSuccessesInARowBegunInTime(t *testing.T) {
	tl := timeline(ok(0, 1), ok(2, 3), ok(4, 5))
	expired, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("too late")
	cancel(cause)
	if err := tl.WaitSteady(t.Context(), at(0), 3); err != nil {
		t.Error(err)
	}
	if err := tl.WaitSteady(expired, at(2), 3); !errors.Is(err, cause) {
		t.Errorf("attempts from before counted: %v", err)
	}
	tl.Add(failed(6, 7, "refused"))
	if err := tl.WaitSteady(expired, at(0), 1); !errors.Is(err, cause) {
		t.Errorf("steady with a failure last: %v", err)
	}

	ctx, cancel2 := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel2()
	done := make(chan error)
	go func() { done <- tl.WaitSteady(ctx, at(8), 2) }()
	for _, a := range []Attempt{failed(5, 9, "old"), ok(8, 10), failed(7, 11, "old"), ok(10, 12)} {
		tl.Add(a) // failures that began before do not count against it
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAttemptsAreOrderedByCompletion(t *testing.T) {
	got := timeline(ok(0, 9), ok(1, 3), ok(2, 5)).Attempts()
	if !slices.IsSortedFunc(got, byEnd) || len(got) != 3 {
		t.Errorf("%v", got)
	}
}
