package plan_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/link"
	"mqlift/internal/plan"
	"mqlift/internal/view"
)

// ways says how data goes, by pair of hosts.
func ways(p *plan.Plan) map[string]string {
	m := map[string]string{}
	for _, r := range p.Routes {
		m[r.From+" "+r.To] = p.Way(r.From, r.To)
	}
	return m
}

func TestThePlanDecidesHowDataGoes(t *testing.T) {
	const directly, plain, through = "directly, encrypted", "directly, authenticated and unencrypted", "through this machine"
	for name, test := range map[string]struct {
		is   func(*group)
		want map[string]string
		says string
	}{
		"all hosts reach one another": {func(*group) {},
			map[string]string{"host-a host-b": directly, "host-a host-c": directly, "host-b host-c": directly}, "from host-a to host-c (192.168.0.222:40911): directly, encrypted\n"},
		"a firewall": {func(g *group) { g.wall("host-a", "host-c") },
			map[string]string{"host-a host-b": directly, "host-a host-c": through, "host-b host-c": directly},
			"from host-a to host-c: through this machine: host-a does not reach 192.168.0.222:40911: i/o timeout\n"},
		"the other way does not count": {func(g *group) { g.wall("host-c", "host-a") },
			map[string]string{"host-a host-b": directly, "host-a host-c": directly, "host-b host-c": directly}, ""},
		"unencrypted is asked for": {func(g *group) { g.transfer = plan.Plain; g.wall("host-a", "host-b") },
			map[string]string{"host-a host-b": through, "host-a host-c": plain, "host-b host-c": plain}, ""},
		"the bastion is asked for": {func(g *group) { g.transfer = plan.Bastion },
			map[string]string{"host-a host-b": through, "host-a host-c": through, "host-b host-c": through}, "as asked for"},
		"it was not tried": {func(g *group) { g.facts.Reached = nil },
			map[string]string{"host-a host-b": through, "host-a host-c": through, "host-b host-c": through}, "not tried"},
	} {
		t.Run(name, func(t *testing.T) {
			g := healthy(t)
			test.is(g)
			p := g.plan()
			if diff := cmp.Diff(test.want, ways(p)); diff != "" {
				t.Errorf("want (-), got (+)\n%s", diff)
			}
			var b bytes.Buffer
			view.Plan(&b, false, p)
			if !strings.Contains(b.String(), test.says) {
				t.Errorf("the plan does not show %q:\n%s", test.says, &b)
			}
			// A saved plan has it, too.
			data, err := plan.Encode(p)
			if err != nil {
				t.Fatal(err)
			}
			again, err := plan.Decode("p.json", data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, ways(again)); diff != "" || again.Transfer != p.Transfer {
				t.Errorf("saved: want (-), got (+)\n%s", diff)
			}
		})
	}
	if plan.Auto.Mode() != link.Encrypted || plan.Bastion.Mode() != link.Encrypted || plan.Plain.Mode() != link.Plain {
		t.Error("only plain is plain")
	}
}

// Why hosts do not reach one another may be worded in another way the next time: that makes no plan stale.
func TestAnotherReasonMakesNoPlanStale(t *testing.T) {
	a, b := healthy(t), healthy(t)
	a.wall("host-a", "host-c")
	b.wall("host-a", "host-c")
	for i := range b.facts.Reached {
		if r := &b.facts.Reached[i]; r.Err != nil {
			r.Err = link.ErrBroken
		}
	}
	if err := plan.CheckFresh(a.plan(), b.plan()); err != nil {
		t.Error(err)
	}
}

// A way that opens makes no plan stale, one that closes does.
func TestAWayThatClosesMakesAPlanStale(t *testing.T) {
	open, closed := healthy(t), healthy(t)
	closed.wall("host-a", "host-c")
	if err := plan.CheckFresh(closed.plan(), open.plan()); err != nil {
		t.Error(err)
	}
	var stale *plan.StaleError
	if err := plan.CheckFresh(open.plan(), closed.plan()); !errors.As(err, &stale) || !strings.Contains(err.Error(), "from host-a to host-c was to go directly, which is not possible now: ") {
		t.Error(err)
	}
}
