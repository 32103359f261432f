package view_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/diag"
	"mqlift/internal/event"
	"mqlift/internal/plan"
	"mqlift/internal/view"
)

var update = flag.Bool("update", false, "write testdata anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("not as in %s (go test ./internal/view -update): want (-), got (+)\n%s", file, diff)
	}
}

var start = time.Date(2026, 3, 14, 3, 0, 0, 0, time.UTC)

// stream is a short run: a stage that goes well, one that fails and is undone.
func stream() []event.Event {
	at := func(s float64, e event.Event) event.Event {
		e.Time = start.Add(time.Duration(s * float64(time.Second)))
		return e
	}
	const mib = 1 << 20
	return []event.Event{
		at(0, event.Event{Kind: event.StageBegin, Stage: "prepare", Text: "notice nothing"}),
		at(0, event.Event{Kind: event.StepBegin, Stage: "prepare", Step: "lock-group", Text: "lock the broker group on every host"}),
		at(0.2, event.Event{Kind: event.StepEnd, Stage: "prepare", Step: "lock-group", Took: 200 * time.Millisecond}),
		at(0.2, event.Event{Kind: event.StepBegin, Stage: "prepare", Step: "install-release", Text: "install the release"}),
		at(0.3, event.Event{Kind: event.StepSkip, Stage: "prepare", Step: "install-release", Text: "every host has one"}),
		at(0.3, event.Event{Kind: event.StepBegin, Stage: "prepare", Step: "copy-log-live", Text: "copy the commit log"}),
		at(1, event.Event{Kind: event.Progress, Host: "host-c", Text: "commit log", Done: 1 * mib, Total: 4096 * mib}),
		at(10.2, event.Event{Kind: event.Progress, Host: "host-c", Text: "commit log", Done: 900 * mib, Total: 4096 * mib}),
		at(10.3, event.Event{Kind: event.Progress, Host: "host-c", Text: "commit log", Done: 1024 * mib, Total: 4096 * mib}),
		at(15, event.Event{Kind: event.Progress, Host: "host-c", Text: "commit log", Done: 1500 * mib, Total: 4096 * mib}),
		at(20.3, event.Event{Kind: event.Progress, Text: "commit log", Done: 2000 * mib}),
		at(62, event.Event{Kind: event.Action, Host: "host-c", Text: "4 files received\nfrom host-a"}),
		at(62, event.Event{Kind: event.StepEnd, Stage: "prepare", Step: "copy-log-live", Took: 61700 * time.Millisecond}),
		at(62, event.Event{Kind: event.StageEnd, Stage: "prepare", Took: 62 * time.Second}),
		at(62, event.Event{Kind: event.StageBegin, Stage: "certify", Text: "sends are refused, reads go on"}),
		at(62, event.Event{Kind: event.Note, Text: "sends are refused"}),
		at(62, event.Event{Kind: event.StepBegin, Stage: "certify", Step: "certify-logs", Text: "compare the logs"}),
		at(63, event.Event{Kind: event.StepFail, Stage: "certify", Step: "certify-logs", Text: "host-b: 7 bytes differ\nhost-c: the log is shorter", Took: time.Second}),
		at(63, event.Event{Kind: event.UndoBegin, Stage: "certify", Step: "certify-logs"}),
		at(63, event.Event{Kind: event.UndoEnd, Stage: "certify", Step: "certify-logs", Text: "nothing to undo"}),
		at(63, event.Event{Kind: event.UndoBegin, Stage: "fence", Step: "fence-master", Text: "take sends again"}),
		at(64, event.Event{Kind: event.UndoEnd, Stage: "fence", Step: "fence-master", Took: 1040 * time.Millisecond}),
		at(64, event.Event{Kind: event.UndoBegin, Stage: "prepare", Step: "lock-group", Text: "remove the lock files"}),
		at(64, event.Event{Kind: event.UndoFail, Stage: "prepare", Step: "lock-group", Text: "host-b: no answer", Took: time.Second}),
	}
}

func TestAPipeGetsPlainLines(t *testing.T) {
	var b bytes.Buffer
	v := &view.Lines{W: &b}
	for _, e := range stream() {
		v.Event(e)
	}
	if i := bytes.IndexAny(b.Bytes(), "\x1b\r"); i >= 0 {
		t.Errorf("byte %d is for a terminal", i)
	}
	golden(t, "plain.golden", b.Bytes())
}

