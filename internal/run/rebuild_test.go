package run

import (
	"path/filepath"
	"testing"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/step"
)

// rebuilt is the plan that rehearsal walks, as a run keeps it on the hosts.
func rebuilt() *plan.Plan {
	return &plan.Plan{Stages: []plan.Stage{
		{Name: "prepare", Steps: []plan.Step{{Name: "a"}, {Name: "b"}}},
		{Name: "certify", Steps: []plan.Step{{Name: "c"}}},
		{Name: "open", PointOfNoReturn: true, Steps: []plan.Step{{Name: "open"}}},
		{Name: "finish", Steps: []plan.Step{{Name: "d"}}},
	}}
}

// Without a journal every step before the point of no return is undone, in reverse: how far the run got
// is not known.
func TestAJournalMadeAnewUndoesEveryStepBeforeTheOpening(t *testing.T) {
	r := rehearse(t)
	dir := filepath.Join(r.dir, "run-2")
	cut, err := Rebuild(dir, rebuilt(), &step.State{Run: "run-2"})
	if err != nil {
		t.Fatal(err)
	}
	if cut.Opened() {
		t.Error("it counts as one that opened writes")
	}
	if found, err := Unfinished(r.dir); err != nil || found == nil || found.Dir != dir {
		t.Errorf("it is not found again: %+v, %v", found, err)
	}
	r.begin("run-2", cut.State)
	if err := r.UndoCut(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	r.wantSaid("undo c", "undo b", "undo a")
	if found, err := Unfinished(r.dir); err != nil || found != nil {
		t.Errorf("it is still unfinished: %+v, %v", found, err)
	}
}

func TestAJournalMadeAnewOfAnOpenedRunIsNotUndone(t *testing.T) {
	r := rehearse(t)
	cut, err := Rebuild(filepath.Join(r.dir, "run-2"), rebuilt(), &step.State{Run: "run-2", OpeningAt: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if !cut.Opened() || cut.At != "open / open" {
		t.Errorf("opened %t at %s", cut.Opened(), cut.At)
	}
}

func TestAJournalThatIsThereIsNotMadeAnew(t *testing.T) {
	r := rehearse(t)
	if _, err := Rebuild(filepath.Join(r.dir, "run-1"), rebuilt(), &step.State{Run: "run-1"}); err == nil {
		t.Error("it was overwritten")
	}
}
