package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// outage is the medians of one procedure's runs on one store, times in seconds, messages added up.
type outage struct {
	Store           string  `json:"store"` // GiB
	Procedure       string  `json:"procedure"`
	Write           float64 `json:"writeOutage"`
	Application     float64 `json:"applicationWriteOutage"`
	JavaApplication float64 `json:"javaApplicationWriteOutage"`
	Read            float64 `json:"readOutage"`
	ConsumerGap     float64 `json:"consumerGap"`
	JavaConsumerGap float64 `json:"javaConsumerGap"`
	Took            float64 `json:"took"`

	Runs          int `json:"runs"`
	Failed        int `json:"failedRuns"`
	LookupsFailed int `json:"lookupsFailed"`
	Acknowledged  int `json:"acknowledged"`
	Missing       int `json:"missing"`
	Unconsumed    int `json:"unconsumed"`
	Bugs          int `json:"bugLines"`

	// Start, FirstStart and Election are those measured beside mqlift's runs, on the same store: Start, that of the
	// old master, from all runs.
	Start      float64            `json:"brokerStart,omitempty"`
	FirstStart float64            `json:"peerFirstStart,omitempty"`
	Election   float64            `json:"election,omitempty"`
	Latency    *latency           `json:"latency,omitempty"`
	Stages     map[string]float64 `json:"stages,omitempty"`
	stages     []string
}

func (s sample) line() string {
	text := fmt.Sprintf("%s GiB, round %d, %s: writes away %.2f s (application in Go %.2f s, in Java %.2f s), reads %.2f s; consumers without messages %.2f s, in Java %.2f s; took %.0f s; acknowledged %d, missing %d",
		s.Store, s.Round, s.Procedure, s.Write, s.Application, s.JavaApplication, s.Read, s.ConsumerGap, s.JavaConsumerGap, s.Took, s.Acknowledged, s.Missing)
	if s.Problem != "" {
		text += "\n  FAILED: " + strings.ReplaceAll(s.Problem, "\n", "\n  ")
	}
	return text
}

// summarise takes the medians. Runs that did not end with a group that serves are counted, and their times
// are in, being shorter than the truth.
func (r *result) summarise() {
	for _, s := range r.Samples {
		if !slices.ContainsFunc(r.Outages, func(o outage) bool { return o.Store == s.Store && o.Procedure == s.Procedure }) {
			r.Outages = append(r.Outages, outage{Store: s.Store, Procedure: s.Procedure})
		}
	}
	for i := range r.Outages {
		o := &r.Outages[i]
		starts := r.of(o.Store, "")
		runs := r.of(o.Store, o.Procedure)
		of := func(f func(sample) float64) float64 { return medianOf(runs, f) }
		o.Write, o.Read = of(func(s sample) float64 { return s.Write }), of(func(s sample) float64 { return s.Read })
		o.Application, o.JavaApplication = of(func(s sample) float64 { return s.Application }), of(func(s sample) float64 { return s.JavaApplication })
		o.ConsumerGap, o.JavaConsumerGap = of(func(s sample) float64 { return s.ConsumerGap }), of(func(s sample) float64 { return s.JavaConsumerGap })
		o.Took = of(func(s sample) float64 { return s.Took })
		var firsts, elections []float64
		var latencies []latency
		for _, s := range runs {
			o.Runs++
			if s.Problem != "" {
				o.Failed++
			}
			o.LookupsFailed += s.LookupsFailed
			o.Acknowledged += s.Acknowledged
			o.Missing += s.Missing
			o.Unconsumed += s.Unconsumed
			o.Bugs += s.Bugs
			if o.stages == nil {
				o.stages = s.stages
			}
			firsts = append(firsts, s.FirstStarts...)
			if s.Election > 0 {
				elections = append(elections, s.Election)
			}
			if s.Latency != nil {
				latencies = append(latencies, *s.Latency)
			}
		}
		if len(latencies) > 0 {
			of := func(f func(latency) float64) float64 { return medianOf(latencies, f) }
			o.Latency = &latency{Copy: of(func(l latency) float64 { return l.Copy }), Sends: int(of(func(l latency) float64 { return float64(l.Sends) })),
				P99: of(func(l latency) float64 { return l.P99 }), Before: of(func(l latency) float64 { return l.Before })}
		}
		if len(o.stages) > 0 {
			o.Stages = map[string]float64{}
			for _, name := range o.stages {
				o.Stages[name] = of(func(s sample) float64 { return s.Stages[name] })
			}
		}
		if o.Procedure != mqlift {
			continue
		}
		o.Start = medianOf(starts, func(s sample) float64 { return s.Start })
		o.FirstStart, o.Election = median(firsts), median(elections)
	}
	r.Transfer = speeds(r.Copies)
}

// of are the samples on a store, of one procedure or of all.
func (r *result) of(store, procedure string) (l []sample) {
	for _, s := range r.Samples {
		if s.Store == store && (procedure == "" || s.Procedure == procedure) {
			l = append(l, s)
		}
	}
	return l
}

func medianOf[T any](l []T, f func(T) float64) float64 {
	var v []float64
	for _, s := range l {
		v = append(v, f(s))
	}
	return median(v)
}

