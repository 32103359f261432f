package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mqlift/internal/event"
	"mqlift/internal/lab"
	"mqlift/internal/message"
	"mqlift/internal/store"
)

// A slave whose log went another way than the master's keeps the difference for ever under DLedger. In
// whatever way it did, the first byte that differs is named, it gets the master's bytes, its consume
// queues and index are built from them, and the upgrade goes on.
func TestADivergedSlaveIsRealigned(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := filepath.Join(b.host("host-b").InstallDir, "store")
	b.run(t, call{}, "store", "compare").wants(t, 0, "The logs are equal up to", "config/*.json mean the same", "Nothing is wrong")
	b.stopBroker(t, "host-b")
	healthyAndDamaged(t, b, root)

	last := func(t *testing.T) *slaveLog { return openSlaveLog(t, root) }
	for _, c := range []struct {
		name, says string
		notes      string // of the run
		change     func(t *testing.T, l *slaveLog)
	}{
		{"longer, with messages of its own", "topic own", "", func(t *testing.T, l *slaveLog) {
			l.put(l.put(l.end, "own1", 100), "own2", 5000)
		}},
		{"shorter, with another tail", "", "", func(t *testing.T, l *slaveLog) {
			m := l.messages[len(l.messages)-2]
			l.write(m.PhysicalOffset+int64(m.Size)-2, []byte{'~'})
			l.zero(l.messages[len(l.messages)-1].PhysicalOffset)
		}},
		// It takes the master's bytes from the middle of a message on, and its broker never stops cleanly again,
		// unless a consume queue lets its dispatch begin behind that place.
		{"shorter, and its end is within a message of the master's", "", "the slave did not stop cleanly", func(t *testing.T, l *slaveLog) {
			l.zero(l.put(l.messages[len(l.messages)-2].PhysicalOffset, "own", 10))
			must(t, os.RemoveAll(filepath.Join(root, "consumequeue")))
		}},
	} {
		ok := t.Run(c.name, func(t *testing.T) {
			c.change(t, last(t))
			o := b.run(t, call{}, "store", "compare")
			o.wants(t, 6, "The logs differ", "the first byte that differs is at offset", c.says)
			b.startBroker(t, "host-b")
			b.awaitRegistered(t)
			if c.notes != "" {
				b.awaitSlave(t) // only with the master's bytes is its dispatch stuck
			}
			// One empty file more than the broker has prepared; it deletes such files at its start.
			prepared := filepath.Join(root, "commitlog", store.FileName(2*lab.DefaultLogFileSize))
			must(t, os.WriteFile(prepared, nil, 0o644))
			must(t, os.Truncate(prepared, lab.DefaultLogFileSize))
			a := b.startApply(t)
			a.await(t, "the logs to be aligned", func(e event.Event) bool { return e.Kind == event.StepEnd && e.Step == "align-logs" })
			a.signal(t, syscall.SIGINT)
			if code := a.ended(t); code != 130 {
				t.Fatalf("exit code %d:\n%s", code, a.screen.String())
			}
			if said := a.screen.String(); !strings.Contains(said, "host-b: its log differs from the master's: the first byte that differs is at offset") {
				t.Errorf("the difference is not named:\n%s", said)
			} else if !strings.Contains(said, c.notes) {
				t.Errorf("%q is not said:\n%s", c.notes, said)
			}
			b.awaitSlave(t)
			b.run(t, call{}, "store", "compare").wants(t, 0, "The logs are equal up to")
			b.find(t, "host-a", "host-b")
			b.stopBroker(t, "host-b")
			if _, err := os.Stat(filepath.Join(root, "abort")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the slave did not stop cleanly (%v)", err)
			}
		})
		if !ok {
			return
		}
	}

	b.slaveThatHangs(t, last(t))

	// The slave is stopped, and stays so. A byte where no checksum covers it: in the properties, behind the body.
	l := last(t)
	i := bytes.Index(l.data, []byte("KEYS\x01m000050"))
	if i < 0 {
		t.Fatal("the seeded key is not in the slave's log")
	}
	l.write(int64(i+len("KEYS\x01")), []byte("x"))
	b.run(t, call{}, "apply", "--yes", "--no-failover", "--keys", oldKeys).wants(t, 0, "host-b: its log differs from the master's", "key m000050", "key x000050", "all copies agree", "directly, encrypted, in ")
	b.verified(t)
	b.run(t, call{}, "store", "compare").wants(t, 0)
}

