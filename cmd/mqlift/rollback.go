package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"mqlift/internal/grouplock"
	"mqlift/internal/plan"
	"mqlift/internal/run"
	"mqlift/internal/step"
)

type rollbackOptions struct {
	target
	StateDir  string
	BreakLock string

	stopping *interrupts
}

func newRollbackCommand(stopping *interrupts) *cobra.Command {
	o := rollbackOptions{stopping: stopping}
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Go back to the old master/slave group",
		Long: `rollback goes back from wherever an upgrade stands, by the run's journal or, where this machine has
none, by what the run kept on the hosts.

Before writes were opened that is free: the old group is restored exactly as it was and serves. After
that it is refused: messages written since would not be seen by the old group.

When a dead run on another machine holds the group, --break-lock with its name takes over.

Exit codes: 0 gone back, or there is nothing to go back from · 3 refused: writes have been opened ·
5 not all could be undone · 8 another run holds the group.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRollback(cmd.Context(), o, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.addFlags(cmd)
	cmd.Flags().StringVar(&o.StateDir, "state-dir", defaultStateDir(), "where journals are kept on this machine")
	cmd.Flags().StringVar(&o.BreakLock, "break-lock", "", "take over the lock of that `run`, which is dead")
	return cmd
}

func runRollback(ctx context.Context, o rollbackOptions, in io.Reader, out, errOut io.Writer) (err error) {
	s, err := o.open(ctx)
	if err != nil {
		return shownFindings(errOut, o.target, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	dir := filepath.Join(o.StateDir, "runs", s.group.Name)
	held, err := hold(ctx, dir, "rollback")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Release()) }()
	cut, err := run.Unfinished(dir)
	if err != nil {
		return err
	}
	if cut == nil {
		if cut, err = o.fromHosts(ctx, s, dir, out); err != nil {
			return err
		}
	}
	if cut == nil {
		fmt.Fprintf(out, "There is nothing to go back from: no run is unfinished, here or on the hosts.\n")
		return nil
	}
	if cut.Opened() {
		return &refusedError{fmt.Errorf("run %s opened writes on the new group at %s: going back costs every message written since", cut.State.Run, cut.State.OpeningAt.Format(time.RFC3339))}
	}
	return o.undo(ctx, s, cut, dialogue{in: bufio.NewReader(in), out: out})
}

// refusedError is a request that is not fulfilled as things stand; nothing was changed.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// undo takes a run back to the old group for free.
func (o *rollbackOptions) undo(ctx context.Context, s *session, cut *run.Cut, k dialogue) error {
	p, err := loadPlan(filepath.Join(cut.Dir, "plan.json"))
	if err != nil {
		return err
	}
	fmt.Fprintf(k.out, "run %s got to %s; writes were not opened, so that going back is free\n", cut.State.Run, cut.At)
	a := applyOptions{target: o.target, stopping: o.stopping}
	err = a.walk(ctx, s, p, cut.State, cut.Dir, k, func(w *run.Walk, ctx context.Context) error { return w.UndoCut(ctx, cut) })
	if err != nil {
		return err
	}
	if o.JSON {
		return nil
	}
	fmt.Fprintf(k.out, "%s is the old master/slave group again.\n", s.group.Name)
	return s.leftovers(ctx, p, cut.State, k.out)
}

// leftovers names what stays on the hosts.
func (s *session) leftovers(ctx context.Context, p *plan.Plan, state *step.State, out io.Writer) error {
	e, err := s.env(p, state, lines(out).Event, step.Options{})
	if err != nil {
		return err
	}
	left, err := e.Leftovers(ctx)
	if err != nil {
		return err
	}
	for _, host := range slices.Sorted(maps.Keys(left)) {
		for _, file := range left[host] {
			fmt.Fprintf(out, "%s keeps %s: nothing uses it; remove it, or leave it for the next try\n", host, file)
		}
	}
	return nil
}

// fromHosts finds a run that this machine has no journal of by what it left on the hosts, and makes a
// journal for going back. nil when there is none.
func (o *rollbackOptions) fromHosts(ctx context.Context, s *session, dir string, out io.Writer) (*run.Cut, error) {
	record, err := s.record(ctx)
	if err != nil || record == nil {
		return nil, err
	}
	e, err := s.env(record.Plan, record.State, lines(out).Event, step.Options{})
	if err != nil {
		return nil, err
	}
	for _, n := range e.Nodes {
		lock, err := step.ReadLock(ctx, n, record.Plan.Group)
		if err != nil {
			return nil, err
		}
		if lock != nil && !lock.Breakable(o.BreakLock) {
			return nil, &grouplock.Error{Held: lock, Named: o.BreakLock}
		}
	}
	runDir := filepath.Join(dir, record.State.Run)
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("the run's folder: %w", err)
	}
	if err := savePlan(filepath.Join(runDir, "plan.json"), record.Plan); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "run %s is known from what it kept on the hosts; there is no journal of it in %s\n", record.State.Run, dir)
	return run.Rebuild(runDir, record.Plan, record.State)
}

// record is the newest run's record among all hosts'; nil when there is none. A run whose record says on
// any host that writes were about to be opened counts as one that opened them.
func (s *session) record(ctx context.Context) (*step.Record, error) {
	var newest *step.Record
	for _, m := range s.group.Members {
		r, err := step.ReadRecord(ctx, s.hosts[m.Host], m.WorkDir, s.group.Name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Host, err)
		}
		switch {
		case r == nil:
		case newest == nil, r.State.Run > newest.State.Run,
			r.State.Run == newest.State.Run && r.State.OpeningAt.After(newest.State.OpeningAt):
			newest = r
		}
	}
	return newest, nil
}
