package step

import (
	"context"
	"fmt"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// stopMaster stops the old master. What it wrote by itself since the certificate (delayed messages
// that came due, for instance) is copied and certified before anything goes on.
type stopMaster struct{}

func (stopMaster) Name() string { return "stop-master" }
func (stopMaster) Title() string {
	return "stop the old master; its log must end where it was certified"
}
func (stopMaster) UndoText() string { return "start the old master again on its old broker.conf" }
func (stopMaster) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"peers-proven", "routes-moved"}, Proves: []string{"master-stopped"}}
}

func (stopMaster) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: "make " + m.ConfPath + " one that takes no sends; SIGTERM to the broker's own process, wait until it is gone; compare its log's end with the certificate, copy and certify again when it moved"})
	}
	return l
}

func (stopMaster) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (stopMaster) Do(ctx context.Context, e *Env) error {
	m := e.Master()
	// Whatever starts it again behind mqlift's back (a service manager, a reboot) must not take sends
	// beside the new group.
	if err := e.useConf(ctx, m, m.FencedConf, "read-only"); err != nil {
		return err
	}
	speak := e.keepSilent(ctx, e.First())
	err := e.stopCleanly(ctx, m)
	if speak(); err != nil {
		return err
	}
	end, err := m.walkedEnd(ctx, e, e.State.AlignedEnd)
	if err != nil {
		return err
	}
	if end == e.State.CertifiedEnd {
		return nil
	}
	e.note(m.Host, "the old master itself wrote %d bytes after the certificate: the peers are taken down, these bytes copied, and all certified again before writes open", end-e.State.CertifiedEnd)
	if err := e.each(ctx, e.First(), func(ctx context.Context, n *Node) error {
		e.unseal(n)
		return e.unform(ctx, n)
	}); err != nil {
		return err
	}
	e.State.OwnBytes += end - e.State.CertifiedEnd
	e.State.FencedEnd = end
	for _, s := range []Step{carryStores{}, copyTail{}, certifyLogs{}, startPeers{}, provePeers{}} {
		if err := s.Do(ctx, e); err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
	}
	return nil
}

func (stopMaster) Undo(ctx context.Context, e *Env) error {
	return e.serveAsBefore(ctx, e.Master())
}
