package store_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mqlift/internal/diag"
	"mqlift/internal/message"
	"mqlift/internal/store"
	"mqlift/internal/store/storetest"
)

// newStore writes a log with queues and index: two topics, tags, several keys, a delayed message,
// transactions, text that is not ASCII.
func newStore(t testing.TB, messages int) *storetest.Log {
	t.Helper()
	l := storetest.New(t, filepath.Join(t.TempDir(), "store", "commitlog"), small, small)
	next := map[string]int64{}
	for i := range messages {
		m := message.Message{Topic: "orders", QueueID: int32(i % 3), Body: bytes.Repeat([]byte{byte(i)}, 50+i%300),
			Properties: map[string]string{message.PropertyUniqueKey: fmt.Sprintf("U%032X", i), "TAGS": fmt.Sprintf("tag%d", i%5), "KEYS": fmt.Sprintf("k%d  again%d", i, i)}}
		switch i % 10 {
		case 3:
			m.Topic, m.QueueID = "zahlungen", 0
			m.Properties["TAGS"], m.Properties["KEYS"] = "größe😀", "straße😀"
		case 4:
			m.Topic, m.QueueID, m.Properties["DELAY"] = "SCHEDULE_TOPIC_XXXX", 2, "3"
		case 5:
			m.SysFlag = message.FlagPrepared
		case 6:
			m.SysFlag = message.FlagCommitted
		case 7:
			m.SysFlag = message.FlagRolledBack
		case 8:
			m.Properties = nil
		}
		if kind := m.SysFlag & message.FlagTransaction; kind != message.FlagPrepared && kind != message.FlagRolledBack {
			queue := fmt.Sprint(m.Topic, m.QueueID)
			m.QueueOffset = next[queue]
			next[queue]++
		}
		l.Append(m)
	}
	l.WriteTopics("orders", "zahlungen", "SCHEDULE_TOPIC_XXXX")
	return l
}

func derived(t testing.TB, l *storetest.Log) *store.Inspection {
	t.Helper()
	return inspect(t, l.Dir, store.Options{Derived: true})
}

func TestAHealthyStoreHasNoFindings(t *testing.T) {
	l := newStore(t, 900)
	l.WriteQueues(l.Messages)
	l.WriteIndex(l.Messages)
	in := derived(t, l)
	d := in.Derived
	if len(in.Findings) > 0 || len(d.Findings) > 0 {
		t.Fatalf("findings %v %v", in.Findings, d.Findings)
	}
	entries, reach := int64(0), int64(-1)
	for _, m := range l.Messages {
		if kind := m.SysFlag & message.FlagTransaction; kind == 0 || kind == message.FlagCommitted {
			entries++
			reach = m.PhysicalOffset + int64(m.Size)
		}
	}
	if d.Entries != entries || d.Reach != reach || d.Topics != 3 || len(d.Queues) != 5 || d.Behind != 0 {
		t.Errorf("%d entries to %d in %d queues of %d topics, want %d to %d in 5 of 3", d.Entries, d.Reach, len(d.Queues), d.Topics, entries, reach)
	}
	q := d.Queues[len(d.Queues)-1]
	if q.Topic != "zahlungen" || q.ID != 0 || q.Min != 0 || q.Max != 90 || q.Entries != 90 {
		t.Errorf("%+v", q)
	}
	if d.Keys < 2*800 || len(d.Index) < 5 {
		t.Errorf("%d keys in %d files", d.Keys, len(d.Index))
	}
	// Expired log files leave their entries in queues and index.
	if err := os.Remove(filepath.Join(l.Dir, store.FileName(small))); err != nil {
		t.Fatal(err)
	}
	if d := derived(t, l).Derived; len(d.Findings) > 0 || d.Queues[0].Min == 0 {
		t.Errorf("after retention: %v, %+v", d.Findings, d.Queues[0])
	}
}

