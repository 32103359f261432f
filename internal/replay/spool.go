// Package replay takes messages from one broker and sends them again to another one: they are read into
// files first, which are on disk before the broker that they come from is stopped.
package replay

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"mqlift/internal/message"
	"mqlift/internal/rocketmq"
)

// Queue is one queue of a topic.
type Queue struct {
	Topic string
	ID    int
}

func (q Queue) String() string { return q.Topic + "/" + strconv.Itoa(q.ID) }

// Spool is a folder with a file for each queue: its messages as brokers store them, one after another.
type Spool struct{ dir string }

// OpenSpool makes the folder if it is not there.
func OpenSpool(dir string) (*Spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the folder for messages: %w", err)
	}
	return &Spool{dir}, nil
}

const suffix = ".messages"

func (s *Spool) file(q Queue) string {
	return filepath.Join(s.dir, url.PathEscape(q.Topic)+"."+strconv.Itoa(q.ID)+suffix)
}

// Queues lists the queues that have a file, in order.
func (s *Spool) Queues() ([]Queue, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var l []Queue
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		at := strings.LastIndexByte(name, '.')
		if !ok || at < 0 {
			continue
		}
		topic, err := url.PathUnescape(name[:at])
		id, nerr := strconv.Atoi(name[at+1:])
		if err := errors.Join(err, nerr); err != nil {
			return nil, fmt.Errorf("%s is not a file of messages: %w", e.Name(), err)
		}
		l = append(l, Queue{topic, id})
	}
	return l, nil
}

// Each calls f with every whole message of a queue's file, in order, and returns how many there were and
// how many bytes they take. A torn end is passed over.
func (s *Spool) Each(q Queue, f func(message.Message) error) (count int, size int64, err error) {
	file, err := os.Open(s.file(q))
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, 1<<20)
	for {
		head, err := r.Peek(4)
		if len(head) < 4 {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return count, size, err
		}
		b := make([]byte, binary.BigEndian.Uint32(head)) // written by Take
		if _, err := io.ReadFull(r, b); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = nil
			}
			return count, size, err
		}
		m, err := message.Decode(b)
		if err != nil {
			return count, size, fmt.Errorf("%s, byte %d: %w", file.Name(), size, err)
		}
		if err := f(m); err != nil {
			return count, size, err
		}
		count, size = count+1, size+int64(len(b))
	}
}

// Source is a broker that messages are read from, *rocketmq.Broker.
type Source interface {
	Pull(ctx context.Context, topic string, queueID int, offset int64, limit int) (rocketmq.PullResult, error)
}

// Counter follows how many messages are through: Known ones were when a call began, Add are new.
type Counter interface {
	Known(n int)
	Add(n int)
}

// Take brings a queue's file up to the queue offset to, from the offset from on or from where an earlier
// call got, and syncs it. It returns how many messages it added.
func (s *Spool) Take(ctx context.Context, b Source, q Queue, from, to int64, c Counter) (added int, err error) {
	had, whole, err := s.Each(q, func(m message.Message) error {
		from = m.QueueOffset + 1
		return nil
	})
	c.Known(had)
	if err != nil || from >= to {
		return 0, err
	}
	f, err := os.OpenFile(s.file(q), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(whole); err != nil {
		return 0, err
	}
	if _, err := f.Seek(whole, io.SeekStart); err != nil {
		return 0, err
	}
	for from < to {
		before := added
		r, err := b.Pull(ctx, q.Topic, q.ID, from, 32)
		if err != nil {
			return added, fmt.Errorf("reading queue %d of %s from offset %d: %w", q.ID, q.Topic, from, err)
		}
		var buf []byte
		for _, m := range r.Messages {
			if m.QueueOffset < from || m.QueueOffset >= to {
				continue
			}
			buf = message.Append(buf, m)
			from = m.QueueOffset + 1
			added++
		}
		if len(buf) == 0 {
			if r.Next <= from {
				return added, fmt.Errorf("reading queue %d of %s: nothing comes at offset %d, and the queue ends at %d", q.ID, q.Topic, from, to)
			}
			from = r.Next // the broker has none up to there
			continue
		}
		if _, err := f.Write(buf); err != nil {
			return added, err
		}
		c.Add(added - before)
	}
	return added, f.Sync()
}

// Sync makes the files' names last through a crash of this machine.
func (s *Spool) Sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Sorted is queues in a fixed order.
func Sorted(queues []Queue) []Queue {
	return slices.SortedFunc(slices.Values(queues), func(a, b Queue) int {
		if c := strings.Compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		return a.ID - b.ID
	})
}

// Drop removes a topic's files.
func (s *Spool) Drop(topic string) error {
	queues, err := s.Queues()
	for _, q := range queues {
		if q.Topic == topic {
			err = errors.Join(err, os.Remove(s.file(q)))
		}
	}
	return err
}
