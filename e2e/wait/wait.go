// Package wait waits for conditions.
package wait

import (
	"context"
	"fmt"
	"time"
)

// Until asks f every 20 ms until it has no more to object. After limit it gives up, with what f said last.
func Until(ctx context.Context, limit time.Duration, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", limit, what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
