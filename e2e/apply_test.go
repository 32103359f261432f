package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"mqlift/internal/event"
)

// applying is an `mqlift apply` on its way.
type applying struct {
	b        *bench
	cmd      *exec.Cmd
	terminal *os.File // what it writes to; closed when nobody looks any more
	screen   screen
	began    time.Time
	done     chan struct{} // closed when it has ended
}

// startApply starts `mqlift apply --yes --no-failover`; it is ended with the test.
func (b *bench) startApply(t *testing.T) *applying {
	t.Helper()
	return b.start(t, "apply", "--yes", "--no-failover", "--keys", oldKeys)
}

// start starts mqlift; it is ended with the test.
func (b *bench) start(t *testing.T, args ...string) *applying {
	t.Helper()
	a := &applying{b: b, cmd: b.command(call{}, args...), began: time.Now(), done: make(chan struct{})}
	terminal, write, err := os.Pipe()
	must(t, err)
	a.terminal, a.cmd.Stdout, a.cmd.Stderr = terminal, write, write
	err = a.cmd.Start()
	write.Close()
	must(t, err)
	go func() {
		io.Copy(&a.screen, terminal) // ends with apply, or when the terminal is closed
		terminal.Close()
		a.cmd.Wait() // its exit code is what counts
		close(a.done)
	}()
	t.Cleanup(func() {
		a.cmd.Process.Kill()
		<-a.done
	})
	return a
}

// await waits until the run's log holds an event that is wanted since this apply began.
func (a *applying) await(t *testing.T, what string, wanted func(event.Event) bool) {
	t.Helper()
	a.until(t, what, func(context.Context) error {
		events, err := a.b.events()
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Time.After(a.began) && wanted(e) {
				return nil
			}
		}
		return fmt.Errorf("none of %d events is it", len(events))
	})
}

// until is eventually, which gives up when apply ends.
func (a *applying) until(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	eventually(t, 2*time.Minute, what, func(ctx context.Context) error {
		err := f(ctx)
		select {
		case <-a.done:
			if err != nil {
				t.Fatalf("apply ended before %s: %v\n%s", what, err, a.screen.String())
			}
		default:
		}
		return err
	})
}

func (a *applying) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	must(t, a.cmd.Process.Signal(signal))
}

// ended waits for the end and returns the exit code, -1 after a signal.
func (a *applying) ended(t *testing.T) int {
	t.Helper()
	select {
	case <-a.done:
		return a.cmd.ProcessState.ExitCode()
	case <-time.After(3 * time.Minute):
		a.cmd.Process.Signal(syscall.SIGQUIT)
		<-a.done
		t.Fatalf("apply does not end:\n%s", a.screen.String())
		return 0
	}
}

// events are those of the newest run that have been written whole.
func (b *bench) events() ([]event.Event, error) {
	logs, err := filepath.Glob(filepath.Join(b.stateDir(), "runs", group, "*", "events.jsonl"))
	if err != nil || len(logs) == 0 {
		return nil, errors.Join(err, fs.ErrNotExist)
	}
	f, err := os.Open(logs[len(logs)-1])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var events []event.Event
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e event.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			events = append(events, e)
		}
	}
	return events, nil
}

// verified proves the upgraded group: old keys and new messages on every node, no lock, no helper.
func (b *bench) verified(t *testing.T) {
	t.Helper()
	b.run(t, call{}, "verify", "--keys", oldKeys).wants(t, 0)
	b.find(t, "host-a", "host-b", "host-c")
	b.unlocked(t)
}

// unlocked looks for what a run must not leave on a host.
func (b *bench) unlocked(t *testing.T) {
	t.Helper()
	for _, h := range b.Hosts() {
		if _, err := os.Stat(filepath.Join(h.InstallDir, ".mqlift", group+".lock")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still locked (%v)", h.Name, err)
		}
		eventually(t, 10*time.Second, "helper programs to be gone from "+h.Name, func(context.Context) error {
			entries, err := os.ReadDir(filepath.Join(h.Dir, "tmp"))
			if err == nil && len(entries) > 0 {
				err = fmt.Errorf("its temporary folder holds %v", entries)
			}
			return err
		})
	}
}
