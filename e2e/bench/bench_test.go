package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMediansAreOfEachProcedureOnEachStore(t *testing.T) {
	r := result{Samples: []sample{
		{Store: "1", Procedure: "by hand", Start: 4, Write: 40, Missing: 2},
		{Store: "1", Procedure: "by hand", Start: 8, Write: 20},
		{Store: "1", Procedure: "by hand", Start: 5, Write: 30, Problem: "no leader"},
		{Store: "1", Procedure: "mqlift", Start: 5, Write: 6, Application: 7.5, JavaApplication: 30, ConsumerGap: 9, JavaConsumerGap: 15,
			yardsticks: yardsticks{FirstStarts: []float64{6, 8}, Election: 1}, Stages: map[string]float64{"form": 5}, stages: []string{"form"}},
		{Store: "1", Procedure: "mqlift", Start: 5, Write: 9, Application: 7.5, JavaApplication: 15, ConsumerGap: 9, JavaConsumerGap: 15,
			yardsticks: yardsticks{FirstStarts: []float64{7, 9}, Election: 1}, Stages: map[string]float64{"form": 7}, stages: []string{"form"}},
		{Store: "4", Procedure: "mqlift", Start: 5, Write: 9, LookupsFailed: 2, Stages: map[string]float64{"form": 7}, stages: []string{"form"}},
		{Store: "4", Procedure: (apply{limit: 20}).name(), Write: 9, Latency: &latency{Copy: 204, Sends: 50000, P99: 0.0075, Before: 0.005}},
		{Store: "4", Procedure: (apply{limit: 20}).name(), Write: 9, Latency: &latency{Copy: 206, Sends: 52000, P99: 0.0075, Before: 0.005}},
	}}
	r.summarise()
	if err := r.err(); err != nil {
		t.Errorf("what went wrong by hand is no failure of mqlift: %v", err)
	}
	var b bytes.Buffer
	r.print(&b)
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"1 GiB by hand 30.00 s", "2 0 1 of 3",
		"writes away, 7.50 s by hand, 30.00 s 0.25 at most 0.20",
		"a peer's first start, 7.50 s, and an election, 1.00 s, 8.50 s 0.88 at most 1.60",
		"the old master's start, 5.00 s, and an election, 1.00 s, 6.00 s 1.25 for information",
		"writes away for an application in Go, 7.50 s writes away, 7.50 s 1.00 at most 1.30",
		"writes away for an application in Java, 22.50 s writes away, 7.50 s 3.00 at most 1.30",
		"gap of a consumer in Go, 9.00 s writes away, 7.50 s 1.20 at most 1.30",
		"gap of a consumer in Java, 15.00 s writes away, 7.50 s 2.00 at most 1.30",
		"1 GiB failed look-ups 0 0 1 GiB missing messages 0 0", "4 GiB failed look-ups 2 0",
		"4 GiB p99 of 51000 sends during the copy (mqlift --limit-rate 20M, 205 s), 7.5 ms that of as long before the apply, 5.0 ms 1.50 at most 1.30",
		"4 GiB writes away, 9.00 s that at 1 GiB, 7.50 s 1.20 at most 1.15",
		"mqlift at 1 GiB, stage by stage: form 6.00 s",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	if strings.Contains(text, "rsync twice") || strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Errorf("what was not measured is compared with:\n%s", b.String())
	}
	r.Samples[3].Missing = 1
	if r.err() == nil {
		t.Error("a message that mqlift lost is no failure")
	}
	r.Samples[3].Missing, r.Samples[len(r.Samples)-1].Unconsumed = 0, 1
	if r.err() == nil {
		t.Error("a message that was never consumed after mqlift's run with a limited rate is no failure")
	}
}

// A run's files go to a folder with the procedure's name.
func TestAProcedureNamesAFolder(t *testing.T) {
	for _, p := range []procedure{byHand{}, careful{}, apply{}, apply{limit: 0.5}} {
		if name := p.name(); name != filepath.Base(name) {
			t.Errorf("%q", name)
		}
	}
}

func TestAStepsTimesAreInARunsEvents(t *testing.T) {
	const events = `{"time":"2026-01-01T00:00:00Z","kind":"step-begin","step":"lock-group"}
{"time":"2026-01-01T00:00:01Z","kind":"step-end","step":"lock-group"}
{"time":"2026-01-01T00:00:01Z","kind":"step-begin","step":"copy-log-live"}
{"time":"2026-01-01T00:00:02Z","kind":"progress","step":"copy-log-live","done":5}
{"time":"2026-01-01T00:00:03.5Z","kind":"step-end","step":"copy-log-live"}
{"time":"2026-01-01T00:00:04Z","kind":"step-begin","step":"fence-master"}
`
	from, to, err := stepTimes([]byte(events), "copy-log-live")
	if err != nil || to.Sub(from) != 2500*time.Millisecond || from.Second() != 1 {
		t.Errorf("%s %s %v", from, to, err)
	}
	for _, step := range []string{"fence-master", "start-peers"} {
		if _, _, err := stepTimes([]byte(events), step); err == nil {
			t.Errorf("%s has no end, and that is no error", step)
		}
	}
	if _, _, err := stepTimes([]byte(events[:100]), "lock-group"); err == nil {
		t.Error("torn events are no error")
	}
}

