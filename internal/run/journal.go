// Package run walks a plan: it journals, resumes, undoes and reports.
package run

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// RecordKind tells what a journal record says.
type RecordKind string

const (
	RunBegin  RecordKind = "run-begin"
	RunEnd    RecordKind = "run-end"
	StepBegin RecordKind = "begin" // written and synced before the step changes anything
	StepDone  RecordKind = "done"  // written and synced after it
	StepFail  RecordKind = "failed"
	StepSkip  RecordKind = "skipped"
	// StateSaved carries what a step found before it is done.
	StateSaved RecordKind = "state"
	UndoBegin  RecordKind = "undo-begin"
	UndoDone   RecordKind = "undone"
	UndoFail   RecordKind = "undo-failed"
)

// Record is one line of a journal.
type Record struct {
	Seq   int        `json:"seq"`
	Time  time.Time  `json:"time"`
	Run   string     `json:"run"`
	Kind  RecordKind `json:"kind"`
	Stage string     `json:"stage,omitempty"`
	Step  string     `json:"step,omitempty"`
	Text  string     `json:"text,omitempty"`
	// State is what the steps have found so far, whole, as it stands after this record.
	State json.RawMessage `json:"state,omitempty"`
}

// Journal is an append-only file of records, one JSON document a line, each synced to disk before
// Append returns.
type Journal struct {
	mu   sync.Mutex
	file *os.File
	run  string
	seq  int
	// state is the newest one in the file.
	state json.RawMessage
	// broken is why a record may stand in the file in part, or twice if it were tried again: nothing is
	// written behind it.
	broken error
}

// OpenJournal opens a journal for appending, with the records it holds so far. A torn last line
// (the tool was killed while writing it) is cut off; damage anywhere else is a *DamageError.
func OpenJournal(path, run string) (*Journal, []Record, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil { // its name, and that of the plan beside it
		return nil, nil, errors.Join(fmt.Errorf("journal: %w", err), f.Close())
	}
	records, whole, err := recordsOf(path, f)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	if err := f.Truncate(whole); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("journal: cutting the torn last line: %w", err), f.Close())
	}
	if _, err := f.Seek(whole, io.SeekStart); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("journal: %w", err), f.Close())
	}
	j := &Journal{file: f, run: run}
	if n := len(records); n > 0 {
		j.seq = records[n-1].Seq
	}
	for _, r := range records {
		if len(r.State) > 0 {
			j.state = r.State
		}
	}
	return j, records, nil
}

// ReadJournal reads a journal without opening it for writing.
func ReadJournal(path string) ([]Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	records, _, err := recordsOf(path, f)
	return records, err
}

// recordsOf is readRecords with the file's name in the error.
func recordsOf(path string, f io.Reader) ([]Record, int64, error) {
	records, whole, err := readRecords(f, maxLine)
	var damage *DamageError
	if errors.As(err, &damage) {
		damage.Path = path
		return nil, 0, err
	}
	if err != nil {
		return nil, 0, fmt.Errorf("journal %s: %w", path, err)
	}
	return records, whole, nil
}

// DamageError tells that a journal is not what Append wrote, but for a torn last line: what its run did
// and did not do cannot be known from it.
type DamageError struct {
	Path string
	Line int
	What string
	Err  error // may be nil
}

func (e *DamageError) Error() string {
	s := fmt.Sprintf("journal %s: line %d%s", e.Path, e.Line, e.What)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s + fmt.Sprintf("; nothing was done now. Put the file back from a copy, or mend the line by hand; with neither, `mv %[1]s %[1]s.damaged`: `mqlift rollback` then goes back by what the run keeps on the hosts",
		filepath.Dir(e.Path))
}

func (e *DamageError) Unwrap() error { return e.Err }

// maxLine bounds a record, in bytes: the state holds a certificate, which grows with the store.
const maxLine = 256 << 20

var errLongLine = errors.New("the line is too long")

