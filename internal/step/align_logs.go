package step

import (
	"context"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/store"
	"mqlift/internal/view"
)

// alignLogs brings every copy of the commit log up to where the master is now, and compares them, so
// that only what comes after is left to do while sends are refused.
type alignLogs struct{}

func (alignLogs) Name() string     { return "align-logs" }
func (alignLogs) Title() string    { return "bring all copies up to the master and compare them" }
func (alignLogs) UndoText() string { return "" } // a longer, equal log harms nobody
func (alignLogs) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"slaves-stopped", "copied"}, Proves: []string{"aligned"}}
}

func (alignLogs) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.First() {
		l = append(l, plan.Action{Host: m.Host, Text: "compare " + m.CommitLog + " with the master's, write what is missing or different, move files that the master does not have aside"})
	}
	return l
}

func (alignLogs) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (alignLogs) Do(ctx context.Context, e *Env) error {
	end, err := e.logEnd(ctx, e.Master())
	if err != nil {
		return err
	}
	err = e.each(ctx, e.First(), func(ctx context.Context, n *Node) error {
		if err := e.catchUp(ctx, n, end, e.inService(e.First())); err != nil {
			return err
		}
		return e.seal(ctx, n, n.CommitLog) // before it is compared
	})
	if err != nil {
		return err
	}
	if end == 0 {
		return nil // nothing was ever written
	}
	cert, err := e.compare(ctx, 0, end, e.Nodes)
	if err != nil {
		return err
	}
	e.State.Aligned, e.State.AlignedEnd = cert, end
	e.note("", "all copies agree up to %d: %s, %d messages, digest %s", end, view.Bytes(cert.Bytes), cert.Messages, cert.Short())
	return nil
}

func (alignLogs) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// catchUp makes a copy of the master's commit log up to end. What is there already and equal is kept:
// a slave's own log, or what an earlier try brought.
func (e *Env) catchUp(ctx context.Context, n *Node, end int64, how copying) error {
	m := e.Master()
	if err := n.clearIncoming(ctx); err != nil {
		return err
	}
	from := int64(0)
	carry := n.Kind == plan.Slave
	if carry {
		left, err := n.leftAbort(ctx)
		if err != nil {
			return err
		}
		if left { // not stopped cleanly: they may hold anything
			if err := e.dropDerived(ctx, n); err != nil {
				return err
			}
			carry = false
		}
	}
	// A stopped slave's consume queues and index are carried: they are compared with its log, all of it.
	have, err := n.inspect(ctx, e, store.Options{Derived: carry}, "reading its commit log")
	if err != nil {
		return err
	}
	if carry && have.End <= have.First && end > 0 { // of a log that is not there any more
		if err := e.dropDerived(ctx, n); err != nil {
			return err
		}
	}
	odd := have.Findings.Err()
	if len(have.Files) > 0 && have.End > have.First {
		ref, err := m.inspect(ctx, e, store.Options{To: min(have.End, end)}, "reading the commit log")
		if err != nil {
			if have.End > end {
				return err
			}
			// The copy ends where the master has no message boundary: it went another way.
			if ref, err = m.inspect(ctx, e, store.Options{To: end}, "reading the commit log"); err != nil {
				return err
			}
		}
		from = equalUpTo(have, ref)
		if odd == nil && from < have.End {
			odd = fmt.Errorf("it differs from the master's after offset %d", from)
		}
		if from < have.End && n.Kind == plan.Slave {
			// Its consume queues and index belong to the log that is written over now. They go aside at
			// once, so that neither a later try nor the old mode ever takes them for right.
			if err := e.dropDerived(ctx, n); err != nil {
				return err
			}
			e.note(n.Host, "its log differs from the master's: %s; the master's bytes are written over it from offset %d on, and its consume queues and index are built anew", e.whereItDiffers(ctx, n, have, ref), from)
		}
	}
	if d := have.Derived; d != nil && from == have.End && d.Findings.Err() != nil {
		if err := e.dropDerived(ctx, n); err != nil {
			return err
		}
		e.note(n.Host, "its consume queues or its index do not fit its log and are built anew at the next start, which takes longer: %v", d.Findings.Err())
	}
	if n.Kind == plan.Fresh && odd != nil {
		// Whatever it is that somebody left here, and whatever it holds, it is not written over.
		to, err := n.Agent.MoveAside(ctx, n.CommitLog, e.State.Run)
		if err != nil {
			return err
		}
		e.note(n.Host, "the commit log that lay here is no beginning of the master's and was moved aside to %s (%v)", to, odd)
		from = 0
	}
	if from >= end {
		return nil
	}
	return e.copyLog(ctx, m, n, from, end, how)
}

