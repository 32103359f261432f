package storetest

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"mqlift/internal/message"
)

// QueueFileSize and IndexSlots are the sizes of what WriteQueues and WriteIndex make.
const (
	QueueFileSize = 100 * 20
	IndexSlots    = 64
)

// Root is the store's root, in which the log's folder is.
func (l *Log) Root() string { return filepath.Dir(l.Dir) }

// QueueFile is the path of the queue file that holds an entry.
func (l *Log) QueueFile(topic string, id int32, logical int64) string {
	base := logical * 20 / QueueFileSize * QueueFileSize
	return filepath.Join(l.Root(), "consumequeue", topic, fmt.Sprint(id), fmt.Sprintf("%020d", base))
}

// WriteQueues writes consume queues for the messages as ConsumeQueue (4.5.2) does.
func (l *Log) WriteQueues(messages []message.Message) {
	l.t.Helper()
	for _, m := range messages {
		if kind := m.SysFlag & message.FlagTransaction; kind == message.FlagPrepared || kind == message.FlagRolledBack {
			continue
		}
		path := l.QueueFile(m.Topic, m.QueueID, m.QueueOffset)
		dir, at := filepath.Dir(path), m.QueueOffset*20%QueueFileSize
		l.check(os.MkdirAll(dir, 0o755))
		files, err := os.ReadDir(dir)
		l.check(err)
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		l.check(err)
		l.check(f.Truncate(QueueFileSize))
		entry := func(at, physical int64, size int32, tags int64) {
			b := binary.BigEndian.AppendUint64(nil, uint64(physical))
			b = binary.BigEndian.AppendUint32(b, uint32(size))
			b = binary.BigEndian.AppendUint64(b, uint64(tags))
			_, err := f.WriteAt(b, at)
			l.check(err)
		}
		if len(files) == 0 { // fillPreBlank
			for before := int64(0); before < at; before += 20 {
				entry(before, 0, math.MaxInt32, 0)
			}
		}
		entry(at, m.PhysicalOffset, int32(m.Size), int64(hash(m.Tags())))
		l.check(f.Close())
	}
}

// WriteIndex writes the messages' keys into index files of at most 4*IndexSlots-1 entries, as
// IndexFile.putKey (4.5.2) does, and returns the files' paths.
func (l *Log) WriteIndex(messages []message.Message) []string {
	l.t.Helper()
	const table = 40 + IndexSlots*4
	var paths []string
	var b []byte
	flush := func() {
		if b != nil {
			l.check(os.WriteFile(paths[len(paths)-1], b, 0o644))
		}
	}
	put32 := func(at int, v uint32) { binary.BigEndian.PutUint32(b[at:], v) }
	put64 := func(at int, v int64) { binary.BigEndian.PutUint64(b[at:], uint64(v)) }
	l.check(os.MkdirAll(filepath.Join(l.Root(), "index"), 0o755))
	for _, m := range messages {
		if m.SysFlag&message.FlagTransaction == message.FlagRolledBack {
			continue
		}
		var keys []string
		if u := m.UniqueKey(); u != "" {
			keys = append(keys, u)
		}
		for _, key := range append(keys, m.Keys()...) {
			if b == nil || binary.BigEndian.Uint32(b[36:]) >= 4*IndexSlots {
				flush()
				paths = append(paths, filepath.Join(l.Root(), "index", fmt.Sprintf("20200101%09d", len(paths))))
				b = make([]byte, table+4*IndexSlots*20)
				put32(36, 1)
			}
			h := hash(m.Topic + "#" + key)
			if h < 0 {
				h = -h
			}
			h = max(h, 0)
			count, slot := int(binary.BigEndian.Uint32(b[36:])), 40+int(h)%IndexSlots*4
			at := table + count*20
			if count == 1 {
				put64(0, m.Stored.UnixMilli())
				put64(16, m.PhysicalOffset)
			}
			put32(at, uint32(h))
			put64(at+4, m.PhysicalOffset)
			put32(at+12, uint32((m.Stored.UnixMilli()-int64(binary.BigEndian.Uint64(b)))/1000))
			put32(at+16, binary.BigEndian.Uint32(b[slot:]))
			put32(slot, uint32(count))
			put64(8, m.Stored.UnixMilli())
			put64(24, m.PhysicalOffset)
			put32(32, binary.BigEndian.Uint32(b[32:])+1)
			put32(36, uint32(count+1))
		}
	}
	flush()
	return paths
}

// WriteTopics writes config/topics.json with these topics.
func (l *Log) WriteTopics(topics ...string) {
	l.t.Helper()
	l.check(os.MkdirAll(filepath.Join(l.Root(), "config"), 0o755))
	var entries []string
	for _, t := range topics {
		entries = append(entries, fmt.Sprintf("%q:{\"perm\":6,\"topicName\":%q}", t, t))
	}
	l.check(os.WriteFile(filepath.Join(l.Root(), "config", "topics.json"),
		[]byte("{\"dataVersion\":{\"counter\":1},\"topicConfigTable\":{"+strings.Join(entries, ",")+"}}"), 0o644))
}

// hash is String.hashCode.
func hash(s string) int32 {
	var h int32
	for _, c := range utf16.Encode([]rune(s)) {
		h = h*31 + int32(c)
	}
	return h
}
