package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/event"
	"mqlift/internal/grouplock"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/remote"
	"mqlift/internal/step"
)

// rehearsal is a walk whose steps only say what is asked of them.
type rehearsal struct {
	*Walk
	t      *testing.T
	dir    string
	said   []string // "do a", "undo a", …
	events []string
	steps  map[string]*acted
	kill   func() // ends the walk where it stands
}

// acted is a step without hosts. What is nil succeeds.
type acted struct {
	r    *rehearsal
	name string
	done bool // its check finds it done
	ask  func() error
	do   func(context.Context, *step.Env) error
	undo func(context.Context, *step.Env) error
}

func (a *acted) Name() string                      { return a.name }
func (a *acted) Title() string                     { return "title of " + a.name }
func (a *acted) UndoText() string                  { return "take back " + a.name }
func (a *acted) Requirement() playbook.Requirement { return playbook.Requirement{} }
func (a *acted) Describe(*plan.Plan) []plan.Action { return nil }

func (a *acted) Done(context.Context, *step.Env) (bool, string, error) {
	if a.ask != nil {
		if err := a.ask(); err != nil {
			return false, "", err
		}
	}
	return a.done, "seen", nil
}

func (a *acted) Do(ctx context.Context, e *step.Env) error {
	a.r.said = append(a.r.said, "do "+a.name)
	if a.do == nil {
		return ctx.Err()
	}
	return a.do(ctx, e)
}

func (a *acted) Undo(ctx context.Context, e *step.Env) error {
	a.r.said = append(a.r.said, "undo "+a.name)
	if a.undo == nil {
		return ctx.Err()
	}
	return a.undo(ctx, e)
}

// rehearse is a walk over a, b | c | open (the point of no return) | d.
func rehearse(t *testing.T) *rehearsal {
	r := &rehearsal{t: t, dir: filepath.Join(t.TempDir(), "runs"), steps: map[string]*acted{}}
	for _, name := range []string{"a", "b", "c", "open", "d"} {
		r.steps[name] = &acted{r: r, name: name}
	}
	r.steps["open"].do = func(_ context.Context, e *step.Env) error {
		e.State.OpeningAt = time.Now()
		return nil
	}
	r.Walk = &Walk{
		Playbook: &playbook.Playbook{Name: "rehearsal", Stages: []playbook.Stage{
			{Name: "prepare", Steps: []string{"a", "b"}},
			{Name: "certify", Steps: []string{"c"}},
			{Name: "open", PointOfNoReturn: true, Steps: []string{"open"}},
			{Name: "finish", Steps: []string{"d"}},
		}},
		Steps: func(name string) (step.Step, bool) {
			s, ok := r.steps[name]
			return s, ok
		},
	}
	r.begin("run-1", &step.State{Run: "run-1"})
	return r
}

// begin gives the walk a journal below the runs' folder.
func (r *rehearsal) begin(run string, state *step.State) {
	r.t.Helper()
	j, _, err := OpenJournal(filepath.Join(r.dir, run, "journal.jsonl"), run)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { j.Close() })
	r.Journal, r.begun, r.undoes = j, nil, false
	r.Env = &step.Env{Plan: &plan.Plan{Group: "broker-a"}, State: state, Emit: func(e event.Event) {
		r.events = append(r.events, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Kind, e.Stage, e.Step)))
	}}
	r.Env.Save = func() error { return j.Append(StateSaved, "", "", "", state) }
}

func (r *rehearsal) journal() []string {
	r.t.Helper()
	records, err := ReadJournal(r.Journal.Path())
	if err != nil {
		r.t.Fatal(err)
	}
	var l []string
	for _, rec := range records {
		l = append(l, strings.TrimSpace(fmt.Sprintf("%s %s %s", rec.Kind, rec.Stage, rec.Step)))
	}
	return l
}

func (r *rehearsal) wantSaid(want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.said); diff != "" {
		r.t.Errorf("done: want (-), got (+)\n%s", diff)
	}
}

