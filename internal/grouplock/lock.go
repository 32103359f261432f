// Package grouplock is the lock on a broker group: what it says, and whether who holds it still lives.
// It lies on every host of the group, because two bastions share nothing else.
package grouplock

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode"
)

const (
	// Beat is how often a run shows on every host that it lives.
	Beat = 10 * time.Second
	// SilentAfter is how long after its last sign of life a run that cannot be looked at counts as silent.
	SilentAfter = time.Minute
)

// Lock is what the lock file says.
type Lock struct {
	Group    string    `json:"group"`
	Run      string    `json:"run"`
	Operator string    `json:"operator"`
	From     string    `json:"from"` // machine that mqlift runs on
	Since    time.Time `json:"since"`
	Process  Process   `json:"process,omitzero"` // of mqlift, there
	// Dir is the run's folder with its plan and journal, on that machine; empty when it keeps none.
	Dir string `json:"dir,omitempty"`
}

// Path is the lock file of a group below mqlift's folder on a host.
func Path(workDir, group string) string { return path.Join(workDir, group+".lock") }

// SameHolder tells whether two locks are of one process. A run alone does not tell: who goes back from it on
// another machine takes its lock over under its name.
func (l Lock) SameHolder(o Lock) bool {
	return l.Run == o.Run && l.From == o.From && l.Dir == o.Dir && l.Process == o.Process
}

// Encode is the content of the lock file.
func (l Lock) Encode() ([]byte, error) {
	data, err := json.Marshal(l)
	return append(data, '\n'), err
}

// check refuses what Encode never wrote for a run. One that names none would be broken by whoever names none.
func (l Lock) check() error {
	if l.Group == "" || l.Run == "" {
		return errors.New("it names no group or no run")
	}
	for _, s := range []string{l.Group, l.Run, l.Operator, l.From, l.Dir} {
		if strings.ContainsFunc(s, unicode.IsControl) {
			return fmt.Errorf("%q is no name", s)
		}
	}
	return nil
}

// Life is whether a run that holds a lock is still at work.
type Life string

const (
	Alive  Life = "alive"
	Silent Life = "silent" // cannot be looked at from here, and has shown nothing for SilentAfter
	Dead   Life = "dead"   // was a process of this machine, and has ended
)

// Held is a lock as it was found on a host.
type Held struct {
	Lock
	Host string
	Path string
	Raw  []byte
	// Quiet is how long ago its run gave the last sign of life, by the host's own clock.
	Quiet time.Duration
	Life  Life
}

// Read makes sense of a lock file; quiet is its age by the host's clock.
func Read(host, file string, raw []byte, quiet time.Duration) (*Held, error) {
	h := &Held{Host: host, Path: file, Raw: raw, Quiet: max(quiet, 0)}
	err := json.Unmarshal(raw, &h.Lock)
	if err == nil {
		err = h.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s is not a lock that mqlift wrote: %w; look at it, and remove it when no run is going on", host, file, err)
	}
	switch {
	case h.Process.Near() && h.Process.Ended():
		h.Life = Dead
	case h.Process.Near() || h.Quiet < SilentAfter:
		h.Life = Alive
	default:
		h.Life = Silent
	}
	return h, nil
}

// Holder says who holds the lock, since when, and whether it lives.
func (h *Held) Holder() string {
	who := fmt.Sprintf("run %s of %s on %s", h.Run, h.Operator, h.From)
	if h.Process.PID > 0 {
		who += fmt.Sprintf(" (process %d)", h.Process.PID)
	}
	who += fmt.Sprintf(" holds %s since %s; ", h.Group, h.Since.Format(time.RFC3339))
	switch h.Life {
	case Dead:
		return who + fmt.Sprintf("it is dead: process %d on this machine has ended", h.Process.PID)
	case Silent:
		return who + fmt.Sprintf("no sign of life since %s (%s ago)", time.Now().Add(-h.Quiet).UTC().Format(time.RFC3339), h.Quiet.Round(time.Second))
	}
	return who + fmt.Sprintf("it lives: its last sign of life is %s old", h.Quiet.Round(time.Second))
}

// Do says what can be done about it.
func (h *Held) Do() string {
	lost := fmt.Sprintf("where its journal is lost, `mqlift rollback --break-lock %s` goes back by what the run kept on the hosts", h.Run)
	switch {
	case h.Life == Alive:
		return fmt.Sprintf("let it end, or press Ctrl-C where it runs, on %s; the lock of a run that lives cannot be broken", h.From)
	case h.Dir == "":
		return fmt.Sprintf("`--break-lock %s` takes the lock over", h.Run)
	case h.Life == Dead:
		return fmt.Sprintf("`mqlift apply` here takes it up from its journal in %s (--state-dir %s); %s", h.Dir, h.stateDir(), lost)
	}
	return fmt.Sprintf("look on %s whether process %d is at work; if not, `mqlift apply` there takes it up from its journal in %s; %s", h.From, h.Process.PID, h.Dir, lost)
}

// stateDir is the state folder that Dir lies in: STATE/runs/GROUP/RUN.
func (h *Held) stateDir() string { return path.Dir(path.Dir(path.Dir(h.Dir))) }

// Breakable tells whether the operator may take the lock over who named that run: never from one that
// lives, however tired the operator.
func (h *Held) Breakable(run string) bool { return h.Life != Alive && run == h.Run }

// First is the lock that counts among those found on a group's hosts, nil ones left out: that of the run that
// lives, if one does; nil when there is none.
func First(held ...*Held) (first *Held) {
	for _, h := range held {
		if h != nil && (first == nil || first.Life != Alive && h.Life == Alive) {
			first = h
		}
	}
	return first
}

// Error is that another run holds the group.
type Error struct {
	*Held
	// Named is the run whose lock was to be broken; empty when none was.
	Named string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %s: %s", e.Host, e.Path, e.Holder())
	if e.Named != "" && e.Named != e.Run {
		s += fmt.Sprintf("; --break-lock names another run, %s", e.Named)
	}
	return s + "\n→ " + e.Do()
}
