package step

import (
	"context"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// decide is the last point at which going back is free and at once: the old master is still running.
type decide struct{}

func (decide) Name() string     { return "decide" }
func (decide) Title() string    { return "go or no-go" }
func (decide) UndoText() string { return "" }
func (decide) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"peers-proven", "certificate"}, Proves: []string{"decided"}}
}

func (decide) Describe(*plan.Plan) []plan.Action {
	return []plan.Action{{Text: "everything so far can be undone for free, the old master never having stopped; after open-writes, going back costs every message written since"}}
}

func (decide) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (decide) Do(ctx context.Context, e *Env) error {
	defer e.keepSilent(ctx, e.First())() // an answer may take long, and an election come meanwhile
	d := Decision{
		Group: e.Plan.Group, Leader: e.State.Leader, Certificate: e.State.Certificate.Digest,
		End: e.State.CertifiedEnd, Keys: len(e.oldKeys()), Closed: time.Since(e.State.FencedAt), OwnWrites: e.State.Written,
	}
	e.note("", "leader %s, logs certified up to %d (%s), %d old keys found on each of %d nodes, %s: going back is free until writes open",
		d.Leader, d.End, e.State.Certificate.Short(), d.Keys, len(e.First()), d.Written())
	if e.Options.Decide == nil {
		return nil
	}
	return e.Options.Decide(ctx, d)
}

func (decide) Undo(context.Context, *Env) error { return ErrNothingToUndo }