// wantFailure checks that err is a failure of that step.
func wantFailure(t *testing.T, err error, stage, name string) *Failure {
	t.Helper()
	var f *Failure
	if !errors.As(err, &f) {
		t.Fatalf("%T %v is no failure of a step", err, err)
	}
	if f.Stage != stage || f.Step != name {
		t.Errorf("failed at %s / %s, want %s / %s", f.Stage, f.Step, stage, name)
	}
	return f
}

var errBroken = errors.New("the disk is gone")

func broken(context.Context, *step.Env) error { return errBroken }

func TestAllStepsAreDoneInTheOrderOfThePlaybook(t *testing.T) {
	r := rehearse(t)
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wantSaid("do a", "do b", "do c", "do open", "do d")
	want := []string{"run-begin",
		"begin prepare a", "done prepare a", "begin prepare b", "done prepare b",
		"begin certify c", "done certify c", "begin open open", "done open open", "begin finish d", "done finish d",
		"run-end"}
	if diff := cmp.Diff(want, r.journal()); diff != "" {
		t.Errorf("journal: want (-), got (+)\n%s", diff)
	}
	want = []string{
		"stage-begin prepare", "step-begin prepare a", "step-end prepare a", "step-begin prepare b", "step-end prepare b", "stage-end prepare",
		"stage-begin certify", "step-begin certify c", "step-end certify c", "stage-end certify",
		"stage-begin open", "step-begin open open", "step-end open open", "stage-end open",
		"stage-begin finish", "step-begin finish d", "step-end finish d", "stage-end finish"}
	if diff := cmp.Diff(want, r.events); diff != "" {
		t.Errorf("events: want (-), got (+)\n%s", diff)
	}
	var stages []string
	for _, s := range r.Env.State.Stages {
		stages = append(stages, s.Name)
	}
	if got := strings.Join(stages, " "); got != "prepare certify open finish" {
		t.Errorf("times are kept of %s", got)
	}
}