func TestATerminalGetsColoursAndOneLineOfProgress(t *testing.T) {
	var b bytes.Buffer
	v := &view.Lines{W: &b, Color: true, TTY: true, Outage: func() time.Duration { return 1500 * time.Millisecond }}
	for _, e := range stream() {
		v.Event(e)
	}
	golden(t, "terminal.golden", []byte(strings.NewReplacer("\x1b", "␛", "\r", "␍").Replace(b.String())))
}

func TestAPipeSeesProgressEveryTenSeconds(t *testing.T) {
	var b bytes.Buffer
	v := &view.Lines{W: &b}
	v.Event(event.Event{Time: start, Kind: event.StepBegin, Step: "copy-log-live"})
	for ms := 250; ms <= 60_000; ms += 250 {
		v.Event(event.Event{Time: start.Add(time.Duration(ms) * time.Millisecond), Kind: event.Progress, Text: "commit log", Done: int64(ms), Total: 60_000})
	}
	var done []string
	for line := range strings.Lines(b.String()) {
		_, percent, _ := strings.Cut(strings.TrimSpace(line), "(")
		done = append(done, percent)
	}
	if got := strings.Join(done, " "); got != "16 %) 33 %) 50 %) 66 %) 83 %) 100 %)" {
		t.Errorf("%s\n%s", got, b.String())
	}
}

// What is longer than ten seconds must be heard of when it begins to be, not ten seconds after the
// last line of the step before.
func TestEachStepBeginsItsOwnTenSeconds(t *testing.T) {
	var b bytes.Buffer
	v := &view.Lines{W: &b}
	v.Event(event.Event{Time: start, Kind: event.StepBegin, Step: "a"})
	v.Event(event.Event{Time: start.Add(9 * time.Second), Kind: event.StepBegin, Step: "b"})
	v.Event(event.Event{Time: start.Add(12 * time.Second), Kind: event.Progress, Text: "early"})
	v.Event(event.Event{Time: start.Add(19 * time.Second), Kind: event.Progress, Text: "due"})
	if got := b.String(); strings.Contains(got, "early") || !strings.Contains(got, "due") {
		t.Errorf("%q", got)
	}
}

func TestProgressSaysHowLongSendsHaveBeenRefused(t *testing.T) {
	outage := time.Duration(0)
	var b bytes.Buffer
	v := &view.Lines{W: &b, Outage: func() time.Duration { return outage }}
	for i, o := range []time.Duration{0, 6400 * time.Millisecond} {
		outage = o
		v.Event(event.Event{Time: start.Add(time.Duration(i+1) * time.Minute), Kind: event.Progress, Host: "host-b", Text: "tail", Done: 2048, Total: 1024})
	}
	want := "    host-b: tail 2.0 KiB of 1.0 KiB (100 %)\n    host-b: tail 2.0 KiB of 1.0 KiB (100 %); sends refused for 6.4s\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestProgressCountsWhatItIsToldToAndSaysTheTimeLeft(t *testing.T) {
	var b bytes.Buffer
	v := &view.Lines{W: &b}
	v.Event(event.Event{Time: start.Add(time.Minute), Kind: event.Progress, Host: "host-a", Text: "sent again", Done: 250, Total: 1000, Unit: "messages", Left: 90 * time.Second})
	if diff := cmp.Diff("    host-a: sent again 250 of 1000 messages (25 %), about 1m30s left\n", b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestAMachineGetsOneEventALine(t *testing.T) {
	var b bytes.Buffer
	sink := view.JSON(&b)
	for _, e := range stream() {
		sink(e)
	}
	var got []event.Event
	for s := bufio.NewScanner(&b); s.Scan(); {
		var e event.Event
		d := json.NewDecoder(bytes.NewReader(s.Bytes()))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			t.Fatalf("%s: %v", s.Text(), err)
		}
		got = append(got, e)
	}
	if diff := cmp.Diff(stream(), got); diff != "" {
		t.Errorf("sent (-), read back (+)\n%s", diff)
	}
}

func TestEventsFromManyGoroutinesStayWholeLines(t *testing.T) {
	var text, machine bytes.Buffer
	v, sink := &view.Lines{W: &text}, view.JSON(&machine)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				e := event.Event{Time: start, Kind: event.Note, Host: fmt.Sprintf("host-%d", i), Text: "looked up"}
				v.Event(e)
				sink(e)
			}
		})
	}
	wg.Wait()
	for line := range strings.Lines(text.String()) {
		if !strings.HasPrefix(line, "     · host-") || !strings.HasSuffix(line, ": looked up\n") {
			t.Errorf("%q", line)
		}
	}
	for line := range strings.Lines(machine.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%q", line)
		}
	}
	if a, b := strings.Count(text.String(), "\n"), strings.Count(machine.String(), "\n"); a != 400 || b != 400 {
		t.Errorf("%d and %d lines", a, b)
	}
}