// slaveThatHangs gives the stopped slave another last file: an end-of-file mark where the master has a
// message, and the next file begun. Such a slave never comes to serve. Stopped again it is realigned, and
// left stopped on the way back.
func (b *bench) slaveThatHangs(t *testing.T, l *slaveLog) {
	t.Helper()
	rolled := l.messages[60].PhysicalOffset
	l.zero(rolled)
	mark := binary.BigEndian.AppendUint32(nil, uint32(lab.DefaultLogFileSize-rolled))
	l.write(rolled, binary.BigEndian.AppendUint32(mark, message.Blank))
	l.put(lab.DefaultLogFileSize, "own", 100)
	b.startBroker(t, "host-b")
	storeLog := filepath.Join(b.host("host-b").Dir, "home", "logs", "rocketmqlogs", "store.log")
	const hangs = "Try to finish doing reput the messages fall behind"
	before, err := os.ReadFile(storeLog)
	must(t, err)
	eventually(t, limitOfStart, "the slave to wait in its start", func(context.Context) error {
		now, err := os.ReadFile(storeLog)
		if err == nil && bytes.Count(now, []byte(hangs)) < bytes.Count(before, []byte(hangs))+3 {
			err = errors.New("it does not say so")
		}
		return err
	})
	b.run(t, call{}, "check").wants(t, 3, "does not answer", hangs, "leave it stopped")
	b.stopBroker(t, "host-b")
	conf, err := os.ReadFile(b.conf("host-b"))
	must(t, err)
	b.run(t, call{}, "check").wants(t, 0, "this slave is stopped")

	a := b.startApply(t)
	a.await(t, "the logs to be aligned", func(e event.Event) bool { return e.Kind == event.StepEnd && e.Step == "align-logs" })
	a.signal(t, syscall.SIGINT)
	if code := a.ended(t); code != 130 {
		t.Fatalf("exit code %d:\n%s", code, a.screen.String())
	}
	if pid := b.pid(t, "host-b", "broker"); pid != 0 {
		t.Errorf("the slave was stopped, and runs now as process %d", pid)
	}
	if now, err := os.ReadFile(b.conf("host-b")); err != nil || !bytes.Equal(now, conf) {
		t.Errorf("the slave's broker.conf is not as it was (%v):\n%s", err, now)
	}
	b.run(t, call{}, "store", "compare").wants(t, 0, "The logs are equal up to")
}

// healthyAndDamaged looks at the stopped slave's store here: nothing is wrong with it, and what is made
// wrong is found.
func healthyAndDamaged(t *testing.T, b *bench, root string) {
	t.Helper()
	b.here(t, "store", "inspect", root).wants(t, 0, "stopped", "Nothing is wrong")
	indexes, err := filepath.Glob(filepath.Join(root, "index", "*"))
	must(t, err)
	if len(indexes) == 0 {
		t.Fatal("the slave has no index")
	}
	queue := filepath.Join(root, "consumequeue", topic, "0", store.FileName(0))
	for _, c := range []struct {
		name, path string
		code       int
		says       string
		change     func(data []byte) []byte
	}{
		{"a byte turned in a queue", queue, 6, "queue 0 of " + topic, func(data []byte) []byte { data[50*20+7] ^= 1; return data }},
		{"a tag's byte turned", queue, 6, "has another tag", func(data []byte) []byte { data[50*20+19] ^= 1; return data }},
		{"a queue that lost its end", queue, 0, "lag behind the log by 3 messages", func(data []byte) []byte { clear(data[(seeded-3)*20:]); return data }},
		{"a queue file cut short", queue, 6, "does not load the queue", func(data []byte) []byte { return data[:1000*20+7] }},
		{"an index cut short", indexes[0], 6, "no length of an index file", func(data []byte) []byte { return data[:30_000_000] }},
		{"a slot of the index turned", indexes[0], 6, "the index file: slot", func(data []byte) []byte {
			for at := 40; ; at += 4 {
				if binary.BigEndian.Uint32(data[at:]) != 0 {
					data[at+3] ^= 0x40
					return data
				}
			}
		}},
	} {
		before, err := os.ReadFile(c.path)
		must(t, err)
		must(t, os.WriteFile(c.path, c.change(bytes.Clone(before)), 0o644))
		o := b.here(t, "store", "inspect", root)
		must(t, os.WriteFile(c.path, before, 0o644))
		if o.code != c.code || !strings.Contains(o.text, c.says) {
			t.Errorf("%s: exit code %d, want %d and %q:\n%s", c.name, o.code, c.code, c.says, o.text)
		}
	}
}

// slaveLog is the first file of a stopped broker's commit log, to be changed.
type slaveLog struct {
	t        *testing.T
	dir      string
	data     []byte
	end      int64
	messages []message.Message
}

func openSlaveLog(t *testing.T, root string) *slaveLog {
	t.Helper()
	l := &slaveLog{t: t, dir: filepath.Join(root, "commitlog")}
	in, err := store.Inspect(t.Context(), l.dir, store.Options{})
	must(t, err)
	l.end = in.End
	f, err := os.Open(filepath.Join(l.dir, store.FileName(0)))
	must(t, err)
	defer f.Close()
	l.data = make([]byte, l.end)
	_, err = f.ReadAt(l.data, 0)
	must(t, err)
	l.messages, err = message.DecodeAll(l.data)
	must(t, err)
	return l
}

func (l *slaveLog) write(at int64, b []byte) {
	l.t.Helper()
	base := at / lab.DefaultLogFileSize * lab.DefaultLogFileSize
	f, err := os.OpenFile(filepath.Join(l.dir, store.FileName(base)), os.O_RDWR|os.O_CREATE, 0o644)
	must(l.t, err)
	defer f.Close()
	must(l.t, f.Truncate(lab.DefaultLogFileSize))
	_, err = f.WriteAt(b, at-base)
	must(l.t, err)
}

// zero empties the log from an offset on.
func (l *slaveLog) zero(from int64) { l.write(from, make([]byte, l.end-from)) }

// put writes a message of the slave's own and returns its end.
func (l *slaveLog) put(at int64, key string, size int) int64 {
	l.t.Helper()
	m := l.messages[len(l.messages)-1]
	b := message.Append(nil, message.Message{
		Topic: "own", QueueOffset: at, PhysicalOffset: at, Body: bytes.Repeat([]byte{'y'}, size), Born: m.Born, Stored: time.Now(),
		BornHost: m.BornHost, StoreHost: m.StoreHost, Properties: map[string]string{message.PropertyKeys: key},
	})
	l.write(at, b)
	return at + int64(len(b))
}
