package step

import (
	"context"
	"fmt"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
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
	return l
}

func (certifyLogs) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (certifyLogs) Do(ctx context.Context, e *Env) error {
	cert, err := e.compare(ctx, e.State.AlignedEnd, 0, e.Nodes)
	if err != nil {
		return err
	}
	if cert.End != e.State.FencedEnd {
		return fmt.Errorf("the logs agree, but end at %d and not at %d, where the fenced master stood still: something still writes to it", cert.End, e.State.FencedEnd)
	}
	e.State.Certificate, e.State.CertifiedEnd = cert, cert.End
	e.note("", "certificate %s: %d file(s), first %d, end %d, the last %s compared once more on %d nodes", cert.Short(), len(cert.Files), cert.First, cert.End, view.Bytes(cert.Bytes), len(cert.Members))
	return nil
}

func (certifyLogs) Undo(_ context.Context, e *Env) error { return ErrNothingToUndo }
