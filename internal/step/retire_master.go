package step

import (
	"context"
	"fmt"
	"time"

	"mqlift/internal/brokerconf"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/rocketmq"
)

// retired is what a running broker is told to make it a retired master. Seen on 4.5.2: brokerId is taken at
// run time, and brokerPermission in the same request makes the broker register at once.
func retired() map[string]string { return properties(brokerconf.Retire()) }

// retireMaster gives the old master's place in the routes to the new leader, and makes sure that it stays
// closed whatever happens to it from here on.
type retireMaster struct{}

func (retireMaster) Name() string     { return "retire-master" }
func (retireMaster) Title() string    { return "give the master's place in the routes to the new leader" }
func (retireMaster) UndoText() string { return "register the old master as brokerId 0 again" }
func (retireMaster) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"peers-proven", "fenced", "decided"}, Proves: []string{"routes-moved"}}
}

func (retireMaster) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: "set brokerId=" + brokerconf.RetiredID + " and brokerPermission=0 in the running broker (no place in the routes, no pulls); make " + m.ConfPath + " one on which it would take no sends if it were started again; the new leader registers again"})
	}
	return append(l, plan.Action{Text: "wait until every name server that answers gives the new leader as brokerId 0"})
}

func (retireMaster) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (retireMaster) Do(ctx context.Context, e *Env) error {
	defer e.keepSilent(ctx, e.First())()
	leader, err := e.raftLeader(ctx, e.First()) // the old master's heartbeat may hold id 0 at this moment
	if err != nil {
		return err
	}
	m := e.Master()
	p, err := m.process(ctx)
	if err != nil {
		return err
	}
	if p != nil {
		err = e.updateConfig(ctx, m, retired(), m.RetiredConf)
	} else { // it has died, and must not take sends when something starts it
		err = e.useConf(ctx, m, m.RetiredConf, "closed")
	}
	if err != nil {
		return err
	}
	e.State.RetiredAt = time.Now()
	return e.until(ctx, 30*time.Second, "the routes to lead to "+leader.Host, func(ctx context.Context) error {
		if err := e.updateConfig(ctx, leader, map[string]string{propPermission: e.State.Fence[propPermission]}, leader.ClosedConf); err != nil {
			return err
		}
		return e.mastersAre(ctx, leader)
	})
}

func (retireMaster) Undo(ctx context.Context, e *Env) error {
	m := e.Master()
	p, err := m.process(ctx)
	if err != nil {
		return err
	}
	if p != nil && e.State.FencedProcess.PID != 0 && p.ProcessID != e.State.FencedProcess {
		// Started again since, on the file that keeps it closed, it is a slave from its start: no property
		// makes that a master. What starts it once more must find its old file.
		if err := e.restoreOldConf(ctx, m); err != nil {
			return err
		}
		if err := e.stopOld(ctx, m); err != nil {
			return err
		}
		p = nil
	}
	if p == nil { // its old broker.conf makes it all that it was
		return e.serveAsBefore(ctx, m)
	}
	live, err := m.broker(e).Config(ctx)
	if err != nil {
		return err
	}
	if live[brokerconf.IDKey] == "0" {
		return ErrNothingToUndo
	}
	open, err := e.opened(m)
	if err != nil {
		return err
	}
	// Sends are still refused: the fence's undoing has its own say about them.
	return e.updateConfig(ctx, m, map[string]string{brokerconf.IDKey: "0", propPermission: open[propPermission]}, m.OldConf)
}

// nameServerLimit is how long a name server may take to count as one that answers. A healthy one takes
// milliseconds; this is waited for at every look while one hangs.
const nameServerLimit = time.Second

// mastersAre checks that every name server that answers gives the node as the group's brokerId 0.
func (e *Env) mastersAre(ctx context.Context, n *Node) error {
	ctx, cancel := context.WithTimeout(ctx, nameServerLimit)
	defer cancel()
	answered := 0
	for _, a := range rocketmq.AskEach(ctx, e.NameServers, e.NameServers.ClusterInfoAt) {
		if a.Err != nil {
			continue // one that is down is survived as long as another answers
		}
		answered++
		if addr := a.Value.Brokers[e.Plan.Group].Addrs[0]; addr != n.Addr() {
			return fmt.Errorf("name server %s gives %q as the master of %s, not %s", a.Addr, addr, e.Plan.Group, n.Addr())
		}
	}
	if answered == 0 {
		return fmt.Errorf("none of the name servers %v answers", e.Plan.NameServers)
	}
	return nil
}
