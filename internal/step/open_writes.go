package step

import (
	"context"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// openWrites lets the new group take sends: the point of no return.
type openWrites struct{}

func (openWrites) Name() string     { return "open-writes" }
func (openWrites) Title() string    { return "open writes on the new group" }
func (openWrites) UndoText() string { return "" }
func (openWrites) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"certificate", "peers-proven", "master-stopped", "offsets"}, Proves: []string{"open"}, Opens: true}
}

func (openWrites) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.First() {
		l = append(l, plan.Action{Host: m.Host, Text: "set brokerPermission and startAcceptSendRequestTimeStamp in the running broker back to what the group had, make " + m.ConfPath + " the new one without the two"})
	}
	return append(l, plan.Action{Text: "send a tracer until it is acknowledged"})
}

func (openWrites) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (openWrites) Do(ctx context.Context, e *Env) error {
	if e.State.Certificate == nil || !e.State.Certificate.OK() {
		return fmt.Errorf("there is no certificate for the logs: writes stay closed")
	}
	if e.State.OpeningAt.IsZero() {
		e.State.OpeningAt = time.Now()
	}
	if err := e.Save(); err != nil { // from here on a later run must not go back for free
		return err
	}
	// The leader last: until then nothing is written, and a follower that is elected in between is open.
	nodes := e.First()
	for i, n := range nodes {
		if n.Host == e.State.Leader {
			nodes = append(append(append([]*Node{}, nodes[:i]...), nodes[i+1:]...), n)
			break
		}
	}
	for _, n := range nodes {
		if err := e.updateConfig(ctx, n, e.State.Fence, n.NewConf); err != nil {
			return fmt.Errorf("%s: opening writes: %w", n.Host, err)
		}
	}
	err := e.until(ctx, 60*time.Second, "the new leader to acknowledge a message", func(ctx context.Context) error {
		leader, err := e.leader(ctx, e.First())
		if err != nil {
			return err
		}
		e.State.Leader = leader.Host
		_, err = e.sendTracer(ctx, leader)
		return err
	})
	if err != nil {
		return err
	}
	e.State.OpenedAt = time.Now()
	e.note(e.State.Leader, "the new leader takes sends; they had been refused for %s", e.State.WriteOutage().Round(time.Millisecond))
	return nil
}

func (openWrites) Undo(context.Context, *Env) error { return ErrNothingToUndo }
