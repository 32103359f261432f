package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"mqlift/internal/agent/agenttest"
	"mqlift/internal/diag"
	"mqlift/internal/lab/sshhost"
	"mqlift/internal/lab/sshhost/sshhosttest"
	"mqlift/internal/remote"
)

// machine is what this test's own program runs on, as `uname -m` says.
var machine = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]

// yard is hosts h0, h1, … that stand in for those that an agent is put on.
type yard struct {
	site    *sshhosttest.Site
	count   sshhost.Count
	hosts   []*sshhost.Host
	targets []remote.Target
}

func newYard(t *testing.T, hosts int, change func(i int, h *agenttest.Host, c *sshhost.Config)) *yard {
	t.Helper()
	y := &yard{site: sshhosttest.NewSite(t)}
	var programs agenttest.Programs
	for i := range hosts {
		name := fmt.Sprintf("h%d", i)
		h := &agenttest.Host{Machine: machine, Programs: &programs}
		s := y.site.Start(name, func(c *sshhost.Config) {
			c.Run, c.Count = h.Run, &y.count
			if change != nil {
				change(i, h, c)
			}
		})
		y.hosts = append(y.hosts, s)
		y.targets = append(y.targets, y.site.Target(name, s))
	}
	return y
}

func names(l []remote.Target) (names []string) {
	for _, t := range l {
		names = append(names, t.Name)
	}
	return names
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestConnectionsAreOpenedAndKeptWithinTheLimits(t *testing.T) {
	limits := Limits{Open: 7, Starting: 2}
	y := newYard(t, 30, nil)
	var groups [][]string
	for i := 0; i < 30; i += 3 {
		groups = append(groups, names(y.targets[i:i+3]))
	}
	f := New(limits, groups...)
	var held sync.WaitGroup
	for i := 0; i < 30; i += 3 {
		held.Go(func() {
			g, err := f.Take(t.Context(), y.targets[i:i+3])
			if err != nil {
				t.Error(err)
				return
			}
			for name, n := range g.Nodes {
				if _, _, err := n.Agent.Skew(t.Context()); err != nil || n.Host.Name() != name {
					t.Errorf("%s: %v", name, err)
				}
			}
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	held.Wait()
	most := y.count.Most()
	// A server learns of a connection's end a moment later than the fleet, which may have begun the next by then.
	if most.Open > limits.Open+limits.Starting || most.Starting > limits.Starting || most.Starting == 0 {
		t.Errorf("at most %+v at once, with limits of %+v", most, limits)
	}
	if all := y.count.LoggedIn(); all != 30 {
		t.Errorf("%d connections to 30 hosts", all)
	}
	eventually(t, "all connections to be closed", func() bool { return y.count.Now() == sshhost.Connections{} })
}

func TestAHostOfSeveralGroupsKeepsItsConnection(t *testing.T) {
	y := newYard(t, 4, nil)
	first, second, third := y.targets[0:2], y.targets[1:3], y.targets[2:4]
	f := New(Limits{Open: 4, Starting: 4}, names(first), names(second), names(third))
	take := func(l []remote.Target) *Group {
		t.Helper()
		g, err := f.Take(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	leave := func(g *Group, open int) {
		t.Helper()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		eventually(t, fmt.Sprintf("%d connections to be left", open), func() bool { return y.count.Now().Open == open })
	}
	a := take(first)
	h1 := a.Nodes["h1"]
	leave(a, 1) // h1, for the second group
	b := take(second)
	if b.Nodes["h1"] != h1 {
		t.Error("h1 was connected to again")
	}
	c := take(third) // h2 at the same time
	if c.Nodes["h2"] != b.Nodes["h2"] {
		t.Error("h2 has two connections")
	}
	leave(b, 2)
	leave(c, 0)
	if all := y.count.LoggedIn(); all != 4 {
		t.Errorf("%d connections to 4 hosts", all)
	}
}

func TestAHostKeptForLaterMakesRoom(t *testing.T) {
	y := newYard(t, 4, nil)
	limits := Limits{Open: 2, Starting: 2}
	one, other := y.targets[0:2], y.targets[2:4]
	f := New(limits, names(one), names(other), names(one))
	for _, l := range [][]remote.Target{one, other, one} {
		g, err := f.Take(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	if most := y.count.Most().Open; most > limits.Open+limits.Starting { // as above
		t.Errorf("%d connections at once", most)
	}
	eventually(t, "all connections to be closed", func() bool { return y.count.Now().Open == 0 })
}

func TestWhatIsKeptForAGroupThatNeverComesIsClosed(t *testing.T) {
	y := newYard(t, 1, nil)
	f := New(DefaultLimits(), names(y.targets), names(y.targets))
	g, err := f.Take(t.Context(), y.targets)
	if err == nil {
		err = g.Close()
	}
	if open := y.count.Now().Open; err != nil || open != 1 {
		t.Fatalf("%d connections are kept, %v", open, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the connection to be closed", func() bool { return y.count.Now().Open == 0 })
}

func TestEveryHostThatFailsIsAFindingAndTheOthersAreClosed(t *testing.T) {
	y := newYard(t, 5, func(i int, h *agenttest.Host, c *sshhost.Config) {
		switch i {
		case 1:
			c.User = "other"
		case 2:
			h.NoExec = true
		case 3:
			h.Machine = "s390x"
		case 4:
			c.Run = func(ctx context.Context, line string, stdin io.Reader, stdout, stderr io.Writer) int {
				if strings.Contains(line, "gzip -dc >") {
					fmt.Fprintln(stderr, "sh: No space left on device")
					return 2
				}
				return h.Run(ctx, line, stdin, stdout, stderr)
			}
		}
	})
	f := New(DefaultLimits(), names(y.targets))
	_, err := f.Take(t.Context(), y.targets)
	var found *diag.Error
	if !errors.As(err, &found) {
		t.Fatalf("%T %v", err, err)
	}
	var got []string
	for _, f := range found.Findings {
		t.Log(f)
		got = append(got, f.Host+" "+f.Check)
		if f.Where == "" || f.What == "" || f.Do == "" {
			t.Errorf("not three parts: %+v", f)
		}
	}
	if is, want := strings.Join(got, ", "), "h1 ssh.auth, h2 host.noexec, h3 host.platform, h4 host.agent"; is != want {
		t.Errorf("findings: %s\nwant      %s", is, want)
	}
	eventually(t, "the others to be closed", func() bool { return y.count.Now() == sshhost.Connections{} })

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Take(ctx, y.targets); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestALostHostIsConnectedToAgain(t *testing.T) {
	y := newYard(t, 1, nil)
	f := New(DefaultLimits(), names(y.targets))
	g, err := f.Take(t.Context(), y.targets)
	if err != nil {
		t.Fatal(err)
	}
	y.hosts[0].Cut()
	<-g.Nodes["h0"].Host.Done()
	if err := y.hosts[0].Restore(); err != nil {
		t.Fatal(err)
	}
	n, err := g.Again(t.Context(), "h0")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.Agent.Skew(t.Context()); err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the new connection to be closed", func() bool { return y.count.Now().Open == 0 })
}
