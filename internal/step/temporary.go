package step

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"mqlift/internal/brokerconf"
	"mqlift/internal/plan"
)

// Temporary says what a run that has begun those steps, and not undone them, may have left that is not to
// stay: what a person must know who finds the group like that. Every way out of a run uses it.
func (s *State) Temporary(p *plan.Plan, begun []string) []string {
	has := func(step string) bool { return slices.Contains(begun, step) }
	master, slaves, first := hosts(p.Of(plan.Master)), hosts(p.Of(plan.Slave)), hosts(p.First())
	var l []string
	say := func(where, format string, args ...any) { l = append(l, where+": "+fmt.Sprintf(format, args...)) }
	switch r := s.Replay; {
	case r != nil && !r.StoppingAt.IsZero() && r.OpenedAt.IsZero():
		say(hosts(p.Members), "the new group is stopped or being stopped, and the old master is closed to clients until all messages are sent again")
	case r != nil && r.OpenedAt.IsZero() && !r.FencedAt.IsZero():
		say(hosts(p.Members), "the new group refuses sends since %s", r.FencedAt.UTC().Format(time.RFC3339))
	}
	if s.Opening() && s.Replay == nil {
		if s.OpenedAt.IsZero() {
			say(first, "writes were being opened: the leader may refuse sends still")
		}
		if !has("prove-group") && !has("unlock-group") {
			say(master, "the old master may be down, or run closed to clients: it has not joined as a peer yet, and the others carry the group without it")
		}
		if has("prove-failover") && s.Failover == nil {
			say(hosts(p.Members), "the leader may have been killed for the failover, and not be started again")
		}
	} else if !s.Opening() {
		if s.Fence != nil && has("fence-master") {
			say(master, "the old master refuses sends since %s; it answers reads", s.FencedAt.UTC().Format(time.RFC3339))
		}
		if has("retire-master") {
			say(master, "it may be registered as brokerId %s instead of 0, and its broker.conf be one that takes no sends", brokerconf.RetiredID)
		}
		switch {
		case has("start-peers"):
			say(first, "may run as DLedger peers with writes closed, on the new broker.conf")
		case has("stop-slaves"):
			say(slaves, "the slave may be stopped, so that the master holds the only copy")
		}
	}
	if has("lock-group") || s.Opening() {
		say(hosts(p.Members), "the lock of run %s keeps other runs off", s.Run)
	}
	return l
}

// Back says what going back from there means for clients, and about how long it takes.
func (s *State) Back(begun []string) string {
	has := func(step string) bool { return slices.Contains(begun, step) }
	switch {
	case has("start-peers"):
		return "the new peers are stopped first: the old master takes sends again in about 15 s, its slaves follow"
	case has("fence-master"):
		return "the old master takes sends again in about 2 s, its slaves follow in about 15 s"
	case has("stop-slaves"):
		return "the old master serves all the time, its slaves are back in about 15 s"
	}
	return "the old group serves all the time"
}

func hosts(members []*plan.Member) string {
	var l []string
	for _, m := range members {
		l = append(l, m.Host)
	}
	return strings.Join(l, ", ")
}
