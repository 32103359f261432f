package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"mqlift/internal/message"
	"mqlift/internal/store"
	"mqlift/internal/store/storetest"
)

// explain compares copies of a log and looks for the first byte that differs.
func explain(t testing.TB, fileSize int64, dirs map[string]string) store.Certificate {
	t.Helper()
	members, copies := map[string]*store.Inspection{}, map[string]store.Copy{}
	for name, dir := range dirs {
		members[name] = inspect(t, dir, store.Options{})
		copies[name] = store.Local{Dir: dir, FileSize: fileSize}
	}
	c := store.Compare(members)
	if err := c.Explain(t.Context(), members, copies); err != nil {
		t.Fatal(err)
	}
	return c
}

// appendTo adds a message to a copy of a log, behind all that it holds.
func appendTo(t testing.TB, dir string, fileSize, at int64, m message.Message) int64 {
	t.Helper()
	m.PhysicalOffset = at
	f, err := os.OpenFile(filepath.Join(dir, store.FileName(at/fileSize*fileSize)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := message.Append(nil, m)
	if _, err := f.WriteAt(b, at%fileSize); err != nil {
		t.Fatal(err)
	}
	return at + int64(len(b))
}

func TestTheFirstByteThatDiffersIsNamed(t *testing.T) {
	const fileSize = 12 << 20 // chunks end in the middle of files
	build := func(t *testing.T) (*storetest.Log, string) {
		l := storetest.New(t, filepath.Join(t.TempDir(), "commitlog"), fileSize, 0)
		l.Fill(60, "orders", "k", 300_000)
		return l, copyLog(t, l)
	}
	t.Run("a byte in a property", func(t *testing.T) {
		l, slave := build(t)
		m := l.Messages[25]
		at := m.PhysicalOffset + int64(m.Size) - 14
		third := copyLog(t, l)
		storetest.Damage(t, slave, fileSize, at)
		c := explain(t, fileSize, map[string]string{"master": l.Dir, "slave": slave, "third": third})
		f := c.FirstByte
		if f == nil || f.Offset != at || len(f.Has) != 2 || !slices.Equal(f.Has[0].Members, []string{"master", "third"}) || !slices.Equal(f.Has[1].Members, []string{"slave"}) {
			t.Fatalf("%+v", f)
		}
		p := f.Has[0].Place
		if p.Topic != "orders" || p.QueueID != m.QueueID || p.QueueOffset != m.QueueOffset || !p.Stored.Equal(m.Stored) || p.Offset != m.PhysicalOffset || !slices.Equal(p.Keys, []string{"k25"}) || p.OffsetID != m.OffsetID() || f.Has[0].Byte == f.Has[1].Byte {
			t.Errorf("%+v", f.Has)
		}
		if len(f.Behind) != 0 {
			t.Errorf("behind %+v", f.Behind)
		}
		text := c.Err().Error()
		for _, want := range []string{fmt.Sprintf("the first byte that differs is at offset %d: master and third has", at), "topic orders, key k25, queue 1 at 6, stored 2020-01-01 00:00:00.025", "slave has 0x"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
	})
	t.Run("a byte that makes a message unreadable", func(t *testing.T) {
		l, slave := build(t)
		at := l.Messages[25].PhysicalOffset + 6
		storetest.Damage(t, slave, fileSize, at)
		f := explain(t, fileSize, map[string]string{"master": l.Dir, "slave": slave}).FirstByte
		if f == nil || f.Offset != at || f.Has[0].Place.Keys[0] != "k25" || f.Has[1].Ends || f.Has[1].Place.Kind != store.PlaceNothing || f.Ahead != "master" {
			t.Fatalf("%+v", f)
		}
	})
	t.Run("a copy that is only shorter", func(t *testing.T) {
		l, slave := build(t)
		end := l.End
		l.Fill(3, "orders", "later", 1000)
		f := explain(t, fileSize, map[string]string{"master": l.Dir, "slave": slave}).FirstByte
		if f == nil || f.Offset != end || f.Ahead != "master" || len(f.Behind) != 1 || f.Behind[0].Bytes != l.End-end || f.Behind[0].Messages != 3 {
			t.Fatalf("%+v", f)
		}
		if h := f.Has[slices.IndexFunc(f.Has, func(h store.Having) bool { return h.Ends })]; !slices.Equal(h.Members, []string{"slave"}) {
			t.Errorf("%+v", f.Has)
		}
		if !strings.Contains(f.String(), "slave ends there") || !strings.Contains(f.String(), "master is ahead, of slave by ") || !strings.Contains(f.String(), "and 3 messages") || !strings.Contains(f.String(), "key later0") {
			t.Error(f)
		}
	})
	t.Run("a copy that went on by itself, and one that went another way", func(t *testing.T) {
		l, slave := build(t)
		end := l.End
		l.Fill(3, "orders", "right", 1000)
		appendTo(t, slave, fileSize, appendTo(t, slave, fileSize, end, message.Message{Topic: "own"}), message.Message{Topic: "own", Body: make([]byte, 9000)})
		f := explain(t, fileSize, map[string]string{"master": l.Dir, "slave": slave}).FirstByte
		if f == nil || f.Offset < end || f.Offset >= end+4 || f.Ahead != "slave" || f.Behind[0].Messages != -1 {
			t.Fatalf("%+v", f)
		}
		topics := map[string]bool{}
		for _, h := range f.Has {
			topics[h.Place.Topic] = true
		}
		if !topics["own"] || !topics["orders"] {
			t.Errorf("%+v", f.Has)
		}
	})
	t.Run("a file that ends elsewhere", func(t *testing.T) {
		a := storetest.New(t, filepath.Join(t.TempDir(), "commitlog"), 64<<10, 0)
		a.Fill(100, "orders", "k", 1000)
		b := storetest.New(t, filepath.Join(t.TempDir(), "commitlog"), 64<<10, 0)
		b.Fill(40, "orders", "k", 1000)
		b.Append(message.Message{Topic: "orders", Body: make([]byte, 30_000)})
		b.Fill(80, "orders", "k", 1000)
		f := explain(t, 64<<10, map[string]string{"a": a.Dir, "b": b.Dir}).FirstByte
		at := a.Messages[40].PhysicalOffset
		if f == nil || f.Offset < at || f.Offset >= at+100 {
			t.Fatalf("%+v, want an offset in the message at %d", f, at)
		}
	})
	t.Run("a copy that begins later", func(t *testing.T) {
		l, slave := build(t)
		if err := os.Remove(filepath.Join(slave, store.FileName(0))); err != nil {
			t.Fatal(err)
		}
		f := explain(t, fileSize, map[string]string{"master": l.Dir, "slave": slave}).FirstByte
		if f == nil || f.Offset != 0 || strings.Contains(f.String(), "ends there") || !strings.Contains(f.String(), "slave has no file there, only later ones") {
			t.Error(f)
		}
	})
	t.Run("equal copies", func(t *testing.T) {
		l, slave := build(t)
		if c := explain(t, fileSize, map[string]string{"master": l.Dir, "slave": slave}); c.FirstByte != nil || !c.OK() {
			t.Errorf("%+v", c.FirstByte)
		}
	})
}

// Wherever one byte is turned, that offset is found.
func TestAnyTurnedByteIsFoundExactly(t *testing.T) {
	dir := t.TempDir()
	l := storetest.New(t, filepath.Join(dir, "a"), 1<<20, 0)
	l.Fill(300, "orders", "k", 8000)
	other := filepath.Join(dir, "b")
	if err := os.CopyFS(other, os.DirFS(l.Dir)); err != nil {
		t.Fatal(err)
	}
	a, b := store.Local{Dir: l.Dir, FileSize: 1 << 20}, store.Local{Dir: other, FileSize: 1 << 20}
	rapid.Check(t, func(r *rapid.T) {
		at := rapid.Int64Range(0, l.End-1).Draw(r, "at")
		from := rapid.Int64Range(0, at).Draw(r, "from")
		to := rapid.Int64Range(at+1, l.End).Draw(r, "to")
		storetest.Damage(t, other, 1<<20, at)
		got, found, err := store.FirstDifference(t.Context(), a, b, from, to)
		storetest.Damage(t, other, 1<<20, at)
		if err != nil || !found || got != at {
			r.Fatalf("found %t at %d, %v, want %d", found, got, err, at)
		}
		if got, found, err := store.FirstDifference(t.Context(), a, b, from, to); err != nil || found {
			r.Fatalf("equal: found %t at %d, %v", found, got, err)
		}
		place, err := a.At(t.Context(), at)
		if err != nil {
			r.Fatal(err)
		}
		i := slices.IndexFunc(l.Messages, func(m message.Message) bool {
			return m.PhysicalOffset <= at && at < m.PhysicalOffset+int64(m.Size)
		})
		if i < 0 && place.Kind != store.PlaceBlank || i >= 0 && (place.Kind != store.PlaceMessage || place.Offset != l.Messages[i].PhysicalOffset) {
			r.Fatalf("%d is in %+v, message %d", at, place, i)
		}
	})
}