// dropDerived moves a stopped broker's consume queues and index aside, both: a broker of 4.x builds them
// from the log at its next start, and completes neither without the other. The checkpoint goes with them:
// where abort is, a start in the old mode would build them from the time on that stands in it, and none
// of what is older (CommitLog.recoverAbnormally, 4.5.2).
func (e *Env) dropDerived(ctx context.Context, n *Node) error {
	for _, name := range carried {
		to, err := n.Agent.MoveAside(ctx, join(n.OldRoot, name), e.State.Run)
		if isNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		e.action(n.Host, "moved %s aside to %s", join(n.OldRoot, name), to)
	}
	return nil
}

// equalUpTo is the physical offset up to which two logs agree, at the granularity of chunks. Logs
// that do not begin at the same offset agree nowhere: expired files went from one and not the other.
func equalUpTo(a, b *store.Inspection) int64 {
	if a.First != b.First {
		return 0
	}
	at := a.First
	for i := range min(len(a.Chunks), len(b.Chunks)) {
		if a.Chunks[i] != b.Chunks[i] {
			break
		}
		at = a.Chunks[i].Offset + a.Chunks[i].Length
	}
	return at
}

// compare inspects the same range on all nodes side by side and returns a certificate that holds, or
// an error that names what differs.
func (e *Env) compare(ctx context.Context, from, to int64, nodes []*Node) (*store.Certificate, error) {
	found := make([]*store.Inspection, len(nodes))
	index := map[*Node]int{}
	for i, n := range nodes {
		index[n] = i
	}
	err := e.each(ctx, nodes, func(ctx context.Context, n *Node) error {
		in, err := n.inspect(ctx, e, store.Options{From: from, To: to}, "hashing the commit log")
		found[index[n]] = in
		return err
	})
	if err != nil {
		return nil, err
	}
	members := map[string]*store.Inspection{}
	for i, n := range nodes {
		members[n.Host] = found[i]
	}
	cert := store.Compare(members)
	if certified(cert, to) == nil {
		return &cert, nil
	}
	e.explain(ctx, &cert, members, nodes)
	return nil, fmt.Errorf("the logs differ: %w", certified(cert, to))
}

// certified is nil for a certificate up to an offset, or, for 0, up to the logs' ends.
func certified(cert store.Certificate, to int64) error {
	if to > 0 { // a master that serves goes on beyond it: what counts is that all agree up to there
		return cert.Findings().Err()
	}
	return cert.Err()
}

// explainLimit bounds the look for the first byte that differs: sends may be refused meanwhile, and the
// undoing has to begin.
const explainLimit = 15 * time.Second

// explain looks for the first byte that differs. Where that is not found out, the certificate says less.
func (e *Env) explain(ctx context.Context, cert *store.Certificate, members map[string]*store.Inspection, nodes []*Node) {
	ctx, cancel := context.WithTimeout(ctx, explainLimit)
	defer cancel()
	copies := map[string]store.Copy{}
	for _, n := range nodes {
		copies[n.Host] = n.Agent.CommitLog(n.CommitLog, n.LogFileSize)
	}
	if err := cert.Explain(ctx, members, copies); err != nil {
		e.note("", "the first byte that differs was not found: %v", err)
	}
}

// whereItDiffers names the first byte of a copy that is not as the master's.
func (e *Env) whereItDiffers(ctx context.Context, n *Node, have, master *store.Inspection) string {
	m := e.Master()
	members := map[string]*store.Inspection{n.Host: have, m.Host: master}
	cert := store.Compare(members)
	e.explain(ctx, &cert, members, []*Node{n, m})
	if cert.FirstByte == nil {
		return "they have no byte in common, or the first one that differs could not be found"
	}
	return cert.FirstByte.Where()
}
