package step

import (
	"context"
	"fmt"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/rocketmq"
)

// createTracerTopic makes the one topic that mqlift sends to.
type createTracerTopic struct{}

func (createTracerTopic) Name() string { return "create-tracer-topic" }
func (createTracerTopic) Title() string {
	return "create the topic for mqlift's own messages and send the first"
}
func (createTracerTopic) UndoText() string {
	return "" // the topic stays: it is needed for every later check
}
func (createTracerTopic) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"locked"}, Proves: []string{"tracer"}}
}

func (createTracerTopic) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("create topic %s with one queue if it is not there (code 17); send %d messages to it; it stays", p.TracerTopic, tracers)})
	}
	return l
}

const tracers = 10

func (createTracerTopic) Done(_ context.Context, e *Env) (bool, string, error) {
	return len(e.State.Tracers) >= tracers, fmt.Sprintf("%d tracers sent earlier", len(e.State.Tracers)), nil
}

func (createTracerTopic) Do(ctx context.Context, e *Env) error {
	m := e.Master()
	if created, err := e.ensureTracerTopic(ctx, m); err != nil {
		return err
	} else if created {
		e.action(m.Host, "topic %s created", e.Plan.TracerTopic)
	}
	for len(e.State.Tracers) < tracers {
		// A broker under load turns sends away (SYSTEM_BUSY, BrokerFastFailure, 4.5.2; seen), and clients try again.
		err := e.until(ctx, 30*time.Second, m.Host+" to take a message", func(ctx context.Context) error {
			return e.sendTracer(ctx, m)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (createTracerTopic) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// ensureTracerTopic creates the tracer topic on a broker that has not got it.
func (e *Env) ensureTracerTopic(ctx context.Context, n *Node) (created bool, err error) {
	topics, _, err := n.broker(e).Topics(ctx)
	if err != nil {
		return false, err
	}
	if _, ok := topics[e.Plan.TracerTopic]; ok {
		return false, nil
	}
	return true, n.broker(e).CreateTopic(ctx, rocketmq.NewTopic(e.Plan.TracerTopic, 1))
}
