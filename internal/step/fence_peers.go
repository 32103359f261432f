package step

import (
	"context"
	"time"

	"mqlift/internal/brokerconf"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// fencePeers makes the new group refuse every send: from then on nothing more is acknowledged that would
// have to be sent again.
type fencePeers struct{}

func (fencePeers) Name() string     { return "fence-peers" }
func (fencePeers) Title() string    { return "refuse sends on the new group, keep its reads" }
func (fencePeers) UndoText() string { return "take sends on the new group again" }
func (fencePeers) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"messages-taken"}, Proves: []string{"peers-fenced"}}
}

func (fencePeers) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Members {
		l = append(l, plan.Action{Host: m.Host, Text: "set brokerPermission=4 and startAcceptSendRequestTimeStamp far ahead in the running broker and in " + m.ConfPath})
	}
	return l
}

func (fencePeers) Done(_ context.Context, e *Env) (bool, string, error) {
	return !e.State.Replay.TakenAt.IsZero(), "sends had been refused when the last message was read", nil
}

func (fencePeers) Do(ctx context.Context, e *Env) error {
	err := e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		p, err := n.process(ctx)
		if err != nil {
			return err
		}
		if n.Kind == plan.Master {
			if peer, err := e.isPeer(ctx, n); err != nil || !peer {
				return err // closed since the fence
			}
		}
		if p == nil { // whatever starts it later finds it closed
			return e.useConf(ctx, n, n.ClosedConf, "closed DLedger")
		}
		return e.updateConfig(ctx, n, closed(), n.ClosedConf)
	})
	if err != nil {
		return err
	}
	e.State.Replay.FencedAt = time.Now()
	e.note("", "sends are refused by all peers; giving the way back up is free until they are stopped")
	return nil
}

func (fencePeers) Undo(ctx context.Context, e *Env) error {
	open, err := e.opened(e.Master())
	if err != nil {
		return err
	}
	delete(open, brokerconf.RoleKey) // followers have theirs
	runs := false
	err = e.each(ctx, e.peersNow(), func(ctx context.Context, n *Node) error {
		p, err := n.process(ctx)
		if err != nil {
			return err
		}
		if p == nil {
			return e.useConf(ctx, n, n.NewConf, "new")
		}
		e.mu.Lock()
		runs = true
		e.mu.Unlock()
		return e.updateConfig(ctx, n, open, n.NewConf)
	})
	if err != nil || !runs {
		return err
	}
	open[brokerconf.RoleKey] = electedRole
	return e.until(ctx, 60*time.Second, "the new group to take sends again", func(ctx context.Context) error {
		leader, err := e.raftLeader(ctx, e.peersNow())
		if err != nil {
			return err
		}
		if err := e.updateConfig(ctx, leader, open, leader.NewConf); err != nil {
			return err
		}
		return e.sendTracer(ctx, leader)
	})
}
