package main

import (
	"testing"
	"time"

	"mqlift/internal/event"
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

func TestAReplayIsReckonedBeforehand(t *testing.T) {
	want := "1500 messages take about 49.0s, 43.0s of it with sends refused, at 500 a second for each of reading, sending and looking up;\nprogress tells the time left at the rate that there is."
	if got := estimate(1500); got != want {
		t.Error(got)
	}
}
