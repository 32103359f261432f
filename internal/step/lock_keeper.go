package step

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/grouplock"
)

// LostLockError is that another process has taken this one's lock over, with a run of its own or to go back
// from this one: it is that one's group now, and nothing more may be touched, not even to undo.
type LostLockError struct{ By *grouplock.Held }

func (e *LostLockError) Error() string {
	return fmt.Sprintf("%s: the lock of this run was taken over: %s", e.By.Host, e.By.Holder())
}

// lock is what this process knows of its own lock.
type lock struct {
	mu      sync.Mutex
	content []byte // nil: not held
	seen    time.Time
	lost    error // *LostLockError
	// beating keeps a beat, which brings back a lock that is gone, from one that is being released.
	beating sync.Mutex
}

func (l *lock) taken(content []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.content, l.seen = content, now()
}

// due returns the lock's content when no host was seen to have it for that long; nil otherwise.
func (l *lock) due(after time.Duration) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now().Sub(l.seen) < after {
		return nil
	}
	return l.content
}

func (l *lock) isLost(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = err
}

func (l *lock) whyLost() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

func (l *lock) isSeen(content []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if string(content) == string(l.content) {
		l.seen = now()
	}
}

// now is a time of day: the monotonic clock stands still while a machine sleeps.
func now() time.Time { return time.Now().Round(0) }

// LockKeeper shows on every host that a run lives.
type LockKeeper struct {
	e      *Env
	end    func()
	done   chan struct{}
	mu     sync.Mutex
	places []lockPlace
}

type lockPlace struct {
	host, path string
	agent      *agent.Agent
}

// KeepLock shows every grouplock.Beat on every host that this run lives, as long as it holds the lock,
// until Stop. When another run has taken the lock over, lost is called.
func (e *Env) KeepLock(ctx context.Context, lost func(error)) *LockKeeper {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // undoing after Ctrl-C is life, too
	k := &LockKeeper{e: e, end: cancel, done: make(chan struct{})}
	k.Reconnected()
	go func() {
		defer close(k.done)
		// Looked at every second, so that a process that was stopped soon finds out on waking up.
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			if err := k.beat(ctx); err != nil {
				e.lock.isLost(err)
				lost(err)
				tick.Stop()
				return
			}
		}
	}()
	return k
}

// Reconnected takes the nodes' present connections.
func (k *LockKeeper) Reconnected() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.places = nil
	for _, n := range k.e.Nodes {
		k.places = append(k.places, lockPlace{n.Host, LockPath(n.Member, k.e.Plan.Group), n.Agent})
	}
}

// Stop ends the showing and waits for its end.
func (k *LockKeeper) Stop() {
	k.end()
	<-k.done
}

// beat shows life, when it is time, on every host side by side. A host that does not answer is left to
// the next beat.
func (k *LockKeeper) beat(ctx context.Context) error {
	k.e.lock.beating.Lock()
	defer k.e.lock.beating.Unlock()
	content := k.e.lock.due(grouplock.Beat)
	if content == nil {
		return nil
	}
	k.mu.Lock()
	places := k.places
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, grouplock.Beat/2)
	defer cancel()
	errs := make([]error, len(places))
	var wg sync.WaitGroup
	for i, p := range places {
		wg.Go(func() { errs[i] = k.beatOn(ctx, p, content) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (k *LockKeeper) beatOn(ctx context.Context, p lockPlace, content []byte) error {
	a, err := p.agent.Lock(ctx, agent.LockRequest{Action: agent.LockBeat, Path: p.path, Expect: content})
	if err == nil && a.Held == nil {
		// Somebody has removed it. Either this run gets it back before another one takes it, or it does not.
		a, err = p.agent.Lock(ctx, agent.LockRequest{Action: agent.LockTake, Path: p.path, Content: content})
	}
	if err != nil {
		return nil //nolint:nilerr // the connection's trouble, which the steps meet themselves
	}
	if a.Done {
		k.e.lock.isSeen(content)
		return nil
	}
	if a.Held == nil {
		return nil // released just now, by whoever took it: the next beat tries again
	}
	by, err := grouplock.Read(p.host, p.path, a.Held, a.Quiet)
	if err != nil || by.SameHolder(k.e.ownLock()) {
		return nil //nolint:nilerr // this process is just taking it anew
	}
	return &LostLockError{by}
}

// LockLost returns a *LostLockError when another run has taken this one's lock over. The hosts are asked
// only when this process has not seen its own lock for so long that it may be so: it was stopped, or cut
// off. Otherwise this costs nothing.
func (e *Env) LockLost(ctx context.Context) error {
	if err := e.lock.whyLost(); err != nil {
		return err
	}
	content := e.lock.due(grouplock.SilentAfter / 2)
	if content == nil {
		return nil
	}
	for _, n := range e.Nodes {
		l, err := ReadLock(ctx, n, e.Plan.Group)
		switch {
		case err != nil || l == nil: // the step itself will meet the trouble
		case !l.SameHolder(e.ownLock()):
			return &LostLockError{l}
		default:
			e.lock.isSeen(content)
		}
	}
	return nil
}
