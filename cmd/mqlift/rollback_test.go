package main

import (
	"strings"
	"testing"
	"time"

	"mqlift/internal/event"
	"mqlift/internal/step"
)

// The time for which sends are refused runs on both ways, and stops where they are taken again.
func TestRefusedTimeIsFollowedOnBothWays(t *testing.T) {
	for _, c := range []struct {
		closes, opens string
		by            event.Kind
	}{
		{"fence-master", "open-writes", event.StepEnd},
		{"fence-master", "fence-master", event.UndoEnd},
		{"fence-peers", "give-back", event.StepEnd},
		{"fence-peers", "give-back", event.StepSkip}, // a way back that was cut short after that
		{"fence-peers", "fence-peers", event.UndoEnd},
	} {
		var s stopwatch
		s.see(event.Event{Time: time.Now().Add(-time.Minute), Kind: event.StepBegin, Step: c.closes})
		s.see(event.Event{Kind: event.StepEnd, Step: "send-again"})
		if s.read() < time.Minute {
			t.Errorf("%s: %s", c.closes, s.read())
		}
		if s.see(event.Event{Kind: c.by, Step: c.opens}); s.read() != 0 {
			t.Errorf("%s of %s: still %s", c.by, c.opens, s.read())
		}
	}
}

func TestStatusSaysHowFarAWayBackHasGot(t *testing.T) {
	r := &step.Replay{Taken: 30, Queues: map[string]*step.Resent{"orders/0": {Sent: 5}, "orders/1": {Sent: 6}}}
	if got := underWay(r); !strings.Contains(got, "gives it up for free") {
		t.Error(got)
	}
	r.StoppingAt = time.Now()
	if got := underWay(r); !strings.Contains(got, "30 messages are kept on this machine, 11 of them sent again") || strings.Contains(got, "gives it up") {
		t.Error(got)
	}
}

func TestAReplayIsReckonedBeforehand(t *testing.T) {
	want := "2000 messages take about 1m10s, 50.0s of it with sends refused, at 200 a second for each of reading, sending and looking up;\nprogress tells the time left at the rate that there is."
	if got := estimate(2000); got != want {
		t.Error(got)
	}
}

// A killed run that is taken up and undone ends well, and has made no DLedger group.
func TestARunThatWasUndoneIsNoUpgrade(t *testing.T) {
	var out strings.Builder
	r := applyReport{OK: true, Group: "broker-a", State: &step.State{FencedAt: time.Now()}}
	r.print(&out)
	if strings.Contains(out.String(), "is a DLedger group") || strings.Contains(out.String(), "Going back costs") {
		t.Error(out.String())
	}
}
