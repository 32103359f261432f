package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// Holder is the process that works on a broker group from this machine.
type Holder struct {
	PID      int       `json:"pid"`
	Command  string    `json:"command"` // such as "apply"
	Operator string    `json:"operator"`
	Since    time.Time `json:"since"`
}

func (h Holder) String() string {
	if h.PID == 0 {
		return "another mqlift on this machine"
	}
	return fmt.Sprintf("`mqlift %s` of %s, process %d on this machine since %s,", h.Command, h.Operator, h.PID, h.Since.Format(time.RFC3339))
}

// BusyError is that another process of this machine works on the group.
type BusyError struct {
	Group  string
	Holder Holder
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s holds %s; let it end, or press Ctrl-C there: a run that lives is left alone, also when it is stopped (SIGSTOP)", e.Holder, e.Group)
}

// Hold keeps other processes of this machine off the journals below dir, STATE/runs/GROUP: what looks
// like a run that was killed may be one that is in the middle. It is given back by Release, and by the
// system when the process ends, however it ends. *BusyError when another process has it.
func Hold(ctx context.Context, dir string, h Holder) (*Hand, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("the folder of the runs: %w", err)
	}
	l := flock.New(lockFile(dir), flock.SetPermissions(0o600))
	// One that only looks (Alive) has it for a moment.
	limited, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	switch got, err := l.TryLockContext(limited, 50*time.Millisecond); {
	case ctx.Err() != nil:
		return nil, errors.Join(ctx.Err(), l.Close())
	case err != nil && limited.Err() == nil:
		return nil, fmt.Errorf("locking %s: %w", l.Path(), err)
	case !got:
		return nil, &BusyError{Group: filepath.Base(dir), Holder: holder(dir)}
	}
	h.PID, h.Since = os.Getpid(), time.Now().UTC().Truncate(time.Second)
	data, err := json.Marshal(h)
	if err == nil {
		err = os.WriteFile(holderFile(dir), data, 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("saying who holds %s: %w", l.Path(), err), l.Close())
	}
	return &Hand{dir, l}, nil
}

// Hand is a group's journals held.
type Hand struct {
	dir  string
	lock *flock.Flock
}

// Release gives them back.
func (h *Hand) Release() error {
	return errors.Join(os.Remove(holderFile(h.dir)), h.lock.Close())
}

// Alive finds the process of this machine that works on the journals below dir; nil when none does, so
// that an unfinished one among them is of a run that was killed.
func Alive(dir string) (*Holder, error) {
	if _, err := os.Stat(lockFile(dir)); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	l := flock.New(lockFile(dir))
	got, err := l.TryRLock()
	if err != nil {
		return nil, fmt.Errorf("looking at %s: %w", l.Path(), err)
	}
	if got {
		return nil, l.Close()
	}
	h := holder(dir)
	return &h, l.Close()
}

func lockFile(dir string) string { return dir + ".lock" }

// holderFile is another file than the lock: on some network file systems, to close any handle of a
// locked file is to unlock it.
func holderFile(dir string) string { return dir + ".holder" }

func holder(dir string) Holder {
	var h Holder
	if data, err := os.ReadFile(holderFile(dir)); err == nil {
		_ = json.Unmarshal(data, &h) // it is there to be named; the lock is what counts
	}
	return h
}
