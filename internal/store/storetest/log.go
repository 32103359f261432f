// Package storetest writes stores as a broker writes them, for tests.
package storetest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mqlift/internal/message"
)

// Log is a commit log that is being written. It does what DefaultAppendMessageCallback.doAppend
// (4.5.2) does: a message that would leave less than 8 bytes of its file is preceded by an
// end-of-file mark, with whatever the buffer held behind it, and goes to the next file.
type Log struct {
	Dir      string
	FileSize int64
	First    int64 // base of the first file
	End      int64 // where the next message goes
	Messages []message.Message
	// Prepared makes the log keep one or more empty files ahead, as a running broker does.
	Prepared int

	t    testing.TB
	file *os.File
}

// New begins a log in dir, which is made; first is the base of its first file. The first file is
// there at once.
func New(t testing.TB, dir string, fileSize, first int64) *Log {
	t.Helper()
	l := &Log{Dir: dir, FileSize: fileSize, First: first, End: first, t: t}
	l.check(os.MkdirAll(dir, 0o755))
	l.open(first)
	t.Cleanup(func() { l.file.Close() })
	return l
}

func (l *Log) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *Log) create(base int64) *os.File {
	f, err := os.OpenFile(filepath.Join(l.Dir, fmt.Sprintf("%020d", base)), os.O_RDWR|os.O_CREATE, 0o644)
	l.check(err)
	l.check(f.Truncate(l.FileSize))
	return f
}

func (l *Log) open(base int64) {
	if l.file != nil {
		l.file.Close()
	}
	l.file = l.create(base)
	for i := 1; i <= l.Prepared; i++ {
		l.create(base + int64(i)*l.FileSize).Close()
	}
}

// Append adds m and returns it as it is stored.
func (l *Log) Append(m message.Message) message.Message {
	l.t.Helper()
	if m.Stored.IsZero() {
		m.Stored = time.UnixMilli(1577836800000 + int64(len(l.Messages)))
	}
	if m.Born.IsZero() {
		m.Born = m.Stored
	}
	if !m.BornHost.IsValid() {
		m.BornHost = netip.MustParseAddrPort("192.168.0.10:50123")
	}
	if !m.StoreHost.IsValid() {
		m.StoreHost = netip.MustParseAddrPort("192.168.0.220:10911")
	}
	m.PhysicalOffset = l.End
	b := message.Append(nil, m)
	base := l.End / l.FileSize * l.FileSize
	if left := base + l.FileSize - l.End; int64(len(b))+8 > left {
		if int64(len(b))+8 > l.FileSize {
			l.t.Fatalf("a message of %d bytes does not fit into a file of %d", len(b), l.FileSize)
		}
		rest := make([]byte, left)
		copy(rest, b) // left over in the broker's buffer
		l.write(rest)
		l.WriteBlank()
		l.End = base + l.FileSize
		l.open(l.End)
		m.PhysicalOffset = l.End
		b = message.Append(nil, m)
	}
	l.write(b)
	l.End += int64(len(b))
	m, err := message.Decode(b)
	l.check(err)
	l.Messages = append(l.Messages, m)
	return m
}

// Fill appends n messages of topic with about size bytes of body, keyed prefix0, prefix1, ….
func (l *Log) Fill(n int, topic, prefix string, size int) {
	l.t.Helper()
	for i := range n {
		body := make([]byte, size)
		for j := range body {
			body[j] = byte(i + j*j)
		}
		l.Append(message.Message{Topic: topic, Body: body, QueueID: int32(i % 4), QueueOffset: int64(i / 4),
			Properties: map[string]string{message.PropertyKeys: fmt.Sprintf("%s%d", prefix, i), "WAIT": "true"}})
	}
}

// WriteBlank writes the end-of-file mark at End, without going on to the next file: what a first
// start as DLedger does.
func (l *Log) WriteBlank() {
	var b [8]byte
	binary.BigEndian.PutUint32(b[:], uint32(l.FileSize-l.End%l.FileSize))
	binary.BigEndian.PutUint32(b[4:], message.Blank)
	l.write(b[:])
}

// write puts bytes at End without moving it.
func (l *Log) write(b []byte) {
	l.t.Helper()
	_, err := l.file.WriteAt(b, l.End%l.FileSize)
	l.check(err)
}

// Tear writes the first n bytes of a message at End, and leaves End where it is.
func (l *Log) Tear(m message.Message, n int) {
	l.t.Helper()
	m.PhysicalOffset = l.End
	b := message.Append(nil, m)
	l.write(b[:min(n, len(b))])
}

// Damage turns over the bits of the byte at a physical offset.
func Damage(t testing.TB, dir string, fileSize, offset int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%020d", offset/fileSize*fileSize)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], offset%fileSize); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b[:], offset%fileSize); err != nil {
		t.Fatal(err)
	}
}
