package step

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"time"

	"mqlift/internal/brokerconf"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/rocketmq"
)

// openWrites lets the new group take sends: the point of no return.
type openWrites struct{}

func (openWrites) Name() string     { return "open-writes" }
func (openWrites) Title() string    { return "open writes on the new group" }
func (openWrites) UndoText() string { return "" }
func (openWrites) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"certificate", "peers-proven", "decided", "routes-moved", "offsets"}, Proves: []string{"open"}, Opens: true}
}

func (openWrites) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: "see that the old master takes no sends and writes nothing, and that its log ends where it was certified"})
	}
	for _, m := range p.Members {
		l = append(l, plan.Action{Host: m.Host, Text: "note in " + RecordPath(m.WorkDir, p.Group) + " that going back is not free from here on"})
	}
	for _, m := range p.First() {
		l = append(l, plan.Action{Host: m.Host, Text: "set brokerPermission and startAcceptSendRequestTimeStamp in the running broker back to what the group had, and the leader's brokerRole to SYNC_MASTER; make " + m.ConfPath + " the new one"})
	}
	return append(l, plan.Action{Text: "send a tracer until it is acknowledged"})
}

func (openWrites) Done(ctx context.Context, e *Env) (bool, string, error) {
	if e.State.OpenedAt.IsZero() {
		return false, "", nil
	}
	leader, err := e.leader(ctx, e.peersNow())
	if err != nil {
		return false, "", nil // not that sure: opening again does no harm
	}
	if err := e.sendTracer(ctx, leader); err != nil {
		return false, "", nil
	}
	e.State.Leader = leader.Host
	return true, leader.Host + " leads and takes sends", nil
}

func (openWrites) Do(ctx context.Context, e *Env) error {
	if e.State.Certificate == nil || !e.State.Certificate.OK() {
		return fmt.Errorf("there is no certificate for the logs: writes stay closed")
	}
	if e.State.OpeningAt.IsZero() {
		if err := e.mayOpen(ctx); err != nil {
			return err
		}
	}
	leader, err := e.awaitLeader(ctx, e.peersNow())
	if err != nil {
		return err
	}
	if e.State.OpeningAt.IsZero() {
		if err := e.markOpening(ctx, leader); err != nil {
			return err
		}
	}
	// The leader last: until it is told, hardly anything can be written.
	for _, n := range e.First() {
		if n == leader {
			continue
		}
		if err := e.updateConfig(ctx, n, e.open(""), n.NewConf); err != nil {
			return fmt.Errorf("%s: opening writes: %w", n.Host, err)
		}
	}
	ctx = context.WithoutCancel(ctx) // half opened is no place to stop at: sends would stay refused
	if leader.Kind != plan.Master {  // a joined old master was started open
		if err := e.updateConfig(ctx, leader, e.open(electedRole), leader.NewConf); err != nil {
			return fmt.Errorf("%s: opening writes: %w", leader.Host, err)
		}
	}
	err = e.until(ctx, 60*time.Second, "the new leader to acknowledge a message", func(ctx context.Context) error {
		leader, err := e.leader(ctx, e.peersNow())
		if err != nil {
			return err
		}
		e.State.Leader = leader.Host
		if err := e.routeWritable(ctx); err != nil {
			return err
		}
		return e.sendTracer(ctx, leader)
	})
	if err != nil {
		return err
	}
	if e.State.OpenedAt.IsZero() {
		e.State.OpenedAt = time.Now()
	}
	e.note(e.State.Leader, "the new leader takes sends; they had been refused for %s", e.State.WriteOutage().Round(time.Millisecond))
	return nil
}

// electedRole is what a peer makes itself when it is elected (DLedgerRoleChangeHandler, 4.5.2 to 5.3.3).
const electedRole = "SYNC_MASTER"

// open is the old master's settings from before the fence, with another role: none for a follower,
// which has its own.
func (e *Env) open(role string) map[string]string {
	set := maps.Clone(e.State.Fence)
	delete(set, brokerconf.RoleKey)
	if role != "" {
		set[brokerconf.RoleKey] = role
	}
	return set
}

func (openWrites) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// markOpening puts on disk, on every host and here, that from now on the way back is not free. It comes
// before the first follower is opened: the next election may make that one the leader at any moment.
func (e *Env) markOpening(ctx context.Context, leader *Node) (err error) {
	if e.State.EndsThen, err = e.queueEnds(ctx, leader); err != nil {
		return err
	}
	e.State.OpeningAt = time.Now()
	if err = e.record(ctx); err == nil {
		err = e.Save()
	}
	if err != nil { // nothing is open yet, and undoing takes the marks away
		e.State.OpeningAt = time.Time{}
		return fmt.Errorf("marking that writes are about to be opened: %w", err)
	}
	return nil
}

// mayOpen looks once more at what opening rests on: the old master ends where it was certified, and nothing
// can make it write any more. It need not be stopped for that. Its store refuses whatever would be put into
// it while its role is SLAVE (see brokerconf.Silence), and if it dies and is started again, it starts on a
// broker.conf that takes no sends either.
func (e *Env) mayOpen(ctx context.Context) error {
	m := e.Master()
	p, err := m.process(ctx)
	if err != nil {
		return err
	}
	conf, err := m.Remote.ReadFile(ctx, m.ConfPath)
	if err != nil {
		return err
	}
	if !bytes.Equal(conf, m.RetiredConf) {
		return fmt.Errorf("%s: %s is not the one that keeps the old master closed: somebody has changed it", m.Host, m.ConfPath)
	}
	if p == nil {
		return e.masterAsCertified(ctx)
	}
	live, err := m.broker(e).Config(ctx)
	if err != nil {
		return err
	}
	if !isSet(live, retired()) || p.ProcessID != e.State.FencedProcess {
		return fmt.Errorf("%s: the old master, process %d, is not closed as this run has left it: somebody has changed its properties or has started it again", m.Host, p.PID)
	}
	end, err := e.logEnd(ctx, m)
	if err != nil {
		return err
	}
	if end != e.State.CertifiedEnd {
		return fmt.Errorf("%s: the old master's log ends at %d and not at the certified %d: the fenced broker has written", m.Host, end, e.State.CertifiedEnd)
	}
	return nil
}

// routeWritable checks that producers are given the group for sends.
func (e *Env) routeWritable(ctx context.Context) error {
	route, err := e.NameServers.Route(ctx, e.Plan.TracerTopic)
	if err != nil {
		return err
	}
	for _, q := range route.Queues {
		if q.Broker == e.Plan.Group && q.Perm&rocketmq.PermWrite != 0 {
			return nil
		}
	}
	return fmt.Errorf("the route of %s does not allow sends to %s yet", e.Plan.TracerTopic, e.Plan.Group)
}
