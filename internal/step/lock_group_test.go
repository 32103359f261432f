package step

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/event"
	"mqlift/internal/grouplock"
	"mqlift/internal/lab/sshhost/sshhosttest"
	"mqlift/internal/plan"
)

// The test binary is pushed to the hosts, and is the agent there.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		c := agent.Command()
		c.SetArgs(os.Args[2:])
		if c.Execute() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// lockHost is an Env of run-1 with one host, and where the lock lies there.
func lockHost(t *testing.T) (*Env, string) {
	t.Helper()
	_, host, home := sshhosttest.Dial(t, "host-a")
	a, err := agent.Push(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	m := &plan.Member{Host: "host-a", Address: "127.0.0.1", WorkDir: filepath.Join(home, ".mqlift")}
	e := &Env{
		Plan: &plan.Plan{Fingerprint: "0123456789abcdef", Group: "g", Members: []*plan.Member{m}}, Nodes: []*Node{{Member: m, Remote: host, Agent: a}},
		State: &State{Run: "run-1"}, Emit: func(event.Event) {}, Options: Options{From: "bastion-1", Dir: "/s/runs/g/run-1"},
	}
	if err := e.takeLock(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e, LockPath(m, "g")
}

// elsewhere is a process of the same run on another machine, as one that goes back from it there.
func elsewhere(e *Env) grouplock.Lock {
	l := e.ownLock()
	l.From, l.Process.Boot = "bastion-2", "another machine"
	return l
}

func put(t *testing.T, file string, l grouplock.Lock, quiet time.Duration) {
	t.Helper()
	raw, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	when := time.Now().Add(-quiet)
	if err := os.Chtimes(file, when, when); err != nil {
		t.Fatal(err)
	}
}

func TestALockTakenOverUnderTheRunsOwnNameIsLost(t *testing.T) {
	e, file := lockHost(t)
	put(t, file, elsewhere(e), 0)
	e.lock.seen = time.Time{} // for long
	var lost *LostLockError
	if err := e.LockLost(t.Context()); !errors.As(err, &lost) || lost.By.From != "bastion-2" {
		t.Errorf("before a step: %v", err)
	}
	k := &LockKeeper{e: e}
	k.Reconnected()
	e.lock.seen = time.Time{}
	if err := k.beat(t.Context()); !errors.As(err, &lost) || lost.By.From != "bastion-2" {
		t.Errorf("at a beat: %v", err)
	}
	if err := (lockGroup{}).Undo(t.Context(), e); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the other's lock was removed: %v", err)
	}
}

func TestALockIsInheritedFromAnEarlierProcessAndNotFromOneThatMayLive(t *testing.T) {
	e, file := lockHost(t)
	rebooted := e.ownLock()
	rebooted.Process.Boot = "before"
	other := rebooted
	other.Run = "run-0"
	ended := e.ownLock()
	ended.Process.Start--
	for name, c := range map[string]struct {
		lock  grouplock.Lock
		quiet time.Duration
		taken bool
	}{
		"this process's":                              {e.ownLock(), 0, true},
		"of a process here that has ended":            {ended, 0, true},
		"from before this machine was started again":  {rebooted, time.Second, true},
		"the same run on another machine, that lives": {elsewhere(e), time.Second, false},
		"the same run on another machine, silent":     {elsewhere(e), 2 * time.Minute, true},
		"another run, silent":                         {other, 2 * time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			put(t, file, c.lock, c.quiet)
			err := e.takeLock(t.Context())
			var held *grouplock.Error
			if c.taken && err != nil || !c.taken && !errors.As(err, &held) {
				t.Error(err)
			}
		})
	}
	t.Run("left by a process that was killed in its first step", func(t *testing.T) {
		put(t, file, ended, 0)
		if err := (lockGroup{}).Undo(t.Context(), e); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is still there: %v", err)
		}
	})
}

// Between the reading of a run's record and the taking over of its lock the run may go on.
func TestARunThatWentOnToOpenWritesIsFound(t *testing.T) {
	e, _ := lockHost(t)
	if err := e.record(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.NotOpened(t.Context()); err != nil {
		t.Error(err)
	}
	e.State.OpeningAt = time.Now()
	if err := e.record(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.NotOpened(t.Context()); err == nil || !strings.Contains(err.Error(), "host-a: run run-1 opens writes since") {
		t.Errorf("got %v", err)
	}
}
