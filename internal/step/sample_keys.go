package step

import (
	"context"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/probe"
	"mqlift/internal/store"
)

// samples is how many old messages are looked up on every node at every proof.
const samples = 60

// sampleKeys picks old messages from the master's own log, spread over all of it.
type sampleKeys struct{}

func (sampleKeys) Name() string     { return "sample-keys" }
func (sampleKeys) Title() string    { return "pick old messages to look up at every proof" }
func (sampleKeys) UndoText() string { return "" }
func (sampleKeys) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"locked"}, Proves: []string{"samples"}}
}

func (sampleKeys) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("read %s and pick %d messages that carry a key", m.CommitLog, samples)})
	}
	return l
}

func (sampleKeys) Done(_ context.Context, e *Env) (bool, string, error) {
	return len(e.State.Samples) > 0, fmt.Sprintf("%d keys picked earlier", len(e.State.Samples)), nil
}

func (sampleKeys) Do(ctx context.Context, e *Env) error { return e.pick(ctx, e.Master()) }

func (sampleKeys) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// pick chooses messages with a key from a node's old commit log.
func (e *Env) pick(ctx context.Context, n *Node) error {
	in, err := n.inspect(ctx, e, store.Options{Samples: samples}, "reading the commit log")
	if err != nil {
		return err
	}
	if err := in.Findings.Err(); err != nil {
		return err
	}
	seen := map[probe.MessageKey]bool{}
	for _, s := range in.Samples {
		k := probe.MessageKey{Topic: s.Topic, Key: s.Key}
		if seen[k] {
			continue
		}
		seen[k] = true
		// A message that the broker does not find today (its index may have been lost long ago) is no
		// measure for the new group.
		found, err := n.broker(e).QueryByKey(ctx, k.Topic, k.Key, 1, time.Time{}, time.Time{})
		if err != nil {
			return err
		}
		if len(found) > 0 {
			e.mu.Lock()
			e.State.Samples = append(e.State.Samples, k)
			e.mu.Unlock()
		}
	}
	e.note(n.Host, "%d messages in the commit log; %d of %d picked ones are found by key here and will be looked up on every node", in.Messages, len(e.State.Samples), len(seen))
	return nil
}
