package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/grouplock"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// LockPath is the lock file of a group on a member's host.
func LockPath(m *plan.Member, group string) string { return grouplock.Path(m.WorkDir, group) }

// lockGroup keeps other operators off the group. The lock lies on the hosts, because two bastions
// share nothing else.
type lockGroup struct{}

func (lockGroup) Name() string  { return "lock-group" }
func (lockGroup) Title() string { return "lock the broker group on every host" }
func (lockGroup) Requirement() playbook.Requirement {
	return playbook.Requirement{Proves: []string{"locked"}}
}
func (lockGroup) UndoText() string { return "remove the lock and the record" }

func (lockGroup) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Members {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("write %s, and %s with this plan, for the way back; see that the group is still what the plan was made for", LockPath(m, p.Group), RecordPath(m.WorkDir, p.Group))})
	}
	return l
}

// ReadLock reads the lock on one host; nil when there is none.
func ReadLock(ctx context.Context, n *Node, group string) (*grouplock.Held, error) {
	file := LockPath(n.Member, group)
	a, err := n.Agent.Lock(ctx, agent.LockRequest{Action: agent.LockLook, Path: file})
	if err != nil || a.Held == nil {
		return nil, err
	}
	return grouplock.Read(n.Host, file, a.Held, a.Quiet)
}

// Held is the first lock found on the hosts that are not left out, of the run that lives if one does; nil when
// there is none.
func (e *Env) Held(ctx context.Context) (*grouplock.Held, error) {
	var held []*grouplock.Held
	for _, n := range e.reached() {
		l, err := ReadLock(ctx, n, e.Plan.Group)
		if err != nil {
			return nil, err
		}
		held = append(held, l)
	}
	return grouplock.First(held...), nil
}

func (lockGroup) Done(ctx context.Context, e *Env) (bool, string, error) { return false, "", nil }

func (lockGroup) Do(ctx context.Context, e *Env) error {
	if err := e.takeLock(ctx); err != nil {
		return err
	}
	if e.Unchanged != nil {
		if err := e.Unchanged(ctx); err != nil {
			return err
		}
	}
	if err := e.findBaks(ctx); err != nil {
		return err
	}
	return e.record(ctx)
}

// ownLock is what the lock says while this process holds it, but for since when.
func (e *Env) ownLock() grouplock.Lock {
	return grouplock.Lock{
		Group: e.Plan.Group, Run: e.State.Run, Operator: e.Options.Operator, From: e.Options.From,
		Process: grouplock.Self(), Dir: e.Options.Dir,
	}
}

// inherits tells whether a lock is this process's, or one of an earlier process of this run that has ended or
// worked on the journal which this one holds. Any other process of the run, on another machine, may live.
func (e *Env) inherits(h *grouplock.Held) bool {
	mine := e.ownLock()
	return h.SameHolder(mine) ||
		h.Run == mine.Run && (h.Life == grouplock.Dead || h.From == mine.From && h.Dir == mine.Dir && !h.Process.Near())
}

// takeLock takes the lock on every host.
func (e *Env) takeLock(ctx context.Context) error {
	mine := e.ownLock()
	mine.Since = time.Now().UTC().Truncate(time.Second)
	content, err := mine.Encode()
	if err != nil {
		return err
	}
	// One after the other, and in an order that does not depend on how a topology lists and names them:
	// of two runs that start at once, one fails on the first host, and exactly one goes on.
	nodes := slices.SortedFunc(slices.Values(e.reached()), func(a, b *Node) int { return cmp.Compare(a.Addr(), b.Addr()) })
	for _, n := range nodes {
		if err := e.lockHost(ctx, n, content); err != nil {
			return err
		}
	}
	e.lock.taken(content)
	return nil
}

// lockHost takes the lock on one host, also from a run that the operator has named and that does not live.
func (e *Env) lockHost(ctx context.Context, n *Node, content []byte) error {
	take := agent.LockRequest{Action: agent.LockTake, Path: LockPath(n.Member, e.Plan.Group), Content: content}
	var before *grouplock.Held
	for range 3 { // it may be released, or beaten, between the look and the taking
		a, err := n.Agent.Lock(ctx, take)
		if err != nil {
			return fmt.Errorf("%s: locking: %w", n.Host, err)
		}
		if a.Done {
			if before != nil && !e.inherits(before) {
				e.action(n.Host, "lock taken over: %s", before.Holder())
			}
			return nil
		}
		take.Quiet = 0
		if take.Expect = a.Held; a.Held == nil {
			before = nil
			continue
		}
		if before, err = grouplock.Read(n.Host, take.Path, a.Held, a.Quiet); err != nil {
			return err
		}
		if e.inherits(before) {
			continue
		}
		if before.Life == grouplock.Alive || before.Run != e.State.Run && !before.Breakable(e.Options.BreakLock) {
			return &grouplock.Error{Held: before, Named: e.Options.BreakLock}
		}
		if before.Life == grouplock.Silent {
			take.Quiet = grouplock.SilentAfter // it may wake up between the look and the taking
		}
	}
	return &grouplock.Error{Held: before, Named: e.Options.BreakLock}
}

func (lockGroup) Undo(ctx context.Context, e *Env) error {
	if r := e.State.Replay; r != nil && r.Locked { // of the upgrade, which is unfinished still
		return ErrNothingToUndo
	}
	if !e.State.Opening() { // after that the record is the way back
		if err := e.forget(ctx); err != nil {
			return err
		}
	}
	e.lock.beating.Lock()
	defer e.lock.beating.Unlock()
	e.lock.taken(nil)
	var errs []error
	for _, n := range e.Nodes {
		l, err := ReadLock(ctx, n, e.Plan.Group)
		if err == nil && l != nil && e.inherits(l) {
			_, err = n.Agent.Lock(ctx, agent.LockRequest{Action: agent.LockRelease, Path: l.Path, Expect: l.Raw})
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// StillLocked checks that this run, which another process began, holds the lock on every host that is
// not left out, and makes it this process's.
func (e *Env) StillLocked(ctx context.Context) error {
	for _, n := range e.reached() {
		l, err := ReadLock(ctx, n, e.Plan.Group)
		switch {
		case err != nil:
			return err
		case l == nil:
			return fmt.Errorf("%s: the lock of run %s is gone from %s: somebody has ended that run in another way; look at `mqlift status`, and when all is well, move the run's folder away on this machine", n.Host, e.State.Run, LockPath(n.Member, e.Plan.Group))
		case l.Run != e.State.Run:
			return &grouplock.Error{Held: l, Named: e.Options.BreakLock}
		}
	}
	return e.takeLock(ctx)
}

// Lock holds the group's lock, for work that is no run with a journal, until unlock.
func (e *Env) Lock(ctx context.Context) (unlock func() error, err error) {
	if err := e.takeLock(ctx); err != nil {
		return nil, errors.Join(err, lockGroup{}.Undo(context.WithoutCancel(ctx), e))
	}
	keeper := e.KeepLock(ctx, func(error) {})
	return func() error {
		keeper.Stop()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		return lockGroup{}.Undo(ctx, e)
	}, nil
}
