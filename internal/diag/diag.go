// Package diag holds findings: what mqlift says about something it looked at, in the three parts
// that an operator needs (what happened, where, what to do), many at a time.
package diag

import (
	"fmt"
	"strings"
)

// Severity orders findings; only Fail stops a command.
type Severity int

const (
	Pass Severity = iota // looked at and fine
	Warn                 // worth reading, does not stop
	Fail                 // nothing is done until it is mended
)

// String returns pass, warn or fail.
func (s Severity) String() string {
	switch s {
	case Pass:
		return "pass"
	case Warn:
		return "warn"
	case Fail:
		return "fail"
	}
	return fmt.Sprintf("severity %d", int(s))
}

// MarshalText writes the severity as its word, so that JSON carries "fail" and not 2.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Severity) UnmarshalText(b []byte) error {
	for _, known := range []Severity{Pass, Warn, Fail} {
		if string(b) == known.String() {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("severity %q: want pass, warn or fail", b)
}

// Finding is one thing that was looked at.
type Finding struct {
	// Check is the stable name of what was looked at, such as "broker.abort" or
	// "topology.peers"; scripts and tests select on it.
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	// Group is the broker group that was looked at, empty where only one can be meant.
	Group string `json:"group,omitempty"`
	// Host is the topology's name of the host, empty when the finding is about no single host.
	Host string `json:"host,omitempty"`
	// Where is the place: file:line:column, a path, or a broker or name server address.
	Where string `json:"where,omitempty"`
	// What happened or was seen, one sentence without a full stop.
	What string `json:"what"`
	// Do is what to do about it, one sentence; empty for Pass.
	Do string `json:"do,omitempty"`
}

// String is the finding in one line: place: what; do.
func (f Finding) String() string {
	var b strings.Builder
	if f.Host != "" {
		b.WriteString(f.Host + ": ")
	}
	if f.Where != "" {
		b.WriteString(f.Where + ": ")
	}
	b.WriteString(f.What)
	if f.Do != "" {
		b.WriteString("; " + f.Do)
	}
	return b.String()
}

// Findings is a list of findings; with at least one Fail in it, Err makes it an error.
type Findings []Finding

// Add appends a finding.
func (l *Findings) Add(f Finding) { *l = append(*l, f) }

// Count tells how many findings have that severity.
func (l Findings) Count(s Severity) int {
	n := 0
	for _, f := range l {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Err returns nil when nothing failed, and otherwise an *Error with every failed finding.
func (l Findings) Err() error {
	var failed Findings
	for _, f := range l {
		if f.Severity == Fail {
			failed = append(failed, f)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &Error{Findings: failed}
}

// Error carries all failed findings at once: one line each.
type Error struct{ Findings Findings }

func (e *Error) Error() string {
	lines := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}
