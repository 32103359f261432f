package step

import (
	"errors"
	"path/filepath"
	"time"

	"mqlift/internal/replay"
	"mqlift/internal/rocketmq"
)

// Replay is what the way back from an opened group has found and done.
type Replay struct {
	// Locked tells that the run held its lock when the way back was begun: an unfinished upgrade.
	Locked bool `json:"locked,omitempty"`
	// FencedAt is when the last peer was told to refuse sends.
	FencedAt time.Time `json:"fencedAt,omitzero"`
	// TakenAt is when all messages written since the opening were on this machine's disk.
	TakenAt time.Time `json:"takenAt,omitzero"`
	Taken   int       `json:"taken,omitempty"`
	// Offsets, Topics and Groups are the new group's at that moment, Delays how far its delayed messages
	// had been delivered.
	Offsets rocketmq.ConsumerOffsets                    `json:"offsets,omitempty"`
	Topics  map[string]rocketmq.TopicConfig             `json:"topics,omitempty"`
	Groups  map[string]rocketmq.SubscriptionGroupConfig `json:"groups,omitempty"`
	Delays  rocketmq.DelayOffsets                       `json:"delays,omitempty"`
	// StoppingAt is set before the first peer is stopped: from then on there is only the way to the old group.
	StoppingAt time.Time `json:"stoppingAt,omitzero"`
	// Aside are the new group's stores where they lie now, by host.
	Aside map[string]string `json:"aside,omitempty"`
	// ShutAt is when the old master was up again, closed to clients.
	ShutAt time.Time `json:"shutAt,omitzero"`
	// SendingAt is set before the first message is sent: from then on any may have been.
	SendingAt time.Time `json:"sendingAt,omitzero"`
	// Queues is how far each queue has got, by topic/queue.
	Queues map[string]*Resent `json:"queues,omitempty"`
	// OpenedAt is when the old master took sends again.
	OpenedAt time.Time `json:"openedAt,omitzero"`
	// Found is how many messages sent again were found by key on each old member.
	Found int `json:"found,omitempty"`
}

// Resent is how far a queue's messages have been sent again.
type Resent struct {
	Sent int `json:"sent"` // of the queue's file, those that are not to be sent left out
	// First and FirstAt are the queue offsets of the first one in the new group and on the old master.
	// Even is the offset in the new group up to which the distance between the two stayed the same.
	First   int64 `json:"first"`
	FirstAt int64 `json:"firstAt"`
	Even    int64 `json:"even"`
	Uneven  bool  `json:"uneven,omitempty"`
}

func (e *Env) spool() (*replay.Spool, error) {
	if e.Options.Dir == "" {
		return nil, errors.New("a way back needs a folder for messages on this machine")
	}
	return replay.OpenSpool(filepath.Join(e.Options.Dir, "messages"))
}
