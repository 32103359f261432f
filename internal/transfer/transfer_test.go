package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"mqlift/internal/message"
	"mqlift/internal/store"
	"mqlift/internal/store/storetest"
	"mqlift/internal/transfer"
)

// snapshot describes everything below root but quarantines: mode, mtime and content.
func snapshot(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		all[rel] = info.Mode().String()
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all[rel] += fmt.Sprintf(" %d %s %x", info.ModTime().UnixNano(), d.Type(), b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func pack(t testing.TB, spec transfer.Spec) ([]byte, transfer.Stats) {
	t.Helper()
	var b bytes.Buffer
	stats, err := transfer.Pack(t.Context(), &b, spec)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), stats
}

func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// drawTree makes files with holes, pages of zeros, odd lengths, modes and times.
func drawTree(r *rapid.T, root, tree string) {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,3}(/[a-z]{1,3}){0,2}`), 0, 8, rapid.ID).Draw(r, "names")
	dir := filepath.Join(root, tree)
	must(r, os.MkdirAll(dir, 0o755))
	for _, name := range names {
		path := filepath.Join(dir, name)
		if os.MkdirAll(filepath.Dir(path), 0o755) != nil {
			continue // a file has that name
		}
		if rapid.IntRange(0, 9).Draw(r, "kind") == 0 {
			os.Mkdir(path, 0o700)
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fs.FileMode(rapid.SampledFrom([]int{0o600, 0o644, 0o755}).Draw(r, "mode")))
		if err != nil {
			continue // a folder has that name
		}
		must(r, f.Truncate(rapid.Int64Range(0, 60_000).Draw(r, "size")))
		info, err := f.Stat()
		must(r, err)
		for range rapid.IntRange(0, 3).Draw(r, "pieces") {
			b := bytes.Repeat([]byte{rapid.Byte().Draw(r, "byte")}, rapid.IntRange(1, 9000).Draw(r, "length"))
			at := rapid.Int64Range(0, 60_000).Draw(r, "at")
			if at+int64(len(b)) <= info.Size() {
				_, err := f.WriteAt(b, at)
				must(r, err)
			}
		}
		must(r, f.Close())
		must(r, os.Chtimes(path, time.Time{}, time.Unix(rapid.Int64Range(0, 1<<31).Draw(r, "mtime"), 123456789)))
	}
}

func must(r *rapid.T, err error) {
	if err != nil {
		r.Fatal(err)
	}
}

// A tree arrives as it is: over nothing, and over any other tree, which goes to quarantine.
func TestTreesArriveAsTheyAre(t *testing.T) {
	base := t.TempDir()
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		src, dst, local := filepath.Join(base, fmt.Sprint(run), "src"), filepath.Join(base, fmt.Sprint(run), "dst"), filepath.Join(base, fmt.Sprint(run), "local")
		drawTree(r, src, "consumequeue")
		write(t, filepath.Join(src, "outside"), []byte("not sent"))
		if rapid.Bool().Draw(r, "target has one") {
			drawTree(r, dst, "consumequeue")
			drawTree(r, local, "consumequeue")
		}
		spec := transfer.Spec{Root: src, Trees: []string{"consumequeue", "index"}}
		stream, sent := pack(t, spec)
		got, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, transfer.Options{Quarantine: dst + "-quarantine"})
		must(r, err)
		if got.Files != sent.Files || got.Bytes != sent.Bytes || got.Apparent != sent.Apparent || got.Digest != sent.Digest {
			r.Fatalf("sent %+v, received %+v", sent, got)
		}
		_, err = transfer.CopyLocal(t.Context(), src, local, transfer.Options{Quarantine: local + "-quarantine"}, "consumequeue", "index")
		must(r, err)
		want := snapshot(t, src)
		delete(want, "outside")
		for _, root := range []string{dst, local} {
			if d := cmp.Diff(want, snapshot(t, root)); d != "" {
				r.Fatalf("%s (-source +target):\n%s", root, d)
			}
		}
	})
}

func TestHolesAndZerosAreNotSentAndStayHoles(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	path := filepath.Join(src, "index", "20200101120000123")
	write(t, path, bytes.Repeat([]byte{0}, 64<<10)) // zeros that are no hole
	if err := os.Truncate(path, 400<<20); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("data"), 300<<20)
	f.Close()
	stream, stats := pack(t, transfer.Spec{Root: src, Trees: []string{"index"}})
	if len(stream) > 8<<10 || stats.Bytes != 4096 || stats.Apparent != 400<<20 {
		t.Errorf("a stream of %d bytes, %+v", len(stream), stats)
	}
	if _, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	if n := allocated(t, filepath.Join(dst, "index", "20200101120000123")); n > 64<<10 {
		t.Errorf("%d bytes on disk", n)
	}
	if _, err := transfer.CopyLocal(t.Context(), src, filepath.Join(dst, "copy"), transfer.Options{}, "index"); err != nil {
		t.Fatal(err)
	}
	if n := allocated(t, filepath.Join(dst, "copy", "index", "20200101120000123")); n > 128<<10 {
		t.Errorf("%d bytes on disk after a local copy", n)
	}
}

// A stream that is cut anywhere, or has a byte turned over anywhere, is refused and leaves nothing.
func TestDamagedStreamsAreRefusedAndLeaveNothing(t *testing.T) {
	base := t.TempDir()
	src := filepath.Join(base, "src")
	write(t, filepath.Join(src, "config", "topics.json"), bytes.Repeat([]byte("{}"), 30))
	write(t, filepath.Join(src, "config", "x", "offsets.json"), []byte("offsets"))
	l := storetest.New(t, filepath.Join(src, "commitlog"), 512, 0)
	l.Fill(1, "topic", "k", 100)
	stream, _ := pack(t, transfer.Spec{Root: src, Trees: []string{"config"}, Logs: []transfer.LogRange{{Dir: "commitlog", To: l.End}}})
	refused := func(what string, b []byte, want ...error) {
		t.Helper()
		dst := filepath.Join(base, "dst")
		_, err := transfer.Unpack(t.Context(), bytes.NewReader(b), dst, transfer.Options{})
		if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
			t.Fatalf("%s: %v", what, err)
		}
		for path := range snapshot(t, dst) {
			// Commit log files are named one by one, each when it is complete and synced.
			if !strings.HasPrefix(path, "commitlog") {
				t.Fatalf("%s left %s behind", what, path)
			}
		}
		if err := os.RemoveAll(dst); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(base, "dst"), 0o755); err != nil {
		t.Fatal(err)
	}
	for n := range stream {
		os.Mkdir(filepath.Join(base, "dst"), 0o755)
		refused(fmt.Sprintf("a cut at %d of %d", n, len(stream)), stream[:n], transfer.ErrTruncated)
		os.Mkdir(filepath.Join(base, "dst"), 0o755)
		b := bytes.Clone(stream)
		b[n] ^= 1 << (n % 8)
		refused(fmt.Sprintf("a bit turned at %d of %d", n, len(stream)), b, transfer.ErrCorrupt, transfer.ErrTruncated)
	}
}

// Frames whose own checksums are right, and which are not those that were sent.
func TestTheTrailerCoversAllFrames(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	write(t, filepath.Join(src, "config", "a"), []byte("what was sent"))
	stream, _ := pack(t, transfer.Spec{Root: src, Trees: []string{"config"}})
	_, err := transfer.Unpack(t.Context(), bytes.NewReader(transfer.Rewrite(t, stream, "what was sent", "what was left")), dst, transfer.Options{})
	if !errors.Is(err, transfer.ErrCorrupt) || !strings.Contains(err.Error(), "digest") {
		t.Errorf("got %v", err)
	}
	if got := snapshot(t, dst); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestLostDoubledAndMovedFramesAreSeen(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "config", "a"), bytes.Repeat([]byte("a"), 3<<20)) // three frames alike
	write(t, filepath.Join(src, "config", "b"), []byte("b"))
	stream, _ := pack(t, transfer.Spec{Root: src, Trees: []string{"config"}})
	frames := transfer.Frames(stream)
	for i := range frames {
		for what, changed := range map[string][][]byte{
			"lost":    slices.Concat(frames[:i], frames[i+1:]),
			"doubled": slices.Concat(frames[:i+1], frames[i:]),
			"moved":   slices.Concat(frames[:i], frames[min(i+1, len(frames)-1):], frames[i:i+1]),
		} {
			if what == "moved" && i == len(frames)-1 || what == "doubled" && i == len(frames)-1 {
				continue // nothing is read after the last one
			}
			_, err := transfer.Unpack(t.Context(), bytes.NewReader(bytes.Join(changed, nil)), t.TempDir(), transfer.Options{})
			if !errors.Is(err, transfer.ErrCorrupt) && !errors.Is(err, transfer.ErrTruncated) {
				t.Errorf("frame %d of %d %s: %v", i, len(frames), what, err)
			}
			if what == "lost" && i < len(frames)-1 && !strings.Contains(fmt.Sprint(err), "checksum") {
				t.Errorf("frame %d lost is seen only by what it held: %v", i, err)
			}
		}
	}
}

func TestDataOutsideOfItsRangeIsRefused(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	l := storetest.New(t, filepath.Join(src, "commitlog"), 64<<10, 0)
	l.Fill(10, "topic", "k", 300)
	first, _ := pack(t, transfer.Spec{Root: src, Logs: []transfer.LogRange{{Dir: "commitlog", To: l.End}}})
	if _, err := transfer.Unpack(t.Context(), bytes.NewReader(first), dst, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	before, from := snapshot(t, dst), l.End
	l.Fill(10, "topic", "k", 300)
	second, _ := pack(t, transfer.Spec{Root: src, Logs: []transfer.LogRange{{Dir: "commitlog", From: from, To: l.End}}})
	for _, at := range []int64{0, from - 1, from + 1, 64 << 10, 1 << 62, -1} {
		_, err := transfer.Unpack(t.Context(), bytes.NewReader(transfer.MoveData(second, at)), dst, transfer.Options{})
		if !errors.Is(err, transfer.ErrCorrupt) {
			t.Errorf("data at %d for %d..%d: %v", at, from, l.End, err)
		}
		if d := cmp.Diff(before, snapshot(t, dst)); d != "" {
			t.Errorf("data at %d was written:\n%s", at, d)
		}
	}
}

// Zeros are not sent, so what the target has in their place must go.
func TestZerosInARangeReplaceWhatStandsThere(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	l := storetest.New(t, filepath.Join(src, "commitlog"), 1<<20, 0)
	l.Append(message.Message{Topic: "topic", Body: []byte("common")})
	from := l.End
	for range 3 {
		l.Append(message.Message{Topic: "topic", Body: make([]byte, 100_000)})
	}
	f, err := os.OpenFile(filepath.Join(l.Dir, store.FileName(0)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(make([]byte, 200_000), l.End-200_000) // the range ends in zeros, too
	f.Close()
	other, err := os.ReadFile(filepath.Join(l.Dir, store.FileName(0)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range other[from:] {
		other[int(from)+i] = 0xee
	}
	write(t, filepath.Join(dst, "commitlog", store.FileName(0)), other)
	stream, stats := pack(t, transfer.Spec{Root: src, Logs: []transfer.LogRange{{Dir: "commitlog", From: from, To: l.End}}})
	if stats.Bytes > 20_000 {
		t.Errorf("%d bytes were sent", stats.Bytes)
	}
	if _, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(snapshot(t, src), snapshot(t, dst)); d != "" {
		t.Error("the target differs from the source")
	}
}

// The range in the target's log becomes the source's, whatever stood there before, and the logs
// compare as equal.
func TestLogRangesBecomeTheSources(t *testing.T) {
	base := t.TempDir()
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		src, dst := filepath.Join(base, fmt.Sprint(run), "src"), filepath.Join(base, fmt.Sprint(run), "dst")
		const fileSize = 16 << 10
		first := fileSize * rapid.Int64Range(0, 2).Draw(r, "first file")
		fill := func(l *storetest.Log, n int, keys string) {
			for i := range n {
				l.Append(message.Message{Topic: "topic", Body: bytes.Repeat([]byte{byte(i)}, rapid.IntRange(0, 5000).Draw(r, "body")),
					Properties: map[string]string{"KEYS": fmt.Sprint(keys, i)}})
			}
		}
		s := storetest.New(t, filepath.Join(src, "commitlog"), fileSize, first)
		s.Prepared = rapid.IntRange(0, 2).Draw(r, "prepared")
		fill(s, rapid.IntRange(1, 20).Draw(r, "common"), "k")
		o := transfer.Options{Quarantine: filepath.Join(base, fmt.Sprint(run), "quarantine")}
		from := int64(0)
		if rapid.Bool().Draw(r, "target has the common part") {
			from = s.End
			stream, _ := pack(t, transfer.Spec{Root: src, Logs: []transfer.LogRange{{Dir: "commitlog", To: from}}})
			_, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, o)
			must(r, err)
			// The target goes its own way from there; its log may be the longer one.
			own := rapid.IntRange(0, 15).Draw(r, "own")
			at := from
			for i := range own {
				m := message.Append(nil, message.Message{Topic: "own", PhysicalOffset: at, Body: bytes.Repeat([]byte{0xee}, 100*i)})
				if at%fileSize+int64(len(m)) > fileSize {
					at = at/fileSize*fileSize + fileSize
				}
				f, err := os.OpenFile(filepath.Join(dst, "commitlog", store.FileName(at/fileSize*fileSize)), os.O_RDWR|os.O_CREATE, 0o644)
				must(r, err)
				must(r, f.Truncate(fileSize))
				_, err = f.WriteAt(m, at%fileSize)
				must(r, err)
				must(r, f.Close())
				at += int64(len(m))
			}
			if rapid.Bool().Draw(r, "junk") {
				write(t, filepath.Join(dst, "commitlog", "junk"), []byte("junk"))
			}
		}
		fill(s, rapid.IntRange(0, 20).Draw(r, "more"), "m")
		end := s.End
		fill(s, rapid.IntRange(0, 8).Draw(r, "since"), "s") // a log that is being written
		stream, sent := pack(t, transfer.Spec{Root: src, Logs: []transfer.LogRange{{Dir: "commitlog", From: from, To: end}}})
		got, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, o)
		must(r, err)
		if got.Digest != sent.Digest || got.Files != sent.Files || got.Apparent != sent.Apparent {
			r.Fatalf("sent %+v, received %+v", sent, got)
		}
		a, err := store.Inspect(t.Context(), filepath.Join(src, "commitlog"), store.Options{To: end})
		must(r, err)
		b, err := store.Inspect(t.Context(), filepath.Join(dst, "commitlog"), store.Options{})
		must(r, err)
		if b.End != end || b.Trailing != nil || len(b.Findings) > 0 || fmt.Sprint(a.Chunks) != fmt.Sprint(b.Chunks) {
			r.Fatalf("target ends at %d with trailing %v and findings %v, source at %d; chunks\n%v\n%v", b.End, b.Trailing, b.Findings, end, a.Chunks, b.Chunks)
		}
		if s.End == end {
			if c := store.Compare(map[string]*store.Inspection{"a": a, "b": b}); len(c.Differences) != 1 || c.Differences[0].Kind != store.DiffRange {
				r.Fatalf("%v", c.Findings())
			}
			whole, err := store.Inspect(t.Context(), filepath.Join(src, "commitlog"), store.Options{})
			must(r, err)
			if c := store.Compare(map[string]*store.Inspection{"a": whole, "b": b}); !c.OK() || len(c.Notes) > 0 {
				r.Fatalf("%v", c.Findings())
			}
			// mtimes, modes, and the prepared files too.
			if d := cmp.Diff(logFiles(whole), logFiles(b)); d != "" {
				r.Fatalf("files (-source +target):\n%s", d)
			}
		}
	})
}

func logFiles(in *store.Inspection) []string {
	var l []string
	for _, f := range in.Files {
		l = append(l, fmt.Sprint(f.Name, f.Size, f.Modified.UnixNano(), f.Empty))
	}
	return l
}

func TestMissingLogFilesBeforeTheRangeAreNamed(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	l := storetest.New(t, filepath.Join(src, "commitlog"), 4096, 4096)
	l.Fill(60, "topic", "k", 300)
	stream, _ := pack(t, transfer.Spec{Root: src, Logs: []transfer.LogRange{{Dir: "commitlog", From: l.Messages[40].PhysicalOffset, To: l.End}}})
	_, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, transfer.Options{})
	var missing *transfer.MissingError
	if !errors.As(err, &missing) || missing.Offset != 4096 || len(missing.Files) < 2 {
		t.Errorf("got %v", err)
	}
	if got := snapshot(t, filepath.Join(dst, "commitlog")); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestExtraFilesNeedAQuarantine(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	l := storetest.New(t, filepath.Join(src, "commitlog"), 4096, 0)
	l.Fill(3, "topic", "k", 300)
	write(t, filepath.Join(src, "index", "a"), []byte("a"))
	write(t, filepath.Join(dst, "index", "b"), []byte("b"))
	write(t, filepath.Join(dst, "commitlog", "00000000000000008192"), []byte("b"))
	before := snapshot(t, dst)
	for _, spec := range []transfer.Spec{
		{Root: src, Trees: []string{"index"}},
		{Root: src, Logs: []transfer.LogRange{{Dir: "commitlog", To: l.End}}},
	} {
		stream, _ := pack(t, spec)
		var extra *transfer.ExtraError
		if _, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, transfer.Options{}); !errors.As(err, &extra) {
			t.Errorf("got %v", err)
		}
		if d := cmp.Diff(before, snapshot(t, dst)); d != "" {
			t.Errorf("refused, and still changed:\n%s", d)
		}
		stats, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, transfer.Options{Quarantine: filepath.Join(dst, "old")})
		if err != nil || len(stats.MovedAway) != 1 {
			t.Errorf("%v, %+v", err, stats)
		}
		if _, err := os.Stat(filepath.Join(dst, "old", stats.MovedAway[0])); err != nil {
			t.Error(err)
		}
		os.RemoveAll(filepath.Join(dst, "old"))
		before = snapshot(t, dst)
	}
}

// A commit log on a disk of its own, mounted at its folder or behind a link: files still get their names at
// once, what is in the way crosses over to the quarantine, and no other file stays in the folder.
func TestACommitLogOnADiskOfItsOwn(t *testing.T) {
	if _, err := os.Stat("/dev/shm"); err != nil {
		t.Skip("there is no second file system: ", err)
	}
	for how, onto := range map[string]func(*testing.T, string){"link": linked, "mount point": mounted} {
		t.Run(how, func(t *testing.T) {
			src, dst := t.TempDir(), t.TempDir()
			l := storetest.New(t, filepath.Join(src, "commitlog"), 16<<10, 0)
			l.Fill(100, "topic", "k", 300)
			log := filepath.Join(dst, "commitlog")
			onto(t, log)
			extra := "00000000000009000000"
			write(t, filepath.Join(log, extra), bytes.Repeat([]byte("b"), 16<<10))
			resolved, err := filepath.EvalSymlinks(log)
			if err != nil {
				t.Fatal(err)
			}
			incoming := filepath.Join(resolved, transfer.IncomingName)
			if how == "link" { // there is a place beside it
				incoming = filepath.Join(filepath.Dir(resolved), transfer.IncomingName)
			}
			write(t, filepath.Join(incoming, "run-dead", "1"), []byte("half"))
			stream, _ := pack(t, transfer.Spec{Root: filepath.Join(src, "commitlog"), Logs: []transfer.LogRange{{Dir: ".", FileSize: 16 << 10, To: l.End}}})
			got, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), log, transfer.Options{Incoming: log + ".incoming", Quarantine: log + ".old"})
			if err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(filepath.Join(log+".old", extra)); err != nil || len(data) != 16<<10 || data[5] != 'b' {
				t.Errorf("in quarantine are %d bytes, %v", len(data), err)
			}
			if d := cmp.Diff(snapshot(t, filepath.Join(src, "commitlog")), snapshot(t, resolved)); d != "" {
				t.Errorf("after %+v (-source +target):\n%s", got, d)
			}
			for _, left := range []string{log + ".incoming", incoming} {
				if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is left: %v", left, err)
				}
			}
		})
	}
}

func linked(t *testing.T, dir string) {
	other, err := os.MkdirTemp("/dev/shm", "mqlift-disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(other) })
	if err := os.Mkdir(filepath.Join(other, "log"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(other, "log"), dir); err != nil {
		t.Fatal(err)
	}
}

func mounted(t *testing.T, dir string) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("a file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
}

func TestPathsCannotLeaveTheirPlace(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	write(t, filepath.Join(src, "config", "topics"), []byte("t"))
	for _, path := range []string{"..", ".", "/etc", "config/../..", ""} {
		if _, err := transfer.Pack(t.Context(), io.Discard, transfer.Spec{Root: src, Trees: []string{path}}); err == nil {
			t.Errorf("a tree %q was sent", path)
		}
	}
	stream, _ := pack(t, transfer.Spec{Root: src, Trees: []string{"config"}})
	for _, evil := range []string{"../conf/topic", "/onfig/topics", "other//topics", "config/./opic", "outside/topic", "configs/topic"} {
		b := transfer.Rewrite(t, stream, "config/topics", evil)
		if _, err := transfer.Unpack(t.Context(), bytes.NewReader(b), dst, transfer.Options{}); !errors.Is(err, transfer.ErrCorrupt) {
			t.Errorf("%q: %v", evil, err)
		}
	}
	if got := snapshot(t, dst); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestAStreamThatFailsInPlaceNamesTheFile(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	l := storetest.New(t, filepath.Join(src, "commitlog"), 1<<20, 0)
	l.Fill(20, "topic", "k", 3000)
	first, _ := pack(t, transfer.Spec{Root: src, Logs: []transfer.LogRange{{Dir: "commitlog", To: l.End}}})
	if _, err := transfer.Unpack(t.Context(), bytes.NewReader(first), dst, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	from := l.End
	l.Fill(20, "topic", "k", 3000)
	second, _ := pack(t, transfer.Spec{Root: src, Logs: []transfer.LogRange{{Dir: "commitlog", From: from, To: l.End}}})
	_, err := transfer.Unpack(t.Context(), bytes.NewReader(second[:len(second)/2]), dst, transfer.Options{})
	var partial *transfer.PartialError
	if !errors.As(err, &partial) || !errors.Is(err, transfer.ErrTruncated) || len(partial.Files) != 1 || filepath.Base(partial.Files[0]) != store.FileName(0) {
		t.Fatalf("got %v", err)
	}
	// Done again, it is whole.
	if _, err := transfer.Unpack(t.Context(), bytes.NewReader(second), dst, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(snapshot(t, src), snapshot(t, dst)); d != "" {
		t.Errorf("(-source +target):\n%s", d)
	}
}

func TestTheTargetLearnsWhyTheSourceGaveUp(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "config", "a"), []byte("a"))
	if err := os.Symlink("a", filepath.Join(src, "config", "link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := transfer.Pack(t.Context(), &b, transfer.Spec{Root: src, Trees: []string{"config"}}); err == nil {
		t.Fatal("a link was sent")
	}
	dst := t.TempDir()
	_, err := transfer.Unpack(t.Context(), &b, dst, transfer.Options{})
	if !errors.Is(err, transfer.ErrSource) || !strings.Contains(err.Error(), "link is neither") {
		t.Errorf("got %v", err)
	}
	if got := snapshot(t, dst); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestBothEndsStopWhenTheContextEnds(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	write(t, filepath.Join(src, "index", "a"), bytes.Repeat([]byte("a"), 8<<20))
	ctx, cancel := context.WithCancelCause(t.Context())
	a, b := net.Pipe()
	why := errors.New("pulled")
	received := make(chan error, 1)
	go func() {
		_, err := transfer.Unpack(ctx, b, dst, transfer.Options{Progress: func(int64) { cancel(why) }})
		received <- err
	}()
	if _, err := transfer.Pack(ctx, a, transfer.Spec{Root: src, Trees: []string{"index"}}); !errors.Is(err, why) {
		t.Errorf("sender: %v", err)
	}
	if err := <-received; !errors.Is(err, why) {
		t.Errorf("receiver: %v", err)
	}
	if got := snapshot(t, dst); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestKeepsToTheRateLimit(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "index", "a"), bytes.Repeat([]byte("a"), 4<<20))
	start := time.Now()
	if _, err := transfer.Pack(t.Context(), io.Discard, transfer.Spec{Root: src, Trees: []string{"index"}, BytesPerSecond: 16 << 20}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 240*time.Millisecond {
		t.Errorf("4 MiB at 16 MiB/s took %v", took)
	}
}

// What a killed run left is removed, what a living one has in its hands is not.
func TestLeftOversOfAKilledRunAreRemoved(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	write(t, filepath.Join(src, "config", "a"), []byte("a"))
	write(t, filepath.Join(dst, ".mqlift-incoming", "run-dead", "1"), []byte("half"))
	write(t, filepath.Join(dst, ".mqlift-incoming", "run-alive", "1"), []byte("half"))
	alive, err := os.Open(filepath.Join(dst, ".mqlift-incoming", "run-alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	if err := unix.Flock(int(alive.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	stream, _ := pack(t, transfer.Spec{Root: src, Trees: []string{"config"}})
	if _, err := transfer.Unpack(t.Context(), bytes.NewReader(stream), dst, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	got := snapshot(t, dst)
	if _, ok := got[".mqlift-incoming/run-alive/1"]; !ok || len(got) != 5 {
		t.Errorf("there are %v", got)
	}
}

func FuzzUnpack(f *testing.F) {
	src := f.TempDir()
	write(f, filepath.Join(src, "config", "a"), []byte("a"))
	l := storetest.New(f, filepath.Join(src, "commitlog"), 4096, 0)
	l.Fill(3, "topic", "k", 300)
	var b bytes.Buffer
	if _, err := transfer.Pack(context.Background(), &b, transfer.Spec{Root: src, Trees: []string{"config"}, Logs: []transfer.LogRange{{Dir: "commitlog", To: l.End}}}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	outer := inMemory(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		root := filepath.Join(outer, "root")
		os.MkdirAll(root, 0o755)
		// Checksums are put right, so that what lies behind them is reached.
		transfer.Unpack(t.Context(), bytes.NewReader(transfer.Reseal(b)), root, transfer.Options{})
		entries, err := os.ReadDir(outer)
		if err != nil || len(entries) != 1 {
			t.Fatalf("outside of the root: %v, %v", entries, err)
		}
		os.RemoveAll(root)
	})
}

// inMemory is a folder on which syncing costs nothing, where there is such a file system.
func inMemory(f testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "mqlift-test-")
	if err != nil {
		return f.TempDir()
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func BenchmarkTransfer(b *testing.B) {
	src := b.TempDir()
	l := storetest.New(b, filepath.Join(src, "commitlog"), 64<<20, 0)
	l.Fill(200_000, "topic", "k", 1000)
	b.SetBytes(l.End)
	for b.Loop() {
		dst := b.TempDir()
		r, w := io.Pipe()
		go func() {
			_, err := transfer.Pack(b.Context(), w, transfer.Spec{Root: src, Logs: []transfer.LogRange{{Dir: "commitlog", To: l.End}}})
			w.CloseWithError(err)
		}()
		if _, err := transfer.Unpack(b.Context(), r, dst, transfer.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
