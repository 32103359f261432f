package step

import (
	"context"
	"time"

	"mqlift/internal/brokerconf"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// shortenPulls makes the old master answer pulls for which it has nothing within a second, instead of holding
// them for 15 or 20 s. A pull that a broker holds when it stops is lost to a Java client: it does not take the
// connection's end for an answer, waits for 30 s, and gets no message from that queue meanwhile (4.5.2; seen, 33
// to 35 s). Held shortly they can be refused shortly before the stop (retire-master), and are tried again 3 s
// later, at the bridge. The price is that messages reach consumers up to a second later from here on.
type shortenPulls struct{}

func (shortenPulls) Name() string     { return "shorten-pulls" }
func (shortenPulls) Title() string    { return "have the old master hold pulls for less than a second" }
func (shortenPulls) UndoText() string { return "have it hold pulls as before" }
func (shortenPulls) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"locked"}, Proves: []string{"pulls-short"}}
}

func (shortenPulls) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Host: m.Host, Text: "set longPollingEnable=false and shortPollingTimeMills=500 in the running broker (code 25), put broker.conf back as it was; wait until what it held before is answered (--pull-hold)"})
	}
	return l
}

func (shortenPulls) Done(_ context.Context, e *Env) (bool, string, error) {
	return e.Options.PullHold == 0, "left out on request (--pull-hold 0)", nil
}

func (shortenPulls) Do(ctx context.Context, e *Env) error {
	m := e.Master()
	if err := e.updateConfig(ctx, m, properties(brokerconf.ShortPulls()), m.OldConf); err != nil {
		return err
	}
	e.State.PullsShort = true
	defer e.heartbeat(m.Host, "waiting for the pulls that it holds to be answered")()
	return sleep(ctx, e.Options.PullHold)
}

func (shortenPulls) Undo(ctx context.Context, e *Env) error {
	m := e.Master()
	e.State.PullsShort = false
	conf, err := brokerconf.Parse(m.ConfPath, m.OldConf)
	if err != nil {
		return err
	}
	p, err := m.process(ctx)
	if err != nil || p == nil { // it died meanwhile: its old broker.conf is how it holds them
		return err
	}
	live, err := m.broker(e).Config(ctx)
	if err != nil {
		return err
	}
	before := properties(conf.LongPulls())
	if isSet(live, before) { // the broker may have rewritten its file before it was told so
		return e.restoreOldConf(ctx, m)
	}
	return e.updateConfig(ctx, m, before, m.OldConf)
}

// pullsDrained waits until the retired master, which refuses pulls, holds none any more. It looks at those that
// it holds every half second, and answers those of half a second ago.
func (e *Env) pullsDrained(ctx context.Context) error {
	if !e.State.PullsShort {
		return nil
	}
	return sleep(ctx, time.Until(e.State.RetiredAt.Add(2*brokerconf.ShortPull+100*time.Millisecond)))
}

// sleep waits for a time or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(max(0, d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
