package step

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/transfer"
)

// startPeers starts the new group's first members with writes closed.
type startPeers struct{}

func (startPeers) Name() string  { return "start-peers" }
func (startPeers) Title() string { return "start the first peers as DLedger, writes closed" }
func (startPeers) UndoText() string {
	return "stop them, move their dledger folders aside, take the mark at the end of the old log away, put the old broker.conf back"
}
func (startPeers) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"slaves-stopped", "carried", "certificate", "fenced", "configs"}, Proves: []string{"peers-started"}}
}

func (startPeers) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.First() {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("use the new broker.conf with brokerPermission=4 and startAcceptSendRequestTimeStamp far ahead; when it is elected, set brokerRole=SLAVE in it, so that it writes nothing by itself; run `%s` in %s as %s", m.Start, m.InstallDir, m.Peer)})
	}
	return l
}

func (startPeers) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (startPeers) Do(ctx context.Context, e *Env) error {
	if err := e.record(ctx); err != nil { // with the end at which the logs are cut again on the way back
		return err
	}
	defer e.keepSilent(ctx, e.First())()
	return e.each(ctx, e.First(), func(ctx context.Context, n *Node) error {
		p, err := n.process(ctx)
		if err != nil {
			return err
		}
		if p == nil {
			if err := e.noLedger(ctx, n); err != nil {
				return err
			}
			if err := e.useConf(ctx, n, n.ClosedConf, "closed DLedger"); err != nil {
				return err
			}
			if err := n.start(ctx); err != nil {
				return err
			}
		}
		return e.answers(ctx, n)
	})
}

// answers waits until a started broker takes requests.
func (e *Env) answers(ctx context.Context, n *Node) error {
	return e.until(ctx, 10*time.Minute, n.Host+": the broker to answer at "+n.Addr(), func(ctx context.Context) error {
		if p, err := n.process(ctx); err != nil {
			return err
		} else if p == nil {
			return permanent(fmt.Errorf("the broker is gone; %s", n.lastWords(ctx)))
		}
		_, err := n.broker(e).RuntimeInfo(ctx)
		return err
	})
}

// noLedger refuses to start a peer over the dledger folder of an earlier try: its first file's name
// decides where the old log ends (DLedgerCommitLog.recover, 4.5.2), and that is wrong by now.
func (e *Env) noLedger(ctx context.Context, n *Node) error {
	moved, err := n.moveLedgersAside(ctx, e.State.Run)
	for _, m := range moved {
		e.action(n.Host, "moved an earlier dledger folder aside to %s", m)
	}
	return err
}

func (startPeers) Undo(ctx context.Context, e *Env) error {
	return e.each(ctx, e.First(), func(ctx context.Context, n *Node) error {
		if err := e.unform(ctx, n); err != nil {
			return err
		}
		return e.restoreOldConf(ctx, n)
	})
}

// unform stops a peer that was started with writes closed and takes back what its start did to the
// store: the dledger folder, and the 8 bytes (remaining size and BLANK) at the end of the old log,
// which the old mode would take for a full file and skip.
func (e *Env) unform(ctx context.Context, n *Node) error {
	p, err := n.process(ctx)
	if err != nil {
		return err
	}
	if p != nil {
		if conf, err := n.Remote.ReadFile(ctx, n.ConfPath); err == nil && string(conf) == string(n.OldConf) {
			return nil // it runs in the old mode
		}
		took, err := e.stop(ctx, n, p)
		if err != nil {
			return err
		}
		e.action(n.Host, "peer %s stopped in %s", n.Peer, took.Round(time.Millisecond))
	}
	if _, err := n.moveLedgersAside(ctx, e.State.Run); err != nil {
		return err
	}
	if e.State.CertifiedEnd == 0 {
		return nil
	}
	err = e.cutAt(ctx, n, e.State.CertifiedEnd)
	var missing *transfer.MissingError
	if errors.As(err, &missing) { // a broker that finds a damaged message throws all files behind it away
		return e.catchUp(ctx, n, e.State.CertifiedEnd, copying{})
	}
	return err
}
