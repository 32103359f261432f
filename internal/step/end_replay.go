package step

import (
	"context"
	"fmt"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// endReplay ends the run on the hosts after a way back.
type endReplay struct{}

func (endReplay) Name() string { return "end-replay" }
func (endReplay) Title() string {
	return "remove what was temporary, and the run's record, and unlock the group"
}
func (endReplay) UndoText() string { return "" }
func (endReplay) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"replay-proven"}}
}
func (endReplay) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Members {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("remove %s and %s", RecordPath(m.WorkDir, p.Group), LockPath(m, p.Group))})
	}
	return l
}
func (endReplay) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (endReplay) Do(ctx context.Context, e *Env) error {
	if err := (renderConfigs{}).Undo(ctx, e); err != nil {
		return err
	}
	e.State.Replay.Locked = false
	if err := e.forget(ctx); err != nil {
		return err
	}
	return lockGroup{}.Undo(ctx, e)
}

func (endReplay) Undo(context.Context, *Env) error { return ErrNothingToUndo }
