package step

import (
	"strings"
	"testing"
	"time"

	"mqlift/internal/agent"
)

func TestASealIsBrokenByAnyChange(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 5, time.UTC)
	was := func() seal {
		return seal{"a": {Path: "a", Size: 8, Changed: at}, "b/c": {Path: "b/c", Size: 9, Changed: at}}
	}
	if err := was().holds(was()); err != nil {
		t.Errorf("nothing has changed: %v", err)
	}
	for want, change := range map[string]func(seal){
		"a was changed at 2026-11-21T12:00:00.000000006Z": func(s seal) {
			s["a"] = agent.Entry{Path: "a", Size: 8, Changed: at.Add(1)}
		},
		"b/c was changed": func(s seal) { s["b/c"] = agent.Entry{Path: "b/c", Size: 10, Changed: at} },
		"a has gone":      func(s seal) { delete(s, "a") },
		"d has appeared":  func(s seal) { s["d"] = agent.Entry{Path: "d", Changed: at} },
	} {
		now := was()
		change(now)
		if err := was().holds(now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
