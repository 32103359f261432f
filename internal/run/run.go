package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"mqlift/internal/event"
	"mqlift/internal/grouplock"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/remote"
	"mqlift/internal/step"
)

// Walk is one pass over a playbook.
type Walk struct {
	Playbook *playbook.Playbook
	Env      *step.Env
	Journal  *Journal
	// Steps finds a step by its name; nil means step.ByName.
	Steps func(name string) (step.Step, bool)

	mu     sync.Mutex
	begun  []place // and not undone
	undoes bool    // it is on its way back
}

func (w *Walk) byName(name string) (step.Step, bool) {
	if w.Steps != nil {
		return w.Steps(name)
	}
	return step.ByName(name)
}

// Failure is why a walk did not get to its end.
type Failure struct {
	Stage, Step string
	Err         error // what went wrong
	// Undone tells that everything was taken back and the old group serves as before.
	Undone bool
	// UndoErr is what could not be taken back.
	UndoErr error
	// Past tells that writes had been opened: going back is no longer free and nothing was undone.
	Past bool
	// Back tells that it is the way back from an opened group that failed.
	Back bool
	// Left is what is temporary still.
	Left []string
	// LeftOut are the hosts on which nothing could be undone, since the operator went back without them, when
	// all was undone on the others.
	LeftOut []string
}

func (f *Failure) Error() string {
	s := fmt.Sprintf("%s / %s: %v", f.Stage, f.Step, f.Err)
	var locked *grouplock.Error
	var stale *plan.StaleError
	var lost *step.LostLockError
	switch {
	case errors.As(f.Err, &lost):
		s += "\nit is that run's group now: nothing was undone, and this run ends here"
	case f.Undone && (errors.As(f.Err, &locked) || errors.As(f.Err, &stale)):
		s += "\nnothing was changed"
	case f.Back && f.Past:
		s += "\nthe new group is stopped, and its messages are kept on this machine: `mqlift rollback --replay` again goes on from there; the old master is closed to clients until then"
	case f.Back && f.Undone:
		s += "\nthe new group takes sends again, as before"
	case f.Back && f.UndoErr != nil:
		s += fmt.Sprintf("\nthe new group may refuse sends:\n%v\n`mqlift rollback --replay` again goes on", f.UndoErr)
	case f.Past && errors.Is(f.Err, context.Canceled):
		s += "\nwrites are open on the new group and stay so; nothing was undone. `mqlift apply` goes on from there"
	case f.Past:
		s += "\nwrites are open on the new group and stay so; nothing was undone. Mend the cause, then run `mqlift apply` again: it goes on from what is true on the hosts"
	case len(f.LeftOut) > 0:
		hosts := strings.Join(f.LeftOut, ", ")
		s += fmt.Sprintf("\nthe old group serves without %s, where nothing was undone: when it is back, run `mqlift rollback` again before it is used; when it is gone for good, take it out of the topology and run `mqlift rollback --without %s` once more", hosts, strings.Join(f.LeftOut, " --without "))
	case f.UndoErr != nil:
		s += fmt.Sprintf("\nnot everything could be undone:\n%v\nlook at `mqlift status`, mend the cause, then run `mqlift apply` again: it undoes the rest first", f.UndoErr)
	case f.Undone:
		s += "\neverything was undone: the old group serves as before, and what was copied stays for the next try"
	}
	return s + leftText(f.Left)
}

// leftText lists what is temporary still; nothing when nothing is.
func leftText(left []string) string {
	if len(left) == 0 {
		return ""
	}
	return "\nleft as it is until then:\n  " + strings.Join(left, "\n  ")
}

func (f *Failure) Unwrap() []error { return []error{f.Err, f.UndoErr} }

// Run does every step that its check does not find done. When one fails, or ctx ends, before writes
// were opened, all that was done is undone in reverse order, with a context of its own, because half
// an upgrade is a write outage.
func (w *Walk) Run(ctx context.Context) error { return w.run(ctx, false) }

// run does the steps; with opened set, only those from the one that opens writes on.
func (w *Walk) run(ctx context.Context, opened bool) error {
	if err := w.Journal.Append(RunBegin, "", "", w.Playbook.Name, nil); err != nil {
		return err
	}
	for _, stage := range w.Playbook.Stages {
		if opened = opened && !stage.PointOfNoReturn; opened {
			continue
		}
		w.event(event.StageBegin, stage.Name, "", stage.Clients, 0)
		began := time.Now()
		for _, name := range stage.Steps {
			s, ok := w.byName(name)
			if !ok {
				return fmt.Errorf("stage %s: there is no step %q", stage.Name, name) // Load refuses it earlier
			}
			at := place{stage.Name, s}
			w.begins(at)
			if err := w.step(ctx, at); err != nil {
				return w.fail(ctx, at, err)
			}
		}
		took := time.Since(began)
		w.Env.State.Stages = append(w.Env.State.Stages, step.StageTime{Name: stage.Name, Began: began, Took: took})
		w.event(event.StageEnd, stage.Name, "", "", took)
	}
	return w.Journal.Append(RunEnd, "", "", endDone, w.Env.State)
}

// endDone is the text of a run-end record when all was done.
const endDone = "done"

type place struct {
	stage string
	step  step.Step
}

func (p place) is(o place) bool { return p.stage == o.stage && p.step.Name() == o.step.Name() }

