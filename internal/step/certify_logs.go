package step

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/store"
	"mqlift/internal/view"
)

// certifyLogs proves that all nodes would begin Raft on the same old log. DLedger neither repairs nor
// notices old logs that differ, so nothing goes on without this.
type certifyLogs struct{}

func (certifyLogs) Name() string     { return "certify-logs" }
func (certifyLogs) Title() string    { return "compare the logs of all nodes to their end" }
func (certifyLogs) UndoText() string { return "" }
func (certifyLogs) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"fenced", "aligned", "tail"}, Proves: []string{"certificate"}}
}

func (certifyLogs) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Members {
		l = append(l, plan.Action{Host: m.Host, Text: "list the files of " + m.CommitLog + ", walk and hash what came since the alignment: same files, same end, same bytes on all"})
	}
	for _, m := range p.First() {
		l = append(l, plan.Action{Host: m.Host, Text: "see that nothing has written to what was compared and carried before"})
	}
	return l
}

func (certifyLogs) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (certifyLogs) Do(ctx context.Context, e *Env) error {
	agrees, whole := make(chan error, 1), make(chan error, 1)
	go func() { agrees <- e.metadataAgrees(ctx) }() // beside the hashing: sends are refused
	go func() { whole <- e.each(ctx, e.First(), e.unbroken) }()
	cert, err := e.compare(ctx, e.State.AlignedEnd, 0, e.Nodes)
	if err := errors.Join(err, <-agrees, <-whole); err != nil {
		return err
	}
	if cert.End != e.State.FencedEnd {
		return fmt.Errorf("the logs agree, but end at %d and not at %d, where the fenced master stood still: something still writes to it", cert.End, e.State.FencedEnd)
	}
	e.State.Certificate, e.State.CertifiedEnd = cert, cert.End
	e.note("", "certificate %s: %d file(s), first %d, end %d, the last %s compared once more on %d nodes", cert.Short(), len(cert.Files), cert.First, cert.End, view.Bytes(cert.Bytes), len(cert.Members))
	return nil
}

// metadataAgrees makes sure that topics, groups and filters in the new roots mean what the master's do: a
// peer that leads with others gives them to all. Offsets move until the hand-over, which carries them. A
// consumer that appears between copying and comparing makes a topic for its retries: then it is copied
// once more.
func (e *Env) metadataAgrees(ctx context.Context) error {
	for again := 0; ; again++ {
		differ, compared, err := e.metadataDifferences(ctx)
		if err != nil {
			return err
		}
		if len(differ) == 0 {
			e.mu.Lock()
			e.State.Metadata = compared
			e.mu.Unlock()
			return nil
		}
		if again == 2 {
			return fmt.Errorf("the metadata differs: %s", strings.Join(differ, "; "))
		}
		if err := e.each(ctx, e.First(), e.copyMetadata); err != nil {
			return err
		}
	}
}

func (e *Env) metadataDifferences(ctx context.Context) (differ, compared []string, err error) {
	members := map[string]*store.Metadata{}
	err = e.each(ctx, append([]*Node{e.Master()}, e.First()...), func(ctx context.Context, n *Node) error {
		root := n.NewRoot
		if n.Kind == plan.Master {
			root = n.OldRoot
		}
		m, err := n.Agent.Metadata(ctx, root)
		e.mu.Lock()
		defer e.mu.Unlock()
		members[n.Host] = m
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	master := members[e.Master().Host]
	moving := map[string]bool{"consumerOffset.json": true, "delayOffset.json": true, "consumerOrderInfo.json": true}
	for _, file := range slices.Sorted(maps.Keys(master.Files)) {
		if slices.Contains(metadata, file) && !moving[file] {
			compared = append(compared, file)
		}
	}
	for _, d := range store.CompareMetadata(members) {
		if slices.Contains(compared, d.File) {
			differ = append(differ, d.String())
		}
	}
	return differ, compared, nil
}

func (certifyLogs) Undo(_ context.Context, e *Env) error { return ErrNothingToUndo }
