package step

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"mqlift/internal/brokerconf"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// shut is the permission that the restored master has until all messages are sent again: no route leads
// producers to it and no consumer may pull, whose offsets are ahead of its queues until then: it would be
// sent back to 0 (PullMessageProcessor, OFFSET_OVERFLOW_BADLY with a queue that begins at 0). A send by
// address is taken, as mqlift's are: brokers look at their own permission for ordered topics alone
// (AbstractSendMessageProcessor.msgCheck, 4.5.2 to 4.9.8).
const shut = "0"

// shutConf is the old master's broker.conf with that permission.
func (e *Env) shutConf() ([]byte, error) {
	m := e.Master()
	f, err := brokerconf.Parse(m.ConfPath, m.OldConf)
	if err != nil {
		return nil, err
	}
	if f, err = f.Apply(brokerconf.Edit{Set: []brokerconf.KV{{Key: propPermission, Value: shut}}}); err != nil {
		return nil, err
	}
	return f.Bytes(), nil
}

// restoreOld stops the new group, puts its stores aside, and starts the old one.
type restoreOld struct{}

func (restoreOld) Name() string { return "restore-old-group" }
func (restoreOld) Title() string {
	return "stop the new group and start the old one, closed to clients"
}
func (restoreOld) UndoText() string { return "" }
func (restoreOld) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"all-taken"}, Proves: []string{"old-group"}}
}

func (restoreOld) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Members {
		text := "stop the peer, rename " + m.NewRoot + ", "
		switch m.Kind {
		case plan.Fresh:
			text += "remove " + m.ConfPath
		case plan.Master:
			text += "put the old broker.conf back with brokerPermission=" + shut + ", start the broker"
		default:
			text += "put the old broker.conf back, start the broker"
		}
		l = append(l, plan.Action{Host: m.Host, Text: text})
	}
	return append(l, plan.Action{Text: "create topics and consumer groups that came since"})
}

func (restoreOld) Done(_ context.Context, e *Env) (bool, string, error) {
	return !e.State.Replay.OpenedAt.IsZero(), "the old master takes sends", nil
}

func (restoreOld) Do(ctx context.Context, e *Env) error {
	r := e.State.Replay
	if r.TakenAt.IsZero() {
		return fmt.Errorf("not all messages are on this machine's disk: the new group stays")
	}
	if r.StoppingAt.IsZero() {
		r.StoppingAt = time.Now()
		err := e.record(ctx) // another machine does not have the messages
		if err == nil {
			err = e.Save()
		}
		if err != nil {
			r.StoppingAt = time.Time{}
			return err
		}
	}
	closedConf, err := e.shutConf()
	if err != nil {
		return err
	}
	// All peers first: two that are left would go on electing.
	if err := e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error { return e.giveUpPeer(ctx, n, closedConf) }); err != nil {
		return err
	}
	if err := e.Save(); err != nil { // with where the stores lie
		return err
	}
	old := append([]*Node{e.Master()}, e.Slaves()...)
	err = e.each(ctx, old, func(ctx context.Context, n *Node) error {
		if running, err := e.runsOld(ctx, n, closedConf); err != nil || running || e.State.CertifiedEnd == 0 {
			return err
		}
		return e.cutAt(ctx, n, e.State.CertifiedEnd) // takes the mark of DLedger's first start away
	})
	if err != nil {
		return err
	}
	err = e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		if n.Kind != plan.Master {
			return e.restoreOldConf(ctx, n)
		}
		running, err := e.runsOld(ctx, n, closedConf)
		if err != nil || running {
			return err
		}
		return e.useConf(ctx, n, closedConf, "old, closed")
	})
	if err != nil {
		return err
	}
	if err := e.each(ctx, old, e.startOld); err != nil {
		return err
	}
	if r.ShutAt.IsZero() {
		r.ShutAt = time.Now()
	}
	return e.newMetadata(ctx)
}

func (restoreOld) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// runsOld tells whether the broker that runs on a node was started on the old broker.conf.
func (e *Env) runsOld(ctx context.Context, n *Node, closedConf []byte) (bool, error) {
	p, err := n.process(ctx)
	if err != nil || p == nil {
		return false, err
	}
	conf, err := n.Remote.ReadFile(ctx, n.ConfPath)
	if isNotExist(err) {
		return false, nil
	}
	return err == nil && n.Kind != plan.Fresh && (bytes.Equal(conf, n.OldConf) || n.Kind == plan.Master && bytes.Equal(conf, closedConf)), err
}

// giveUpPeer stops a peer and puts its store aside; nothing of it is removed.
func (e *Env) giveUpPeer(ctx context.Context, n *Node, closedConf []byte) error {
	if old, err := e.runsOld(ctx, n, closedConf); err != nil || old {
		return err
	}
	p, err := n.process(ctx)
	if err != nil {
		return err
	}
	if p != nil {
		took, err := e.stop(ctx, n, p)
		if err != nil {
			return err
		}
		e.action(n.Host, "peer %s stopped in %s", n.Peer, took.Round(time.Millisecond))
	}
	to, err := n.Agent.MoveAside(ctx, n.NewRoot, e.State.Run)
	if isNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.State.Replay.Aside == nil {
		e.State.Replay.Aside = map[string]string{}
	}
	e.State.Replay.Aside[n.Host] = to
	e.action(n.Host, "the new group's store lies in %s", to)
	return nil
}

// newMetadata creates on the old master what the new group got since: topics and consumer groups.
func (e *Env) newMetadata(ctx context.Context) error {
	b := e.Master().broker(e)
	topics, _, err := b.Topics(ctx)
	if err != nil {
		return err
	}
	for name, t := range e.State.Replay.Topics {
		has, ok := topics[name]
		if e.own(name) || name == scheduleTopic || ok && has.ReadQueues >= t.ReadQueues && has.WriteQueues >= t.WriteQueues {
			continue
		}
		if err := b.CreateTopic(ctx, t); err != nil {
			return err
		}
		e.action(e.Master().Host, "topic %s created as the new group had it", name)
	}
	groups, _, err := b.SubscriptionGroups(ctx)
	if err != nil {
		return err
	}
	for name, g := range e.State.Replay.Groups {
		if _, ok := groups[name]; ok {
			continue
		}
		if err := b.CreateSubscriptionGroup(ctx, g); err != nil {
			return err
		}
		e.action(e.Master().Host, "consumer group %s created as the new group had it", name)
	}
	return nil
}
