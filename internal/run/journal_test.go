package run

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/step"
)

func openJournal(t testing.TB, path string) (*Journal, []Record) {
	t.Helper()
	j, records, err := OpenJournal(path, "run-1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j, records
}

func add(t testing.TB, j *Journal, kind RecordKind, stage, name, text string, state any) {
	t.Helper()
	if err := j.Append(kind, stage, name, text, state); err != nil {
		t.Fatal(err)
	}
}

// threeRecords is a journal as a run writes it, as bytes.
func threeRecords(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j, _ := openJournal(t, path)
	add(t, j, RunBegin, "", "", "dledger", nil)
	add(t, j, StepBegin, "fence", "fence-master", "refuse sends\non the old master – all", &step.State{Run: "run-1", FencedEnd: 1 << 40})
	add(t, j, StepDone, "fence", "fence-master", "", &step.State{Run: "run-1", Fence: map[string]string{"brokerPermission": "6"}})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRecordsAreReadBackAsTheyWereAppended(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "run-1", "journal.jsonl")
	j, before := openJournal(t, path)
	if len(before) != 0 || j.Path() != path {
		t.Errorf("a new journal at %s holds %v", j.Path(), before)
	}
	began := time.Now()
	state := step.State{Run: "run-1", Started: began.UTC(), CertifiedEnd: 123}
	add(t, j, RunBegin, "", "", "dledger", nil)
	add(t, j, StepBegin, "prepare", "lock-group", "lock\n\"it\"", state)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, records := openJournal(t, path)
	add(t, j, StepDone, "prepare", "lock-group", "", state)

	read, err := ReadJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(read) != 3 {
		t.Fatalf("%d records", len(read))
	}
	if diff := cmp.Diff(records, read[:2]); diff != "" {
		t.Errorf("opened (-) and read (+)\n%s", diff)
	}
	for i, want := range []Record{
		{Seq: 1, Run: "run-1", Kind: RunBegin, Text: "dledger"},
		{Seq: 2, Run: "run-1", Kind: StepBegin, Stage: "prepare", Step: "lock-group", Text: "lock\n\"it\""},
		{Seq: 3, Run: "run-1", Kind: StepDone, Stage: "prepare", Step: "lock-group"},
	} {
		got := read[i]
		if d := got.Time.Sub(began); d < -time.Second || d > time.Minute {
			t.Errorf("record %d is of %s", i+1, got.Time)
		}
		got.Time, got.State = time.Time{}, nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	last, err := LastState(read)
	if err != nil || last == nil {
		t.Fatal(last, err)
	}
	if diff := cmp.Diff(state, *last); diff != "" {
		t.Error(diff)
	}
}

func TestTheJournalIsForItsOwnerAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "runs", "run-1")
	openJournal(t, filepath.Join(dir, "journal.jsonl"))
	for path, want := range map[string]os.FileMode{dir: os.ModeDir | 0o700, filepath.Join(dir, "journal.jsonl"): 0o600} {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, st.Mode(), want)
		}
	}
}

// Wherever a kill cuts the last write off, the whole records before it stay, and the next one is
// appended behind them.
func TestAJournalCutAnywhereIsReadUpToItsLastWholeRecord(t *testing.T) {
	whole := threeRecords(t)
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	for cut := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		want := bytes.Count(whole[:cut], []byte("\n"))
		if records, err := ReadJournal(path); err != nil || len(records) != want {
			t.Fatalf("cut at byte %d: %d records, want %d: %v", cut, len(records), want, err)
		}
		if cut%7 != 0 && cut != len(whole) {
			continue // opening syncs, which takes its time
		}
		j, records, err := OpenJournal(path, "run-1")
		if err != nil || len(records) != want {
			t.Fatalf("cut at byte %d: %d records, want %d: %v", cut, len(records), want, err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, whole[:bytes.LastIndexByte(whole[:cut], '\n')+1]) {
			t.Fatalf("cut at byte %d, opened: %d bytes, %v", cut, len(now), err)
		}
		add(t, j, UndoBegin, "fence", "fence-master", "", nil)
		j.Close()
		records, err = ReadJournal(path)
		if err != nil || len(records) != want+1 || records[want].Seq != want+1 || records[want].Kind != UndoBegin {
			t.Fatalf("cut at byte %d, appended to: %+v %v", cut, records, err)
		}
	}
}

// File systems may write a later block of the last line before an earlier one, which then is zeros.
func TestALastLineWithAHoleIsNoRecord(t *testing.T) {
	whole := threeRecords(t)
	last := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	copy(whole[last+5:last+40], make([]byte, 35))
	records, _, err := readRecords(bytes.NewReader(whole), maxLine)
	if err != nil || len(records) != 2 {
		t.Errorf("%d records, %v", len(records), err)
	}
}

