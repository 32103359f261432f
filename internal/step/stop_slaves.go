package step

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mqlift/internal/brokerconf"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// stopSlaves stops the old slaves cleanly: from then on nothing in their copies moves.
type stopSlaves struct{}

func (stopSlaves) Name() string     { return "stop-slaves" }
func (stopSlaves) Title() string    { return "stop the old slaves" }
func (stopSlaves) UndoText() string { return "start the slaves again on their old broker.conf" }
func (stopSlaves) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"locked", "configs"}, Proves: []string{"slaves-stopped"}}
}

func (stopSlaves) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Slave) {
		if m.Stopped {
			l = append(l, plan.Action{Host: m.Host, Text: "see that its broker is still stopped"})
			continue
		}
		how := "SIGTERM to the broker's own process"
		if m.Stop != "" {
			how = "run `" + m.Stop + "`"
		}
		l = append(l, plan.Action{Host: m.Host, Text: how + ", wait until it is gone; if it leaves " + join(m.OldRoot, "abort") + ", take its consume queues and index for damaged"})
	}
	return l
}

func (stopSlaves) Done(ctx context.Context, e *Env) (bool, string, error) {
	for _, n := range e.Slaves() {
		p, err := n.process(ctx)
		if err != nil {
			return false, "", err
		}
		if p != nil {
			return false, "", nil
		}
		if err := e.sayAbort(ctx, n); err != nil {
			return false, "", err
		}
	}
	return len(e.Slaves()) > 0, "no broker runs on the slaves' hosts", nil
}

func (stopSlaves) Do(ctx context.Context, e *Env) error {
	return e.each(ctx, e.Slaves(), func(ctx context.Context, n *Node) error {
		p, err := n.process(ctx)
		if err != nil {
			return err
		}
		if n.Stopped && p != nil {
			return fmt.Errorf("this slave was stopped when the plan was made, and its broker runs now as process %d: stop it again, or let it serve, then `mqlift apply` again", p.PID)
		}
		if err := e.stopOld(ctx, n); err != nil {
			return err
		}
		return e.sayAbort(ctx, n)
	})
}

// sayAbort tells of a slave that did not stop cleanly. That is no reason to go back: one whose log was cut
// within a message may never stop in another way, since its dispatch waits there for ever
// (ReputMessageService.doReput and DefaultMessageStore.shutdown, 4.5.2; seen). What it leaves behind is
// not trusted: see catchUp.
func (e *Env) sayAbort(ctx context.Context, n *Node) error {
	left, err := n.leftAbort(ctx)
	if err == nil && left {
		e.note(n.Host, "the slave did not stop cleanly (%s is there): its log is made like the master's byte by byte, and its consume queues and index are built anew", join(n.OldRoot, "abort"))
	}
	return err
}

func (stopSlaves) Undo(ctx context.Context, e *Env) error {
	return errors.Join(e.reviveMaster(ctx), e.each(ctx, e.Slaves(), e.serveAsBefore))
}

// reviveMaster starts the old master again if it has died: without it nothing serves as before.
func (e *Env) reviveMaster(ctx context.Context) error {
	m := e.Master()
	p, err := m.process(ctx)
	if err == nil && p == nil {
		err = e.serveAsBefore(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.Host, err)
	}
	return nil
}

// serveAsBefore puts a node's old broker.conf back and makes its broker serve on it, if it did.
func (e *Env) serveAsBefore(ctx context.Context, n *Node) error {
	if err := e.restoreOldConf(ctx, n); err != nil || n.Stopped {
		return err
	}
	return e.startOld(ctx, n)
}

// stopOld stops the broker on a node, if one runs.
func (e *Env) stopOld(ctx context.Context, n *Node) error {
	p, err := n.process(ctx)
	if err != nil || p == nil {
		return err
	}
	took, err := e.stop(ctx, n, p)
	if err == nil {
		e.action(n.Host, "broker %d stopped in %s", p.PID, took.Round(time.Millisecond))
	}
	return err
}

// leftAbort tells whether the broker that ran on the old store did not stop cleanly.
func (n *Node) leftAbort(ctx context.Context) (bool, error) {
	_, err := n.Remote.Stat(ctx, join(n.OldRoot, "abort"))
	if isNotExist(err) {
		return false, nil
	}
	return err == nil, err
}

// startOld makes a broker serve in the old mode, whatever it was doing: one that is on its way down is
// waited for and started again. It returns when the broker answers in its old role and the name servers
// know it.
func (e *Env) startOld(ctx context.Context, n *Node) error {
	return e.until(ctx, 3*time.Minute, n.Host+" to serve in its old role", func(ctx context.Context) error {
		p, err := n.process(ctx)
		if err != nil {
			return err
		}
		if p == nil {
			if err := n.start(ctx); err != nil {
				return permanent(err)
			}
			e.action(n.Host, "broker started on its old broker.conf")
		}
		live, err := n.broker(e).Config(ctx)
		if err != nil {
			return err
		}
		if live["enableDLegerCommitLog"] == "true" {
			return permanent(fmt.Errorf("%s: the broker that runs is a DLedger peer; stop it and start it on %s", n.Host, n.ConfPath))
		}
		if brokerconf.Slave(live) != (n.Kind == plan.Slave) {
			return permanent(fmt.Errorf("%s: the broker runs as %s and was %s before", n.Host, live["brokerRole"], n.Kind))
		}
		// Until its first sample, a second after the start, a broker fails to say where its log ends
		// (StoreStatsService.getLast of an empty list, 4.5.2; seen), which a plan asks next.
		if _, err := n.broker(e).RuntimeInfo(ctx); err != nil {
			return err
		}
		return e.registered(ctx, n)
	})
}
