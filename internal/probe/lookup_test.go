package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLookupTellsNodesApart(t *testing.T) {
	g := newGroup(t)
	sent := send(t, g, "m1", "m2", "m3")
	send(t, g, "m2") // once more
	g.with(func() {
		g.nodes[1].hides[0] = true
		g.nodes[2].noIndex = true
	})
	dead := listen(t, nil)
	dead.kill()
	started := time.Now()
	got, err := Lookup{Brokers: g.brokers(), Limit: 300 * time.Millisecond}.Find(t.Context(), sent.Entries(),
		append(g.addrs(), dead.addr))
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	type node struct {
		Found, Unindexed, Missing, Unanswered []string
		Copies                                []Copies
	}
	var nodes []node
	for _, n := range got {
		nodes = append(nodes, node{keyNames(n.Found), keyNames(n.Unindexed), keyNames(n.Missing), keyNames(n.Unanswered),
			n.Copies})
	}
	twice := []Copies{{MessageKey{testTopic, "m2"}, 2}}
	if d := cmp.Diff([]node{
		{Found: []string{"m1", "m2", "m3"}, Copies: twice},
		{Found: []string{"m2", "m3"}, Missing: []string{"m1"}, Copies: twice},
		{Unindexed: []string{"m1", "m2", "m3"}},
		{Unanswered: []string{"m1", "m2", "m3"}},
	}, nodes); d != "" {
		t.Error(d)
	}
	if got[3].FirstError == "" {
		t.Error("no reason for the dead node")
	}
}

func TestLookupWaitsForTheIndex(t *testing.T) {
	g := newGroup(t)
	sent := send(t, g, "m1", "m2")
	asked := 0
	g.with(func() {
		// Neither queue nor index know the messages for the first looks at them.
		g.nodes[0].hides[0], g.nodes[0].hides[1] = true, true
		g.nodes[0].asked = func() {
			if asked++; asked > 9 {
				clear(g.nodes[0].hides)
			}
		}
	})
	got, err := Lookup{Brokers: g.brokers(), Limit: 20 * time.Second}.Find(t.Context(), sent.Entries(), g.addrs()[:1])
	if err != nil || len(got[0].Found) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLookupAsksADeadNodeOnlyAFewTimes(t *testing.T) {
	g := newGroup(t)
	held := make(chan struct{})
	t.Cleanup(func() { close(held) })
	g.with(func() { g.nodes[0].held = held })
	var entries []Entry
	for i := range 5000 {
		entries = append(entries, Entry{Topic: testTopic, Key: fmt.Sprint(i)})
	}
	started := time.Now()
	got, err := Lookup{Brokers: g.brokers(), Timeout: 100 * time.Millisecond, Limit: time.Millisecond}.Find(t.Context(),
		entries, g.addrs()[:1])
	if took := time.Since(started); err != nil || len(got[0].Unanswered) != 5000 || took > 5*time.Second {
		t.Errorf("%d unanswered in %s, %v", len(got[0].Unanswered), took, err)
	}
}

func TestLookupEndsWithItsContext(t *testing.T) {
	g := newGroup(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("stopped by the operator")
	time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
	started := time.Now()
	got, err := Lookup{Brokers: g.brokers(), Limit: time.Hour}.Find(ctx, []Entry{{Topic: testTopic, Key: "m1"}}, g.addrs())
	if !errors.Is(err, cause) || len(got) != 3 || time.Since(started) > 5*time.Second {
		t.Errorf("%+v, %v", got, err)
	}
	if !slices.Equal(keyNames(got[0].Missing), []string{"m1"}) {
		t.Errorf("%+v", got[0])
	}
}
