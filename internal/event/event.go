// Package event is the one stream of what a run does; views render it for people and for machines.
package event

import "time"

// Kind tells what an event reports.
type Kind string

const (
	StageBegin Kind = "stage-begin"
	StageEnd   Kind = "stage-end"
	StepBegin  Kind = "step-begin"
	StepEnd    Kind = "step-end"  // done; Took is set
	StepSkip   Kind = "step-skip" // its check found it done already; Text says what was seen
	StepFail   Kind = "step-fail" // Text is the error
	UndoBegin  Kind = "undo-begin"
	UndoEnd    Kind = "undo-end"
	UndoFail   Kind = "undo-fail"
	Note       Kind = "note"     // something worth knowing, at Host or in general
	Action     Kind = "action"   // a change that was made (or, in a dry run, would be) at Host
	Progress   Kind = "progress" // Done of Total bytes, or Unit, of Text
)

// Event is one thing that happened. Fields that do not apply are empty.
type Event struct {
	Time  time.Time     `json:"time"`
	Kind  Kind          `json:"kind"`
	Stage string        `json:"stage,omitempty"`
	Step  string        `json:"step,omitempty"`
	Host  string        `json:"host,omitempty"`
	Text  string        `json:"text,omitempty"`
	Done  int64         `json:"done,omitempty"`   // bytes, or Unit
	Total int64         `json:"total,omitempty"`  // bytes, or Unit
	Unit  string        `json:"unit,omitempty"`   // what is counted, such as messages; bytes when empty
	Left  time.Duration `json:"leftNs,omitempty"` // how long it takes still, at the rate so far; 0: not known
	Took  time.Duration `json:"tookNs,omitempty"`
}

// Sink takes events. It is called from many goroutines and must not block for long.
type Sink func(Event)
