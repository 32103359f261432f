package step

import (
	"context"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// stopMaster stops the old master, which has answered clients with old routes until writes were open: a
// broker takes seconds to stop (seen: 1 to 7), and none of them is one in which sends are refused.
type stopMaster struct{}

func (stopMaster) Name() string { return "stop-master" }
func (stopMaster) Title() string {
	return "stop the old master"
}
func (stopMaster) UndoText() string { return "" }
func (stopMaster) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"routes-moved", "open"}, Proves: []string{"master-stopped"}}
}

func (stopMaster) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		how := "SIGTERM to the broker's own process"
		if m.Stop != "" {
			how = "run `" + m.Stop + "`"
		}
		l = append(l, plan.Action{Host: m.Host, Text: how + ", wait until it is gone"})
	}
	return append(l, plan.Action{Text: "bring the offsets that consumers with old routes committed to it meanwhile to the new leader"})
}

func (stopMaster) Done(ctx context.Context, e *Env) (bool, string, error) {
	joined, err := e.isPeer(ctx, e.Master())
	return joined, "the old master has begun to join as a peer", err
}

func (stopMaster) Do(ctx context.Context, e *Env) error {
	if err := e.pullsDrained(ctx); err != nil {
		return err
	}
	if err := e.stopOld(ctx, e.Master()); err != nil {
		return err
	}
	leader, err := e.awaitLeader(ctx, e.peersNow())
	if err != nil {
		return err
	}
	return e.raiseOffsets(ctx, leader, true)
}

func (stopMaster) Undo(context.Context, *Env) error { return ErrNothingToUndo }
