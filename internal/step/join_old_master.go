package step

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

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
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("when clients have fresh routes, carry consumequeue, index and config to %s, use the new broker.conf, run `%s` as %s, wait until it has caught up", m.NewRoot, m.Start, m.Peer)})
	}
	return l
}

func (joinOldMaster) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (joinOldMaster) Do(ctx context.Context, e *Env) error {
	if err := e.endBridge(ctx); err != nil {
		return err
	}
	m := e.Master()
	p, err := m.process(ctx)
	if err != nil {
		return err
	}
	if p != nil {
		live, err := m.broker(e).Config(ctx)
		if err == nil && live["enableDLegerCommitLog"] != "true" {
			return fmt.Errorf("%s: the old master runs in the old mode again as process %d: something has started it; stop it and take it from its service manager, then apply again", m.Host, p.PID)
		}
	} else if joined, err := e.joinedBefore(ctx, m); err != nil {
		return err
	} else if joined {
		// It has voted and acknowledged as a peer: its ledger must not be thrown away.
		if err := e.startPeerAgain(ctx, m); err != nil {
			return err
		}
	} else {
		if err := e.likeThePeers(ctx, m); err != nil {
			return err
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
		e.State.JoiningAt = time.Now()
		if err := errors.Join(e.record(ctx), e.Save()); err != nil {
			return err
		}
		if err := m.start(ctx); err != nil {
			return err
		}
	}
	if err := e.answers(ctx, m); err != nil {
		return err
	}
	return e.caughtUp(ctx, m)
}

func (joinOldMaster) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// likeThePeers makes sure that the stopped master's store is what was certified: no less if its broker died
// before it was stopped, and no more.
func (e *Env) likeThePeers(ctx context.Context, m *Node) error {
	left, err := m.leftAbort(ctx)
	if err != nil {
		return err
	}
	end := int64(0)
	if !left {
		end, err = m.walkedEnd(ctx, e, e.State.AlignedEnd)
	}
	if left || err != nil { // pages may be lost that were compared before the fence
		end, err = m.walkedEnd(ctx, e, 0)
	}
	if err != nil {
		return err
	}
	if end < e.State.CertifiedEnd {
		leader, err := e.awaitLeader(ctx, e.First())
		if err != nil {
			return err
		}
		e.note(m.Host, "its host died and what had not been flushed is gone from its log: the bytes from %d on are taken from %s", end, leader.Host)
		if err := e.copyLog(ctx, leader, m, end, e.State.CertifiedEnd, copying{}); err != nil {
			return err
		}
	}
	if left || end < e.State.CertifiedEnd {
		e.note(m.Host, "the broker did not stop cleanly: its consume queues and index are built anew")
		if err := e.dropDerived(ctx, m); err != nil {
			return err
		}
	}
	return e.masterAsCertified(ctx)
}

// masterAsCertified checks that the stopped master's log ends where it was certified.
func (e *Env) masterAsCertified(ctx context.Context) error {
	m := e.Master()
	end, err := m.walkedEnd(ctx, e, e.State.AlignedEnd)
	if err != nil {
		return err
	}
	if end != e.State.CertifiedEnd {
		return fmt.Errorf("%s: the old master's log ends at %d and not at the certified %d: something wrote to %s since; `mqlift store inspect` shows what", m.Host, end, e.State.CertifiedEnd, m.CommitLog)
	}
	return nil
}

// isPeer tells, once writes are open, whether the old master has begun to join: as far as this run knows, or else,
// since its journal may have been made anew from what hosts keep, by its broker.conf. Its broker need not answer.
func (e *Env) isPeer(ctx context.Context, m *Node) (bool, error) {
	if !e.State.JoiningAt.IsZero() {
		return true, nil
	}
	conf, err := m.Remote.ReadFile(ctx, m.ConfPath)
	return err == nil && !bytes.Equal(conf, m.RetiredConf), err
}

// joinedBefore tells whether the old master has been a peer of the new group already.
func (e *Env) joinedBefore(ctx context.Context, m *Node) (bool, error) {
	if e.State.JoiningAt.IsZero() {
		return false, nil
	}
	empty, err := m.ledgerEmpty(ctx)
	return !empty, err
}

// startPeerAgain starts a member that has been a peer and is down.
func (e *Env) startPeerAgain(ctx context.Context, n *Node) error {
	if err := e.keepIndex(ctx, n); err != nil {
		return err
	}
	if err := e.useConf(ctx, n, n.NewConf, "new"); err != nil {
		return err
	}
	if err := n.start(ctx); err != nil {
		return err
	}
	e.action(n.Host, "peer %s was down and is started again", n.Peer)
	return e.answers(ctx, n)
}

// ReviveMembers starts the peers of an opened group that are down, as a run that was killed during a
// failover leaves one.
func (e *Env) ReviveMembers(ctx context.Context) error {
	return e.each(ctx, e.peersNow(), func(ctx context.Context, n *Node) error {
		p, err := n.process(ctx)
		if err != nil || p != nil {
			return err
		}
		return e.startPeerAgain(ctx, n)
	})
}

// peersNow are the members of the new group: the old master is one from its joining on.
func (e *Env) peersNow() []*Node {
	if e.State.JoiningAt.IsZero() {
		return e.First()
	}
	return e.Nodes
}