func TestDamageBeforeTheLastLineIsAnErrorThatNamesTheLine(t *testing.T) {
	whole := threeRecords(t)
	lines := bytes.SplitAfter(whole, []byte("\n"))[:3]
	joined := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	tests := map[string]struct {
		data []byte
		want string
	}{
		"first line":         {joined([]byte("{\"seq\":\n"), lines[1], lines[2]), "line 1 is not a record"},
		"middle line":        {joined(lines[0], []byte("\x00\x00\x00\n"), lines[2]), "line 2 is not a record"},
		"empty line":         {joined(lines[0], []byte("\n"), lines[1]), "line 2 is not a record"},
		"two lines in one":   {joined(lines[0], lines[1][:20], lines[2], lines[2]), "line 2 is not a record"},
		"first line missing": {joined(lines[1], lines[2]), "line 1: record 2 follows record 0: lines are missing"},
		"line missing":       {joined(lines[0], lines[2]), "line 2: record 3 follows record 1: lines are missing"},
		"line twice":         {joined(lines[0], lines[1], lines[1], lines[2]), "line 3: record 2 follows record 2"},
		"no record":          {joined(lines[0], []byte("null\n"), lines[1]), "line 2 is not a record: it has no number"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal.jsonl")
			if err := os.WriteFile(path, test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := ReadJournal(path)
			_, _, openErr := OpenJournal(path, "run-1")
			for _, err := range []error{err, openErr} {
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("%v, want %q of %s", err, test.want, path)
				}
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, test.data) {
				t.Errorf("the damaged journal was changed: %v", err)
			}
		})
	}
}

func TestALineThatNoRecordCanBeIsNotReadToItsEnd(t *testing.T) {
	_, _, err := readRecords(strings.NewReader(strings.Repeat("x", 1<<20)), 1000)
	if err == nil || !strings.Contains(err.Error(), "line 1 is longer than 1000 bytes") {
		t.Error(err)
	}
}

func TestAMissingJournalIsNotMadeByReading(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	if _, err := ReadJournal(path); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// A pipe cannot be synced: the record is out, and whether it is on disk is not known. The same
// sequence number must not be written a second time.
func TestNothingIsWrittenBehindARecordThatMayNotBeOnDisk(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	j := &Journal{file: w, run: "run-1"}
	first := j.Append(StepBegin, "fence", "fence-master", "", nil)
	second := j.Append(StepFail, "fence", "fence-master", "", nil)
	w.Close()
	if first == nil || second == nil {
		t.Errorf("appended: %v, %v", first, second)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(data, []byte("\n")); n != 1 {
		t.Errorf("%d lines\n%s", n, data)
	}
}

func TestTheLastStateIsTheNewestOneWritten(t *testing.T) {
	state := func(end int64) json.RawMessage { return json.RawMessage(fmt.Sprintf(`{"fencedEnd":%d}`, end)) }
	tests := map[string]struct {
		records []Record
		want    int64 // -1: none
	}{
		"none":              {nil, -1},
		"records without":   {[]Record{{Seq: 1}, {Seq: 2}}, -1},
		"the last":          {[]Record{{Seq: 1, State: state(1)}, {Seq: 2, State: state(2)}}, 2},
		"not the last line": {[]Record{{Seq: 1, State: state(1)}, {Seq: 2, State: state(2)}, {Seq: 3}}, 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := LastState(test.records)
			switch {
			case err != nil:
				t.Error(err)
			case test.want < 0 && got != nil, test.want >= 0 && (got == nil || got.FencedEnd != test.want):
				t.Errorf("%+v, want %d", got, test.want)
			}
		})
	}
	if _, err := LastState([]Record{{Seq: 7, State: json.RawMessage(`{"fencedEnd":"far"}`)}}); err == nil || !strings.Contains(err.Error(), "record 7") {
		t.Errorf("a state of another kind: %v", err)
	}
}

func FuzzReadingAJournalNeverLosesWhatIsWhole(f *testing.F) {
	whole := threeRecords(f)
	f.Add(whole)
	f.Add(whole[:len(whole)-9])
	f.Add(whole[20:])
	f.Add([]byte("{\"seq\":1}\n\n{\"seq\":2}\n"))
	f.Add([]byte("{\"seq\":1}\nnull\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		records, n, err := readRecords(bytes.NewReader(data), maxLine)
		if err != nil {
			return
		}
		for i, r := range records {
			if r.Seq != i+1 {
				t.Fatalf("record %d has number %d", i+1, r.Seq)
			}
		}
		if n < 0 || n > int64(len(data)) || n > 0 && data[n-1] != '\n' {
			t.Fatalf("whole up to byte %d of %d", n, len(data))
		}
		if got := bytes.Count(data[:n], []byte("\n")); got != len(records) {
			t.Fatalf("%d lines kept, %d records", got, len(records))
		}
		if rest := bytes.Count(data[n:], []byte("\n")); rest > 1 {
			t.Fatalf("%d lines were dropped as one torn line", rest)
		}
		if rest := data[n:]; len(rest) > 0 && rest[0] != '{' && rest[0] != 0 {
			t.Fatalf("%q was dropped, which is no record's beginning", rest)
		}
		// What is kept when the journal is opened for appending reads the same.
		again, m, err := readRecords(bytes.NewReader(data[:n]), maxLine)
		if err != nil || m != n || len(again) != len(records) {
			t.Fatalf("read again: %d records of %d, up to %d of %d, %v", len(again), len(records), m, n, err)
		}
	})
}
