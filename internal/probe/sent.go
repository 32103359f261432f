package probe

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// flushEvery is how long a record may wait before it is handed to the operating system.
const flushEvery = 100 * time.Millisecond

// Entry is what is known of one message.
type Entry struct {
	Topic string `json:"topic"`
	Key   string `json:"key"`
	// Acked says that the broker has acknowledged the message: it must be found from then on. Without
	// it the message may or may not be stored, once for each of Tries.
	Acked bool `json:"acked"`
	// Broker is the group (brokerName) that acknowledged. Empty if none did.
	Broker string `json:"broker,omitempty"`
	// MsgID is the id with the store host and the physical offset in it (OffsetMsgID).
	MsgID  string `json:"msg_id,omitempty"`
	Queue  int    `json:"queue"`
	Offset int64  `json:"offset"`
	// Status is what the broker said with its acknowledgement when that was not a plain one: stored on
	// the master, but not flushed or not on a slave in time.
	Status string `json:"status,omitempty"`
	// At is when it was acknowledged or last failed.
	At time.Time `json:"at"`
	// Tries counts the attempts; of those before the last any may be stored as well.
	Tries int    `json:"tries"`
	Error string `json:"error,omitempty"`
}

type entryID struct{ topic, key string }

// Sent is the ledger of all messages that were sent, acknowledged or not. Its zero value is a
// ledger in memory; OpenSent makes one that is written through to a file. It is safe for use by any
// number of goroutines.
//
// The file holds one JSON object a line, a line per attempt; of several lines with the same topic
// and key the last one is valid. A process that is killed loses at most the last 100 ms.
type Sent struct {
	mu      sync.Mutex
	order   []entryID
	entries map[entryID]Entry

	file *os.File // nil: in memory
	out  *bufio.Writer
	err  error // the first error in writing; said by Flush and Close
	stop chan struct{}
	done chan struct{}

	closeOnce sync.Once
	closeErr  error
}

// OpenSent opens or makes the ledger at path, with what it holds already. A last line that was torn
// by a crash is cut off. Any other line that cannot be read is an error: it would be a message that
// nobody looks for any more.
func OpenSent(path string) (*Sent, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the ledger of sent messages: %w", err)
	}
	s := &Sent{file: f, out: bufio.NewWriter(f), stop: make(chan struct{}), done: make(chan struct{})}
	good, err := s.load(f)
	if err == nil {
		err = f.Truncate(good)
	}
	if err == nil {
		_, err = f.Seek(good, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading the ledger of sent messages %s: %w", path, err)
	}
	go s.flushLoop()
	return s, nil
}

// ReadSent returns the ledger at path as one in memory; the file is left as it is.
func ReadSent(path string) (*Sent, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the ledger of sent messages: %w", err)
	}
	defer f.Close()
	s := &Sent{}
	if _, err := s.load(f); err != nil {
		return nil, fmt.Errorf("reading the ledger of sent messages %s: %w", path, err)
	}
	return s, nil
}

// load reads whole lines and returns where the last of them ends.
func (s *Sent) load(r io.Reader) (good int64, err error) {
	in := bufio.NewReader(r)
	for number := 1; ; number++ {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return good, nil // what is left without a line end was torn
		}
		if err != nil {
			return good, err
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return good, fmt.Errorf("line %d: %w", number, err)
		}
		if e.Topic == "" || e.Key == "" {
			return good, fmt.Errorf("line %d: no topic or key in %q", number, bytes.TrimSpace(line))
		}
		s.put(e)
		good += int64(len(line))
	}
}

// Acknowledged notes that the broker group has acknowledged the message. Tries is counted here.
func (s *Sent) Acknowledged(e Entry) {
	e.Acked, e.Error = true, ""
	s.note(e)
}

// Unacknowledged notes a failed attempt: the message may be stored, or not. It never takes an
// acknowledgement back.
func (s *Sent) Unacknowledged(topic, key string, err error) {
	s.note(Entry{Topic: topic, Key: key, At: time.Now(), Error: err.Error()})
}

func (s *Sent) note(e Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.entries[entryID{e.Topic, e.Key}]; ok {
		tries := old.Tries
		if old.Acked && !e.Acked {
			e = old
		}
		e.Tries = tries
	}
	e.Tries++
	s.put(e)
	if s.out == nil || s.err != nil {
		return
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = s.out.Write(append(line, '\n'))
	}
	s.err = err
}

func (s *Sent) put(e Entry) {
	id := entryID{e.Topic, e.Key}
	if s.entries == nil {
		s.entries = map[entryID]Entry{}
	}
	if _, ok := s.entries[id]; !ok {
		s.order = append(s.order, id)
	}
	s.entries[id] = e
}

// Entries returns all messages in the order in which they were first noted.
func (s *Sent) Entries() []Entry { return s.filter(func(Entry) bool { return true }) }

// Acked returns the acknowledged messages: each of them must be found.
func (s *Sent) Acked() []Entry { return s.filter(func(e Entry) bool { return e.Acked }) }

// Unacked returns the messages that were tried and never acknowledged.
func (s *Sent) Unacked() []Entry { return s.filter(func(e Entry) bool { return !e.Acked }) }

// Next returns the lowest number from start on above all that the topic's keys with this prefix have.
func (s *Sent) Next(topic, prefix string, start int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.order {
		digits, ok := strings.CutPrefix(id.key, prefix)
		if n, err := strconv.Atoi(digits); ok && err == nil && id.topic == topic {
			start = max(start, n+1)
		}
	}
	return start
}

func (s *Sent) filter(keep func(Entry) bool) []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Entry
	for _, id := range s.order {
		if e := s.entries[id]; keep(e) {
			list = append(list, e)
		}
	}
	return list
}

// Flush hands everything to the operating system and returns the first error there was in writing.
func (s *Sent) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out != nil && s.err == nil {
		s.err = s.out.Flush()
	}
	if s.err != nil {
		return fmt.Errorf("writing the ledger of sent messages %s: %w", s.file.Name(), s.err)
	}
	return nil
}

// Close flushes, syncs and closes the file. The ledger can be read on; further notes are kept in
// memory only. Closing again does nothing and returns the same error.
func (s *Sent) Close() error {
	s.closeOnce.Do(func() {
		if s.file == nil {
			return
		}
		close(s.stop)
		<-s.done
		err := s.Flush()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.out = nil
		s.closeErr = errors.Join(err, s.file.Sync(), s.file.Close())
	})
	return s.closeErr
}

func (s *Sent) flushLoop() {
	defer close(s.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.Flush() // the error is kept and said by Close
		case <-s.stop:
			return
		}
	}
}
