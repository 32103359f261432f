package refcase

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"mqlift/e2e/wait"
	"mqlift/internal/probe"
)

// Received is what an application that consumes was given. Its zero value is ready to use, by any number of
// goroutines at once.
type Received struct {
	mu   sync.Mutex
	seen map[probe.MessageKey][]sight
	last time.Time // of the last message
	gaps []gap     // a second long or longer
}

// sight is one time that a message was given to the application.
type sight struct {
	physical int64 // offset: which stored copy it was
	retries  int32 // how often that copy had been sent back before
}

type gap struct{ from, to time.Time }

// minGap is the shortest time without any message that is a gap.
const minGap = time.Second

// Add notes that a message was given: when, which, the physical offset of the stored copy, and how often that
// copy had been sent back before.
func (r *Received) Add(at time.Time, k probe.MessageKey, physical int64, retries int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.last.IsZero() && at.Sub(r.last) >= minGap {
		r.gaps = append(r.gaps, gap{r.last, at})
	}
	if at.After(r.last) {
		r.last = at
	}
	if r.seen == nil {
		r.seen = map[probe.MessageKey][]sight{}
	}
	r.seen[k] = append(r.seen[k], sight{physical, retries})
}

// Times is how often the application was given a message.
func (r *Received) Times(k probe.MessageKey) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen[k])
}

// Gap is the longest time without any message that overlaps with a stretch of time, at its full length; one that
// had not ended counts up to the end of the stretch. What is shorter than a second is none.
func (r *Received) Gap(from, to time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var longest time.Duration
	for _, g := range append(slices.Clone(r.gaps), gap{r.last, to}) {
		if length := g.to.Sub(g.from); !g.from.IsZero() && length >= minGap && g.to.After(from) && g.from.Before(to) {
			longest = max(longest, length)
		}
	}
	return longest
}

// WaitAfter waits until the application was given a message after a point in time.
func (r *Received) WaitAfter(ctx context.Context, limit time.Duration, after time.Time) error {
	return wait.Until(ctx, limit, "a message to be given", func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.last.IsZero() {
			return errors.New("there has been none")
		}
		if !r.last.After(after) {
			return fmt.Errorf("the last was at %s", r.last.Format(time.TimeOnly))
		}
		return nil
	})
}

// Consumed is what an application was given of the messages that it should have been given.
type Consumed struct {
	Wanted int
	Unseen []probe.MessageKey
	// Again is how often a message was given once more from the same place in the log: its offset was
	// not committed in time.
	Again int
	// Copies is how often a message was given from another place: it is stored more than once.
	Copies int
	// Retries is how often a message was given again because the application had sent it back.
	Retries int
}

func (r Consumed) String() string {
	return fmt.Sprintf("consumed %d of %d; %d duplicates: %d whose offset was not committed in time, %d stored more than once, %d sent back by the application",
		r.Wanted-len(r.Unseen), r.Wanted, r.Again+r.Copies+r.Retries, r.Again, r.Copies, r.Retries)
}

// Count compares what was given with what was acknowledged to producers.
func (r *Received) Count(acked []probe.Entry) Consumed {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := Consumed{Wanted: len(acked)}
	for _, e := range acked {
		k := probe.MessageKey{Topic: e.Topic, Key: e.Key}
		var places []int64
		for _, s := range r.seen[k] {
			switch {
			case len(places) == 0:
			case slices.Contains(places, s.physical):
				n.Again++
			case s.retries > 0:
				n.Retries++
			default:
				n.Copies++
			}
			places = append(places, s.physical)
		}
		if len(places) == 0 {
			n.Unseen = append(n.Unseen, k)
		}
	}
	return n
}

// Await waits until the application was given everything, and returns the count in any case.
func (r *Received) Await(ctx context.Context, limit time.Duration, acked []probe.Entry) Consumed {
	var n Consumed
	_ = wait.Until(ctx, limit, "all to be consumed", func(context.Context) error { // the count says what is missing
		if n = r.Count(acked); len(n.Unseen) > 0 {
			return fmt.Errorf("%d are not", len(n.Unseen))
		}
		return nil
	})
	return n
}
