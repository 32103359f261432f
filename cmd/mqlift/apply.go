package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"mqlift/internal/diag"
	"mqlift/internal/event"
	"mqlift/internal/grouplock"
	"mqlift/internal/plan"
	"mqlift/internal/probe"
	"mqlift/internal/remote"
	"mqlift/internal/run"
	"mqlift/internal/step"
	"mqlift/internal/view"
)

type applyOptions struct {
	target
	StateDir   string
	DryRun     bool
	Yes        bool
	Ask        bool
	NoFailover bool
	BreakLock  string
	Keys       []string
	PlanFile   string
	Report     string
	LimitRate  rate
	RoutePoll  time.Duration
	PullHold   time.Duration

	stopping *interrupts
	// unchanged is the new run's, and not of one that is taken up.
	unchanged func(context.Context) error
}

func newApplyCommand(stopping *interrupts) *cobra.Command {
	o := applyOptions{stopping: stopping}
	cmd := &cobra.Command{
		Use:   "apply [PLAN]",
		Short: "Carry out the upgrade: a saved plan, or the one that fits what is true now",
		Long: `apply walks the playbook. Each step is journalled before and after. When a step fails, or on Ctrl-C,
before writes were opened, everything is undone and the old group serves as before; after that nothing
is undone, and running apply again goes on from where it stopped. A run that was killed is taken up by
the next apply: undone first while writes had not been opened, gone on with otherwise.

The first Ctrl-C (or SIGTERM, or the loss of the terminal) stops at the next safe place and says where
that is. A second one ends apply at once, names what is temporary at that moment, and leaves it to the
next apply.

While it works, a lock on every host keeps other runs off the group. The lock of a run that lives cannot
be broken; that of a dead or silent one with --break-lock and its name, where its own journal is lost.

With a saved PLAN exactly that is done, and refused when the cluster has moved away from it.
Without one the plan is shown and asked about. --dry-run only says what each step would do on
which host.

Exit codes: 3 refused or not confirmed, nothing changed · 4 failed, or not confirmed by --ask-before-open,
and undone · 5 failed or stopped after writes were opened, or not all could be undone · 7 the plan is stale ·
8 another run holds the group · 130 stopped by Ctrl-C and undone; by the second one, with what is left named.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.PlanFile = args[0]
			}
			return runApply(cmd.Context(), o, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.addFlags(cmd)
	o.addPlaybookFlag(cmd)
	o.addTransferFlag(cmd)
	o.addRebuildFlag(cmd)
	cmd.Flags().StringVar(&o.StateDir, "state-dir", defaultStateDir(), "where journals are kept on this machine")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what each step would do on which host, and do nothing")
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not ask at the start")
	cmd.Flags().BoolVar(&o.Ask, "ask-before-open", false, "ask once more at the last point where going back is free; sends are refused while it waits")
	cmd.Flags().BoolVar(&o.NoFailover, "no-failover", false, "leave out the forced failover at the end; prove it later with mqlift failover")
	cmd.Flags().StringVar(&o.BreakLock, "break-lock", "", "take over the lock of that `run`, which is dead or silent; refused while it lives")
	cmd.Flags().DurationVar(&o.RoutePoll, "route-poll", 30*time.Second, "how often clients ask for their routes (their pollNameServerInterval): the old master's address is forwarded to the leader for up to two of them; 0: not at all")
	cmd.Flags().DurationVar(&o.PullHold, "pull-hold", 20*time.Second, "how long consumers have brokers hold their pulls (brokerSuspendMaxTimeMillis): before the fence the master is given that time to answer them,\nso that none is lost when it stops, which costs a Java consumer 30 s; 0: not done")
	cmd.Flags().Var(&o.LimitRate, "limit-rate", "bound what each host sends to the others while the old group takes sends, in bytes a `second`: 50M, 1.5G")
	cmd.Flags().StringArrayVar(&o.Keys, "keys", nil, "old messages that must be found on every node, as `TOPIC:KEY` or TOPIC:FIRST..LAST; repeatable")
	cmd.Flags().StringVar(&o.Report, "report", "", "write what was done and measured to this `file` as JSON")
	return cmd
}

func defaultStateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "mqlift")
	}
	home, err := remote.Home()
	if err != nil {
		return ".mqlift"
	}
	return filepath.Join(home, ".local", "state", "mqlift")
}

func runApply(ctx context.Context, o applyOptions, in io.Reader, out, errOut io.Writer) (err error) {
	keys, err := keysOf(o.Keys)
	if err != nil {
		return err
	}
	var saved *plan.Plan
	if o.PlanFile != "" {
		if saved, err = loadPlan(o.PlanFile); err != nil {
			return err
		}
		if o.Group == "" {
			o.Group = saved.Group
		}
		if o.Transfer != "" && saved.Transfer != "" && plan.Transfer(o.Transfer) != saved.Transfer {
			return &usageError{fmt.Errorf("--transfer %s: the saved plan has %s; make another one with `mqlift plan --transfer %[1]s -o FILE`", o.Transfer, saved.Transfer)}
		}
		if o.RebuildIndex && !saved.RebuildIndex {
			return &usageError{errors.New("--rebuild-index: the saved plan carries consume queues and index; make another one with `mqlift plan --rebuild-index -o FILE`")}
		}
		o.Transfer, o.RebuildIndex = string(saved.Transfer), saved.RebuildIndex
	}
	s, err := o.open(ctx)
	if err != nil {
		return wayBackWithout(errOut, o.StateDir, false, shownFindings(errOut, o.target, err))
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	console := dialogue{keys: keys, in: bufio.NewReader(in), out: out}
	dir := filepath.Join(o.StateDir, "runs", s.group.Name)
	if !o.DryRun {
		held, herr := hold(ctx, dir, "apply")
		if herr != nil {
			return herr
		}
		defer func() { err = errors.Join(err, held.Release()) }()
		unfinished, err := run.Unfinished(dir)
		if err != nil {
			return err
		}
		if unfinished != nil {
			if err := o.resume(ctx, s, unfinished, console); err != nil || unfinished.Opened() {
				return err
			}
		}
	}

	facts, err := s.observeForPlan(ctx)
	if err != nil {
		return err
	}
	// Before the plan: what an upgrade in the middle looks like is no fault to be mended by hand.
	lock := facts.Lock()
	if lock != nil && !o.DryRun && !lock.Breakable(o.BreakLock) {
		return &grouplock.Error{Held: lock, Named: o.BreakLock}
	}
	p, err := s.plan(facts)
	if err == nil && lock != nil && !o.DryRun {
		err = halfWay(p, lock)
	}
	if err != nil {
		err = shownFindings(errOut, o.target, err)
		if lock != nil && !o.DryRun {
			return errors.Join(err, printErr(errOut, "mqlift: the lock of run %s was not taken over, since the hosts are not as before that run: what it began has to be undone first, or gone on with, from its journal on %s; where that is lost, `mqlift rollback --break-lock %s` goes back\n", lock.Run, lock.From, lock.Run))
		}
		return err
	}
	if saved != nil {
		if err := plan.CheckFresh(saved, p); err != nil {
			return err
		}
		p = saved
	}
	if o.DryRun {
		view.DryRun(out, terminal(out), p)
		return nil
	}
	if saved == nil && !o.Yes {
		view.Plan(out, terminal(out), p)
		if err := ask(ctx, console.in, out, fmt.Sprintf("\nUpgrade %s now? Until writes are opened, going back is free. Type yes: ", p.Group)); err != nil {
			return err
		}
	}
	id := newRun()
	store := filepath.Join(dir, id)
	if err := os.MkdirAll(store, 0o700); err != nil {
		return fmt.Errorf("the run's folder: %w", err)
	}
	if err := savePlan(filepath.Join(store, "plan.json"), p); err != nil {
		return err
	}
	state := &step.State{Run: id, Started: time.Now()}
	o.unchanged = func(ctx context.Context) error { return s.fits(ctx, p) }
	return o.walk(ctx, s, p, state, store, console, (*run.Walk).Run)
}

// dialogue is what the operator gave and how to ask for more.
type dialogue struct {
	keys []probe.MessageKey
	in   *bufio.Reader
	out  io.Writer
}

// resume takes up a run that was cut short: it goes on where writes had been opened, and takes it back to
// the old group otherwise, from where a new run starts with a plan of its own.
func (o *applyOptions) resume(ctx context.Context, s *session, u *run.Cut, k dialogue) error {
	p, err := loadPlan(filepath.Join(u.Dir, "plan.json"))
	if err != nil {
		return err
	}
	fmt.Fprintf(k.out, "run %s was cut short at %s\n", u.State.Run, u.At)
	if u.State.Replay != nil {
		return &refusedError{fmt.Errorf("run %s was on its way back to the old group: `mqlift rollback --replay` goes on with that", u.State.Run)}
	}
	if u.Opened() && p.Playbook != s.playbook.Name {
		return &usageError{fmt.Errorf("run %s was begun with playbook %s: give the same one", u.State.Run, p.Playbook)}
	}
	return o.walk(ctx, s, p, u.State, u.Dir, k, func(w *run.Walk, ctx context.Context) error {
		if u.Opened() {
			return w.Continue(ctx, u)
		}
		return w.UndoCut(ctx, u)
	})
}

func (o *applyOptions) walk(ctx context.Context, s *session, p *plan.Plan, state *step.State, dir string, k dialogue, do func(*run.Walk, context.Context) error) (err error) {
	journal, _, err := run.OpenJournal(filepath.Join(dir, "journal.jsonl"), state.Run)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	emit, closeLog, err := o.views(k.out, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLog()) }()

	operator, from := whoAmI()
	opts := step.Options{NoFailover: o.NoFailover, LimitRate: int64(o.LimitRate), RoutePoll: o.RoutePoll, PullHold: o.PullHold, BreakLock: o.BreakLock, Keys: k.keys, Credentials: s.credentials, Operator: operator, From: from, Dir: dir}
	if o.Ask {
		opts.Decide = func(ctx context.Context, d step.Decision) error {
			return ask(ctx, k.in, k.out, fmt.Sprintf("%s leads, the logs are certified, %d old keys are found on every new node; sends have been refused for %s.\nGo on and open writes on the new group? After this, going back costs every message written since. Type yes (anything else goes back now, for free): ",
				d.Leader, d.Keys, view.Duration(d.Closed)))
		}
	}
	env, err := s.env(p, state, emit, opts)
	if err != nil {
		return err
	}
	env.Unchanged = o.unchanged
	env.Save = func() error { return journal.Append(run.StateSaved, "", "", "", state) }
	w := &run.Walk{Playbook: s.playbook, Env: env, Journal: journal}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	keeper := env.KeepLock(ctx, cancel)
	env.Reconnect = func(ctx context.Context) error {
		defer keeper.Reconnected()
		return s.reconnect(ctx, env.Nodes, emit)
	}
	over := o.stopping.during(func() {
		emit(event.Event{Time: time.Now(), Kind: event.Note, Text: w.Stopping()})
	}, w.Abandoned)
	watch := s.watchReads(ctx, env)
	err = do(w, ctx)
	over()
	keeper.Stop()
	reads := watch.stop()
	if rerr := o.report(k.out, dir, p, state, reads, err); rerr != nil {
		err = errors.Join(err, rerr)
	}
	if err != nil {
		fmt.Fprintf(k.out, "the journal is %s\n", journal.Path())
	}
	return err
}

// views makes the sink that all events go to: the screen, and the run's log file with everything.
func (o *applyOptions) views(out io.Writer, dir string) (event.Sink, func() error, error) {
	log, err := os.OpenFile(filepath.Join(dir, "events.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("the run's log: %w", err)
	}
	file := view.JSON(log)
	var refused stopwatch
	people := lines(out)
	people.Outage = refused.read
	screen := event.Sink(people.Event)
	if o.JSON {
		screen = view.JSON(out)
	}
	return func(e event.Event) { file(e); refused.see(e); screen(e) }, log.Close, nil
}

// stopwatch follows, by the events, for how long sends have been refused.
type stopwatch struct{ since atomic.Pointer[time.Time] }

func (s *stopwatch) see(e event.Event) {
	switch {
	case (e.Step == "fence-master" || e.Step == "fence-peers") && e.Kind == event.StepBegin:
		s.since.Store(&e.Time)
	case (e.Step == "fence-master" || e.Step == "fence-peers") && e.Kind == event.UndoEnd,
		(e.Step == "open-writes" || e.Step == "give-back") && (e.Kind == event.StepEnd || e.Kind == event.StepSkip):
		s.since.Store(nil)
	}
}

func (s *stopwatch) read() time.Duration {
	if since := s.since.Load(); since != nil {
		return time.Since(*since)
	}
	return 0
}

// ask wants a yes.
func ask(ctx context.Context, in *bufio.Reader, out io.Writer, question string) error {
	fmt.Fprint(out, question)
	answered := make(chan error, 1)
	go func() { // a read from a terminal cannot be called back
		answer, err := in.ReadString('\n')
		switch {
		case strings.TrimSpace(answer) == "yes":
			answered <- nil
		case err != nil && !errors.Is(err, io.EOF):
			answered <- err
		default:
			answered <- &declinedError{}
		}
	}()
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// declinedError is an answer other than yes.
type declinedError struct{}

func (*declinedError) Error() string { return "not confirmed" }

// report shows, and on request writes, what a run came to.
func (o *applyOptions) report(out io.Writer, dir string, p *plan.Plan, state *step.State, reads readReport, cause error) error {
	r := applyReport{Run: state.Run, Group: p.Group, Release: p.Release, Predicted: p.Outage, State: state, Reads: reads, WriteOutageMS: state.WriteOutage().Milliseconds(), OK: cause == nil}
	if cause != nil {
		r.Error = cause.Error()
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	name := "report.json"
	if state.Replay != nil {
		name = "rollback.json" // beside the upgrade's own
	}
	for _, file := range []string{filepath.Join(dir, name), o.Report} {
		if file == "" {
			continue
		}
		if err := os.WriteFile(file, append(data, '\n'), 0o600); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
	}
	if o.JSON {
		return nil
	}
	r.print(out)
	return nil
}

// halfWay refuses to go on where the run that holds the lock, and is dead, may have stopped a slave: a plan
// would take that as how the group was, and leave it so.
func halfWay(p *plan.Plan, lock *grouplock.Held) error {
	var found diag.Findings
	for _, m := range p.Members {
		if m.Stopped {
			found.Add(diag.Finding{Check: "group.lock", Severity: diag.Fail, Host: m.Host, Where: m.ConfPath,
				What: "this slave is stopped, perhaps by run " + lock.Run, Do: "take that run up, or go back from it, or start the slave"})
		}
	}
	return found.Err()
}