// Every byte of a queue file that says something is covered.
func TestAByteTurnedInAQueueIsFound(t *testing.T) {
	l := newStore(t, 300)
	l.WriteQueues(l.Messages)
	l.WriteIndex(l.Messages)
	random := rand.New(rand.NewPCG(1, 2))
	queue := derived(t, l).Derived.Queues[1] // orders, 0
	if queue.Topic != "orders" {
		t.Fatalf("%+v", queue)
	}
	for range 60 {
		logical := random.Int64N(queue.Max)
		path, at := l.QueueFile("orders", 0, logical), logical*20%storetest.QueueFileSize+random.Int64N(20)
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		after := bytes.Clone(before)
		after[at] ^= 1 << random.IntN(8)
		if err := os.WriteFile(path, after, 0o644); err != nil {
			t.Fatal(err)
		}
		d := derived(t, l).Derived
		if d.Findings.Err() == nil || !strings.Contains(d.Findings.Err().Error(), "orders") {
			t.Errorf("entry %d, byte %d: %v", logical, at%20, d.Findings)
		}
		if err := os.WriteFile(path, before, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Every byte of an index file that a look-up goes by is covered; of the header, the count and the
// offsets, which decide what is indexed next.
func TestAByteTurnedInTheIndexIsFound(t *testing.T) {
	l := newStore(t, 100)
	l.WriteQueues(l.Messages)
	path := l.WriteIndex(l.Messages)[0]
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	count := int(binary.BigEndian.Uint32(before[36:]))
	end := 40 + storetest.IndexSlots*4 + count*20
	random := rand.New(rand.NewPCG(3, 4))
	for range 80 {
		at := 36 + random.IntN(end-36)
		if entry := at - 40 - storetest.IndexSlots*4; entry >= 0 && (entry < 20 || entry%20 == 15 || entry%20 == 14) {
			continue // entry 0 is not used; times within the file's span cannot be told apart
		}
		after := bytes.Clone(before)
		after[at] ^= 1 << random.IntN(8)
		if err := os.WriteFile(path, after, 0o644); err != nil {
			t.Fatal(err)
		}
		if d := derived(t, l).Derived; d.Findings.Err() == nil {
			t.Errorf("byte %d of %d: %v", at, end, d.Findings)
		}
	}
}

func TestWhatIsWrongWithQueuesAndIndexIsSaid(t *testing.T) {
	remove := func(t *testing.T, path string) {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, check, text string
		severity          diag.Severity
		change            func(t *testing.T, l *storetest.Log)
	}{
		{"all queues lag", "store.lagging", "lag behind the log by ", diag.Warn, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages[:700])
			l.WriteIndex(l.Messages[:700])
		}},
		{"one queue is shorter than the others", "store.queue", "no start completes it", diag.Fail, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages)
			l.WriteIndex(l.Messages)
			remove(t, l.QueueFile("orders", 2, 199))
		}},
		{"a queue is missing", "store.queue", "there is no queue 0 of zahlungen", diag.Fail, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages)
			l.WriteIndex(l.Messages)
			remove(t, filepath.Dir(filepath.Dir(l.QueueFile("zahlungen", 0, 0))))
		}},
		{"no queues at all", "store.lagging", "lag behind the log by ", diag.Warn, func(t *testing.T, l *storetest.Log) {}},
		{"a queue's first file is missing", "store.queue", "begins at 100, and the log holds its messages from 0 on", diag.Fail, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages)
			l.WriteIndex(l.Messages)
			remove(t, l.QueueFile("orders", 0, 0))
		}},
		{"a queue file is cut short", "store.queue", "does not load the queue", diag.Fail, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages)
			l.WriteIndex(l.Messages)
			if err := os.Truncate(l.QueueFile("orders", 0, 0), 1000); err != nil {
				t.Fatal(err)
			}
		}},
		{"the queues are ahead of the log", "store.ahead", "ahead of the log", diag.Fail, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages)
			l.WriteIndex(l.Messages)
			storetest.Damage(t, l.Dir, small, l.Messages[880].PhysicalOffset+4)
			remove(t, filepath.Join(l.Root(), "index"))
		}},
		{"the index is ahead of the log", "store.ahead", "entries of the index are ahead", diag.Fail, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages[:870])
			l.WriteIndex(l.Messages)
			storetest.Damage(t, l.Dir, small, l.Messages[880].PhysicalOffset+4)
		}},
		{"another log's queues", "store.queue", "where", diag.Fail, func(t *testing.T, l *storetest.Log) {
			other := newStore(t, 901)
			for i := range other.Messages {
				other.Messages[i].PhysicalOffset += 16
			}
			l.WriteQueues(other.Messages[:880])
			l.WriteIndex(l.Messages)
		}},
		{"no index", "store.index", "there is no index", diag.Warn, func(t *testing.T, l *storetest.Log) { l.WriteQueues(l.Messages) }},
		{"an index that lost its first files", "store.index", "where the index begins", diag.Warn, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages)
			for _, f := range l.WriteIndex(l.Messages)[:3] {
				remove(t, f)
			}
		}},
		{"an index that lost a file in between", "store.index", "keys of messages between", diag.Fail, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages)
			remove(t, l.WriteIndex(l.Messages)[3])
		}},
		{"an index that ends early", "store.index", "although the queues reach further", diag.Warn, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages)
			l.WriteIndex(l.Messages[:500])
		}},
		{"an index file cut short", "store.index", "no length of an index file", diag.Fail, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages)
			if err := os.Truncate(l.WriteIndex(l.Messages)[1], 3000); err != nil {
				t.Fatal(err)
			}
		}},
		{"an index file of nothing", "store.index", "shorter than an index file's header", diag.Fail, func(t *testing.T, l *storetest.Log) {
			l.WriteQueues(l.Messages)
			if err := os.Truncate(l.WriteIndex(l.Messages)[1], 3); err != nil {
				t.Fatal(err)
			}
		}},
		{"a topic that was made again", "store.queue", "made again", diag.Warn, func(t *testing.T, l *storetest.Log) {
			var again []message.Message
			for i, m := range l.Messages {
				if m.Topic != "zahlungen" || i > 400 {
					again = append(again, m)
				}
			}
			for i := range 5 { // it begins at 0 once more
				again = append(again, l.Append(message.Message{Topic: "zahlungen", QueueOffset: int64(i)}))
			}
			kept := again[:0]
			for _, m := range again {
				if m.Topic != "zahlungen" || len(m.Body) == 0 {
					kept = append(kept, m)
				}
			}
			l.WriteQueues(kept)
			l.WriteIndex(l.Messages)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newStore(t, 900)
			c.change(t, l)
			d := derived(t, l).Derived
			found := false
			for _, f := range d.Findings {
				found = found || f.Check == c.check && f.Severity == c.severity && strings.Contains(f.What, c.text)
			}
			if !found {
				t.Errorf("no %s %s with %q among\n%v", c.severity, c.check, c.text, d.Findings)
			}
			if c.severity == diag.Warn && d.Findings.Err() != nil {
				t.Errorf("too much: %v", d.Findings.Err())
			}
		})
	}
}

