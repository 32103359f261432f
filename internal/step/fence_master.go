package step

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"mqlift/internal/brokerconf"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

const propPermission = "brokerPermission"

// fenced is what makes a running master write nothing more, as updateConfig takes it. Its permission stays, and
// with it the routes: they are right again the moment that writes are open.
func fenced() map[string]string {
	return properties(append(brokerconf.RefuseSends(), brokerconf.Silence()...))
}

// closed is the same for a peer, which may become the leader at any moment.
func closed() map[string]string {
	return properties(append(brokerconf.CloseWrites(), brokerconf.Silence()...))
}

func properties(kvs []brokerconf.KV) map[string]string {
	m := map[string]string{}
	for _, kv := range kvs {
		m[kv.Key] = kv.Value
	}
	return m
}

// opened is what closed must be replaced by: as the old file has it, which preflight has found to be
// what runs.
func (e *Env) opened(n *Node) (map[string]string, error) {
	conf, err := brokerconf.Parse(n.ConfPath, n.OldConf)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for _, kv := range conf.OpenWrites(e.Plan.Release) {
		m[kv.Key] = kv.Value
	}
	return m, nil
}

// fenceMaster makes the old master refuse every send, and write nothing by itself, while it goes on
// answering reads. With its own writes going on, the log would move after every certificate, and the
// new leader, which delivers the same delayed messages, would number them otherwise than the master.
type fenceMaster struct{}

func (fenceMaster) Name() string     { return "fence-master" }
func (fenceMaster) Title() string    { return "refuse sends on the old master, keep its reads" }
func (fenceMaster) UndoText() string { return "take sends on the old master again" }
func (fenceMaster) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"slaves-stopped", "aligned", "carried", "tracer"}, Proves: []string{"fenced"}}
}

func (fenceMaster) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: "set startAcceptSendRequestTimeStamp far ahead and brokerRole=SLAVE in the running broker (code 25): no sends, nothing written by itself, reads as before; put broker.conf back as it was, wait until the log's end stands still"})
	}
	return l
}

func (fenceMaster) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (fenceMaster) Do(ctx context.Context, e *Env) error {
	m := e.Master()
	if e.State.Fence == nil {
		open, err := e.opened(m)
		if err != nil {
			return err
		}
		p, err := m.process(ctx)
		if err != nil {
			return err
		}
		if p == nil {
			return fmt.Errorf("%s: the old master is gone: start it again, then `mqlift apply`", m.Host)
		}
		e.State.Fence, e.State.FencedProcess = open, p.ProcessID
		e.State.FencedAt = time.Now()
		if err := e.Save(); err != nil { // the way back must be on disk before sends are refused
			return err
		}
	}
	if err := e.updateConfig(ctx, m, fenced(), m.OldConf); err != nil {
		return err
	}
	end, err := e.standsStill(ctx, m)
	if err != nil {
		return err
	}
	e.State.FencedEnd = end
	e.note(m.Host, "sends are refused; the log's end stands still at %d", end)
	e.noteWaiting(ctx)
	return nil
}

// standsStill waits until the broker's log has not grown for 200 ms (measured: it stands still within
// 0.2 s after the fence) and all of it is dispatched to consume queues and index.
func (e *Env) standsStill(ctx context.Context, n *Node) (int64, error) {
	last, since := int64(-1), time.Now()
	err := e.until(ctx, 30*time.Second, n.Host+": the fenced log's end to stand still", func(ctx context.Context) error {
		info, err := n.broker(e).RuntimeInfo(ctx)
		if err != nil {
			return err
		}
		end, err := info.CommitLogMaxOffset()
		if err != nil {
			return permanent(err)
		}
		behind, err := info.DispatchBehind()
		if err != nil {
			return permanent(err)
		}
		if end != last {
			last, since = end, time.Now()
		}
		if quiet := time.Since(since); quiet < 200*time.Millisecond || behind > 0 {
			return fmt.Errorf("its end is %d since %s, %d bytes not dispatched yet", end, quiet.Round(time.Millisecond), behind)
		}
		return nil
	})
	return last, err
}

func (fenceMaster) Undo(ctx context.Context, e *Env) error {
	m := e.Master()
	open, err := e.opened(m)
	if err != nil {
		return err
	}
	p, err := m.process(ctx)
	if err != nil {
		// The host cannot be logged in to, but its broker may be alive: producers need not wait for SSH.
		return errors.Join(err, e.openUnseen(ctx, m, open))
	}
	if p == nil { // it died meanwhile: its old broker.conf takes sends
		if err := e.serveAsBefore(ctx, m); err != nil {
			return err
		}
		e.State.unfenced()
		return nil
	}
	live, err := m.broker(e).Config(ctx)
	if err != nil {
		return err
	}
	if isSet(live, open) && e.State.FencedAt.IsZero() {
		return ErrNothingToUndo
	}
	// One that takes sends already is told as well, because it registers again at that: it was opened when its
	// host could not be logged in to, or was started anew, and a peer that stopped since has taken its place
	// out of the routes for up to 30 s.
	if err := e.updateConfig(ctx, m, open, m.OldConf); err != nil {
		return err
	}
	err = e.until(ctx, 30*time.Second, m.Host+": the old master to take sends again", func(ctx context.Context) error {
		return e.sendTracer(ctx, m)
	})
	if err != nil {
		return err
	}
	if e.State.FencedAt.IsZero() { // known from the hosts alone
		e.note(m.Host, "the old master takes sends again")
	} else {
		e.note(m.Host, "the old master takes sends again, after %s", time.Since(e.State.FencedAt).Round(time.Millisecond))
	}
	e.State.unfenced()
	return nil
}

// unfenced forgets the fence: the old master takes sends as before.
func (s *State) unfenced() {
	// Not FencedProcess: a way back that was cut short still has to know a broker that was started since.
	s.Fence, s.FencedAt, s.FencedEnd, s.Waiting = nil, time.Time{}, 0, nil
}

// isSet tells whether a running broker has these properties.
func isSet(live, want map[string]string) bool {
	for key, v := range want {
		if live[key] != v {
			return false
		}
	}
	return true
}

// openUnseen lets the fenced master take sends again without access to its host. It rewrites its broker.conf
// by that, which is put back when the host can be reached.
func (e *Env) openUnseen(ctx context.Context, m *Node, open map[string]string) error {
	open = maps.Clone(open)
	open[brokerconf.IDKey] = "0" // it may have been retired
	if err := m.broker(e).UpdateConfig(ctx, open); err != nil {
		return err
	}
	e.note(m.Host, "the old master takes sends again; its %s, which it has rewritten, is put back when the host can be reached", m.ConfPath)
	return nil
}
