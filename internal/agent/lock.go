package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// LockAction is what is to be done with a lock file.
type LockAction string

const (
	LockLook    LockAction = "look"
	LockTake    LockAction = "take"    // write Content, where Expect lies now
	LockBeat    LockAction = "beat"    // show a sign of life, where Expect lies now
	LockRelease LockAction = "release" // remove it, where Expect lies now
)

// LockRequest is one look at, or change of, a lock file. Changes of one file exclude one another.
type LockRequest struct {
	Action  LockAction `json:"action"`
	Path    string     `json:"path"`
	Content []byte     `json:"content,omitempty"`
	// Expect is the content that the file must have for the action; nil means that there is no file.
	Expect []byte `json:"expect,omitempty"`
	// Quiet is how long the file must not have been beaten for the action; 0 for no matter.
	Quiet time.Duration `json:"quietNs,omitempty"`
}

// LockAnswer is what lay there before the action.
type LockAnswer struct {
	// Done tells that the file was as expected, and that the action was carried out.
	Done bool `json:"done"`
	// Held is the content found; nil when there was no file.
	Held []byte `json:"held"`
	// Quiet is how long ago the file was written or beaten last, by this host's clock.
	Quiet time.Duration `json:"quietNs"`
}

// Lock looks at, takes, keeps or releases a lock file.
func (a *Agent) Lock(ctx context.Context, r LockRequest) (LockAnswer, error) {
	return call[LockAnswer](ctx, a, "lock", r, nil)
}

func lockFile(_ context.Context, r LockRequest, _ *session) (LockAnswer, error) {
	var a LockAnswer
	if r.Action == LockLook {
		return a, look(r.Path, &a)
	}
	dir := filepath.Dir(r.Path)
	if r.Action == LockTake {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return a, err
		}
	}
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return a, fmt.Errorf("locking %s: %w", dir, err)
	}
	if err := look(r.Path, &a); err != nil {
		return a, err
	}
	if (a.Held == nil) != (r.Expect == nil) || !bytes.Equal(a.Held, r.Expect) || a.Quiet < r.Quiet {
		return a, nil
	}
	switch r.Action {
	case LockTake:
		err = replace(File{Path: r.Path, Content: r.Content, Mode: 0o600, Owner: Owner{UID: os.Geteuid(), GID: os.Getegid()}})
	case LockBeat:
		now := time.Now()
		err = os.Chtimes(r.Path, now, now)
	case LockRelease:
		if err = os.Remove(r.Path); err == nil {
			err = d.Sync()
		}
	default:
		err = fmt.Errorf("there is no lock action %q", r.Action)
	}
	a.Done = err == nil
	return a, err
}

func look(path string, a *LockAnswer) error {
	f, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	a.Held, a.Quiet = f.Content, time.Since(f.Modified)
	if a.Held == nil {
		a.Held = []byte{}
	}
	return nil
}
