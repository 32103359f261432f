package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"mqlift/internal/run"
)

// applying is an `mqlift apply` on its way.
type applying struct {
	cmd    *exec.Cmd
	screen screen
	done   chan struct{} // closed when it has ended
	before *applying     // the one before it in the same row
}

// start calls apply, and, where a row goes back, after the first time rollback.
func (t *trial) start() error {
	a := &applying{done: make(chan struct{}), before: t.apply}
	args := []string{"apply", "--yes", "--keys", oldKeys, "--route-poll", "2s", "--pull-hold", "1s"}
	args = append(args, t.row.with...)
	if t.row.step != "prove-failover" {
		args = append(args, "--no-failover") // which takes as long as all the rest
	}
	if t.row.when != nil && t.apply == nil { // a moment inside the copy, which is over too soon otherwise
		args = append(args, "--limit-rate", "32M")
	}
	if t.back = t.row.replay && t.apply != nil; t.back {
		args = []string{"rollback", "--replay", "--yes"}
	}
	a.cmd = exec.Command(t.binary, append(args, "-t", t.Topology(), "--state-dir", t.state)...)
	a.cmd.Stdout, a.cmd.Stderr = &a.screen, &a.screen
	a.cmd.WaitDelay = time.Second
	t.journal = newJournal(filepath.Join(t.state, "runs", group), t.took)
	if err := a.cmd.Start(); err != nil {
		return err
	}
	t.apply = a
	go func() {
		a.cmd.Wait() // its exit code is what counts
		close(a.done)
	}()
	return nil
}

// ended waits until apply has ended and notes its exit code.
func (t *trial) ended(ctx context.Context, res *result) error {
	limit := time.After(8 * time.Minute)
	for {
		t.journal.read() // as long as it is this run's
		select {
		case <-t.apply.done:
			t.journal.read()
			res.Codes = append(res.Codes, t.apply.cmd.ProcessState.ExitCode())
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			t.apply.cmd.Process.Signal(syscall.SIGQUIT) // says where it hangs
			<-t.apply.done
			return errors.New("apply does not end")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (a *applying) kill() {
	a.cmd.Process.Kill() // which is no error worth knowing when it has ended
	<-a.done
}

func (a *applying) signal(s os.Signal) error {
	err := a.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("apply had ended before the fault:\n%s", a.screen.String())
	}
	return err
}

// outputs are what the calls of apply printed, in order.
func (t *trial) outputs() []string {
	var l []string
	for a := t.apply; a != nil; a = a.before {
		l = append(l, a.screen.String())
	}
	slices.Reverse(l)
	return l
}

// call calls mqlift and waits for its end.
func (t *trial) call(ctx context.Context, args ...string) (string, int) {
	cmd := exec.CommandContext(ctx, t.binary, append(args, "-t", t.Topology())...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// screen takes what a program prints.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// journal follows the journal of the newest run that is written to.
type journal struct {
	dir     string
	offsets map[string]int64 // read so far; what stood there before is passed over
	records []run.Record
	took    map[string]time.Duration
}

func newJournal(dir string, took map[string]time.Duration) *journal {
	j := &journal{dir: dir, offsets: map[string]int64{}, took: took}
	for _, file := range j.files() {
		if info, err := os.Stat(file); err == nil {
			j.offsets[file] = info.Size()
		}
	}
	return j
}

func (j *journal) files() []string {
	files, _ := filepath.Glob(filepath.Join(j.dir, "*", "journal.jsonl")) // the pattern is a good one
	return files
}

// read takes up what has been written since.
func (j *journal) read() {
	for _, file := range j.files() {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		f.Seek(j.offsets[file], io.SeekStart)
		data, _ := io.ReadAll(f)
		f.Close()
		for {
			line, rest, whole := bytes.Cut(data, []byte("\n"))
			if !whole {
				break
			}
			j.offsets[file] += int64(len(line)) + 1
			data = rest
			var r run.Record
			if json.Unmarshal(line, &r) == nil {
				j.take(r)
			}
		}
	}
}

func (j *journal) take(r run.Record) {
	if n := len(j.records); r.Kind == run.StepDone {
		for i := n - 1; i >= 0; i-- {
			if j.records[i].Kind == run.StepBegin && j.records[i].Step == r.Step {
				j.took[r.Step] = r.Time.Sub(j.records[i].Time)
				break
			}
		}
	}
	r.State = nil
	j.records = append(j.records, r)
}

// has tells whether there is such a record.
func (j *journal) has(kind run.RecordKind, step string) bool {
	j.read()
	return slices.ContainsFunc(j.records, func(r run.Record) bool { return r.Kind == kind && r.Step == step })
}

// at is the last record.
func (j *journal) at() string {
	j.read()
	for i := len(j.records) - 1; i >= 0; i-- {
		switch r := j.records[i]; r.Kind {
		case run.StateSaved:
		case run.StepBegin:
			return "in " + r.Step
		case run.StepDone, run.StepSkip:
			return "after " + r.Step
		case run.UndoBegin, run.UndoDone:
			return "undoing " + r.Step
		default:
			return strings.TrimSpace(string(r.Kind) + " " + r.Step)
		}
	}
	return "before the journal"
}