func (w *Walk) step(ctx context.Context, p place) error {
	name := p.step.Name()
	w.Env.At(p.stage, name)
	if err := errors.Join(ctx.Err(), w.Env.LockLost(ctx)); err != nil {
		return err
	}
	w.event(event.StepBegin, p.stage, name, p.step.Title(), 0)
	began := time.Now()
	done, seen, err := p.step.Done(ctx, w.Env)
	if err != nil {
		w.event(event.StepFail, p.stage, name, err.Error(), time.Since(began))
		return err
	}
	if done {
		w.event(event.StepSkip, p.stage, name, seen, time.Since(began))
		return w.Journal.Append(StepSkip, p.stage, name, seen, nil)
	}
	if err := w.Journal.Append(StepBegin, p.stage, name, p.step.Title(), w.Env.State); err != nil {
		return err
	}
	if err := p.step.Do(ctx, w.Env); err != nil {
		w.event(event.StepFail, p.stage, name, err.Error(), time.Since(began))
		return errors.Join(err, w.Journal.Append(StepFail, p.stage, name, err.Error(), w.Env.State))
	}
	w.event(event.StepEnd, p.stage, name, "", time.Since(began))
	return w.Journal.Append(StepDone, p.stage, name, "", w.Env.State)
}

// fail undoes what was begun, the failed step included, unless writes are open or the group is another
// run's.
func (w *Walk) fail(ctx context.Context, last place, cause error) error {
	if ctx.Err() != nil {
		cause = fmt.Errorf("stopped on request: %w", context.Cause(ctx)) // what the step said of it is in the journal
	}
	f := &Failure{Stage: last.stage, Step: last.step.Name(), Err: cause}
	var lost *step.LostLockError
	if err := w.Env.LockLost(context.WithoutCancel(ctx)); errors.As(err, &lost) || errors.As(cause, &lost) {
		f.Err, f.Past = lost, w.Env.State.Opening()
		return errors.Join(f, w.Journal.Append(RunEnd, "", "", f.Error(), w.Env.State))
	}
	f.Back = w.Env.State.Replay != nil
	if w.Env.State.Final() {
		f.Past, f.Left = true, w.Left()
		return errors.Join(f, w.Journal.Append(RunEnd, "", "", f.Error(), w.Env.State))
	}
	// The operator's Ctrl-C ended ctx; going back must not end with it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Minute)
	defer cancel()
	f.UndoErr = w.undo(ctx)
	if f.UndoErr != nil { // the next apply goes on with the undoing
		f.Left = w.Left()
		return errors.Join(f, w.Journal.Append(StateSaved, "", "", f.Error(), w.Env.State))
	}
	f.Undone, w.Env.State.Replay = true, nil
	return errors.Join(f, w.Journal.Append(RunEnd, "", "", f.Error(), w.Env.State))
}

// undo takes the begun steps back in reverse order. One that cannot be taken back does not keep the others.
func (w *Walk) undo(ctx context.Context) error {
	var errs []error
	if w.Env.Reconnect != nil {
		errs = append(errs, w.Env.Reconnect(ctx))
	}
	for _, p := range w.goesBack() {
		name := p.step.Name()
		w.Env.At(p.stage, name)
		if err := w.Env.LockLost(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if name == lockStep && errors.Join(errs...) != nil {
			w.event(event.Note, p.stage, name, "the lock stays, since not all was undone", 0)
			continue
		}
		began := time.Now()
		errs = append(errs, w.Journal.Append(UndoBegin, p.stage, name, "", nil))
		w.event(event.UndoBegin, p.stage, name, p.step.UndoText(), 0)
		switch err := w.undoStep(ctx, p.step); {
		case errors.Is(err, step.ErrNothingToUndo):
			w.event(event.UndoEnd, p.stage, name, "nothing to undo", 0)
			errs = append(errs, w.Journal.Append(UndoDone, p.stage, name, "nothing to undo", nil))
			w.undone(p)
		case err != nil:
			errs = append(errs, fmt.Errorf("undoing %s: %w", name, err), w.Journal.Append(UndoFail, p.stage, name, err.Error(), w.Env.State))
			w.event(event.UndoFail, p.stage, name, err.Error(), time.Since(began))
		default:
			w.event(event.UndoEnd, p.stage, name, "", time.Since(began))
			errs = append(errs, w.Journal.Append(UndoDone, p.stage, name, "", w.Env.State))
			w.undone(p)
		}
	}
	return errors.Join(errs...)
}

// undoStep undoes a step, and once more when a connection was lost in the middle and is back: one that has
// gone silent is known to be lost only when it is used.
func (w *Walk) undoStep(ctx context.Context, s step.Step) error {
	err := s.Undo(ctx, w.Env)
	if w.Env.Reconnect == nil || !remote.Transient(err) || w.Env.Reconnect(ctx) != nil {
		return err
	}
	return s.Undo(ctx, w.Env)
}

func (w *Walk) event(kind event.Kind, stage, name, text string, took time.Duration) {
	w.Env.Emit(event.Event{Time: time.Now(), Kind: kind, Stage: stage, Step: name, Text: text, Took: took})
}

// LastState is the newest state in a journal, nil when there is none.
func LastState(records []Record) (*step.State, error) {
	for i := len(records) - 1; i >= 0; i-- {
		if len(records[i].State) == 0 {
			continue
		}
		var s step.State
		if err := json.Unmarshal(records[i].State, &s); err != nil {
			return nil, fmt.Errorf("journal: state of record %d: %w", records[i].Seq, err)
		}
		return &s, nil
	}
	return nil, nil
}
