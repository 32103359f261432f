// Package view renders the event stream and findings for people and for machines.
package view

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"mqlift/internal/diag"
	"mqlift/internal/event"
)

// Lines renders events as lines of text, for a terminal (Color, and progress on one line that is
// written over) or a pipe (progress every ten seconds).
type Lines struct {
	W     io.Writer
	Color bool
	TTY   bool
	// Outage, when set, gives the time for which sends have been refused so far; shown with progress.
	Outage func() time.Duration

	mu       sync.Mutex
	open     bool // an unfinished progress line stands at the cursor
	lastBeat time.Time
}

const (
	bold, dim, red, green, yellow, reset = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
)

func (v *Lines) paint(color, s string) string {
	if !v.Color {
		return s
	}
	return color + s + reset
}

// Event renders one event; it is an event.Sink.
func (v *Lines) Event(e event.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.Kind == event.Progress {
		v.progress(e)
		return
	}
	v.endProgress()
	switch e.Kind {
	case event.StageBegin:
		fmt.Fprintf(v.W, "%s  %s\n", v.paint(bold, e.Stage), v.paint(dim, "clients: "+e.Text))
	case event.StepBegin:
		v.lastBeat = e.Time
		if v.TTY {
			fmt.Fprintf(v.W, "  %s %s", v.paint(dim, "…"), e.Text)
			v.open = true
		}
	case event.StepEnd:
		fmt.Fprintf(v.W, "  %s %-20s %s\n", v.paint(green, "done"), e.Step, v.paint(dim, Duration(e.Took)))
	case event.StepSkip:
		fmt.Fprintf(v.W, "  %s %-20s %s\n", v.paint(green, "  ok"), e.Step, v.paint(dim, "nothing left to do: "+e.Text))
	case event.StepFail:
		fmt.Fprintf(v.W, "  %s %-20s %s\n", v.paint(red, "FAIL"), e.Step, indentAfterFirst(e.Text, 28))
	case event.UndoBegin:
		if e.Text != "" {
			fmt.Fprintf(v.W, "  %s %-20s %s\n", v.paint(yellow, "undo"), e.Step, v.paint(dim, e.Text))
		}
	case event.UndoEnd:
		if e.Took > 0 {
			fmt.Fprintf(v.W, "  %s %-18s %s\n", v.paint(yellow, "undone"), e.Step, v.paint(dim, Duration(e.Took)))
		}
	case event.UndoFail:
		fmt.Fprintf(v.W, "  %s %s: %s\n", v.paint(red, "NOT UNDONE"), e.Step, indentAfterFirst(e.Text, 13))
	case event.Note, event.Action:
		mark := " ·"
		if e.Kind == event.Action {
			mark = " →"
		}
		fmt.Fprintf(v.W, "    %s %s%s\n", v.paint(dim, mark), hostPrefix(e.Host), indentAfterFirst(e.Text, 7))
	}
}

func (v *Lines) progress(e event.Event) {
	if !v.TTY && e.Time.Sub(v.lastBeat) < 10*time.Second {
		return
	}
	v.lastBeat = e.Time
	amount, unit := Bytes, ""
	if e.Unit != "" {
		amount, unit = func(n int64) string { return fmt.Sprint(n) }, " "+e.Unit
	}
	text := fmt.Sprintf("    %s%s %s", hostPrefix(e.Host), e.Text, amount(e.Done))
	if e.Total > 0 {
		text += fmt.Sprintf(" of %s%s (%d %%)", amount(e.Total), unit, min(100, 100*e.Done/e.Total))
	} else {
		text += unit
	}
	if e.Left > 0 {
		text += ", about " + Duration(e.Left) + " left"
	}
	if v.Outage != nil {
		if o := v.Outage(); o > 0 {
			text += "; sends refused for " + Duration(o)
		}
	}
	if v.TTY {
		fmt.Fprintf(v.W, "\r\x1b[K%s", text)
		v.open = true
		return
	}
	fmt.Fprintln(v.W, text)
}

func (v *Lines) endProgress() {
	if v.open {
		fmt.Fprint(v.W, "\r\x1b[K")
		v.open = false
	}
}

func hostPrefix(host string) string {
	if host == "" {
		return ""
	}
	return host + ": "
}

// JSON renders every event as one JSON document a line.
func JSON(w io.Writer) event.Sink {
	var mu sync.Mutex
	enc := json.NewEncoder(w)
	return func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(e) // a closed pipe must not stop an upgrade
	}
}

// Heading begins what is said of one of several things.
func Heading(w io.Writer, color bool, title string) {
	v := &Lines{W: w, Color: color}
	fmt.Fprintf(w, "\n%s\n", v.paint(bold, "── "+title))
}

// Findings prints findings as a list grouped by host, in their order, and a line that counts them.
func Findings(w io.Writer, color bool, found diag.Findings) {
	v := &Lines{W: w, Color: color}
	var hosts []string
	byHost := map[string]diag.Findings{}
	for _, f := range found {
		if _, ok := byHost[f.Host]; !ok {
			hosts = append(hosts, f.Host)
		}
		byHost[f.Host] = append(byHost[f.Host], f)
	}
	for _, h := range hosts {
		title := h
		if title == "" {
			title = "the group"
		}
		fmt.Fprintln(w, v.paint(bold, title))
		for _, f := range byHost[h] {
			mark, col := "pass", green
			switch f.Severity {
			case diag.Warn:
				mark, col = "warn", yellow
			case diag.Fail:
				mark, col = "FAIL", red
			}
			where := ""
			if f.Where != "" {
				where = v.paint(dim, " ("+f.Where+")")
			}
			fmt.Fprintf(w, "  %s  %-22s %s%s\n", v.paint(col, mark), f.Check, indentAfterFirst(f.What, 31), where)
			if f.Do != "" {
				fmt.Fprintf(w, "        %-22s → %s\n", "", f.Do)
			}
		}
	}
	fmt.Fprintf(w, "%d passed, %d to read, %d failed\n", found.Count(diag.Pass), found.Count(diag.Warn), found.Count(diag.Fail))
}

// Duration prints a duration as a person reads it: 85ms, 6.4s, 3m20s.
func Duration(d time.Duration) string {
	switch {
	case d.Round(time.Millisecond) < time.Second:
		return d.Round(time.Millisecond).String()
	case d.Round(100*time.Millisecond) < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// Bytes prints a size with binary units.
func Bytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := int64(unit), 0
	for m := n / unit; m >= unit; m /= unit {
		div *= unit
		exp++
	}
	v := float64(n) / float64(div)
	if v >= 1023.95 { // not 1024.0 of the smaller unit
		v, exp = v/unit, exp+1
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[exp])
}

func indentAfterFirst(s string, n int) string {
	return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", n))
}

// Table prints rows in columns, the first row as a head.
func Table(w io.Writer, color bool, rows [][]string) {
	v := &Lines{W: w, Color: color}
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for i, r := range rows {
		var b strings.Builder
		for j, c := range r {
			b.WriteString(c)
			if j < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[j]-len([]rune(c))+2))
			}
		}
		line := b.String()
		if i == 0 {
			line = v.paint(bold, line)
		}
		fmt.Fprintln(w, line)
	}
}
