package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mqlift/internal/event"
	"mqlift/internal/grouplock"
)

// One operator at a time, wherever the others sit and whatever became of the first one.
func TestOneOperatorAtATime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	before := b.old(t)
	bastion2 := filepath.Join(b.dir, "bastion-2")
	elsewhere := []string{"apply", "--yes", "--no-failover", "--keys", oldKeys, "--state-dir", bastion2}
	inStep := func(name string) func(event.Event) bool {
		return func(e event.Event) bool { return e.Kind == event.StepBegin && e.Step == name }
	}

	ok := t.Run("started at the same moment, on two bastions", func(t *testing.T) {
		var began [2]*applying
		for i, dir := range []string{b.stateDir(), bastion2} {
			began[i] = b.startApplyIn(t, dir)
		}
		first := b.only(t, began)
		first.await(t, "align-logs to begin", inStep("align-logs"))
		first.signal(t, syscall.SIGINT)
		if code := first.ended(t); code != 130 {
			t.Fatalf("exit code %d, want 130:\n%s", code, first.screen.String())
		}
		b.serves(t, before)
	})
	if !ok {
		return
	}

	ok = t.Run("the first one in the middle, and stopped", func(t *testing.T) {
		a := b.startApply(t)
		a.await(t, "fence-master to begin", inStep("fence-master"))
		a.signal(t, syscall.SIGSTOP)
		defer a.cmd.Process.Signal(syscall.SIGCONT)
		run := b.runHeld(t)
		pid := fmt.Sprint("process ", a.cmd.Process.Pid)
		locked := b.locks(t)
		for name, o := range map[string]outcome{
			"beside it":                        b.run(t, call{}, "apply", "--yes"),
			"from another bastion":             b.run(t, call{}, elsewhere...),
			"from there, with its lock broken": b.run(t, call{}, append(elsewhere, "--break-lock", run)...),
			"beside it, with its lock broken":  b.run(t, call{}, "apply", "--yes", "--break-lock", run),
		} {
			if o.code != 8 || !strings.Contains(o.text, pid) {
				t.Errorf("%s: exit code %d:\n%s", name, o.code, o.text)
			}
		}
		b.run(t, call{}, "status").wants(t, 0, run, pid, "it lives", "goes on, at fence / fence-master")
		if now := b.locks(t); now != locked {
			t.Errorf("the locks were %s\nand are %s", locked, now)
		}
		a.signal(t, syscall.SIGCONT)
		a.signal(t, syscall.SIGINT)
		if code := a.ended(t); code != 130 {
			t.Fatalf("exit code %d, want 130:\n%s", code, a.screen.String())
		}
		a.says(t, "stopping: ", "everything is undone", "the old master takes sends again")
		b.serves(t, before)
	})
	if !ok {
		return
	}

	for _, in := range []string{"fence-master", "prove-peers"} { // in the second one it may be undoing already
		ok = t.Run("Ctrl-C twice in "+in, func(t *testing.T) {
			a := b.startApply(t)
			a.await(t, in+" to begin", inStep(in))
			b.fenced(t, a)
			b.twice(t, a)
			run := b.runHeld(t)
			// How much was undone between the two differs.
			b.run(t, call{}, "status").wants(t, 0, "was cut short at", "keeps other runs off", "it is dead: process")
			check := b.run(t, call{}, "check")
			check.wants(t, check.code, "group.lock", "it is dead", "nothing is to be mended by hand")
			b.journalDamaged(t, run)
			// From another bastion it cannot be taken up, and its lock not be had for half a state.
			b.run(t, call{}, elsewhere...).wants(t, 8, "it is dead", "--state-dir "+b.stateDir(), "--break-lock "+run)
			b.run(t, call{}, append(elsewhere, "--break-lock", run)...).wants(t, 3, "was not taken over")
			if now := b.runHeld(t); now != run {
				t.Errorf("%s holds the group now", now)
			}
		})
		if !ok {
			return
		}
		ok = t.Run("taken up by the next one, in which Ctrl-C comes twice while it undoes", func(t *testing.T) {
			a := b.startApply(t)
			a.await(t, "the undoing to begin", func(e event.Event) bool { return e.Kind == event.UndoBegin })
			b.twice(t, a)
			a = b.startApply(t)
			a.await(t, "the new run's first step", inStep("sample-keys"))
			a.signal(t, syscall.SIGTERM)
			if code := a.ended(t); code != 130 {
				t.Fatalf("exit code %d, want 130:\n%s", code, a.screen.String())
			}
			b.serves(t, before)
		})
		if !ok {
			return
		}
	}

	t.Run("a silent run's lock, taken over and missed by its holder", func(t *testing.T) {
		a := b.startApply(t)
		a.await(t, "render-configs to begin", inStep("render-configs"))
		a.signal(t, syscall.SIGSTOP)
		stopped := time.Now()
		defer a.cmd.Process.Signal(syscall.SIGCONT)
		// Another bastion's, which has broken it, is played by its file.
		for _, h := range b.Hosts() {
			raw, err := grouplock.Lock{Group: group, Run: "run-2", Operator: "bob", From: "bastion-2", Since: time.Now()}.Encode()
			must(t, err)
			must(t, os.WriteFile(b.lockFile(h.Name), raw, 0o600))
		}
		defer func() {
			for _, h := range b.Hosts() {
				os.Remove(b.lockFile(h.Name))
			}
		}()
		eventually(t, time.Minute, "its next beat to be due", func(context.Context) error {
			if age := time.Since(stopped); age < grouplock.Beat {
				return fmt.Errorf("it has been stopped for %s", age)
			}
			return nil
		})
		a.signal(t, syscall.SIGCONT)
		if code := a.ended(t); code != 8 {
			t.Fatalf("exit code %d, want 8:\n%s", code, a.screen.String())
		}
		a.says(t, "run run-2 of bob on bastion-2", "nothing was undone")
	})
}

