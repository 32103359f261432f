package run

import (
	"encoding/json"
	"fmt"
	"slices"

	"mqlift/internal/step"
)

// begins notes that a step is begun; one that an earlier process had begun keeps its place.
func (w *Walk) begins(p place) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.ContainsFunc(w.begun, p.is) {
		w.begun = append(w.begun, p)
	}
}

func (w *Walk) undone(p place) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.IndexFunc(w.begun, p.is); i >= 0 {
		w.begun = slices.Delete(w.begun, i, i+1)
	}
}

// goesBack returns what was begun, last one first.
func (w *Walk) goesBack() []place {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.undoes = true
	l := slices.Clone(w.begun)
	slices.Reverse(l)
	return l
}

// now is where the walk is, for others than the walk itself: by the state last journalled, since the
// steps are writing to the one in memory.
func (w *Walk) now() (state *step.State, begun []string, last step.Step, undoes bool) {
	w.mu.Lock()
	for _, p := range w.begun {
		begun, last = append(begun, p.step.Name()), p.step
	}
	undoes = w.undoes
	w.mu.Unlock()
	state = &step.State{}
	if raw := w.Journal.lastState(); raw != nil {
		_ = json.Unmarshal(raw, state) // written by this process
	}
	return state, begun, last, undoes
}

// Left is what is temporary at this moment. It may be asked while the walk is going on.
func (w *Walk) Left() []string {
	state, begun, _, _ := w.now()
	if len(begun) == 0 {
		return nil
	}
	return state.Temporary(w.Env.Plan, begun)
}

// Stopping says, to one who has just pressed Ctrl-C, where the walk will stop and what it will do until
// then. It may be asked while the walk is going on.
func (w *Walk) Stopping() string {
	state, begun, last, undoes := w.now()
	const again = "; Ctrl-C once more ends at once and leaves everything as it is at that moment"
	switch {
	case state.Replay != nil && !undoes && !state.Final():
		return "stopping: the way back ends at its next safe place, and the new group takes sends again" + again
	case state.Replay != nil && !undoes:
		return "stopping: the new group is given up already; `mqlift rollback --replay` goes on from there" + again
	case last == nil && !state.Opening():
		return "stopping: nothing has been begun"
	case last == nil:
		return "stopping: writes are open on the new group, so that nothing is undone; `mqlift apply` goes on from there" + again
	case undoes:
		return "going back already, and that goes on to its end: " + state.Back(begun) + again
	case !state.Opening():
		return fmt.Sprintf("stopping: %s is cut short at its next safe place, then everything is undone: %s%s", last.Name(), state.Back(begun), again)
	}
	safe := "is cut short at its next safe place; the group is open and serves"
	switch last.Name() {
	case "open-writes":
		safe = "is seen through, so that sends are taken again"
	case "join-old-master":
		safe = "is cut short at its next safe place; the other nodes carry the group without the old master until then"
	case "prove-failover":
		safe = "is cut short; when the leader is killed already it is started again first"
	}
	return fmt.Sprintf("stopping: writes are open on the new group, so that nothing is undone: %s %s. `mqlift apply` goes on from there%s", last.Name(), safe, again)
}

// Abandoned says, when the walk is ended in the middle, what is left and how to go on.
func (w *Walk) Abandoned() string {
	state, begun, last, _ := w.now()
	at := "before the first step"
	if last != nil {
		at = "in " + last.Name()
	} else if !state.Opening() {
		return "ended at once; nothing had been begun"
	}
	do := "`mqlift rollback` undoes what was begun, as does the next `mqlift apply` before it begins anew"
	if state.Opening() {
		do = "`mqlift apply` goes on from there"
	}
	if state.Replay != nil {
		do = "`mqlift rollback --replay` goes on from there"
	}
	return fmt.Sprintf("ended at once %s: %s%s", at, do, leftText(state.Temporary(w.Env.Plan, begun)))
}