// readLine reads up to the next line end, which is included; io.EOF means that there is none.
func readLine(br *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if line = append(line, part...); len(line) > most {
			return nil, errLongLine
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// readRecords returns the whole records and the length of the file up to the end of the last one. Its
// errors are *DamageError, without a path, or what kept from reading.
func readRecords(r io.Reader, most int) (records []Record, whole int64, err error) {
	br := bufio.NewReader(r)
	begun := map[[2]string]bool{} // steps, by stage and name
	for line := 1; ; line++ {
		damaged := func(what string, err error) ([]Record, int64, error) {
			return nil, 0, &DamageError{Line: line, What: what, Err: err}
		}
		b, err := readLine(br, most)
		end := errors.Is(err, io.EOF)
		switch {
		case errors.Is(err, errLongLine):
			return damaged(fmt.Sprintf(" is longer than %d bytes, which no record is", most), nil)
		case end && len(b) == 0:
			return records, whole, nil
		case err != nil && !end:
			return nil, 0, err
		}
		var rec Record
		if err = json.Unmarshal(bytes.TrimSpace(b), &rec); err != nil || end {
			// The last line may be torn: cut off, or written in part over a preallocated block.
			if _, peek := br.Peek(1); errors.Is(peek, io.EOF) && tornRecord(b, len(records)+1) {
				return records, whole, nil
			}
			return damaged(" is not a record", err)
		}
		n := len(records)
		at := [2]string{rec.Stage, rec.Step}
		switch {
		case rec.Seq <= 0:
			return damaged(" is not a record: it has no number (seq)", nil)
		case rec.Seq <= n:
			return damaged(fmt.Sprintf(": record %d follows record %d: lines stand twice or were moved", rec.Seq, n), nil)
		case rec.Seq != n+1:
			return damaged(fmt.Sprintf(": record %d follows record %d: lines are missing", rec.Seq, n), nil)
		case rec.Kind == "":
			return damaged(" has no kind", nil)
		case n > 0 && rec.Run != records[0].Run:
			return damaged(fmt.Sprintf(" is of run %q, the lines before it of run %q", rec.Run, records[0].Run), nil)
		case (rec.Kind == StepDone || rec.Kind == StepFail) && !begun[at]:
			return damaged(fmt.Sprintf(" says %s of %s / %s, which no line before it begins", rec.Kind, rec.Stage, rec.Step), nil)
		case rec.Kind == StepBegin:
			begun[at] = true
		}
		records = append(records, rec)
		whole += int64(len(b))
	}
}

// tornRecord tells whether a last line can be what a kill left of a record with that number: nothing
// else may be dropped in silence. A block that was not written yet is zeros.
func tornRecord(b []byte, seq int) bool {
	head := []byte(fmt.Sprintf(`{"seq":%d,"`, seq))
	for i := range min(len(b), len(head)) {
		if b[i] == 0 {
			return true
		}
		if b[i] != head[i] {
			return false
		}
	}
	return true
}

// Append writes one record and syncs it. After a failed one every further one fails, so that the file
// stays one that can be read.
func (j *Journal) Append(kind RecordKind, stage, step, text string, state any) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return fmt.Errorf("journal: closed to further records: %w", j.broken)
	}
	rec := Record{Seq: j.seq + 1, Time: time.Now(), Run: j.run, Kind: kind, Stage: stage, Step: step, Text: text}
	if state != nil {
		b, err := json.Marshal(state)
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		rec.State = b
	}
	line, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	_, err = j.file.Write(append(line, '\n'))
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		j.broken = err
		return fmt.Errorf("journal: %w", err)
	}
	j.seq++
	if len(rec.State) > 0 {
		j.state = rec.State
	}
	return nil
}

func (j *Journal) lastState() json.RawMessage {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state
}

// Path is the journal's file name.
func (j *Journal) Path() string { return j.file.Name() }

// Close closes the file.
func (j *Journal) Close() error { return j.file.Close() }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