// median is the middle one, or the mean of the two in the middle; 0 of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func (r *result) print(w io.Writer) {
	if len(r.Outages) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(t, "\nstore\tprocedure\twrites away\tfor Go\tfor Java\treads away\tfailed look-ups\tconsumer's gap, Go\tJava\ttook\tacknowledged\tmissing\t[BUG] lines\tfailed runs\n")
		for _, o := range r.Outages {
			fmt.Fprintf(t, "%s GiB\t%s\t%.2f s\t%.2f s\t%.2f s\t%.2f s\t%d\t%.2f s\t%.2f s\t%.0f s\t%d\t%d\t%d\t%d of %d\n",
				o.Store, o.Procedure, o.Write, o.Application, o.JavaApplication, o.Read, o.LookupsFailed, o.ConsumerGap, o.JavaConsumerGap, o.Took, o.Acknowledged, o.Missing, o.Bugs, o.Failed, o.Runs)
		}
		t.Flush()
		r.printRatios(w)
	}
	printSpeeds(w, r.Transfer)
	printWanted(w, r.Transfer)
}

// printRatios prints what mqlift's outages are compared with, and what is wanted.
func (r *result) printRatios(w io.Writer) {
	by := func(store, procedure string) (o outage) {
		if i := slices.IndexFunc(r.Outages, func(o outage) bool { return o.Store == store && o.Procedure == procedure }); i >= 0 {
			o = r.Outages[i]
		}
		return o
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nstore\tof mqlift\tagainst\tis\twanted\n")
	ratio := func(store, what string, a float64, against string, b float64, wanted string) {
		if b > 0 {
			fmt.Fprintf(t, "%s GiB\t%s, %s\t%s, %s\t%.2f\t%s\n", store, what, span(a), against, span(b), a/b, wanted)
		}
	}
	first := ""
	for _, o := range r.Outages {
		if l := o.Latency; l != nil {
			ratio(o.Store, fmt.Sprintf("p99 of %d sends during the copy (%s, %.0f s)", l.Sends, o.Procedure, l.Copy), l.P99, "that of as long before the apply", l.Before, "at most 1.30")
		}
		if o.Procedure != mqlift {
			continue
		}
		const writes = "writes away"
		ratio(o.Store, writes, o.Write, "by hand", by(o.Store, (byHand{}).name()).Write, "at most 0.20")
		ratio(o.Store, writes, o.Write, "rsync twice", by(o.Store, (careful{}).name()).Write, "at most 0.50")
		if o.Election > 0 {
			necessary := func(what string, start float64, wanted string) {
				ratio(o.Store, writes, o.Write, fmt.Sprintf("%s, %s, and an election, %s", what, span(start), span(o.Election)), start+o.Election, wanted)
			}
			necessary("a peer's first start", o.FirstStart, "at most 1.60")
			necessary("the old master's start", o.Start, "for information")
		}
		for _, c := range []struct {
			what string
			away float64
		}{
			{"writes away for an application in Go", o.Application}, {"writes away for an application in Java", o.JavaApplication},
			{"gap of a consumer in Go", o.ConsumerGap}, {"gap of a consumer in Java", o.JavaConsumerGap},
		} {
			ratio(o.Store, c.what, c.away, writes, o.Write, "at most 1.30")
		}
		fmt.Fprintf(t, "%s GiB\tfailed look-ups\t\t%d\t0\n%s GiB\tmissing messages\t\t%d\t0\n", o.Store, o.LookupsFailed, o.Store, o.Missing)
		if first == "" {
			first = o.Store
		} else {
			ratio(o.Store, writes, o.Write, "that at "+first+" GiB", by(first, mqlift).Write, "at most 1.15")
		}
	}
	t.Flush()
	for _, o := range r.Outages {
		if len(o.stages) > 0 {
			var stages []string
			for _, name := range o.stages {
				stages = append(stages, fmt.Sprintf("%s %.2f s", name, o.Stages[name]))
			}
			fmt.Fprintf(w, "%s at %s GiB, stage by stage: %s\n", o.Procedure, o.Store, strings.Join(stages, ", "))
		}
	}
}

// span shows seconds, short ones as milliseconds.
func span(seconds float64) string {
	if seconds < 0.1 {
		return fmt.Sprintf("%.1f ms", seconds*1000)
	}
	return fmt.Sprintf("%.2f s", seconds)
}

// err says what mqlift did wrong; nil when nothing.
func (r *result) err() error {
	var errs []error
	for _, s := range r.Samples {
		if !s.byMqlift() {
			continue
		}
		if s.Problem != "" {
			errs = append(errs, fmt.Errorf("%s, %s GiB, round %d: %s", s.Procedure, s.Store, s.Round, s.Problem))
		}
		if n := s.Missing + s.Unconsumed; n > 0 {
			errs = append(errs, fmt.Errorf("%s, %s GiB, round %d: of %d acknowledged messages %d are missing on a node, %d were never consumed", s.Procedure, s.Store, s.Round, s.Acknowledged, s.Missing, s.Unconsumed))
		}
	}
	return errors.Join(errs...)
}
