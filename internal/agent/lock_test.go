package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func lockOnce(t *testing.T, r LockRequest) LockAnswer {
	t.Helper()
	a, err := lockFile(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestALockIsTakenKeptAndReleasedByItsHolderAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "work", "g.lock")
	mine, other := []byte("mine"), []byte("other")
	if a := lockOnce(t, LockRequest{Action: LockLook, Path: file}); a.Held != nil {
		t.Errorf("%+v before there is one", a)
	}
	if a := lockOnce(t, LockRequest{Action: LockTake, Path: file, Content: mine}); !a.Done || a.Held != nil {
		t.Errorf("not taken: %+v", a)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	for _, r := range []LockRequest{
		{Action: LockTake, Content: other}, {Action: LockTake, Content: other, Expect: other},
		{Action: LockTake, Content: other, Expect: mine, Quiet: 2 * time.Hour},
		{Action: LockBeat, Expect: other}, {Action: LockRelease, Expect: other}, {Action: LockRelease},
	} {
		r.Path = file
		if a := lockOnce(t, r); a.Done || string(a.Held) != "mine" || a.Quiet < 59*time.Minute {
			t.Errorf("%s of another's: %+v", r.Action, a)
		}
	}
	if a := lockOnce(t, LockRequest{Action: LockBeat, Path: file, Expect: mine}); !a.Done {
		t.Errorf("no beat: %+v", a)
	}
	if a := lockOnce(t, LockRequest{Action: LockLook, Path: file}); string(a.Held) != "mine" || a.Quiet > time.Minute {
		t.Errorf("the beat is not seen: %+v", a)
	}
	if a := lockOnce(t, LockRequest{Action: LockTake, Path: file, Content: other, Expect: mine}); !a.Done {
		t.Errorf("not taken over: %+v", a)
	}
	if a := lockOnce(t, LockRequest{Action: LockRelease, Path: file, Expect: other}); !a.Done {
		t.Errorf("not released: %+v", a)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// Also of those that break one dead run's lock together.
func TestOfManyThatTakeALockAtOnceOneHasIt(t *testing.T) {
	for name, before := range map[string][]byte{"free": nil, "of a dead run": []byte("dead")} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "g.lock")
			if before != nil {
				lockOnce(t, LockRequest{Action: LockTake, Path: file, Content: before})
			}
			var wg sync.WaitGroup
			var taken atomic.Int32
			for i := range 20 {
				wg.Go(func() {
					a, err := lockFile(t.Context(), LockRequest{Action: LockTake, Path: file, Content: fmt.Append(nil, i), Expect: before}, nil)
					if err != nil {
						t.Error(err)
					}
					if a.Done {
						taken.Add(1)
					}
				})
			}
			wg.Wait()
			if n := taken.Load(); n != 1 {
				t.Errorf("%d have it", n)
			}
		})
	}
}