// The queues of a deleted topic are gone on purpose.
func TestADeletedTopicIsNotMissed(t *testing.T) {
	l := newStore(t, 300)
	var kept []message.Message
	for _, m := range l.Messages {
		if m.Topic != "zahlungen" {
			kept = append(kept, m)
		}
	}
	l.WriteQueues(kept)
	l.WriteIndex(l.Messages)
	l.WriteTopics("orders", "SCHEDULE_TOPIC_XXXX")
	if d := derived(t, l).Derived; len(d.Findings) > 0 {
		t.Errorf("%v", d.Findings)
	}
}

// A running broker writes messages, their queue entries, and their keys, in this order. Whenever it is
// looked at, there is nothing to find.
func TestQueuesThatAreBeingWrittenAreNoFinding(t *testing.T) {
	l := newStore(t, 400)
	l.WriteQueues(l.Messages)
	l.WriteIndex(l.Messages)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			m := l.Append(message.Message{Topic: "more", QueueOffset: int64(i), Body: []byte("x"), Stored: time.Now()})
			l.WriteQueues([]message.Message{m})
		}
	}()
	l.WriteTopics("orders", "zahlungen", "SCHEDULE_TOPIC_XXXX", "more")
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if d := derived(t, l).Derived; len(d.Findings) > 0 {
			<-done
			t.Fatalf("%v", d.Findings)
		}
	}
}

// Whatever is in queue and index files, looking at them ends, without a crash.
func TestNonsenseInQueuesAndIndexIsBorne(t *testing.T) {
	l := newStore(t, 200)
	l.WriteQueues(l.Messages)
	index := l.WriteIndex(l.Messages)[0]
	queue := l.QueueFile("orders", 0, 0)
	rapid.Check(t, func(r *rapid.T) {
		for _, path := range []string{queue, index} {
			data, err := os.ReadFile(path)
			if err != nil {
				r.Fatal(err)
			}
			at := rapid.IntRange(0, len(data)-1).Draw(r, "at")
			copy(data[at:], rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(r, "nonsense"))
			if err := os.WriteFile(path, data, 0o644); err != nil {
				r.Fatal(err)
			}
		}
		if _, err := store.Inspect(t.Context(), l.Dir, store.Options{Derived: true}); err != nil {
			r.Fatal(err)
		}
	})
}