// The way back must be on disk before a step changes anything.
func TestAStepIsJournalledBeforeItIsDoneAndAfter(t *testing.T) {
	r := rehearse(t)
	r.steps["b"].do = func(_ context.Context, e *step.Env) error {
		if got := r.journal(); got[len(got)-1] != "begin prepare b" {
			t.Errorf("the last record while b is done is %q", got[len(got)-1])
		}
		e.State.FencedEnd = 77
		return nil
	}
	r.steps["c"].do = func(context.Context, *step.Env) error {
		records, err := ReadJournal(r.Journal.Path())
		if err != nil {
			return err
		}
		if s, err := LastState(records); err != nil || s.FencedEnd != 77 {
			t.Errorf("the state on disk while c is done is %+v, %v", s, err)
		}
		return nil
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAStepFoundDoneIsSkipped(t *testing.T) {
	r := rehearse(t)
	r.steps["b"].done = true
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wantSaid("do a", "do c", "do open", "do d")
	if got := strings.Join(r.journal(), ", "); !strings.Contains(got, "done prepare a, skipped prepare b, begin certify c") {
		t.Error(got)
	}
	if got := strings.Join(r.events, ", "); !strings.Contains(got, "step-begin prepare b, step-skip prepare b, stage-end prepare") {
		t.Error(got)
	}
}

func TestAFailedStepAndAllBeforeItAreUndoneInReverse(t *testing.T) {
	for _, where := range []string{"check", "doing"} {
		t.Run(where, func(t *testing.T) {
			r := rehearse(t)
			r.steps["b"].undo = func(context.Context, *step.Env) error { return step.ErrNothingToUndo }
			want := []string{"do a", "do b", "do c", "undo c", "undo b", "undo a"}
			if where == "check" {
				r.steps["c"].ask = func() error { return errBroken }
				want = []string{"do a", "do b", "undo c", "undo b", "undo a"}
			} else {
				r.steps["c"].do = broken
			}
			err := r.Run(t.Context())
			f := wantFailure(t, err, "certify", "c")
			if !f.Undone || f.Past || f.UndoErr != nil || !errors.Is(err, errBroken) {
				t.Errorf("%+v", f)
			}
			if !strings.Contains(err.Error(), "everything was undone: the old group serves as before") {
				t.Error(err)
			}
			r.wantSaid(want...)
			if got := r.journal(); got[len(got)-1] != "run-end" {
				t.Errorf("the journal ends with %q", got[len(got)-1])
			}
			if cut, err := Unfinished(r.dir); cut != nil || err != nil {
				t.Errorf("what was undone is taken for a cut run: %+v, %v", cut, err)
			}
		})
	}
}

func TestWhatCannotBeUndoneIsNamedAndDoesNotKeepTheRest(t *testing.T) {
	r := rehearse(t)
	errStuck := errors.New("the broker does not answer")
	r.steps["c"].do = broken
	r.steps["b"].undo = func(context.Context, *step.Env) error { return errStuck }
	err := r.Run(t.Context())
	f := wantFailure(t, err, "certify", "c")
	if f.Undone || f.Past || !errors.Is(f.UndoErr, errStuck) || !errors.Is(err, errStuck) || !errors.Is(err, errBroken) {
		t.Errorf("%+v", f)
	}
	for _, want := range []string{"the disk is gone", "not everything could be undone", "undoing b: the broker does not answer", "mqlift status"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nis without %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "serves as before") {
		t.Error(err)
	}
	r.wantSaid("do a", "do b", "do c", "undo c", "undo b", "undo a")
	if got := strings.Join(r.journal(), ", "); !strings.Contains(got, "undo-failed prepare b, undo-begin prepare a, undone prepare a") {
		t.Error(got)
	}
}

func TestNothingIsUndoneOnceWritesMayBeOpen(t *testing.T) {
	for name, failing := range map[string]string{"in the step that opens them": "open", "after it": "d"} {
		t.Run(name, func(t *testing.T) {
			r := rehearse(t)
			r.steps[failing].do = func(_ context.Context, e *step.Env) error {
				e.State.OpeningAt = time.Now()
				return errBroken
			}
			err := r.Run(t.Context())
			f := wantFailure(t, err, map[string]string{"open": "open", "d": "finish"}[failing], failing)
			if !f.Past || f.Undone || f.UndoErr != nil || !errors.Is(err, errBroken) {
				t.Errorf("%+v", f)
			}
			if !strings.Contains(err.Error(), "nothing was undone") {
				t.Error(err)
			}
			for _, s := range r.said {
				if strings.HasPrefix(s, "undo") {
					t.Errorf("%s", s)
				}
			}
			// It ended with its words said, and still has to be gone on with.
			if cut, err := Unfinished(r.dir); cut == nil || err != nil {
				t.Errorf("nothing to go on with: %v", err)
			}
		})
	}
}

func TestAfterCtrlCEverythingIsUndoneWithALiveContext(t *testing.T) {
	r := rehearse(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.steps["b"].do = func(ctx context.Context, _ *step.Env) error {
		cancel()
		return ctx.Err()
	}
	for _, name := range []string{"a", "b"} {
		r.steps[name].undo = func(ctx context.Context, _ *step.Env) error {
			if _, limited := ctx.Deadline(); !limited {
				t.Errorf("%s is undone without a limit", name)
			}
			return ctx.Err()
		}
	}
	err := r.Run(ctx)
	f := wantFailure(t, err, "prepare", "b")
	if !f.Undone || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "stopped on request") {
		t.Errorf("%+v", f)
	}
	r.wantSaid("do a", "do b", "undo b", "undo a")
}

// cutAt ends the walk as a kill does: nothing more is done, said or written.
func (r *rehearsal) cutAt(during func() error) {
	r.t.Helper()
	type killed struct{}
	func() {
		defer func() {
			if p := recover(); p != nil && p != any(killed{}) {
				panic(p)
			}
		}()
		r.kill = func() { panic(killed{}) }
		if err := during(); err != nil {
			r.t.Errorf("it was not killed and ended with %v", err)
		} else {
			r.t.Error("it was not killed")
		}
	}()
	if err := r.Journal.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.said, r.events = nil, nil
}

// again is what the next mqlift finds and goes on with.
func (r *rehearsal) again() *Cut {
	r.t.Helper()
	cut, err := Unfinished(r.dir)
	if err != nil || cut == nil {
		r.t.Fatalf("there is nothing to go on with: %v", err)
	}
	r.begin(filepath.Base(cut.Dir), cut.State)
	return cut
}

// What a torn record began is not known, and is undone all the same.
func TestAStepWhoseBeginningIsTornIsUndone(t *testing.T) {
	r := rehearse(t)
	r.steps["c"].do = func(context.Context, *step.Env) error { r.kill(); return nil }
	r.cutAt(func() error { return r.Run(t.Context()) })
	path := r.Journal.Path()
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, data[:len(data)-20], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	cut, err := Unfinished(r.dir)
	if err != nil || cut == nil || cut.At != "prepare / b" {
		t.Fatalf("%+v %v", cut, err)
	}
	r.begin(filepath.Base(cut.Dir), cut.State)
	r.said = nil
	if err := r.takeUp(cut); err != nil {
		t.Fatal(err)
	}
	r.wantSaid("undo c", "undo b", "undo a")
}

func TestARunKilledBeforeWritesWereOpenedIsUndone(t *testing.T) {
	r := rehearse(t)
	r.steps["a"].do = func(_ context.Context, e *step.Env) error { e.State.FencedEnd = 9; return nil }
	r.steps["b"].done = true
	r.steps["c"].do = func(context.Context, *step.Env) error { r.kill(); return nil }
	r.cutAt(func() error { return r.Run(t.Context()) })

	cut := r.again()
	if cut.At != "certify / c" || cut.Dir != filepath.Join(r.dir, "run-1") || cut.State.Run != "run-1" || cut.State.FencedEnd != 9 {
		t.Errorf("%+v with %+v", cut, cut.State)
	}
	if err := r.takeUp(cut); err != nil {
		t.Fatal(err)
	}
	r.wantSaid("undo c", "undo b", "undo a")
	if cut, err := Unfinished(r.dir); cut != nil || err != nil {
		t.Errorf("unfinished still: %+v %v", cut, err)
	}
}

func TestWhatIsKeptBesideTheRunsIsNoRun(t *testing.T) {
	r := rehearse(t)
	r.steps["c"].do = func(context.Context, *step.Env) error { r.kill(); return nil }
	r.cutAt(func() error { return r.Run(t.Context()) })
	run := filepath.Join(r.dir, "run-1")
	for _, name := range []string{"run-1.damaged", "run-1 copy", "run-2-copied"} {
		if err := os.CopyFS(filepath.Join(r.dir, name), os.DirFS(run)); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{"run-1.damaged/journal.jsonl": "no record\n", "run-3": "notes\n"} {
		if err := os.WriteFile(filepath.Join(r.dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if cut, err := Unfinished(r.dir); err != nil || cut == nil || cut.Dir != run {
		t.Errorf("%+v, %v", cut, err)
	}
	file := filepath.Join(r.dir, "run-3")
	if cut, err := Unfinished(file); cut != nil || err == nil || !strings.Contains(err.Error(), file+" is no folder") {
		t.Errorf("%+v, %v", cut, err)
	}
}

func TestARunKilledAfterWritesWereOpenedGoesOnFromThere(t *testing.T) {
	for name, killedIn := range map[string]string{"while opening": "open", "later": "d"} {
		t.Run(name, func(t *testing.T) {
			r := rehearse(t)
			opening := r.steps["open"].do
			r.steps[killedIn].do = func(ctx context.Context, e *step.Env) error {
				if err := opening(ctx, e); err != nil {
					return err
				}
				if err := e.Save(); err != nil {
					return err
				}
				r.kill()
				return nil
			}
			r.cutAt(func() error { return r.Run(t.Context()) })

			cut := r.again()
			r.steps["open"].do, r.steps[killedIn].do = opening, nil
			if err := r.takeUp(cut); err != nil {
				t.Fatal(err)
			}
			r.wantSaid("do open", "do d")
		})
	}
}

func TestWhatAKilledRunBeganAndCannotBeUndoneStopsTheNextOne(t *testing.T) {
	r := rehearse(t)
	r.steps["b"].do = func(context.Context, *step.Env) error { r.kill(); return nil }
	r.cutAt(func() error { return r.Run(t.Context()) })

	cut := r.again()
	r.steps["a"].undo = broken
	err := r.takeUp(cut)
	f := wantFailure(t, err, "resume", "undo")
	if !errors.Is(f.UndoErr, errBroken) || f.Undone || f.Past {
		t.Errorf("%+v", f)
	}
	r.wantSaid("undo b", "undo a")
	if cut, err := Unfinished(r.dir); cut == nil || err != nil {
		t.Errorf("the next one would not try again: %v", err)
	}
}

// What cannot be undone on a host that is left out stays to be undone, and the rest is not undone again.
func TestAHostThatIsLeftOutIsUndoneLater(t *testing.T) {
	for _, c := range []struct {
		name string
		also error
		all  bool // was undone on the others
	}{
		{"all the rest is undone", nil, true},
		{"another host fails, too", errBroken, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rehearse(t)
			r.steps["b"].do = func(context.Context, *step.Env) error { r.kill(); return nil }
			r.cutAt(func() error { return r.Run(t.Context()) })

			cut := r.again()
			r.Env.Nodes = []*step.Node{{Member: &plan.Member{Host: "host-c"}, LeftOut: true, Remote: remote.Absent("host-c", "10.0.0.3:22", step.ErrLeftOut)}}
			r.steps["a"].undo = func(ctx context.Context, e *step.Env) error {
				_, err := e.Nodes[0].Remote.ReadFile(ctx, "/etc/hostname")
				return errors.Join(fmt.Errorf("host-c: %w", err), c.also)
			}
			f := wantFailure(t, r.takeUp(cut), "resume", "undo")
			if (len(f.LeftOut) > 0) != c.all || strings.Contains(f.Error(), "serves without host-c") != c.all {
				t.Error(f)
			}
			r.wantSaid("undo b", "undo a")

			cut = r.again()
			r.Env.Nodes, r.steps["a"].undo = nil, nil
			if err := r.takeUp(cut); err != nil {
				t.Error(err)
			}
			r.wantSaid("undo b", "undo a", "undo a")
		})
	}
}

// retire-master's way back closes a master that fence-master's then opens: taken once more, and out
// of a state in which the fence is gone, it would leave a serving master closed.
func TestWhatIsUndoneIsNotUndoneAgain(t *testing.T) {
	t.Run("after a kill while undoing", func(t *testing.T) {
		r := rehearse(t)
		r.steps["c"].do = broken
		r.steps["a"].undo = func(context.Context, *step.Env) error { r.kill(); return nil }
		r.cutAt(func() error { return r.Run(t.Context()) })

		cut := r.again()
		r.steps["a"].undo, r.steps["c"].do = nil, nil
		if err := r.takeUp(cut); err != nil {
			t.Fatal(err)
		}
		r.wantSaid("undo a")
	})
	t.Run("after a second kill", func(t *testing.T) {
		r := rehearse(t)
		r.steps["c"].do = func(context.Context, *step.Env) error { r.kill(); return nil }
		r.cutAt(func() error { return r.Run(t.Context()) })

		cut := r.again()
		r.steps["b"].undo = func(context.Context, *step.Env) error { r.kill(); return nil }
		r.cutAt(func() error { return r.takeUp(cut) })

		cut = r.again()
		r.steps["b"].undo = nil
		if err := r.takeUp(cut); err != nil {
			t.Fatal(err)
		}
		r.wantSaid("undo b", "undo a")
	})
}

// takeUp does what apply does with a run that was cut short.
func (r *rehearsal) takeUp(c *Cut) error {
	if c.Opened() {
		return r.Continue(r.t.Context(), c)
	}
	return r.UndoCut(r.t.Context(), c)
}

// locked is rehearse with the step that takes the lock before all others.
func locked(t *testing.T) *rehearsal {
	r := rehearse(t)
	r.steps[lockStep] = &acted{r: r, name: lockStep}
	r.Playbook.Stages = append([]playbook.Stage{{Name: "lock", Steps: []string{lockStep}}}, r.Playbook.Stages...)
	return r
}

func TestTheLockStaysUntilAllIsUndone(t *testing.T) {
	r := locked(t)
	r.steps["c"].do = broken
	r.steps["a"].undo = broken
	f := wantFailure(t, r.Run(t.Context()), "certify", "c")
	if f.Undone || !errors.Is(f.UndoErr, errBroken) {
		t.Errorf("%+v", f)
	}
	r.wantSaid("do lock-group", "do a", "do b", "do c", "undo c", "undo b", "undo a")
	if err := r.Journal.Close(); err != nil {
		t.Fatal(err)
	}

	// The next apply tries what is left, and then the lock goes.
	cut := r.again()
	r.said, r.steps["a"].undo = nil, nil
	if err := r.takeUp(cut); err != nil {
		t.Fatal(err)
	}
	r.wantSaid("undo a", "undo lock-group")
	if cut, err := Unfinished(r.dir); cut != nil || err != nil {
		t.Errorf("unfinished still: %+v %v", cut, err)
	}
}

func TestTheConnectionsAreMendedBeforeAnythingIsUndone(t *testing.T) {
	r := locked(t)
	r.steps["a"].do = broken
	r.Env.Reconnect = func(context.Context) error {
		r.said = append(r.said, "reconnect")
		return errors.New("host-b does not answer")
	}
	err := r.Run(t.Context())
	f := wantFailure(t, err, "prepare", "a")
	if f.Undone || f.UndoErr == nil || !strings.Contains(err.Error(), "host-b does not answer") {
		t.Errorf("%+v", f)
	}
	r.wantSaid("do lock-group", "do a", "reconnect", "undo a")
}

// A connection that has gone silent is known to be lost only when it is used: in the middle of the undoing.
func TestWhatALostConnectionKeptFromBeingUndoneIsTriedOnceMore(t *testing.T) {
	lost := &remote.TransientError{Err: errors.New("no sign of life")}
	for name, c := range map[string]struct {
		back error
		want []string
	}{
		"back":  {nil, []string{"do lock-group", "do a", "do b", "reconnect", "undo b", "undo a", "reconnect", "undo a", "undo lock-group"}},
		"still": {errBroken, []string{"do lock-group", "do a", "do b", "reconnect", "undo b", "undo a", "reconnect"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := locked(t)
			r.steps["b"].do = broken
			tries := 0
			r.steps["a"].undo = func(context.Context, *step.Env) error {
				if tries++; tries == 1 {
					return fmt.Errorf("host-a: %w", lost)
				}
				return nil
			}
			calls := 0
			r.Env.Reconnect = func(context.Context) error {
				r.said = append(r.said, "reconnect")
				if calls++; calls == 1 {
					return nil // nobody has noticed yet
				}
				return c.back
			}
			f := wantFailure(t, r.Run(t.Context()), "prepare", "b")
			if f.Undone != (c.back == nil) {
				t.Errorf("%+v", f)
			}
			r.wantSaid(c.want...)
		})
	}
}

func TestACutRunWithAStepOfAnotherVersionIsLeftAlone(t *testing.T) {
	r := rehearse(t)
	r.steps["c"].do = func(context.Context, *step.Env) error { r.kill(); return nil }
	r.cutAt(func() error { return r.Run(t.Context()) })

	cut := r.again()
	delete(r.steps, "b")
	if err := r.takeUp(cut); err == nil || !strings.Contains(err.Error(), `names the step "b", which this mqlift does not have`) {
		t.Error(err)
	}
	if len(r.said) > 0 {
		t.Errorf("all the same: %q", r.said)
	}
}

func TestARunWhoseLockWasTakenOverTouchesNothingMore(t *testing.T) {
	lost := &step.LostLockError{By: &grouplock.Held{Host: "host-a", Lock: grouplock.Lock{Run: "run-2", Operator: "bob"}}}
	r := locked(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	r.steps["b"].do = func(ctx context.Context, _ *step.Env) error {
		cancel(lost) // as the keeper of the lock does
		return ctx.Err()
	}
	err := r.Run(ctx)
	f := wantFailure(t, err, "prepare", "b")
	if f.Undone || f.UndoErr != nil || !errors.As(err, &lost) || !strings.Contains(err.Error(), "run run-2 of bob") {
		t.Errorf("%+v: %v", f, err)
	}
	r.wantSaid("do lock-group", "do a", "do b")
	if cut, err := Unfinished(r.dir); cut != nil || err != nil {
		t.Errorf("the next apply would undo it: %+v, %v", cut, err)
	}
}

// Every way out names what is temporary, and so does the way out before there is one.
func TestWhatIsLeftIsNamedOnEveryWayOut(t *testing.T) {
	members := &plan.Plan{Members: []*plan.Member{{Host: "host-a", Kind: plan.Master}, {Host: "host-b", Kind: plan.Slave}}}
	const lock = "host-a, host-b: the lock of run run-1"
	during := func(t *testing.T, at string, do func(*rehearsal, *step.Env) error) (*rehearsal, error) {
		r := locked(t)
		r.Env.Plan = members
		r.steps[at].do = func(_ context.Context, e *step.Env) error {
			if at == "open" || at == "d" {
				e.State.OpeningAt = time.Now()
			}
			if err := e.Save(); err != nil {
				t.Error(err)
			}
			return do(r, e)
		}
		return r, r.Run(t.Context())
	}
	says := func(t *testing.T, text string, wanted ...string) {
		t.Helper()
		for _, s := range wanted {
			if !strings.Contains(text, s) {
				t.Errorf("%q is not in: %s", s, text)
			}
		}
	}
	t.Run("all undone", func(t *testing.T) {
		_, err := during(t, "b", func(*rehearsal, *step.Env) error { return errBroken })
		if strings.Contains(err.Error(), "left as it is") {
			t.Error(err)
		}
	})
	t.Run("not all undone", func(t *testing.T) {
		_, err := during(t, "b", func(r *rehearsal, _ *step.Env) error {
			r.steps["a"].undo = broken
			return errBroken
		})
		says(t, err.Error(), lock, "`mqlift apply` again: it undoes the rest first")
	})
	t.Run("past open", func(t *testing.T) {
		_, err := during(t, "d", func(*rehearsal, *step.Env) error { return errBroken })
		says(t, err.Error(), "host-a: the old master may be down", lock)
	})
	t.Run("Ctrl-C before open", func(t *testing.T) {
		during(t, "b", func(r *rehearsal, _ *step.Env) error {
			says(t, r.Stopping(), "b is cut short", "everything is undone: the old group serves all the time", "Ctrl-C once more")
			says(t, r.Abandoned(), "in b", "`mqlift rollback` undoes what was begun", lock)
			return nil
		})
	})
	t.Run("Ctrl-C while going back", func(t *testing.T) {
		during(t, "b", func(r *rehearsal, _ *step.Env) error {
			r.steps["a"].undo = func(context.Context, *step.Env) error {
				says(t, r.Stopping(), "going back already")
				says(t, r.Abandoned(), "in a", lock)
				return nil
			}
			return errBroken
		})
	})
	t.Run("Ctrl-C past open", func(t *testing.T) {
		during(t, "d", func(r *rehearsal, _ *step.Env) error {
			says(t, r.Stopping(), "writes are open", "nothing is undone", "`mqlift apply` goes on from there")
			says(t, r.Abandoned(), "in d", "`mqlift apply` goes on", "the old master may be down", lock)
			return nil
		})
	})
}