// journalDamaged tells what is said while a run's journal cannot be read: how the group is, all the same.
func (b *bench) journalDamaged(t *testing.T, run string) {
	t.Helper()
	file := filepath.Join(b.stateDir(), "runs", group, run, "journal.jsonl")
	whole, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, append([]byte("{"), whole...), 0o600))
	b.run(t, call{}, "status").wants(t, 1, "host-a", "it is dead", file+": line 1 is not a record", "Going back is free")
	b.run(t, call{}, "apply", "--yes").wants(t, 1, file+": line 1 is not a record", "nothing was done now")
	must(t, os.WriteFile(file, whole, 0o600))
}

// startApplyIn is startApply with another state folder: another bastion.
func (b *bench) startApplyIn(t *testing.T, stateDir string) *applying {
	t.Helper()
	there := *b
	there.state = stateDir
	return there.startApply(t)
}

// only waits until one of two has ended, which must be refused and say who holds the group, and returns
// the other.
func (b *bench) only(t *testing.T, both [2]*applying) *applying {
	t.Helper()
	refused, other := both[0], both[1]
	select {
	case <-both[0].done:
	case <-both[1].done:
		refused, other = both[1], both[0]
	case <-time.After(2 * time.Minute):
		t.Fatalf("both go on:\n%s\n%s", both[0].screen.String(), both[1].screen.String())
	}
	if code := refused.ended(t); code != 8 {
		t.Fatalf("exit code %d, want 8:\n%s", code, refused.screen.String())
	}
	refused.says(t, fmt.Sprintf("(process %d) holds %s", other.cmd.Process.Pid, group), "it lives")
	return other
}

func (a *applying) says(t *testing.T, wanted ...string) {
	t.Helper()
	for _, s := range wanted {
		if !strings.Contains(a.screen.String(), s) {
			t.Errorf("%q is not said:\n%s", s, a.screen.String())
		}
	}
}

// twice presses Ctrl-C twice: apply ends at once and names what it has left.
func (b *bench) twice(t *testing.T, a *applying) {
	t.Helper()
	a.signal(t, syscall.SIGINT)
	eventually(t, 20*time.Second, "the first Ctrl-C to be answered", func(context.Context) error {
		if text := a.screen.String(); !strings.Contains(text, "stopping: ") && !strings.Contains(text, "going back already") {
			return fmt.Errorf("it says:\n%s", text)
		}
		return nil
	})
	a.signal(t, syscall.SIGINT)
	select {
	case <-a.done:
	case <-time.After(5 * time.Second):
		t.Errorf("it does not end at once:\n%s", a.screen.String())
	}
	if code := a.ended(t); code != 130 {
		t.Fatalf("exit code %d, want 130:\n%s", code, a.screen.String())
	}
	a.says(t, "ended at once in ", "`mqlift rollback` undoes what was begun", "the lock of run ")
}

// fenced waits until the old master refuses sends.
func (b *bench) fenced(t *testing.T, a *applying) {
	t.Helper()
	a.until(t, "the master to refuse sends", func(ctx context.Context) error {
		conf, err := b.broker("host-a").Config(ctx)
		if err == nil && conf["brokerRole"] != "SLAVE" {
			err = fmt.Errorf("brokerRole is %s", conf["brokerRole"])
		}
		return err
	})
}

func (b *bench) lockFile(host string) string {
	return grouplock.Path(filepath.Join(b.host(host).InstallDir, ".mqlift"), group)
}

// locks are the contents of all lock files.
func (b *bench) locks(t *testing.T) string {
	t.Helper()
	var all [][]byte
	for _, h := range b.Hosts() {
		data, err := os.ReadFile(b.lockFile(h.Name))
		must(t, err)
		all = append(all, data)
	}
	return string(bytes.Join(all, nil))
}

// runHeld is the run that holds the group, the same on every host.
func (b *bench) runHeld(t *testing.T) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(b.locks(t)), "\n")
	for _, l := range lines {
		if l != lines[0] {
			t.Fatalf("the hosts' locks differ: %q", lines)
		}
	}
	var l grouplock.Lock
	must(t, json.Unmarshal([]byte(lines[0]), &l))
	return l.Run
}
