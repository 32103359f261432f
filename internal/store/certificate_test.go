package store_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/diag"
	"mqlift/internal/message"
	"mqlift/internal/store"
	"mqlift/internal/store/storetest"
)

const small = 64 << 10

// copyLog makes a copy of the log's valid bytes: what stands after End is not copied.
func copyLog(t testing.TB, l *storetest.Log) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "commitlog")
	if err := os.CopyFS(dir, os.DirFS(l.Dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func compare(t testing.TB, dirs map[string]string) store.Certificate {
	t.Helper()
	members := map[string]*store.Inspection{}
	for name, dir := range dirs {
		members[name] = inspect(t, dir, store.Options{})
	}
	return store.Compare(members)
}

func newLog(t testing.TB) *storetest.Log {
	t.Helper()
	l := storetest.New(t, filepath.Join(t.TempDir(), "commitlog"), small, small)
	l.Fill(600, "topic", "k", 400)
	return l
}

func TestCopiesThatDifferOnlyAfterTheEndAreCertified(t *testing.T) {
	l := newLog(t)
	torn, prepared := copyLog(t, l), copyLog(t, l)
	f, err := os.OpenFile(filepath.Join(torn, store.FileName(l.End/small*small)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("torn"), l.End%small+100)
	f.Close()
	if err := os.WriteFile(filepath.Join(prepared, store.FileName(l.End/small*small+small)), make([]byte, small), 0o644); err != nil {
		t.Fatal(err)
	}
	c := compare(t, map[string]string{"220": l.Dir, "221": torn, "222": prepared})
	if !c.OK() || c.Err() != nil {
		t.Fatalf("differences %v", c.Findings())
	}
	if c.First != small || c.End != l.End || c.From != small || c.Messages != 600 || !c.Whole || len(c.Digest) != 64 || len(c.Files) != int(l.End/small) {
		t.Errorf("certificate %+v", c)
	}
	checks := ""
	for _, f := range c.Notes {
		checks += f.Check + " " + f.Host + "\n"
		if f.Severity != diag.Warn {
			t.Errorf("%v", f)
		}
	}
	if want := "store.trailing 221\nstore.prepared 222\n"; checks != want {
		t.Errorf("notes\n%swant\n%s", checks, want)
	}
	if again := compare(t, map[string]string{"b": torn, "c": prepared}); again.Digest != c.Digest {
		t.Error("the digest depends on more than the log")
	}
}

func TestWhatMustNotBeCertified(t *testing.T) {
	for _, c := range []struct {
		name, kind, text string
		offset           int64 // -1: any
		change           func(t *testing.T, l *storetest.Log, dir string)
	}{
		{"a copy that is shorter", store.DiffEnd, "copy the tail from master", 0, func(t *testing.T, l *storetest.Log, _ string) {
			l.Fill(3, "topic", "more", 100)
		}},
		{"a copy that has gone on by itself", store.DiffEnd, "master: ", -1, func(t *testing.T, l *storetest.Log, dir string) {
			m := message.Append(nil, message.Message{Topic: "own", PhysicalOffset: l.End})
			f, err := os.OpenFile(filepath.Join(dir, store.FileName(l.End/small*small)), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(m, l.End%small); err != nil {
				t.Fatal(err)
			}
		}},
		{"one other bit", store.DiffBytes, "are not the same", 2 * small, func(t *testing.T, l *storetest.Log, dir string) {
			// In a field that no check covers: the queue id.
			for _, m := range l.Messages {
				if m.PhysicalOffset > 2*small {
					storetest.Damage(t, dir, small, m.PhysicalOffset+15)
					return
				}
			}
		}},
		{"a file that only one of them has", store.DiffFiles, "is missing", small, func(t *testing.T, l *storetest.Log, dir string) {
			if err := os.Remove(filepath.Join(dir, store.FileName(small))); err != nil {
				t.Fatal(err)
			}
		}},
		{"another beginning", store.DiffFirst, "begins at", small, func(t *testing.T, l *storetest.Log, dir string) {
			if err := os.Remove(filepath.Join(dir, store.FileName(small))); err != nil {
				t.Fatal(err)
			}
		}},
		{"an empty copy", store.DiffMember, "no commit log", 0, func(t *testing.T, l *storetest.Log, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{"a copy with a broken message", store.DiffMember, "does not match its CRC", -1, func(t *testing.T, l *storetest.Log, dir string) {
			storetest.Damage(t, dir, small, l.Messages[0].PhysicalOffset+100)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLog(t)
			dir, end := copyLog(t, l), l.End
			c.change(t, l, dir)
			got := compare(t, map[string]string{"master": l.Dir, "slave": dir})
			if got.OK() || got.Err() == nil {
				t.Fatal("certified")
			}
			if c.offset == 0 && c.kind == store.DiffEnd {
				c.offset = end
			}
			for _, d := range got.Differences {
				if d.Kind == c.kind && (c.offset == -1 || d.Offset == c.offset) && strings.Contains(d.Finding.String(), c.text) {
					return
				}
			}
			t.Errorf("no difference %s at %d with %q in %+v", c.kind, c.offset, c.text, got.Differences)
		})
	}
	t.Run("one copy alone", func(t *testing.T) {
		if c := compare(t, map[string]string{"a": newLog(t).Dir}); c.OK() {
			t.Error("certified")
		}
	})
	t.Run("nothing", func(t *testing.T) {
		if c := store.Compare(nil); c.OK() {
			t.Error("certified")
		}
	})
	t.Run("a comparison that stops before the end", func(t *testing.T) {
		l := newLog(t)
		members := map[string]*store.Inspection{
			"a": inspect(t, l.Dir, store.Options{To: l.Messages[500].PhysicalOffset}),
			"b": inspect(t, copyLog(t, l), store.Options{To: l.Messages[500].PhysicalOffset}),
		}
		c := store.Compare(members)
		if c.OK() || c.Err() == nil || len(c.Differences) != 0 {
			t.Errorf("whole %t, %v", c.Whole, c.Findings())
		}
	})
}

// A shorter copy that has the same bytes as far as it goes is told from one that went another way.
func TestShorterIsNotSaidToDiffer(t *testing.T) {
	l := newLog(t)
	dir := copyLog(t, l)
	l.Fill(400, "topic", "more", 400)
	c := compare(t, map[string]string{"master": l.Dir, "slave": dir})
	for _, d := range c.Differences {
		if d.Kind == store.DiffBytes || d.Kind == store.DiffRange || d.Member != "slave" || d.Reference != "master" {
			t.Errorf("%+v", d)
		}
	}
}

func TestInspectionsAndCertificatesSurviveJSON(t *testing.T) {
	l := newLog(t)
	l.Tear(l.Messages[0], 50)
	in := inspect(t, l.Dir, store.Options{Samples: 3})
	wantFinding(t, in, "store.trailing", diag.Warn)
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var back store.Inspection
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	a, c := store.Compare(map[string]*store.Inspection{"a": in, "b": &back}), store.Certificate{}
	if !a.OK() {
		t.Errorf("%v", a.Findings())
	}
	if b, err = json.Marshal(a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(a, c); d != "" {
		t.Error(d)
	}
}

func TestOnlyAdjacentInspectionsAreJoined(t *testing.T) {
	l := newLog(t)
	early := inspect(t, l.Dir, store.Options{To: l.Messages[300].PhysicalOffset})
	if _, err := store.Join(early, inspect(t, l.Dir, store.Options{From: l.Messages[301].PhysicalOffset})); !errors.Is(err, store.ErrNotAdjacent) {
		t.Errorf("a gap: %v", err)
	}
	// Retention deletes the first file between the two; the digests that remain still certify.
	if err := os.Remove(filepath.Join(l.Dir, store.FileName(small))); err != nil {
		t.Fatal(err)
	}
	joined, err := store.Join(early, inspect(t, l.Dir, store.Options{From: early.To}))
	if err != nil {
		t.Fatal(err)
	}
	whole := inspect(t, l.Dir, store.Options{})
	if c := store.Compare(map[string]*store.Inspection{"a": joined, "b": whole}); !c.OK() || c.From != 2*small || joined.Messages != whole.Messages || len(joined.Chunks) != len(whole.Chunks) {
		t.Errorf("from %d, %d messages of %d, %v", c.From, joined.Messages, whole.Messages, c.Findings())
	}
}

func TestConsumeQueuesReach(t *testing.T) {
	root := t.TempDir()
	reach := func(want int64) {
		t.Helper()
		if got, err := store.MaxConsumeQueueOffset(t.Context(), root); got != want || err != nil {
			t.Errorf("reach %d, %v, want %d", got, err, want)
		}
	}
	reach(-1)
	queue := func(topic, id string, base int64, entries ...[2]int64) {
		t.Helper()
		const size = 300_000 * 20
		path := filepath.Join(root, "consumequeue", topic, id, store.FileName(base))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var b []byte
		for _, e := range entries {
			b = binary.BigEndian.AppendUint64(b, uint64(e[0]))
			b = binary.BigEndian.AppendUint32(b, uint32(e[1]))
			b = binary.BigEndian.AppendUint64(b, 77)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	queue("empty", "0", 0)
	reach(-1)
	filler := [2]int64{0, 1<<31 - 1}
	queue("begins late", "3", 6_000_000, filler, filler)
	reach(-1)
	queue("a", "0", 0, [2]int64{0, 100}, [2]int64{100, 50})
	reach(150)
	queue("b", "1", 0, [2]int64{500, 100})
	queue("b", "1", 6_000_000) // made ahead, empty
	reach(600)
	queue("b", "2", 6_000_000, filler, [2]int64{1 << 40, 10})
	reach(1<<40 + 10)
}

// Logs that are being written are compared up to where the shortest one ends, wherever that is.
func TestMovingLogsAreComparedToTheirCommonEnd(t *testing.T) {
	for _, later := range []int{0, 1, 7, 200, 1000} {
		l := newLog(t)
		dir := copyLog(t, l)
		end := l.End
		l.Fill(later, "topic", "later", 700)
		whole := map[string]*store.Inspection{"a": inspect(t, l.Dir, store.Options{}), "b": inspect(t, dir, store.Options{})}
		if got := store.CommonEnd(whole); got != end {
			t.Fatalf("common end %d, want %d", got, end)
		}
		bounded := map[string]*store.Inspection{}
		for name, in := range whole {
			bounded[name] = in.Bound(inspect(t, in.Dir, in.TailFor(end)))
		}
		c := store.Compare(bounded)
		if c.Findings().Err() != nil || c.Whole || c.End != end || c.From != small || c.Messages != 600 {
			t.Errorf("%d later: %v, whole %t, %d..%d, %d messages", later, c.Findings(), c.Whole, c.From, c.End, c.Messages)
		}
		storetest.Damage(t, dir, small, l.Messages[300].PhysicalOffset+15)
		bounded["b"] = inspect(t, dir, store.Options{}).Bound(inspect(t, dir, whole["b"].TailFor(end)))
		if c := store.Compare(bounded); c.Findings().Err() == nil {
			t.Errorf("%d later: another queue id is not seen", later)
		}
	}
}
