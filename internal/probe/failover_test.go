package probe

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"mqlift/internal/diag"
)

// forced is a failover of g from node 0 to node 1, with the old leader's address answering for the new
// one after a while, as behind a bridge: the producer would take 30 s to look for another.
func forced(g *group) (*Failover, *[]string) {
	var calls []string
	return &Failover{
		NameServers: g.servers(), Router: g.router(), Brokers: g.brokers(), Broker: testBroker, Topic: testTopic,
		Group: "probe", Start: 600000, Nodes: g.addrs(), Timeout: 10 * time.Second, // for a busy machine
		Limits: FailoverLimits{Steady: time.Minute, Election: 20 * time.Second, Lookup: 5 * time.Second},
		Hooks: Hooks{
			FindLeader: func(context.Context) (string, string, error) {
				g.mu.Lock()
				defer g.mu.Unlock()
				if g.leader < 0 {
					return "", "", errors.New("no leader")
				}
				return g.nodes[g.leader].addr, []string{"n0", "n1", "n2"}[g.leader], nil
			},
			KillLeader: func(context.Context) error {
				calls = append(calls, "kill")
				g.with(func() { g.leader = -1 })
				g.nodes[0].kill()
				time.AfterFunc(300*time.Millisecond, func() {
					g.with(func() { g.leader = 1 })
					time.AfterFunc(300*time.Millisecond, func() {
						g.with(func() { g.nodes[0].acts = true })
						g.nodes[0].start()
					})
				})
				return nil
			},
			Revive: func(context.Context) error {
				calls = append(calls, "revive")
				return nil
			},
			WaitRejoined: func(context.Context) error {
				calls = append(calls, "rejoined")
				return nil
			},
		},
	}, &calls
}

func TestFailoverMeasuresAndFindsEverything(t *testing.T) {
	g := newGroup(t)
	f, calls := forced(g)
	old := send(t, g, "old1")
	f.OldKeys = []MessageKey{{testTopic, "old1"}}
	var moments []string
	f.Moments = func(m Moment) { moments = append(moments, m.What) }
	f.Sent = old // a ledger that is there already is looked up as a whole
	r, err := f.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(*calls, " "); got != "kill revive rejoined" {
		t.Errorf("hooks: %s", got)
	}
	if r.Old != (Leader{g.nodes[0].addr, "n0"}) || r.New != (Leader{g.nodes[1].addr, "n1"}) {
		t.Errorf("from %v to %v", r.Old, r.New)
	}
	for what, d := range map[string]time.Duration{"write": r.WriteOutage(), "client": r.ClientOutage()} {
		if d < 300*time.Millisecond || d > 30*time.Second {
			t.Errorf("%s outage %s", what, d)
		}
	}
	if r.ClientOutage() < r.WriteOutage() {
		t.Errorf("client outage %s, cluster %s", r.ClientOutage(), r.WriteOutage())
	}
	if r.ReadOutage() > r.WriteOutage() {
		t.Errorf("read outage %s with two slaves to read from, write outage %s", r.ReadOutage(), r.WriteOutage())
	}
	if len(r.Nodes) != 3 || r.Acknowledged < 200 {
		t.Errorf("%d nodes, %d acknowledged", len(r.Nodes), r.Acknowledged)
	}
	for _, n := range r.Nodes {
		if n.Found != r.Acknowledged || n.OldFound != 1 || len(n.Missing) > 0 {
			t.Errorf("%+v", n)
		}
	}
	if err := r.Findings().Err(); err != nil {
		t.Error(err)
	}
	if len(moments) != len(r.Moments) || moments[0] != "steady" {
		t.Errorf("moments %v", moments)
	}
	b, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(b), `"write_outage_ms":`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestFailoverSaysWhichPhaseDidNotComeAboutAndRevives(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		change func(*group, *Failover)
		phase  string
		calls  string
		cause  error
		text   string
	}{
		"no leader": {
			change: func(g *group, f *Failover) {
				g.leader, f.Limits.Leader = -1, 200*time.Millisecond
			},
			phase: "finding the leader", text: "last seen: no leader",
		},
		"no sends": {
			change: func(g *group, f *Failover) { g.perm, f.Limits.Steady = 4, time.Second },
			phase:  "steady sends before the kill", text: "takes no sends",
		},
		"old key missing": {
			change: func(g *group, f *Failover) {
				f.OldKeys, f.Limits.Steady = []MessageKey{{testTopic, "gone"}}, 2*time.Second
			},
			phase: "steady look-ups before the kill", text: "not found",
		},
		"kill fails": {
			change: func(g *group, f *Failover) {
				f.Hooks.KillLeader = func(context.Context) error { return boom }
			},
			phase: "killing the leader", calls: "revive", cause: boom,
		},
		"no new leader": {
			change: func(g *group, f *Failover) {
				f.Limits.Election = time.Second
				f.Hooks.KillLeader = func(context.Context) error {
					g.nodes[0].kill()
					return nil
				}
			},
			phase: "a new leader", calls: "revive", text: "the leader is still",
		},
		"revive fails": {
			change: func(g *group, f *Failover) {
				f.Hooks.Revive = func(context.Context) error { return boom }
			},
			phase: "reviving the killed node", calls: "kill", cause: boom,
		},
		"never rejoins": {
			change: func(g *group, f *Failover) {
				f.Limits.Rejoin = 100 * time.Millisecond
				f.Hooks.WaitRejoined = func(ctx context.Context) error {
					<-ctx.Done()
					return context.Cause(ctx)
				}
			},
			phase: "the killed node's return", calls: "kill revive", text: "did not come about in time",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t)
			f, calls := forced(g)
			c.change(g, f)
			r, err := f.Run(t.Context())
			var p *PhaseError
			if !errors.As(err, &p) || !strings.HasPrefix(p.Phase, c.phase) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error: %v", err)
			}
			if c.cause != nil && !errors.Is(err, c.cause) {
				t.Errorf("the cause is lost: %v", err)
			}
			if r == nil {
				t.Error("no result with the error")
			}
			if got := strings.Join(*calls, " "); got != c.calls {
				t.Errorf("hooks %q, want %q", got, c.calls)
			}
		})
	}
}

