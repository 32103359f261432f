package step

import (
	"context"
	"fmt"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// joinOldMaster makes the old master the third peer.
type joinOldMaster struct{}

func (joinOldMaster) Name() string     { return "join-old-master" }
func (joinOldMaster) Title() string    { return "start the old master as a peer" }
func (joinOldMaster) UndoText() string { return "" }
func (joinOldMaster) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"open", "master-stopped"}, Proves: []string{"joined"}}
}

func (joinOldMaster) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("carry consumequeue, index and config to %s, use the new broker.conf, run `%s` as %s, wait until it has caught up", m.NewRoot, m.Start, m.Peer)})
	}
	return l
}

func (joinOldMaster) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (joinOldMaster) Do(ctx context.Context, e *Env) error {
	m := e.Master()
	p, err := m.process(ctx)
	if err != nil {
		return err
	}
	if p == nil {
		if err := m.stoppedCleanly(ctx); err != nil {
			return err
		}
		end, err := m.logEnd(ctx, e, e.State.AlignedEnd)
		if err != nil {
			return err
		}
		if end != e.State.CertifiedEnd {
			return fmt.Errorf("%s: the old master's log ends at %d and not at the certified %d: it must not join; something wrote to %s since the hand-over", m.Host, end, e.State.CertifiedEnd, m.CommitLog)
		}
		if err := e.noLedger(ctx, m); err != nil {
			return err
		}
		if err := e.carryOnHost(ctx, m); err != nil {
			return err
		}
		if err := e.useConf(ctx, m, m.NewConf, "new"); err != nil {
			return err
		}
		if err := m.start(ctx, e); err != nil {
			return err
		}
	}
	if err := e.answers(ctx, m); err != nil {
		return err
	}
	return e.caughtUp(ctx, m)
}

func (joinOldMaster) Undo(context.Context, *Env) error { return ErrNothingToUndo }
