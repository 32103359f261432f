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
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mqlift/internal/diag"
	"mqlift/internal/event"
	"mqlift/internal/grouplock"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/replay"
	"mqlift/internal/run"
	"mqlift/internal/step"
	"mqlift/internal/view"
)

type rollbackOptions struct {
	target
	StateDir  string
	BreakLock string
	Replay    bool
	Yes       bool

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
that, also when the upgrade is long finished, it is refused, saying how many messages written since the
old group would not see. With --replay these are read from the new group, which refuses sends from then on,
kept on this machine, sent to the restored old group again, each queue in its order, and looked up by key.
What cannot be kept is said beforehand. A replay that was cut short is gone on with by the same command.

When a dead run on another machine holds the group, --break-lock with its name takes over.

While a host cannot be reached, --without with its name goes back on the others, before writes were opened:
the old master takes sends again. What is left on that host is undone by the same command without --without
when it is back; when it is gone for good, take it out of the topology and call the same command once more.

Exit codes: 0 gone back, or there is nothing to go back from · 3 refused: writes have been opened ·
5 not all could be undone, such as what is on a host left out · 8 another run holds the group.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRollback(cmd.Context(), o, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.addFlags(cmd)
	cmd.Flags().StringVar(&o.StateDir, "state-dir", defaultStateDir(), "where journals are kept on this machine")
	cmd.Flags().BoolVar(&o.Replay, "replay", false, "after writes were opened: send the messages written since to the old group")
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not ask before a replay")
	cmd.Flags().StringArrayVar(&o.Without, "without", nil, "leave that `host` out, which cannot be reached; repeatable")
	cmd.Flags().StringVar(&o.BreakLock, "break-lock", "", "take over the lock of that `run`, which is dead")
	return cmd
}

func runRollback(ctx context.Context, o rollbackOptions, in io.Reader, out, errOut io.Writer) (err error) {
	s, err := o.open(ctx)
	if err != nil {
		return wayBackWithout(errOut, o.StateDir, true, shownFindings(errOut, o.target, err))
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
	var p *plan.Plan
	if cut != nil {
		p, err = loadPlan(filepath.Join(cut.Dir, "plan.json"))
	} else {
		cut, p, err = o.fromHosts(ctx, s, dir)
	}
	if err != nil {
		return err
	}
	if cut == nil {
		return o.nothing(ctx, s, dir, out)
	}
	if err := o.checkWithout(p, cut); err != nil {
		return err
	}
	k := dialogue{in: bufio.NewReader(in), out: out}
	if !cut.Opened() {
		return o.undo(ctx, s, p, cut, k)
	}
	if !o.Replay && cut.State.Replay != nil {
		return &refusedError{fmt.Errorf("run %s is on its way back already: `mqlift rollback --replay` goes on", cut.State.Run)}
	}
	if !o.Replay {
		return &refusedError{fmt.Errorf("run %s opened writes on the new group: going back %s\n→ `mqlift rollback --replay` goes back all the same", cut.State.Run, s.cost(ctx, p, cut.State))}
	}
	return o.replay(ctx, s, p, cut, k)
}

// checkWithout checks that the old group can be restored without the hosts that are left out.
func (o *rollbackOptions) checkWithout(p *plan.Plan, cut *run.Cut) error {
	if len(o.Without) == 0 {
		return nil
	}
	if cut.Opened() {
		return &refusedError{fmt.Errorf("run %s opened writes on the new group: --without goes back only before that; bring %s back first", cut.State.Run, strings.Join(o.Without, ", "))}
	}
	for _, host := range o.Without {
		i := slices.IndexFunc(p.Members, func(m *plan.Member) bool { return m.Host == host })
		if i < 0 {
			return &usageError{fmt.Errorf("--without %s: run %s has no such host", host, cut.State.Run)}
		}
		if p.Members[i].Kind == plan.Master {
			return &refusedError{fmt.Errorf("--without %s: it is the old master, and there is no old group without it; bring it back first", host)}
		}
	}
	if len(o.Without)*2 > len(p.Members) {
		return &refusedError{fmt.Errorf("--without %s: these are most of the group's hosts, and what runs on them may form the new group by itself; bring some back first", strings.Join(o.Without, ", "))}
	}
	return nil
}

// wayBackWithout adds to a failure to connect how the other hosts are gone back on: where a run was cut short
// here that has not opened writes, or where that is what was asked for.
func wayBackWithout(errOut io.Writer, stateDir string, asked bool, err error) error {
	var connecting *connectError
	var found *diag.Error
	if !errors.As(err, &connecting) || !errors.As(err, &found) {
		return err
	}
	cut, cerr := run.Unfinished(filepath.Join(stateDir, "runs", connecting.group))
	switch {
	case cerr != nil || cut != nil && cut.Opened():
		return err
	case cut != nil:
		fmt.Fprintf(errOut, "run %s was cut short here, at %s, and sends may be refused since\n", cut.State.Run, cut.At)
	case !asked:
		return err
	}
	var without []string
	for _, f := range found.Findings {
		if f.Severity == diag.Fail && f.Host != "" {
			without = append(without, "--without "+f.Host)
		}
	}
	fmt.Fprintf(errOut, "→ where that cannot be mended now, `mqlift rollback %s` goes back on the other hosts, as long as writes were not opened\n", strings.Join(without, " "))
	return err
}

// nothing says what there is where neither a journal nor a record is of a run.
func (o *rollbackOptions) nothing(ctx context.Context, s *session, dir string, out io.Writer) error {
	facts, err := s.observe(ctx)
	if err != nil {
		return err
	}
	if lock := facts.Lock(); lock != nil {
		if o.undoneWithout(dir, lock) {
			return &refusedError{fmt.Errorf("%s: %s, but it was undone without %s, which had been left out, and keeps what it had done there\n→ `mqlift check` says what is in the way on %s; `mqlift apply --break-lock %s` takes the lock over", lock.Host, lock.Holder(), lock.Host, lock.Host, lock.Run)}
		}
		return &refusedError{fmt.Errorf("%s: %s, but it left no record of itself beside the lock, and its journal is not here: it was cut short before it had begun anything else, or its record was removed\n→ run `mqlift rollback` with its journal; when every broker is as before that run (`mqlift status`), `mqlift apply --break-lock %s` takes the lock over", lock.Host, lock.Holder(), lock.Run)}
	}
	switch is := plan.Recognise(s.group, facts); is.State {
	case plan.OldMode, plan.Begun:
		fmt.Fprintf(out, "There is nothing to go back from: %s; no run is unfinished, here or on the hosts.\n", is.Line)
		return nil
	default:
		return &refusedError{fmt.Errorf("%s is not as before an upgrade (%s), and neither a journal here nor a record on the hosts says how it was\n→ give the --state-dir of the machine that began the run; the old broker.conf of a run is kept as broker.conf.before-RUN beside it; `mqlift check` says how an upgrade by hand can be gone on with", s.group.Name, is.Line)}
	}
}

// undoneWithout tells whether a lock is of a run that this machine's journal says has ended: it was undone while
// that host was left out.
func (o *rollbackOptions) undoneWithout(dir string, lock *grouplock.Held) bool {
	if lock == nil || lock.Life == grouplock.Alive {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, lock.Run, "journal.jsonl"))
	return err == nil
}

// rollbackPlaybook is the order of work of a way back from an opened group.
const rollbackPlaybook = "rollback"

// notKept is what a message that is sent again loses, and what else goes with the way back.
const notKept = `Kept of each message: topic, queue, order within its queue, body, keys, tags, flag, all properties, time of
birth. Added: property ` + replay.PropertyOrigin + ` (run/queue/offset in the new group), by which a duplicate is known.
Not kept:
- message id by address and offset, time of storage, born host and store host, queue offsets where anything
  else comes in between;
- order against what a producer that holds to the old master's address sends there before all is sent again;
- delayed messages that are not due yet wait for their whole level again; those from before the upgrade that
  the new group has delivered may be delivered once more by the old master;
- half transactions that are not ended: their producers have to send again;
- mqlift's own messages, and those that brokers write about themselves.
Consumers go on where they were; none skips a message. Where others stand between, they get those after it
twice, and the old master stays closed for a minute, so that they forget their own positions.
Sends are refused from the fence until the old master is open again, reads from the stop of the new group on.
The new group's stores are renamed and stay.
`

// What a replay is reckoned with before it has shown its own rate: messages a second that are read, sent or
// looked up, which is what one queue got on a lab of two processors with much else to do, and how long it
// takes to stop one group and to start the other.
const (
	reckonedRate    = 200
	reckonedRestart = 40 * time.Second
)

// estimate says how long a replay is going to take.
func estimate(messages int64) string {
	each := time.Duration(messages) * time.Second / reckonedRate // for each of reading, sending, looking up
	return fmt.Sprintf("%d messages take about %s, %s of it with sends refused, at %d a second for each of reading, sending and looking up;\nprogress tells the time left at the rate that there is.",
		messages, view.Duration(reckonedRestart+3*each), view.Duration(reckonedRestart+each), reckonedRate)
}

// replay goes back from an opened group: what was written since is sent to the old one again.
func (o *rollbackOptions) replay(ctx context.Context, s *session, p *plan.Plan, cut *run.Cut, k dialogue) error {
	var err error
	if s.playbook, err = playbook.Load(rollbackPlaybook, step.WayBackRequirements()); err != nil {
		return err
	}
	if cut.State.Replay == nil {
		w, werr := s.written(ctx, p, cut.State)
		fmt.Fprintf(k.out, "Going back from run %s %s.\n%s", cut.State.Run, costOf(w, werr, cut.State), notKept)
		if werr == nil {
			fmt.Fprintln(k.out, estimate(w.Messages))
		}
		if !o.Yes {
			if err := ask(ctx, k.in, k.out, fmt.Sprintf("Go back to the old group of %s and send these messages again? Type yes: ", p.Group)); err != nil {
				return err
			}
		}
		if cut, err = keep(p, cut, k.out); err != nil {
			return err
		}
		cut.State.Replay = &step.Replay{}
		for _, m := range p.Members {
			lock, err := step.ReadLock(ctx, &step.Node{Member: m, Remote: s.hosts[m.Host], Agent: s.agents[m.Host]}, p.Group)
			if err != nil {
				return err
			}
			cut.State.Replay.Locked = cut.State.Replay.Locked || lock != nil && lock.Run == cut.State.Run
		}
	} else {
		fmt.Fprintf(k.out, "run %s was cut short on its way back, at %s: going on\n", cut.State.Run, cut.At)
	}
	a := applyOptions{target: o.target, stopping: o.stopping}
	err = a.walk(ctx, s, p, cut.State, cut.Dir, k, func(w *run.Walk, ctx context.Context) error { return w.GoBack(ctx, cut) })
	if err != nil {
		return err
	}
	if o.JSON {
		return nil
	}
	r := cut.State.Replay
	fmt.Fprintf(k.out, "%s is the old master/slave group again; %d messages written since %s were sent again, and all are found by key.\n",
		p.Group, r.Found, cut.State.OpeningAt.Format(time.RFC3339))
	for _, host := range slices.Sorted(maps.Keys(r.Aside)) {
		fmt.Fprintf(k.out, "%s keeps the new group's store in %s\n", host, r.Aside[host])
	}
	fmt.Fprintf(k.out, "this machine keeps the messages in %s\n", filepath.Join(cut.Dir, "messages"))
	return nil
}

// cost says what going back from an opened group costs now.
func (s *session) cost(ctx context.Context, p *plan.Plan, state *step.State) string {
	w, err := s.written(ctx, p, state)
	return costOf(w, err, state)
}

// written counts what an opened group has taken since.
func (s *session) written(ctx context.Context, p *plan.Plan, state *step.State) (step.Written, error) {
	e, err := s.env(p, state, func(event.Event) {}, step.Options{})
	if err != nil {
		return step.Written{}, err
	}
	return e.Written(ctx)
}

func costOf(w step.Written, err error, state *step.State) string {
	since := state.OpeningAt.Format(time.RFC3339)
	if err != nil {
		return fmt.Sprintf("costs every message written since %s; how many cannot be told: %v", since, err)
	}
	if w.Messages == 0 {
		return fmt.Sprintf("costs 0 messages: none was written since %s", since)
	}
	return fmt.Sprintf("costs %d messages written since %s, which the old group would not see (%s); `mqlift rollback --replay` sends them again", w.Messages, since, strings.Join(w.Topics, ", "))
}

// refusedError is a request that is not fulfilled as things stand; nothing was changed.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// undo takes a run back to the old group for free.
func (o *rollbackOptions) undo(ctx context.Context, s *session, p *plan.Plan, cut *run.Cut, k dialogue) error {
	cut, err := keep(p, cut, k.out)
	if err != nil {
		return err
	}
	fmt.Fprintf(k.out, "run %s got to %s; writes were not opened, so that going back is free\n", cut.State.Run, cut.At)
	s.playbook = orderOf(p)
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

// orderOf is the order of work that a plan was made with.
func orderOf(p *plan.Plan) *playbook.Playbook {
	order := &playbook.Playbook{Name: p.Playbook}
	for _, stage := range p.Stages {
		st := playbook.Stage{Name: stage.Name, Clients: stage.Clients, PointOfNoReturn: stage.PointOfNoReturn}
		for _, s := range stage.Steps {
			st.Steps = append(st.Steps, s.Name)
		}
		order.Stages = append(order.Stages, st)
	}
	return order
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

// fromHosts finds a run by what it keeps on the hosts: one that this machine has no journal of, or one that
// is finished. nil when there is none.
func (o *rollbackOptions) fromHosts(ctx context.Context, s *session, dir string) (*run.Cut, *plan.Plan, error) {
	record, err := s.record(ctx)
	if err != nil || record == nil {
		return nil, nil, err
	}
	e, err := s.env(record.Plan, record.State, func(event.Event) {}, step.Options{})
	if err != nil {
		return nil, nil, err
	}
	lock, err := e.Held(ctx)
	if err != nil {
		return nil, nil, err
	}
	if o.undoneWithout(dir, lock) {
		return nil, nil, nil
	}
	if lock != nil && !lock.Breakable(o.BreakLock) {
		return nil, nil, &grouplock.Error{Held: lock, Named: o.BreakLock}
	}
	if record.State.Opening() && lock == nil {
		facts, err := s.observe(ctx)
		if err != nil {
			return nil, nil, err
		}
		if plan.Recognise(s.group, facts).State == plan.OldMode {
			return nil, nil, nil // somebody has gone back since
		}
	}
	cut := &run.Cut{Dir: filepath.Join(dir, record.State.Run), At: "where its journal is", State: record.State}
	records, err := run.ReadJournal(filepath.Join(cut.Dir, "journal.jsonl"))
	switch {
	case errors.Is(err, os.ErrNotExist) && record.State.Replay != nil:
		return nil, nil, &refusedError{fmt.Errorf("run %s was on its way back already, and the messages that it is to send again are on the machine where that was begun: run `mqlift rollback --replay` there; the new group's stores lie beside the old ones on the hosts, renamed", record.State.Run)}
	case errors.Is(err, os.ErrNotExist):
		return cut, record.Plan, nil
	case err != nil:
		return nil, nil, err
	}
	state, err := run.LastState(records)
	if err != nil || state == nil || !state.Opening() {
		return nil, nil, err
	}
	cut.State = state
	return cut, record.Plan, nil
}

// keep makes a folder with a plan and a journal for a run that this machine has none of.
func keep(p *plan.Plan, cut *run.Cut, out io.Writer) (*run.Cut, error) {
	if _, err := os.Stat(filepath.Join(cut.Dir, "journal.jsonl")); err == nil {
		return cut, nil
	}
	if err := os.MkdirAll(cut.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the run's folder: %w", err)
	}
	if err := savePlan(filepath.Join(cut.Dir, "plan.json"), p); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "run %s is known from what it kept on the hosts; its journal is made anew in %s\n", cut.State.Run, cut.Dir)
	return run.Rebuild(cut.Dir, p, cut.State)
}

// record is the newest run's record among all hosts'; nil when there is none. A run whose record says on
// any host that writes were about to be opened counts as one that opened them.
func (s *session) record(ctx context.Context) (*step.Record, error) {
	var newest *step.Record
	for _, m := range s.group.Members {
		if slices.Contains(s.without, m.Host) {
			continue
		}
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
