package transfer_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"mqlift/internal/store"
	"mqlift/internal/transfer"
)

// again copies spec onto what dst has, and returns the stream's length.
func again(t testing.TB, spec transfer.Spec, dst string) (int, transfer.Stats) {
	t.Helper()
	var err error
	if spec.Held, err = transfer.Holds(t.Context(), dst, spec.Trees, spec.Logs); err != nil {
		t.Fatal(err)
	}
	stream, sent := pack(t, spec)
	got, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, transfer.Options{Quarantine: dst + "-quarantine"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Files != sent.Files || got.Bytes != sent.Bytes || got.Apparent != sent.Apparent || got.Kept != sent.Kept || got.Digest != sent.Digest {
		t.Fatalf("sent %+v, received %+v", sent, got)
	}
	return len(stream), sent
}

// Whatever the target has, it becomes what the source has; and what is the same already is not sent: not a file
// that was touched, not the rest of a commit log in which one byte is another one.
func TestOnlyWhatDiffersIsSent(t *testing.T) {
	const fileSize = 3 << 20 // three stretches
	base, run := inMemory(t), 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		src, dst := filepath.Join(base, fmt.Sprint(run), "src"), filepath.Join(base, fmt.Sprint(run), "dst")
		defer os.RemoveAll(filepath.Join(base, fmt.Sprint(run)))
		drawTree(r, src, "consumequeue")
		log := filepath.Join(src, "commitlog", store.FileName(0))
		must(r, os.MkdirAll(filepath.Dir(log), 0o755))
		f, err := os.Create(log)
		must(r, err)
		must(r, f.Truncate(fileSize))
		piece := make([]byte, 300_000)
		rand.NewChaCha8([32]byte{byte(run)}).Read(piece)
		place := func(what string) int64 {
			return rapid.SampledFrom([]int64{0, 5000, 1<<20 - 100, 1 << 20, 1500_000, 2<<20 - 300_000, 2500_000}).Draw(r, what)
		}
		for range rapid.IntRange(0, 5).Draw(r, "pieces") {
			_, err := f.WriteAt(piece, place("at"))
			must(r, err)
		}
		from := rapid.SampledFrom([]int64{0, 4097, 1 << 20, 1200_000}).Draw(r, "from")
		to := rapid.SampledFrom([]int64{fileSize, 2 << 20, 2600_001}).Draw(r, "to")
		whole := transfer.Spec{Root: src, Trees: []string{"consumequeue", "index"}, Logs: []transfer.LogRange{{Dir: "commitlog", FileSize: fileSize, To: to}}}
		part := whole
		part.Logs = []transfer.LogRange{{Dir: "commitlog", FileSize: fileSize, From: from, To: to}}
		again(t, whole, dst)
		if n, stats := again(t, part, dst); stats.Bytes != 0 || stats.Kept != stats.Apparent || n > 16<<10 {
			r.Fatalf("unchanged, and sent: %d bytes, %+v", n, stats)
		}
		// Something goes on at the source, and something else at the target.
		changes := rapid.IntRange(0, 3).Draw(r, "changes")
		for range changes {
			at := place("changed at")
			if at < from || at+10 > to { // what is not asked for is as it was
				continue
			}
			zeros := make([]byte, 10)
			switch rapid.IntRange(0, 2).Draw(r, "how") {
			case 0:
				_, err = f.WriteAt(piece[7:17], at)
			case 1:
				_, err = f.WriteAt(zeros, at)
			default:
				var other *os.File
				other, err = os.OpenFile(filepath.Join(dst, "commitlog", store.FileName(0)), os.O_RDWR, 0)
				must(r, err)
				_, err = other.WriteAt(piece[9:19], at)
				other.Close()
			}
			must(r, err)
		}
		must(r, f.Close())
		must(r, os.Chtimes(log, time.Time{}, time.Unix(1e9, 5)))
		if rapid.Bool().Draw(r, "another tree") {
			must(r, os.RemoveAll(filepath.Join(dst, "consumequeue")))
			drawTree(r, dst, "consumequeue")
		} else if err := os.Chtimes(filepath.Join(dst, "consumequeue"), time.Time{}, time.Unix(1, 0)); err != nil {
			r.Fatal(err)
		}
		_, stats := again(t, part, dst)
		if most := int64(changes)*(1<<20) + 500_000; stats.Bytes > most {
			r.Errorf("%d bytes were sent for %d changes", stats.Bytes, changes)
		}
		want := snapshot(t, src)
		if to < fileSize { // the target ends there
			b, err := os.ReadFile(log)
			must(r, err)
			clear(b[to:])
			got, err := os.ReadFile(filepath.Join(dst, "commitlog", store.FileName(0)))
			if err != nil || !bytes.Equal(got, b) {
				r.Fatalf("the log is another one: %v", err)
			}
			delete(want, "commitlog/"+store.FileName(0))
		}
		got := snapshot(t, dst)
		if to < fileSize {
			delete(got, "commitlog/"+store.FileName(0))
		}
		if len(want) != len(got) {
			r.Fatalf("%d entries instead of %d", len(got), len(want))
		}
		for name := range want {
			if want[name] != got[name] {
				r.Fatalf("%s differs", name)
			}
		}
	})
}

// What a stream says is to be kept, and is not as it says, is refused.
func TestNothingIsKeptThatIsNotThere(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	write(t, filepath.Join(src, "config", "a"), []byte("what was sent"))
	spec := transfer.Spec{Root: src, Trees: []string{"config"}}
	again(t, spec, dst)
	var err error
	if spec.Held, err = transfer.Holds(t.Context(), dst, spec.Trees, nil); err != nil {
		t.Fatal(err)
	}
	stream, stats := pack(t, spec)
	if stats.Bytes != 0 {
		t.Fatalf("sent %+v", stats)
	}
	write(t, filepath.Join(dst, "config", "a"), []byte("shorter"))
	before := snapshot(t, dst)
	if _, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, transfer.Options{}); err == nil {
		t.Error("taken")
	}
	if d := cmp.Diff(before, snapshot(t, dst)); d != "" {
		t.Errorf("refused, and still changed:\n%s", d)
	}
	if _, err := transfer.Holds(t.Context(), dst, []string{"../x"}, nil); err == nil {
		t.Error("looked outside of the root")
	}
}
