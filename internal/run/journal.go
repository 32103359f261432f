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
	// broken is why a record may stand in the file in part, or twice if it were tried again: nothing is
	// written behind it.
	broken error
}

// OpenJournal opens a journal for appending, with the records it holds so far. A torn last line
// (the tool was killed while writing it) is cut off; damage anywhere else is an error.
func OpenJournal(path, run string) (*Journal, []Record, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	records, whole, err := readRecords(f)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("journal %s: %w", path, err), f.Close())
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
	return j, records, nil
}

// ReadJournal reads a journal without opening it for writing.
func ReadJournal(path string) ([]Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	records, _, err := readRecords(f)
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return records, nil
}

// readRecords returns the whole records and the length of the file up to the end of the last one.
func readRecords(r io.Reader) (records []Record, whole int64, err error) {
	br := bufio.NewReader(r)
	for line := 1; ; line++ {
		b, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return records, whole, nil // what is left has no line end: torn
		}
		if err != nil {
			return nil, 0, err
		}
		var rec Record
		if err := json.Unmarshal(bytes.TrimSpace(b), &rec); err != nil {
			if _, peek := br.Peek(1); errors.Is(peek, io.EOF) {
				return records, whole, nil // the last line was written in part over a preallocated block
			}
			return nil, 0, fmt.Errorf("line %d is not a record: %w", line, err)
		}
		if n := len(records); rec.Seq != n+1 {
			return nil, 0, fmt.Errorf("line %d: record %d follows record %d: lines are missing", line, rec.Seq, n)
		}
		records = append(records, rec)
		whole += int64(len(b))
	}
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
	return nil
}

// Path is the journal's file name.
func (j *Journal) Path() string { return j.file.Name() }

// Close closes the file.
func (j *Journal) Close() error { return j.file.Close() }
