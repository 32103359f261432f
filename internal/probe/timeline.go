package probe

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Attempt is one try of one kind of request: a send or a look-up.
type Attempt struct {
	Start time.Time
	End   time.Time
	// Err is why it failed, empty when it did not.
	Err string
}

// OK tells whether the attempt succeeded.
func (a Attempt) OK() bool { return a.Err == "" }

// Timeline is the record of all attempts of one kind. Its zero value is ready to use, by any
// number of goroutines at once.
type Timeline struct {
	mu       sync.Mutex
	attempts []Attempt // in the order in which they were recorded
	ok       int
	lastOK   time.Time // the latest completion of a success
	streak   int       // successes recorded since the last failure
	changed  chan struct{}
}

// Record adds an attempt that began at start and ends now. The error decides whether it succeeded.
func (t *Timeline) Record(start time.Time, err error) {
	a := Attempt{Start: start, End: time.Now()}
	if err != nil {
		a.Err = err.Error()
		if a.Err == "" {
			a.Err = "failed without a reason"
		}
	}
	t.Add(a)
}

// Add adds an attempt with times of its own.
func (t *Timeline) Add(a Attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempts = append(t.attempts, a)
	if a.OK() {
		t.ok++
		t.streak++
		if a.End.After(t.lastOK) {
			t.lastOK = a.End
		}
	} else {
		t.streak = 0
	}
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// Attempts returns a copy of the record, ordered by completion.
func (t *Timeline) Attempts() []Attempt {
	t.mu.Lock()
	all := slices.Clone(t.attempts)
	t.mu.Unlock()
	slices.SortStableFunc(all, byEnd)
	return all
}

// Count returns how many attempts succeeded and failed so far.
func (t *Timeline) Count() (ok, failed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ok, len(t.attempts) - t.ok
}

// Down returns for how long nothing has succeeded when the last attempt to complete failed, for a
// live display; 0 while all is well.
func (t *Timeline) Down(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streak > 0 || len(t.attempts) == 0 {
		return 0
	}
	since := t.lastOK
	if since.IsZero() {
		since = t.attempts[0].Start
	}
	return max(now.Sub(since), 0)
}

// WaitSteady waits until n attempts in a row, all begun at after or later, have succeeded with no
// failure among or behind them. An attempt from before after counts neither for nor against.
func (t *Timeline) WaitSteady(ctx context.Context, after time.Time, n int) error {
	seen, streak := 0, 0
	for {
		t.mu.Lock()
		for ; seen < len(t.attempts); seen++ {
			switch a := t.attempts[seen]; {
			case a.Start.Before(after):
			case a.OK():
				streak++
			default:
				streak = 0
			}
		}
		if streak >= n {
			t.mu.Unlock()
			return nil
		}
		if t.changed == nil {
			t.changed = make(chan struct{})
		}
		changed := t.changed
		t.mu.Unlock()

		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// LastError returns the text of the failure that completed last and that began at after or later;
// empty if there is none.
func (t *Timeline) LastError(after time.Time) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.attempts) - 1; i >= 0; i-- {
		if a := t.attempts[i]; !a.OK() && !a.Start.Before(after) {
			return a.Err
		}
	}
	return ""
}

// Summary is Between over the whole record.
func (t *Timeline) Summary() Summary {
	return summarise(t.Attempts(), time.Time{}, time.Time{})
}

// Between sums up a window. Counts, rate and latency are those of the attempts that completed in
// [from, to). The outages are those of the whole record that overlap with the window, at their
// full length: an outage is not made shorter by looking at a part of it. A zero time leaves that
// side open.
func (t *Timeline) Between(from, to time.Time) Summary {
	return summarise(t.Attempts(), from, to)
}

// Summary is what a Timeline says about a window. In JSON all durations are milliseconds.
type Summary struct {
	From   time.Time // the window; where it is open: first start and last completion
	To     time.Time
	OK     int
	Failed int
	// Rate is successes per second of the window.
	Rate    float64
	Latency Latency
	// Outages in order of time; Longest and Total are over them.
	Outages []Outage
	Longest time.Duration
	Total   time.Duration
}

// Outage is a stretch without any success in which attempts failed.
type Outage struct {
	// From is the completion of the last success before it, To that of the first one after it.
	// Where there is none it is the start of the first attempt, or the completion of the last.
	From time.Time
	To   time.Time
	// Open says that no success followed: the outage had not ended when the record did.
	Open bool
	// Failed is the number of failed attempts, FirstError the text of the first to complete.
	Failed     int
	FirstError string
}

// Length is the time from the last success to the next.
func (o Outage) Length() time.Duration { return o.To.Sub(o.From) }

// Latency holds percentiles of how long successful attempts took; all 0 if none succeeded.
type Latency struct{ P50, P90, P99, Max time.Duration }

// Outages finds the outages in a record that is ordered by completion.
//
// Attempts overlap, since a stuck one must not stop the rest. One that was caught by the begin of
// an outage may fail only at its time-out, long after others succeed again; it says nothing about
// that later time. Of the stretches without a success that a failed attempt has touched it is
// therefore charged to one in which others failed from begin to end, if there is one, and among
// equals to the longest.
func Outages(attempts []Attempt) []Outage {
	if len(attempts) == 0 {
		return nil
	}
	first := attempts[0].Start
	var successes []time.Time
	for _, a := range attempts {
		if a.Start.Before(first) {
			first = a.Start
		}
		if a.OK() {
			successes = append(successes, a.End)
		}
	}
	last := attempts[len(attempts)-1].End

	// Gap i lies between edges i and i+1: before the first success, between two, after the last.
	edges := slices.Concat([]time.Time{first}, successes, []time.Time{last})
	gaps := make([]Outage, len(edges)-1)
	earliest := make([]time.Time, len(gaps)) // completion of each gap's first failure
	for i := range gaps {
		gaps[i] = Outage{From: edges[i], To: edges[i+1], Open: i == len(gaps)-1}
	}
	charge := func(i int, a Attempt) {
		g := &gaps[i]
		if g.Failed == 0 || a.End.Before(earliest[i]) {
			g.FirstError, earliest[i] = a.Err, a.End
		}
		g.Failed++
	}
	// touched is from the first gap that ends after the attempt began, to the last that begins before
	// it ended.
	touched := func(a Attempt) (lo, hi int) {
		lo = min(upperBound(edges[1:], a.Start), len(gaps)-1)
		for hi = lo; hi+1 < len(gaps) && gaps[hi+1].From.Before(a.End); {
			hi++
		}
		return lo, hi
	}
	var long []Attempt
	for _, a := range attempts {
		if a.OK() {
			continue
		}
		if lo, hi := touched(a); lo == hi {
			charge(lo, a)
		} else {
			long = append(long, a)
		}
	}
	sure := make([]bool, len(gaps))
	for i, g := range gaps {
		sure[i] = g.Failed > 0
	}
	for _, a := range long {
		lo, hi := touched(a)
		best := lo
		for i := lo + 1; i <= hi; i++ {
			if sure[i] != sure[best] && sure[i] || sure[i] == sure[best] && gaps[i].Length() > gaps[best].Length() {
				best = i
			}
		}
		charge(best, a)
	}
	return slices.DeleteFunc(gaps, func(g Outage) bool { return g.Failed == 0 })
}

// upperBound returns the index of the first of the sorted times that is after t.
func upperBound(sorted []time.Time, t time.Time) int {
	i, _ := slices.BinarySearchFunc(sorted, t, func(e, t time.Time) int {
		if e.After(t) {
			return 1
		}
		return -1
	})
	return i
}

func byEnd(a, b Attempt) int { return a.End.Compare(b.End) }

func summarise(attempts []Attempt, from, to time.Time) Summary {
	s := Summary{From: from, To: to}
	if len(attempts) == 0 {
		return s
	}
	if from.IsZero() {
		s.From = slices.MinFunc(attempts, func(a, b Attempt) int { return a.Start.Compare(b.Start) }).Start
	}
	if to.IsZero() {
		s.To = attempts[len(attempts)-1].End
	}
	var took []time.Duration
	for _, a := range attempts {
		switch {
		case a.End.Before(s.From), !to.IsZero() && !a.End.Before(to):
		case a.OK():
			s.OK++
			took = append(took, a.End.Sub(a.Start))
		default:
			s.Failed++
		}
	}
	for _, o := range Outages(attempts) {
		if !from.IsZero() && !o.To.After(from) || !to.IsZero() && !o.From.Before(to) {
			continue
		}
		s.Outages = append(s.Outages, o)
		s.Longest = max(s.Longest, o.Length())
		s.Total += o.Length()
	}
	if span := s.To.Sub(s.From); span > 0 {
		s.Rate = float64(s.OK) / span.Seconds()
	}
	s.Latency = latency(took)
	return s
}

// latency takes percentiles by nearest rank: each is a value that was measured.
func latency(took []time.Duration) Latency {
	if len(took) == 0 {
		return Latency{}
	}
	slices.SortFunc(took, cmp.Compare[time.Duration])
	rank := func(percent int) time.Duration { return took[(len(took)*percent+99)/100-1] }
	return Latency{P50: rank(50), P90: rank(90), P99: rank(99), Max: took[len(took)-1]}
}
