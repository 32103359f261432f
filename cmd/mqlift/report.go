package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"mqlift/internal/plan"
	"mqlift/internal/probe"
	"mqlift/internal/step"
	"mqlift/internal/view"
)

// applyReport is what an apply did and measured.
type applyReport struct {
	OK            bool        `json:"ok"`
	Error         string      `json:"error,omitempty"`
	Run           string      `json:"run"`
	Group         string      `json:"group"`
	Release       string      `json:"release"`
	WriteOutageMS int64       `json:"writeOutageMs"`
	Reads         readReport  `json:"reads"`
	Predicted     plan.Outage `json:"predicted"`
	State         *step.State `json:"state"`
}

// readReport is what mqlift's own reader saw: an old key looked up with a fresh route each time.
type readReport struct {
	OK        int    `json:"ok"`
	Failed    int    `json:"failed"`
	LongestMS int64  `json:"longestOutageMs"`
	First     string `json:"firstError,omitempty"`
}

func (r *applyReport) print(out io.Writer) {
	c := terminal(out)
	fmt.Fprintln(out)
	if r.State.FencedAt.IsZero() || r.State.Replay != nil {
		return
	}
	if outage := r.State.WriteOutage(); outage > 0 {
		fmt.Fprintf(out, "Writes were unavailable for %s; the plan had said %s:\n", view.Duration(outage), span(r.Predicted.Sum()))
		rows := [][]string{{"stage", "took", "predicted"}}
		for _, s := range r.State.Stages {
			if end := s.Began.Add(s.Took); end.After(r.State.FencedAt) && s.Began.Before(r.State.OpenedAt) {
				rows = append(rows, []string{s.Name, view.Duration(s.Took), span(r.Predicted.Of(s.Name).Sum())})
			}
		}
		view.Table(out, c, rows)
	}
	fmt.Fprintf(out, "Reads with a fresh route, throughout: %d look-ups, %d failed", r.Reads.OK+r.Reads.Failed, r.Reads.Failed)
	if r.Reads.Failed > 0 {
		fmt.Fprintf(out, ", longest gap %d ms (%s)", r.Reads.LongestMS, r.Reads.First)
	}
	fmt.Fprintln(out)
	for _, line := range r.State.UnderWay() {
		fmt.Fprintln(out, line)
	}
	printCertificate(out, r.State)
	if !r.OK || r.State.OpenedAt.IsZero() { // or undone, which is well, too
		return
	}
	fmt.Fprintf(out, "%s is a DLedger group: %s leads; certificate %s; %d old keys found on every node.\n", r.Group, r.State.Leader, r.State.Certificate.Short(), len(r.State.Samples))
	if f := r.State.Failover; f != nil {
		fmt.Fprintf(out, "A forced failover was survived: writes out for %s, an application for %s, %d acknowledged messages all found.\n", view.Duration(f.WriteOutage()), view.Duration(f.ClientOutage()), f.Acknowledged)
	} else {
		fmt.Fprintln(out, "A forced failover has not been tried: prove it with `mqlift failover`.")
	}
	fmt.Fprintf(out, "Going back costs the messages written since %s: `mqlift status` says how many, `mqlift rollback --replay` sends them to the old group again.\n", r.State.OpeningAt.Format(time.RFC3339))
}

// span is a predicted time in words; empty for none.
func span(low, high time.Duration) string {
	if high == 0 {
		return ""
	}
	return view.Duration(low) + " to " + view.Duration(high)
}

// printCertificate shows what was proven of the logs, the queues and the metadata before writes opened.
func printCertificate(out io.Writer, s *step.State) {
	c := s.Certificate
	if c == nil || !c.OK() {
		return
	}
	earlier := map[string]string{}
	if s.Aligned != nil {
		for _, l := range s.Aligned.Logs {
			earlier[l.Member] = l.Digest[:min(12, len(l.Digest))]
		}
	}
	fmt.Fprintf(out, "The logs were certified equal, byte by byte, from %d to %d:\n", c.First, c.End)
	rows := [][]string{{"host", "first", "end", "files", "last file", fmt.Sprintf("digest up to %d", s.AlignedEnd), "and from there on"}}
	for _, l := range c.Logs {
		rows = append(rows, []string{l.Member, fmt.Sprint(l.First), fmt.Sprint(l.End), fmt.Sprint(l.Files), l.LastFile, earlier[l.Member], l.Digest[:min(12, len(l.Digest))]})
	}
	view.Table(out, terminal(out), rows)
	if s.Queues > 0 {
		fmt.Fprintf(out, "%d consume queues end on the new peers where they did on the old master; %s mean the same.\n", s.Queues, strings.Join(s.Metadata, ", "))
	}
}

// reader is mqlift's own look-out on reads during an apply.
type reader struct {
	timeline probe.Timeline
	cancel   context.CancelFunc
	done     chan struct{}
}

// watchReads looks tracers up from the moment there are some, with a fresh route each time.
func (s *session) watchReads(ctx context.Context, e *step.Env) *reader {
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		keys := e.WaitOldKeys(ctx)
		if len(keys) == 0 {
			return
		}
		_ = (&probe.FreshReader{
			Router: s.nameServers, Brokers: probe.BrokersOf(s.client), Broker: e.Plan.Group,
			Keys: keys, Every: 100 * time.Millisecond, Timeline: &r.timeline,
		}).Run(ctx) // it can only fail to begin, and then its count is 0, which the report shows
	}()
	return r
}

func (r *reader) stop() readReport {
	r.cancel()
	<-r.done
	sum := r.timeline.Summary()
	report := readReport{OK: sum.OK, Failed: sum.Failed, LongestMS: sum.Longest.Milliseconds()}
	for _, o := range sum.Outages {
		report.First = o.FirstError
		break
	}
	return report
}
