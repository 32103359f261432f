package step

import (
	"context"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/rocketmq"
)

// retiredID is the brokerId that the old master registers with while it waits for its end. A stopping
// broker unregisters its id whatever address stands there by then (RouteInfoManager.unregisterBroker,
// 4.5.2), so that an old master stopped as id 0 takes the new leader out of the routes; and its 30 s
// heartbeat as id 0 would put its closed port back in. Registered under another id it can do neither.
// Seen on 4.5.2: brokerId is taken at run time, and brokerPermission in the same request makes the
// broker register at once.
const retiredID = "1000"

// retireMaster gives the old master's place in the routes to the new leader before it stops.
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
		l = append(l, plan.Action{Host: m.Host, Text: "set brokerId=" + retiredID + " in the running broker, put broker.conf back as it was; the new leader registers again"})
	}
	return append(l, plan.Action{Text: "wait until every name server that answers gives the new leader as brokerId 0"})
}

func (retireMaster) Done(ctx context.Context, e *Env) (bool, string, error) {
	p, err := e.Master().process(ctx)
	return err == nil && p == nil, "the old master is stopped", err
}

func (retireMaster) Do(ctx context.Context, e *Env) error {
	defer e.keepSilent(ctx, e.First())()
	leader, err := e.raftLeader(ctx, e.First()) // the old master's heartbeat may hold id 0 at this moment
	if err != nil {
		return err
	}
	m := e.Master()
	if err := e.updateConfig(ctx, m, map[string]string{"brokerId": retiredID, propPermission: "4"}, m.OldConf); err != nil {
		return err
	}
	return e.until(ctx, 30*time.Second, "the routes to lead to "+leader.Host, func(ctx context.Context) error {
		if err := e.updateConfig(ctx, leader, map[string]string{propPermission: "4"}, leader.ClosedConf); err != nil {
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
	if p == nil { // it died meanwhile: its old broker.conf makes it all that it was
		return e.serveAsBefore(ctx, m)
	}
	live, err := m.broker(e).Config(ctx)
	if err != nil {
		return err
	}
	if live["brokerId"] == "0" {
		return ErrNothingToUndo
	}
	// The permission stays what it is: the fence's undoing has its own say about that.
	return e.updateConfig(ctx, m, map[string]string{"brokerId": "0", propPermission: live[propPermission]}, m.OldConf)
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