func TestFailoverRevivesWhenItIsCancelledAfterTheKill(t *testing.T) {
	g := newGroup(t)
	f, calls := forced(g)
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by the operator")
	kill, revive := f.Hooks.KillLeader, f.Hooks.Revive
	f.Hooks.KillLeader = func(ctx context.Context) error {
		defer cancel(stopped)
		return kill(ctx)
	}
	var reviveCtx error
	f.Hooks.Revive = func(ctx context.Context) error {
		reviveCtx = ctx.Err()
		return revive(ctx)
	}
	_, err := f.Run(ctx)
	if !errors.Is(err, stopped) {
		t.Errorf("error: %v", err)
	}
	if got := strings.Join(*calls, " "); got != "kill revive" || reviveCtx != nil {
		t.Errorf("hooks %q, revived with %v", got, reviveCtx)
	}
}

func TestFindingsFailOnWhatIsLostAndWarnOnWhatIsNot(t *testing.T) {
	key := MessageKey{testTopic, "m1"}
	r := &FailoverResult{Acknowledged: 3, OldKeys: 1, Nodes: []NodeCount{
		{Addr: "fine", Found: 3, OldFound: 1},
		{Addr: "lost", Found: 2, Missing: []MessageKey{key}},
		{Addr: "silent", Unanswered: 3, FirstError: "refused"},
		{Addr: "killed", Found: 1, Unindexed: 2, OldMissing: []MessageKey{key}},
		{Addr: "twice", Found: 3, OldFound: 1, Duplicates: []Copies{{key, 2}}},
	}}
	severity := map[string]diag.Severity{}
	for _, f := range r.Findings() {
		severity[f.Where+" "+f.Check] = f.Severity
		if (f.Do == "") != (f.Severity == diag.Pass) {
			t.Errorf("%+v", f)
		}
	}
	for what, want := range map[string]diag.Severity{" probe.outage": diag.Pass, "fine probe.found": diag.Pass,
		"lost probe.found": diag.Fail, "silent probe.found": diag.Fail, "killed probe.found": diag.Fail,
		"killed probe.index": diag.Warn, "twice probe.found": diag.Pass, "twice probe.duplicates": diag.Warn} {
		if got, ok := severity[what]; !ok || got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
}
