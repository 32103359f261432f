package step

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"mqlift/internal/remote"
)

// permanent marks an error that waiting will not mend.
func permanent(err error) error { return backoff.Permanent(err) }

// until asks again and again until f returns nil, and gives up after limit with what f said last. It waits
// between two looks for some twentieth of what it has waited already, at most half a second: sends may be
// refused meanwhile.
func (e *Env) until(ctx context.Context, limit time.Duration, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	policy := backoff.NewExponentialBackOff()
	policy.InitialInterval, policy.MaxInterval, policy.Multiplier, policy.RandomizationFactor = 20*time.Millisecond, 500*time.Millisecond, 1.05, 0
	began, beat := time.Now(), time.Now()
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		if last = f(ctx); e.lost(last) {
			return struct{}{}, permanent(last)
		}
		if last != nil && time.Since(beat) > 10*time.Second {
			beat = time.Now()
			e.note("", "waiting for %s since %s: %v", what, time.Since(began).Round(time.Second), last)
		}
		return struct{}{}, last
	}, backoff.WithBackOff(policy), backoff.WithMaxElapsedTime(0))
	if err == nil {
		return nil
	}
	var stop *backoff.PermanentError
	if errors.As(err, &stop) {
		return stop.Err
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("waited %s for %s: %w", limit, what, last)
	}
	return fmt.Errorf("waiting for %s: %w", what, errors.Join(ctx.Err(), last))
}

// lost tells an error of a connection that is gone: nothing that is waited for through it ever comes, and it
// is made anew only before something is undone, or by the next apply.
func (e *Env) lost(err error) bool {
	var transient *remote.TransientError
	if !errors.As(err, &transient) {
		return false
	}
	for _, n := range e.reached() {
		if n.Remote == nil {
			continue
		}
		select {
		case <-n.Remote.Done():
			return true
		default:
		}
	}
	return false
}
