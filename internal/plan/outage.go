package plan

import (
	"time"

	"mqlift/internal/observe"
)

// Outage is the predicted time without writes, with where it goes.
type Outage struct {
	Parts []Part `json:"parts"`
}

// Part is one share of an outage, between Low and High.
type Part struct {
	Stage string        `json:"stage"`
	What  string        `json:"what"`
	Low   time.Duration `json:"lowNs"`
	High  time.Duration `json:"highNs"`
}

// Sum adds the parts up.
func (o Outage) Sum() (low, high time.Duration) {
	for _, p := range o.Parts {
		low += p.Low
		high += p.High
	}
	return low, high
}

// Of is what falls to one stage; nothing for stages outside the outage.
func (o Outage) Of(stage string) Outage {
	var of Outage
	for _, p := range o.Parts {
		if p.Stage == stage {
			of.Parts = append(of.Parts, p)
		}
	}
	return of
}

// predict adds up the time without writes: from this group's own figures where they tell, and else from what
// was measured on 4.5.2 with three brokers on two cores.
func (p *Plan) predict(f *observe.Facts) Outage {
	// Heap and JVM options make the most of the difference between one group's brokers and another's.
	jvmLow, jvmHigh := 500*time.Millisecond, 5*time.Second
	if t, ok := jvmStart(f); ok {
		jvmLow, jvmHigh = t, 2*t
	}
	o := Outage{[]Part{
		{"fence", "the fenced log comes to a stand", 200 * time.Millisecond, 800 * time.Millisecond},
		{"certify", "its tail and the metadata are copied, the logs certified", 150 * time.Millisecond, 2 * time.Second},
		{"form", "the peers' JVMs come up as far as their stores", jvmLow, jvmHigh},
		// A second of it a first start as a peer sleeps, where the old log's last file is not full
		// (DefaultMessageStore.start, 4.5.2).
		{"form", "the peers open their stores", 1300 * time.Millisecond, 3 * time.Second},
		{"form", "one is elected and proven", 300 * time.Millisecond, 3 * time.Second},
		{"hand over", "routes are moved, offsets carried", 50 * time.Millisecond, 500 * time.Millisecond},
		{"open", "the old master is looked at once more, writes are opened", 100 * time.Millisecond, 500 * time.Millisecond},
	}}
	if p.RebuildIndex {
		for _, c := range p.Copies {
			if c.What == CopyLog { // measured: 6 s more for 1.7 GB
				t := time.Duration(float64(c.Bytes) / (1 << 30) * float64(time.Second))
				o.Parts = append(o.Parts, Part{"form", "consume queues and index are built from the whole log", t, 6 * t})
				break
			}
		}
	}
	return o
}

// jvmStart is how long a broker that runs took from its process's start until it opened its store, the longest
// of the group; not ok where no broker tells.
func jvmStart(f *observe.Facts) (longest time.Duration, ok bool) {
	for _, m := range f.Members {
		if m.Process == nil || m.Runtime == nil {
			continue
		}
		booted, err := m.Runtime.Booted()
		took := booted.Sub(m.Process.Started)
		if err != nil || took <= 0 || took > 5*time.Minute { // a clock that was set meanwhile
			continue
		}
		longest, ok = max(longest, took), true
	}
	return longest, ok
}