func TestSamplesAreWrittenWithTheirYardsticks(t *testing.T) {
	data, err := json.Marshal(sample{yardsticks: yardsticks{FirstStarts: []float64{6, 8}, Election: 1}, Latency: &latency{P99: 0.5}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"peerFirstStarts":[6,8]`, `"election":1`, `"p99":0.5`} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("%s is not in %s", want, data)
		}
	}
}

func TestSizesAreInRisingOrder(t *testing.T) {
	if sizes, err := parseSizes("0.25, 1,4"); err != nil || len(sizes) != 3 || sizes[0] != 0.25 {
		t.Errorf("%v %v", sizes, err)
	}
	for _, text := range []string{"", "1,", "0", "4,1", "1,1", "-1", "x"} {
		if sizes, err := parseSizes(text); err == nil {
			t.Errorf("%q is taken for %v", text, sizes)
		}
	}
}

func TestACopyIsComparedAndHolesAreHoles(t *testing.T) {
	for _, kind := range []string{"dense", "sparse"} {
		dir := t.TempDir()
		s, err := writeFiles(filepath.Join(dir, "store"), kind, 16<<20)
		if err != nil {
			t.Fatal(err)
		}
		if dense := s.allocated > s.apparent*9/10; dense != (kind == "dense") {
			t.Errorf("%s: %d of %d bytes are allocated", kind, s.allocated, s.apparent)
		}
		to := filepath.Join(dir, "copy")
		if err := copyOverTCP(t.Context(), s.dir, to); err != nil {
			t.Fatal(err)
		}
		if err := s.compare(t.Context(), to); err != nil {
			t.Error(err)
		}
		first := filepath.Join(to, commitLog, "00000000000000000000")
		if err := os.Truncate(first, s.logFileSize-1); err != nil {
			t.Fatal(err)
		}
		if s.compare(t.Context(), to) == nil {
			t.Errorf("%s: a copy that lacks a byte passes", kind)
		}
		if err := os.Remove(first); err != nil {
			t.Fatal(err)
		}
		if s.compare(t.Context(), to) == nil {
			t.Errorf("%s: a copy that lacks a file passes", kind)
		}
	}
}

func TestWhatIsWantedOfCopiesStandsBesideWhatIs(t *testing.T) {
	r := result{Copies: []copied{
		{Store: "4", Kind: "dense", Method: viaSCP, Took: 20, Allocated: 1000},
		{Store: "4", Kind: "dense", Method: viaTCP, Took: 5, Allocated: 1000},
		{Store: "4", Kind: "dense", Method: viaMqlift, Took: 10, Wire: 1010, Allocated: 1000, Again: 2, Peak: peaks{Source: 64 << 20, Target: 32 << 20}},
		{Store: "4", Kind: "dense", Method: viaMqlift, Took: 10, Wire: 1010, Allocated: 1000, Again: 2, Peak: peaks{Source: 96 << 20, Orchestrator: 16 << 20}},
		{Store: "4", Kind: "dense", Method: viaPlain, Took: 10, Wire: 1005, Allocated: 1000},
		{Store: "4", Kind: "sparse", Method: viaMqlift, Took: 5, Wire: 1010, Allocated: 1000},
	}}
	r.summarise()
	var b bytes.Buffer
	r.print(&b)
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"4 GiB dense mqlift, speed of that of scp -r 2.00 at least 1.30",
		"mqlift --transfer plain, speed of that of plain TCP 0.50 at least 0.70",
		"mqlift, bytes on the wire of those allocated 1.0100 at most 1.0200",
		"mqlift, the same for a second pass 0.0020 under 0.0010",
		"MiB resident of the source's agent 96 under 128", "target's agent 32 under 128", "orchestrator 16 under 128",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	if strings.Contains(text, "rsync") || strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Errorf("what was not measured is compared with:\n%s", b.String())
	}
}

func TestTheMostMemoryOfAProcessIsSeen(t *testing.T) {
	watched := watchMemory(t.TempDir(), t.TempDir())
	held := bytes.Repeat([]byte{1}, 64<<20)
	p, err := watched()
	if err != nil {
		t.Fatal(err)
	}
	if p.Orchestrator < int64(len(held)) || p.Source != 0 || p.Target != 0 {
		t.Errorf("%+v", p)
	}
}
