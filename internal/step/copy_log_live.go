package step

import (
	"context"
	"fmt"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// copyLogLive brings the bulk of the commit log to the new hosts while the master serves.
type copyLogLive struct{}

func (copyLogLive) Name() string     { return "copy-log-live" }
func (copyLogLive) Title() string    { return "copy the commit log to the new hosts, the master serving" }
func (copyLogLive) UndoText() string { return "" } // stays: the next try copies only what is missing
func (copyLogLive) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"locked", "installed"}, Proves: []string{"copied"}}
}

func (copyLogLive) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, c := range p.Copies {
		if c.What == plan.CopyLog {
			l = append(l, plan.Action{Host: c.To, Text: fmt.Sprintf("receive %d bytes of commit log from %s, %s", c.Bytes, c.From, p.Way(c.From, c.To))})
		}
	}
	return l
}

func (copyLogLive) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (copyLogLive) Do(ctx context.Context, e *Env) error {
	end, err := e.logEnd(ctx, e.Master())
	if err != nil {
		return err
	}
	how := e.inService(e.Fresh())
	return e.each(ctx, e.Fresh(), func(ctx context.Context, n *Node) error { return e.catchUp(ctx, n, end, how) })
}

func (copyLogLive) Undo(context.Context, *Env) error { return ErrNothingToUndo }
