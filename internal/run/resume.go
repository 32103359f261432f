package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"syscall"
	"time"

	"mqlift/internal/event"
	"mqlift/internal/plan"
	"mqlift/internal/step"
)

// Cut is a run that ended without saying so: the tool was killed.
type Cut struct {
	Dir   string // of the run: plan.json, journal.jsonl
	At    string // stage / step that its journal named last
	State *step.State
	begun []begun // and not undone since
	// unlocking tells that the last step begun was the one that takes the lock away.
	unlocking bool
	// anew tells that its journal was made from what the hosts keep, which therefore knows better.
	anew bool
	// torn tells that the journal's last record stands there in part.
	torn bool
}

// The steps that take and remove the lock.
const lockStep, unlockStep = "lock-group", "unlock-group"

type begun struct{ stage, step string }

// runName is what every run's name is like; that of a folder moved aside, such as RUN.damaged, is not.
var runName = regexp.MustCompile(`^[0-9A-Za-z-]+$`)

// Unfinished finds the newest run below dir whose journal does not end; nil when there is none. A folder
// counts under its run's name only: a copy that somebody made of one, or moved aside, is no run.
func Unfinished(dir string) (*Cut, error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%s is no folder, and the runs of a group are kept in one; move it away, or put the folder back from a copy", dir)
	case err != nil:
		return nil, fmt.Errorf("looking for an unfinished run: %w", err)
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() > entries[j].Name() })
	for _, entry := range entries {
		if !entry.IsDir() || !runName.MatchString(entry.Name()) {
			continue
		}
		c, err := cutOf(filepath.Join(dir, entry.Name()))
		if err != nil || c != nil {
			return c, err
		}
	}
	return nil, nil
}

