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
	Store       string  `json:"store"` // GiB
	Procedure   string  `json:"procedure"`
	Write       float64 `json:"writeOutage"`
	Application float64 `json:"applicationWriteOutage"`
	Read        float64 `json:"readOutage"`
	ConsumerGap float64 `json:"consumerGap"`
	Took        float64 `json:"took"`

	Runs          int `json:"runs"`
	Failed        int `json:"failedRuns"`
	LookupsFailed int `json:"lookupsFailed"`
	Acknowledged  int `json:"acknowledged"`
	Missing       int `json:"missing"`
	Unconsumed    int `json:"unconsumed"`
	Bugs          int `json:"bugLines"`

	// Start and Election are those measured beside mqlift's runs, on the same store: Start from all runs.
	Start    float64            `json:"brokerStart,omitempty"`
	Election float64            `json:"election,omitempty"`
	Stages   map[string]float64 `json:"stages,omitempty"`
	stages   []string
}

func (s sample) line() string {
	text := fmt.Sprintf("%s GiB, round %d, %s: writes away %.2f s (application %.2f s), reads %.2f s; took %.0f s; acknowledged %d, missing %d",
		s.Store, s.Round, s.Procedure, s.Write, s.Application, s.Read, s.Took, s.Acknowledged, s.Missing)
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
		o.Write, o.Application = of(func(s sample) float64 { return s.Write }), of(func(s sample) float64 { return s.Application })
		o.Read, o.ConsumerGap = of(func(s sample) float64 { return s.Read }), of(func(s sample) float64 { return s.ConsumerGap })
		o.Took = of(func(s sample) float64 { return s.Took })
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
		}
		if o.Procedure != (apply{}).name() {
			continue
		}
		o.Start = medianOf(starts, func(s sample) float64 { return s.Start })
		o.Election = medianOf(slices.DeleteFunc(slices.Clone(runs), func(s sample) bool { return s.Election == 0 }), func(s sample) float64 { return s.Election })
		o.Stages = map[string]float64{}
		for _, name := range o.stages {
			o.Stages[name] = of(func(s sample) float64 { return s.Stages[name] })
		}
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
		fmt.Fprintf(t, "\nstore\tprocedure\twrites away\tof an application\treads away\tfailed look-ups\tconsumer's gap\ttook\tacknowledged\tmissing\t[BUG] lines\tfailed runs\n")
		for _, o := range r.Outages {
			fmt.Fprintf(t, "%s GiB\t%s\t%.2f s\t%.2f s\t%.2f s\t%d\t%.2f s\t%.0f s\t%d\t%d\t%d\t%d of %d\n",
				o.Store, o.Procedure, o.Write, o.Application, o.Read, o.LookupsFailed, o.ConsumerGap, o.Took, o.Acknowledged, o.Missing, o.Bugs, o.Failed, o.Runs)
		}
		t.Flush()
		r.printRatios(w)
	}
	printSpeeds(w, r.Transfer)
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
	ratio := func(store, what string, a float64, against string, b, most float64) {
		if b > 0 {
			fmt.Fprintf(t, "%s GiB\t%s, %.2f s\t%s, %.2f s\t%.2f\tat most %.2f\n", store, what, a, against, b, a/b, most)
		}
	}
	mq, first := (apply{}).name(), ""
	for _, o := range r.Outages {
		if o.Procedure != mq {
			continue
		}
		const writes = "writes away"
		ratio(o.Store, writes, o.Write, "by hand", by(o.Store, (byHand{}).name()).Write, 0.2)
		ratio(o.Store, writes, o.Write, "rsync twice", by(o.Store, (careful{}).name()).Write, 0.5)
		if o.Election > 0 {
			ratio(o.Store, writes, o.Write, fmt.Sprintf("a broker's start, %.2f s, and an election, %.2f s", o.Start, o.Election), o.Start+o.Election, 1.6)
		}
		ratio(o.Store, "writes away for an application", o.Application, writes, o.Write, 1.3)
		ratio(o.Store, "gap of a consumer", o.ConsumerGap, writes, o.Write, 1.3)
		if first == "" {
			first = o.Store
		} else {
			ratio(o.Store, writes, o.Write, "that at "+first+" GiB", by(first, mq).Write, 1.15)
		}
	}
	t.Flush()
	for _, o := range r.Outages {
		if len(o.stages) > 0 {
			var stages []string
			for _, name := range o.stages {
				stages = append(stages, fmt.Sprintf("%s %.2f s", name, o.Stages[name]))
			}
			fmt.Fprintf(w, "mqlift at %s GiB, stage by stage: %s\n", o.Store, strings.Join(stages, ", "))
		}
	}
}

// err says what mqlift did wrong; nil when nothing.
func (r *result) err() error {
	var errs []error
	for _, s := range r.Samples {
		if s.Procedure != (apply{}).name() {
			continue
		}
		if s.Problem != "" {
			errs = append(errs, fmt.Errorf("mqlift, %s GiB, round %d: %s", s.Store, s.Round, s.Problem))
		}
		if n := s.Missing + s.Unconsumed; n > 0 {
			errs = append(errs, fmt.Errorf("mqlift, %s GiB, round %d: of %d acknowledged messages %d are missing on a node, %d were never consumed", s.Store, s.Round, s.Acknowledged, s.Missing, s.Unconsumed))
		}
	}
	return errors.Join(errs...)
}
