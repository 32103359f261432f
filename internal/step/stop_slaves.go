package step

import (
	"context"
	"fmt"
	"time"

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
		how := "SIGTERM to the broker's own process"
		if m.Stop != "" {
			how = "run `" + m.Stop + "`"
		}
		l = append(l, plan.Action{Host: m.Host, Text: how + ", wait until it is gone and has removed " + join(m.OldRoot, "abort")})
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
		if err := n.stoppedCleanly(ctx); err != nil {
			return false, "", err
		}
	}
	return len(e.Slaves()) > 0, "no broker runs on the slaves' hosts", nil
}

func (stopSlaves) Do(ctx context.Context, e *Env) error {
	return e.each(ctx, e.Slaves(), func(ctx context.Context, n *Node) error { return e.stopCleanly(ctx, n) })
}

func (stopSlaves) Undo(ctx context.Context, e *Env) error {
	return e.each(ctx, e.Slaves(), func(ctx context.Context, n *Node) error {
		if err := e.restoreOldConf(ctx, n); err != nil {
			return err
		}
		return e.startOld(ctx, n)
	})
}

// stopCleanly stops the broker on a node and makes sure that it has said goodbye: a broker that dies
// before all was dispatched leaves its abort file, and a DLedger start after that loses index files
// (DefaultMessageStore.load and IndexService.load, 4.5.2).
func (e *Env) stopCleanly(ctx context.Context, n *Node) error {
	p, err := n.process(ctx)
	if err != nil {
		return err
	}
	if p != nil {
		took, err := n.stop(ctx, p)
		if err != nil {
			return err
		}
		e.action(n.Host, "broker %d stopped in %s", p.PID, took.Round(time.Millisecond))
	}
	return n.stoppedCleanly(ctx)
}

// stoppedCleanly reports an abort file left in the old store.
func (n *Node) stoppedCleanly(ctx context.Context) error {
	abort := join(n.OldRoot, "abort")
	if _, err := n.Remote.Stat(ctx, abort); err == nil {
		return fmt.Errorf("%s: %s is still there, so that the broker did not stop cleanly; start it once more on its old broker.conf, let it serve, and stop it", n.Host, abort)
	}
	return nil
}

// startOld starts a broker in the old mode and waits until it answers and both it and the name
// servers know its old role.
func (e *Env) startOld(ctx context.Context, n *Node) error {
	p, err := n.process(ctx)
	if err != nil {
		return err
	}
	if p != nil {
		return nil // it was never stopped
	}
	if err := n.start(ctx, e); err != nil {
		return err
	}
	e.action(n.Host, "broker started on its old broker.conf")
	return e.until(ctx, 90*time.Second, n.Host+" to be registered in its old role", func(ctx context.Context) error {
		if _, err := n.broker(e).RuntimeInfo(ctx); err != nil {
			return err
		}
		info, err := e.NameServers.ClusterInfo(ctx)
		if err != nil {
			return err
		}
		for id, addr := range info.Brokers[e.Plan.Group].Addrs {
			if addr == n.Addr() && (id == 0) == (n.Kind == plan.Master) {
				return nil
			}
		}
		return fmt.Errorf("%s is not registered as %s yet", n.Addr(), n.Kind)
	})
}
