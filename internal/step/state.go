package step

import (
	"time"

	"mqlift/internal/hostinfo"
	"mqlift/internal/probe"
	"mqlift/internal/rocketmq"
	"mqlift/internal/store"
)

// State is what steps found out and later steps, or a later run, need. It is journalled whole after
// every step; nothing in it is secret.
type State struct {
	Run     string    `json:"run"`
	Started time.Time `json:"started"`

	// Baks tells, by host, whether a broker.conf.bak was there before the run; nil where that is not known.
	Baks map[string]bool `json:"baks,omitempty"`

	// Samples are old messages taken from the master's commit log, Tracers mqlift's own ones.
	Samples []probe.MessageKey `json:"samples,omitempty"`
	Tracers []probe.MessageKey `json:"tracers,omitempty"`

	// AlignedEnd is the physical offset up to which all copies were compared before the fence, and
	// Aligned the proof of it.
	AlignedEnd int64              `json:"alignedEnd,omitempty"`
	Aligned    *store.Certificate `json:"aligned,omitempty"`

	// PullsShort tells that the master was told not to hold pulls for long.
	PullsShort bool `json:"pullsShort,omitempty"`

	// Fence holds the master's settings from before the fence; FencedAt is when sends were refused.
	Fence    map[string]string `json:"fence,omitempty"`
	FencedAt time.Time         `json:"fencedAt,omitzero"`
	// FencedProcess is the old master's broker when it was fenced: another one has been started since.
	FencedProcess hostinfo.ProcessID `json:"fencedProcess,omitzero"`
	// FencedEnd is the physical offset at which the fenced master's log stood still.
	FencedEnd int64 `json:"fencedEnd,omitempty"`

	// Waiting is what was under way at the fence; nil when it could not be counted.
	Waiting *Waiting `json:"waiting,omitempty"`
	// Certificate covers what came after AlignedEnd; CertifiedEnd is the end of every log.
	Certificate  *store.Certificate `json:"certificate,omitempty"`
	CertifiedEnd int64              `json:"certifiedEnd,omitempty"`
	// Metadata lists the files below config/ that mean the same on the master and in the new roots, and
	// Queues counts the consume queues whose ends were compared on the peers with the master's.
	Metadata []string `json:"metadata,omitempty"`
	Queues   int      `json:"queues,omitempty"`

	// Copied are the versions that config/*.json had when they were copied, by file; Meanwhile names the topics
	// and consumer groups that the old master was given after that, and that the new leader got, too.
	Copied    map[string]rocketmq.DataVersion `json:"copied,omitempty"`
	Meanwhile Meanwhile                       `json:"meanwhile,omitzero"`

	// Leader is the host that led the new group when it was last looked at.
	Leader string `json:"leader,omitempty"`

	// Written tells that the new group's own log was not empty when it was proven: its leader had written
	// by itself, such as delayed messages that came due.
	Written bool `json:"written,omitempty"`

	// RetiredAt is when the old master had given its place in the routes away, and refused pulls.
	RetiredAt time.Time `json:"retiredAt,omitzero"`

	// OpeningAt is set before the first peer is told to take writes: from then on nothing is undone.
	OpeningAt time.Time `json:"openingAt,omitzero"`
	// EndsThen are the ends of all queues, by topic and queue, when writes were about to be opened: what comes
	// after them the old group has not got.
	EndsThen map[string][]int64 `json:"endsThen,omitempty"`
	// OpenedAt is when the new group acknowledged its first message.
	OpenedAt time.Time `json:"openedAt,omitzero"`

	// Bridge is what clients with old routes sent over the bridge; nil where there was none.
	Bridge *Bridged `json:"bridge,omitempty"`

	// JoiningAt is set before the old master is started as a peer: from then on its ledger counts.
	JoiningAt time.Time `json:"joiningAt,omitzero"`

	// Offsets counts the consumer offsets that the old master had, one for each queue and group, and OffsetsMoved
	// those that were brought to the new leader, which did not have them. OffsetsThen are they all, as they were
	// before writes opened.
	Offsets      int                      `json:"offsets,omitempty"`
	OffsetsMoved int                      `json:"offsetsMoved,omitempty"`
	OffsetsThen  rocketmq.ConsumerOffsets `json:"offsetsThen,omitempty"`

	// Replay is how far the way back from the opened group has got; nil before it is begun.
	Replay *Replay `json:"replay,omitempty"`

	Failover *FailoverResult `json:"failover,omitempty"`
	Stages   []StageTime     `json:"stages,omitempty"`
}

// Meanwhile names what was made or changed while the group moved.
type Meanwhile struct {
	Topics []string `json:"topics,omitempty"`
	Groups []string `json:"groups,omitempty"`
}

// StageTime is how long a stage took.
type StageTime struct {
	Name  string        `json:"name"`
	Began time.Time     `json:"began"`
	Took  time.Duration `json:"tookNs"`
}

// Final tells whether a step that fails leaves nothing to be undone: writes have been opened on the new
// group, and, on the way back from there, it is still the one that serves.
func (s *State) Final() bool {
	return s.Opening() && (s.Replay == nil || !s.Replay.StoppingAt.IsZero())
}

// Opening tells whether writes have been opened on the new group, or may have been.
func (s *State) Opening() bool { return !s.OpeningAt.IsZero() }

// WriteOutage is how long sends were refused, from the fence to the new group's first
// acknowledgement; zero while that has not come.
func (s *State) WriteOutage() time.Duration {
	if s.FencedAt.IsZero() || s.OpenedAt.IsZero() {
		return 0
	}
	return s.OpenedAt.Sub(s.FencedAt)
}
