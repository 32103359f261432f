package step

import (
	"context"
	"fmt"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// unlockGroup ends the run on the hosts.
type unlockGroup struct{}

func (unlockGroup) Name() string     { return "unlock-group" }
func (unlockGroup) Title() string    { return "remove what was temporary and unlock the group" }
func (unlockGroup) UndoText() string { return "" }
func (unlockGroup) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"locked", "group-proven", "samples"}}
}

func (unlockGroup) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Members {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("remove %s and %s, keep %s for a later rollback", renderedPath(m), LockPath(m, p.Group), RecordPath(m.WorkDir, p.Group))})
	}
	return l
}

func (unlockGroup) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (unlockGroup) Do(ctx context.Context, e *Env) error {
	if err := removeRendered(ctx, e); err != nil {
		return err
	}
	if err := e.record(ctx); err != nil { // it stays: the way back from a finished upgrade begins with it
		return err
	}
	return lockGroup{}.Undo(ctx, e)
}

func (unlockGroup) Undo(context.Context, *Env) error { return ErrNothingToUndo }