// brokenPipe fails every write.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestAClosedPipeDoesNotStopAnUpgrade(t *testing.T) {
	sink, v := view.JSON(brokenPipe{}), &view.Lines{W: brokenPipe{}, TTY: true}
	for _, e := range stream() {
		sink(e)
		v.Event(e)
	}
}

func TestFindingsAreGroupedByHostAndCounted(t *testing.T) {
	var b bytes.Buffer
	view.Findings(&b, false, diag.Findings{
		{Check: "group.roles", Severity: diag.Pass, What: "1 master, 1 slave(s), 1 new host(s)"},
		{Check: "host.clock", Severity: diag.Pass, Host: "host-a", What: "within 12ms of this machine's"},
		{Check: "host.java", Severity: diag.Fail, Host: "host-b", What: "no Java is found\nin the environment", Do: "install a JDK"},
		{Check: "group.release", Severity: diag.Warn, Where: "topology.yaml:9:5", What: "old", Do: "plan the next step"},
		{Check: "store.junk", Severity: diag.Fail, Host: "host-a", Where: "/opt/store/commitlog/x", What: "is no commit log file", Do: "move it away"},
	})
	golden(t, "findings.golden", b.Bytes())

	b.Reset()
	view.Findings(&b, true, nil)
	if got := b.String(); got != "0 passed, 0 to read, 0 failed\n" {
		t.Errorf("%q", got)
	}
}

func TestADryRunSaysWouldAndThatNothingWasChanged(t *testing.T) {
	var b bytes.Buffer
	view.DryRun(&b, false, &plan.Plan{Stages: []plan.Stage{
		{Name: "prepare", Steps: []plan.Step{
			{Name: "lock-group", Actions: []plan.Action{{Host: "host-a", Text: "write the lock"}}},
			{Name: "decide"},
		}},
		{Name: "open", PointOfNoReturn: true, Steps: []plan.Step{{Name: "open-writes", Actions: []plan.Action{{Text: "send a tracer"}}}}},
	}})
	want := `prepare
  lock-group           host-a     would write the lock
open
  open-writes          the group  would send a tracer
nothing was changed
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTableColumnsAreAsWideAsTheirWidestCell(t *testing.T) {
	tests := map[string]struct {
		rows [][]string
		want string
	}{
		"none": {nil, ""},
		"head": {[][]string{{"host", "role"}}, "host  role\n"},
		"wide": {[][]string{{"host", "role", "pid"}, {"broker-a-long", "", "7"}, {"b", "slave", ""}},
			"host           role   pid\nbroker-a-long         7\nb              slave  \n"},
		"beyond ASCII": {[][]string{{"a", "b"}, {"größe", "x"}}, "a      b\ngröße  x\n"},
		"ragged":       {[][]string{{"a"}, {"b", "c", "d"}}, "a\nb  c  d\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			view.Table(&b, false, test.rows)
			if diff := cmp.Diff(test.want, b.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
	var b bytes.Buffer
	view.Table(&b, true, [][]string{{"a", "b"}, {"c", "d"}})
	if got := b.String(); got != "\x1b[1ma  b\x1b[0m\nc  d\n" {
		t.Errorf("in colour %q", got)
	}
}

func TestDurationsAreReadAsAPersonSaysThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 85 * time.Millisecond: "85ms", 85_400 * time.Microsecond: "85ms", 400 * time.Microsecond: "0s",
		time.Second: "1.0s", 6440 * time.Millisecond: "6.4s", 59_900 * time.Millisecond: "59.9s",
		time.Minute: "1m0s", 200*time.Second + 400*time.Millisecond: "3m20s", 26 * time.Hour: "26h0m0s",
		999_700 * time.Microsecond: "1.0s", 59_960 * time.Millisecond: "1m0s",
	} {
		if got := view.Duration(d); got != want {
			t.Errorf("%v is %q, want %q", int64(d), got, want)
		}
	}
}

func TestSizesHaveBinaryUnits(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 3 << 30: "3.0 GiB",
		1 << 40: "1.0 TiB", 1 << 50: "1.0 PiB", math.MaxInt64: "8.0 EiB", -5: "-5 B",
		1<<20 - 1: "1.0 MiB", 1<<30 - 1: "1.0 GiB",
	} {
		if got := view.Bytes(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
