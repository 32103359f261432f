package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/remote"
)

// Lock is what the lock file on each host says.
type Lock struct {
	Group    string    `json:"group"`
	Run      string    `json:"run"`
	Operator string    `json:"operator"`
	From     string    `json:"from"` // machine that mqlift runs on
	Since    time.Time `json:"since"`
}

// LockedError tells that another run holds a broker group.
type LockedError struct {
	Host, Path string
	Held       Lock
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s: %s: run %s of %s on %s holds %s since %s; let it end, or, when it is dead, take the lock over with --break-lock",
		e.Host, e.Path, e.Held.Run, e.Held.Operator, e.Held.From, e.Held.Group, e.Held.Since.Format(time.RFC3339))
}

// LockPath is the lock file of a group on a member's host.
func LockPath(m *plan.Member, group string) string { return path.Join(m.WorkDir, group+".lock") }

// lockGroup keeps other operators off the group. The lock lies on the hosts, because two bastions
// share nothing else.
type lockGroup struct{}

func (lockGroup) Name() string  { return "lock-group" }
func (lockGroup) Title() string { return "lock the broker group on every host" }
func (lockGroup) Requirement() playbook.Requirement {
	return playbook.Requirement{Proves: []string{"locked"}}
}
func (lockGroup) UndoText() string { return "remove the lock files" }

func (lockGroup) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Members {
		l = append(l, plan.Action{Host: m.Host, Text: "write " + LockPath(m, p.Group)})
	}
	return l
}

// ReadLock reads the lock on one host; nil when there is none.
func ReadLock(ctx context.Context, n *Node, group string) (*Lock, error) {
	data, err := n.Remote.ReadFile(ctx, LockPath(n.Member, group))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var l Lock
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("%s: %s is not a lock that mqlift wrote: %w; look at it, and remove it when no run is going on", n.Host, LockPath(n.Member, group), err)
	}
	return &l, nil
}

func (lockGroup) Done(ctx context.Context, e *Env) (bool, string, error) {
	held := 0
	for _, n := range e.Nodes {
		l, err := ReadLock(ctx, n, e.Plan.Group)
		switch {
		case err != nil:
			return false, "", err
		case l == nil:
		case l.Run == e.State.Run:
			held++
		case !e.Options.BreakLock:
			return false, "", &LockedError{Host: n.Host, Path: LockPath(n.Member, e.Plan.Group), Held: *l}
		}
	}
	return held == len(e.Nodes), "this run holds it", nil
}

func (lockGroup) Do(ctx context.Context, e *Env) error {
	lock := Lock{Group: e.Plan.Group, Run: e.State.Run, Operator: e.Options.Operator, From: e.Options.From, Since: time.Now().UTC().Truncate(time.Second)}
	data, err := json.Marshal(lock)
	if err != nil {
		return err
	}
	// One after the other, in the plan's order: of two runs that start at once, one fails on the
	// first host and neither ends up with half of the locks.
	for _, n := range e.Nodes {
		l, err := ReadLock(ctx, n, e.Plan.Group)
		if err != nil {
			return err
		}
		file := LockPath(n.Member, e.Plan.Group)
		if l != nil && l.Run == lock.Run {
			continue
		}
		if l != nil && e.Options.BreakLock {
			e.note(n.Host, "taking over the lock of run %s (%s on %s, since %s)", l.Run, l.Operator, l.From, l.Since.Format(time.RFC3339))
			if err := n.Remote.Remove(ctx, file); err != nil {
				return err
			}
		}
		// noclobber makes the shell open with O_EXCL: SFTP has no way to ask for that on every server.
		_, err = n.Remote.Run(ctx, remote.Cmd{
			Argv:  []string{"sh", "-c", `set -C; umask 077; mkdir -p "$1" && cat > "$2"`, "sh", n.WorkDir, file},
			Stdin: bytesReader(data),
		})
		if err != nil {
			if l, lerr := ReadLock(ctx, n, e.Plan.Group); lerr == nil && l != nil {
				return &LockedError{Host: n.Host, Path: file, Held: *l}
			}
			return fmt.Errorf("%s: locking: %w", n.Host, err)
		}
	}
	return nil
}

func (lockGroup) Undo(ctx context.Context, e *Env) error {
	var errs []error
	for _, n := range e.Nodes {
		l, err := ReadLock(ctx, n, e.Plan.Group)
		if err == nil && l != nil && l.Run == e.State.Run {
			err = n.Remote.Remove(ctx, LockPath(n.Member, e.Plan.Group))
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// StillLocked checks that this run holds the lock on every host.
func (e *Env) StillLocked(ctx context.Context) error {
	for _, n := range e.Nodes {
		l, err := ReadLock(ctx, n, e.Plan.Group)
		switch {
		case err != nil:
			return err
		case l == nil:
			return fmt.Errorf("%s: the lock of run %s is gone from %s: somebody has ended that run in another way; look at `mqlift status`, and when all is well, move the run's folder away on this machine", n.Host, e.State.Run, LockPath(n.Member, e.Plan.Group))
		case l.Run != e.State.Run:
			return &LockedError{Host: n.Host, Path: LockPath(n.Member, e.Plan.Group), Held: *l}
		}
	}
	return nil
}