// cutOf reads one run; nil when it ended, or never began a step.
func cutOf(dir string) (*Cut, error) {
	records, err := ReadJournal(filepath.Join(dir, "journal.jsonl"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // killed before the journal was made: nothing was done
	}
	if err != nil {
		return nil, err
	}
	if len(records) > 0 && records[0].Run != filepath.Base(dir) {
		return nil, nil // a copy of another's folder
	}
	c := &Cut{Dir: dir, anew: len(records) > 0 && records[0].Text == madeAnew}
	if c.State, err = LastState(records); err != nil {
		return nil, fmt.Errorf("%s: %w; take the run up with the mqlift that began it", dir, err)
	}
	for _, r := range records {
		switch r.Kind {
		case StepBegin, StepSkip:
			c.begun = append(c.begun, begun{r.Stage, r.Step})
			c.At, c.unlocking = r.Stage+" / "+r.Step, r.Step == unlockStep
		case UndoDone:
			// What was undone must not be undone again: retire-master's way back, taken once more after
			// fence-master's, would leave the serving master closed.
			if i := lastIndex(c.begun, begun{r.Stage, r.Step}); i >= 0 {
				c.begun = slices.Delete(c.begun, i, i+1)
			}
		case RunEnd:
			// A run that failed after writes were opened ended with its words said, but not done.
			if c.State == nil || !c.State.Opening() || r.Text == endDone {
				c.begun, c.At = nil, ""
			}
		}
	}
	if len(c.begun) == 0 || c.State == nil {
		return nil, nil
	}
	c.torn, err = torn(filepath.Join(dir, "journal.jsonl"))
	return c, err
}

// torn tells whether a journal's last record stands there in part.
func torn(path string) (bool, error) {
	data, err := os.ReadFile(path)
	return len(data) > 0 && data[len(data)-1] != '\n', err
}

func lastIndex(l []begun, b begun) int {
	for i := len(l) - 1; i >= 0; i-- {
		if l[i] == b {
			return i
		}
	}
	return -1
}

// Opened tells whether the run got as far as opening writes, or may have.
func (c *Cut) Opened() bool { return c.State.Opening() }

// Left is what the run has left that is temporary.
func (c *Cut) Left(p *plan.Plan) []string {
	var names []string
	for _, b := range c.begun {
		names = append(names, b.step)
	}
	return c.State.Temporary(p, names)
}

// Continue goes on with a run that was cut short after writes were opened: members that are down are
// started, then every step from the one that opens writes on asks the hosts what is left to do.
func (w *Walk) Continue(ctx context.Context, c *Cut) error {
	if !c.unlocking { // killed in the middle of that, the lock may be there or not
		if err := w.Env.StillLocked(ctx); err != nil {
			return err
		}
	}
	w.event(event.Note, "", "", "writes had been opened: going on from there", 0)
	if err := w.Env.ReviveMembers(ctx); err != nil {
		return err
	}
	return w.run(ctx, true)
}

// GoBack walks the way back from an opened group, from its first step on, since each asks what is left to
// do. What an earlier process had begun of it is undone, too, when it is given up: that one may have been
// killed with the group fenced.
func (w *Walk) GoBack(ctx context.Context, c *Cut) error {
	for _, stage := range w.Playbook.Stages {
		for _, name := range stage.Steps {
			if s, ok := w.byName(name); ok && slices.Contains(c.begun, begun{stage.Name, name}) {
				w.begins(place{stage.Name, s})
			}
		}
	}
	return w.run(ctx, false)
}

// next is the step after one, unless it opens writes: that is never undone.
func (w *Walk) next(after begun) (place, bool) {
	found := false
	for _, stage := range w.Playbook.Stages {
		for _, name := range stage.Steps {
			if s, ok := w.byName(name); found {
				return place{stage.Name, s}, ok && !stage.PointOfNoReturn
			}
			found = stage.Name == after.stage && name == after.step
		}
	}
	return place{}, false
}

// UndoCut undoes what a run had begun that was cut short before writes were opened. Its lock must still
// be there: without it somebody else has ended that run meanwhile.
func (w *Walk) UndoCut(ctx context.Context, c *Cut) error {
	for _, b := range c.begun {
		s, ok := w.byName(b.step)
		if !ok {
			return fmt.Errorf("journal %s names the step %q, which this mqlift does not have: use the one that began the run", c.Dir, b.step)
		}
		w.begins(place{b.stage, s})
	}
	// A torn record may be the one that begins the next step. It was not on disk whole before the step did
	// anything, unless the disk lied: taken for begun, nothing is left behind in either case.
	if next, ok := w.next(c.begun[len(c.begun)-1]); ok && c.torn {
		w.begins(next)
	}
	if len(c.begun) > 1 { // killed in the first step, which takes the lock, it may be there or not
		if err := w.Env.StillLocked(ctx); err != nil {
			return err
		}
	}
	if c.anew { // the run may have lived when its record was read, and until its lock was taken over
		if err := w.Env.NotOpened(ctx); err != nil {
			return err
		}
	}
	w.event(event.Note, "", "", "writes had not been opened: what was begun is undone", 0)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Minute) // as in fail
	defer cancel()
	if err := w.undo(ctx); err != nil {
		f := &Failure{Stage: "resume", Step: "undo", Err: errors.New("what a killed run had begun could not all be undone"), UndoErr: err, Left: w.Left()}
		if onlyLeftOut(err) {
			f.LeftOut, f.Left = w.Env.LeftOut(), nil
		}
		return errors.Join(f, w.Journal.Append(StateSaved, "", "", f.Error(), w.Env.State))
	}
	return w.Journal.Append(RunEnd, "", "", "undone after having been cut short", w.Env.State)
}

// onlyLeftOut tells whether all that an error joins is that hosts are left out.
func onlyLeftOut(err error) bool {
	for err != nil {
		switch e := err.(type) {
		case interface{ Unwrap() []error }:
			return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !onlyLeftOut(err) })
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		default:
			return err == step.ErrLeftOut
		}
	}
	return false
}
