package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mqlift/internal/diag"
	"mqlift/internal/message"
	"mqlift/internal/store"
	"mqlift/internal/store/storetest"
)

func inspect(t testing.TB, dir string, o store.Options) *store.Inspection {
	t.Helper()
	in, err := store.Inspect(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func wantFinding(t testing.TB, in *store.Inspection, check string, severity diag.Severity) {
	t.Helper()
	for _, f := range in.Findings {
		if f.Check == check && f.Severity == severity {
			return
		}
	}
	t.Errorf("no %s %s among the findings %v", severity, check, in.Findings)
}

// A stretch that begins in a file without keys is sampled in the next; one in two files, once.
func TestSamplesAreFoundBeyondTheFileTheirStretchBeginsIn(t *testing.T) {
	l := storetest.New(t, filepath.Join(t.TempDir(), "commitlog"), 1000, 0)
	for i := range 12 {
		m := message.Message{Topic: "topic", Body: make([]byte, 300)}
		if i >= 6 {
			m.Properties = map[string]string{"KEYS": fmt.Sprintf("k%d", i)}
		}
		l.Append(m)
	}
	for samples, want := range map[int][]string{0: nil, 1: {"k6"}, 3: {"k6", "k8"}} {
		var keys []string
		for _, s := range inspect(t, l.Dir, store.Options{Samples: samples}).Samples {
			keys = append(keys, s.Key)
		}
		if !slices.Equal(keys, want) {
			t.Errorf("%d asked for: %q, want %q", samples, keys, want)
		}
	}
}

// Whatever a broker writes, the walk finds every message of it, the end, and digests of exactly the
// bytes that count.
func TestWalksToExactlyWhatWasWritten(t *testing.T) {
	root := t.TempDir()
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		dir := filepath.Join(root, fmt.Sprint(run), "commitlog")
		fileSize := rapid.Int64Range(1000, 20_000).Draw(r, "file size")
		first := fileSize * rapid.Int64Range(0, 3).Draw(r, "first file")
		l := storetest.New(t, dir, fileSize, first)
		l.Prepared = rapid.IntRange(0, 2).Draw(r, "prepared files")
		keyed := 0
		for i := range rapid.IntRange(0, 60).Draw(r, "messages") {
			m := message.Message{Topic: "topic", Body: rapid.SliceOfN(rapid.Byte(), 0, 700).Draw(r, "body"), QueueOffset: int64(i)}
			if rapid.Bool().Draw(r, "keyed") {
				keyed++
				m.Properties = map[string]string{"KEYS": fmt.Sprintf("k%d", i)}
			}
			switch rapid.IntRange(0, 5).Draw(r, "form") {
			case 0: // 5.x
				m.Magic = message.MagicV2
			case 1: // a topic that only 5.x can have
				m.Topic = strings.Repeat("t", rapid.IntRange(128, 200).Draw(r, "long topic"))
			case 2:
				m.BornHost = netip.MustParseAddrPort("[2001:db8::1]:50123")
			case 3:
				m.BornHost, m.StoreHost = netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:10911")
			}
			l.Append(m)
		}
		divided := rapid.Bool().Draw(r, "closed by a first DLedger start")
		if divided = divided && l.Prepared == 0; divided {
			l.WriteBlank()
		}
		samples := rapid.IntRange(0, 20).Draw(r, "samples")
		in := inspect(t, dir, store.Options{Samples: samples})
		if in.First != first || in.End != l.End || in.To != l.End || in.Messages != int64(len(l.Messages)) || in.DividedBlank != divided {
			r.Fatalf("first %d, end %d, %d messages, divided %t; written: %d, %d, %d, %t",
				in.First, in.End, in.Messages, in.DividedBlank, first, l.End, len(l.Messages), divided)
		}
		if len(in.Findings) > 0 || in.Trailing != nil || in.FileSize != fileSize {
			r.Fatalf("findings %v, trailing %v, file size %d", in.Findings, in.Trailing, in.FileSize)
		}
		if want := l.End/fileSize*fileSize + fileSize; in.Divided != want {
			r.Fatalf("divided at %d, want %d", in.Divided, want)
		}
		if len(in.Samples) > min(samples, keyed) || keyed > 0 && samples > 0 && len(in.Samples) == 0 {
			r.Fatalf("%d samples, asked for %d of %d", len(in.Samples), samples, keyed)
		}
		for _, s := range in.Samples {
			if !strings.HasPrefix(s.Key, "k") || s.Key != fmt.Sprintf("k%d", s.QueueOffset) {
				r.Fatalf("sample %+v is no message that was written", s)
			}
		}

		// Any message boundary can be From or To, and two inspections join to one of the whole.
		if len(l.Messages) < 2 {
			return
		}
		cut := l.Messages[rapid.IntRange(1, len(l.Messages)-1).Draw(r, "cut")].PhysicalOffset
		early := inspect(t, dir, store.Options{To: cut, Samples: samples})
		late := inspect(t, dir, store.Options{From: cut})
		if early.Messages+late.Messages != in.Messages || early.End != cut || late.End != in.End {
			r.Fatalf("cut at %d: %d + %d messages of %d, ends %d and %d", cut, early.Messages, late.Messages, in.Messages, early.End, late.End)
		}
		if early.To != late.From { // the cut is a file's first message: From 0 would do as well
			return
		}
		joined, err := store.Join(early, late)
		if err != nil {
			r.Fatal(err)
		}
		if c := store.Compare(map[string]*store.Inspection{"a": in, "b": joined}); !c.OK() || c.From != first || c.Messages != in.Messages {
			r.Fatalf("joined at %d: %v, from %d", cut, c.Findings(), c.From)
		}
		// One byte further is no boundary.
		var no *store.RangeError
		for _, o := range []store.Options{{From: cut + 1}, {To: cut + 1}} {
			if _, err := store.Inspect(t.Context(), dir, o); !errors.As(err, &no) {
				r.Fatalf("%+v: %v, want a RangeError", o, err)
			}
		}
	})
}

func TestDigestsAreCutAtFixedOffsetsAndFileBounds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "commitlog")
	const fileSize = 20 << 20
	l := storetest.New(t, dir, fileSize, fileSize)
	l.Fill(40, "topic", "k", 900_000)
	var sum int64
	in := inspect(t, dir, store.Options{Progress: func(n int64) { sum = n }})

	var want []store.Chunk
	for _, f := range in.Files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil {
			t.Fatal(err)
		}
		pos := int64(0)
		for _, m := range l.Messages {
			if m.PhysicalOffset >= f.Base && m.PhysicalOffset < f.Base+fileSize {
				pos = m.PhysicalOffset - f.Base + int64(m.Size)
			}
		}
		if f.Base+pos < l.End {
			pos += 8
		}
		for from := int64(0); from < pos; {
			to := min(pos, (f.Base+from)/store.ChunkSize*store.ChunkSize+store.ChunkSize-f.Base)
			h := sha256.Sum256(b[from:to])
			want = append(want, store.Chunk{Offset: f.Base + from, Length: to - from, SHA256: hex.EncodeToString(h[:])})
			from = to
		}
	}
	if fmt.Sprint(in.Chunks) != fmt.Sprint(want) {
		t.Errorf("chunks\n%v\nwant\n%v", in.Chunks, want)
	}
	var bytes int64
	for _, c := range want {
		bytes += c.Length
	}
	if sum != bytes {
		t.Errorf("progress ended at %d of %d", sum, bytes)
	}
	// A later From digests from the cut before it, so that the digests remain comparable.
	late := inspect(t, dir, store.Options{From: l.Messages[30].PhysicalOffset})
	if n := len(late.Chunks); n == 0 || n >= len(want) || fmt.Sprint(late.Chunks) != fmt.Sprint(want[len(want)-n:]) {
		t.Errorf("chunks from %d:\n%v\nwant the last ones of\n%v", late.From, late.Chunks, want)
	}
}

// The last message reaches over a cut, and turns out to be half written after the chunk before the
// cut was complete.
func TestAHalfWrittenMessageIsInNoDigest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "commitlog")
	l := storetest.New(t, dir, 20<<20, 0)
	for l.End < store.ChunkSize {
		l.Fill(1, "topic", "k", 900_000)
	}
	last := l.Messages[len(l.Messages)-1]
	want := inspect(t, dir, store.Options{To: last.PhysicalOffset})
	storetest.Damage(t, dir, 20<<20, last.PhysicalOffset+100)
	for _, skip := range []bool{false, true} {
		got := inspect(t, dir, store.Options{SkipBodyCRC: skip})
		if got.End != last.PhysicalOffset || fmt.Sprint(got.Chunks) != fmt.Sprint(want.Chunks) {
			t.Errorf("CRCs skipped %t: end %d, chunks %v, want %d and %v", skip, got.End, got.Chunks, last.PhysicalOffset, want.Chunks)
		}
	}
}

// A broker that is killed leaves any part of its last message: the log ends before it, whatever the form
// of the message.
func TestATailTornAtAnyByteIsNoPartOfTheLog(t *testing.T) {
	v6 := netip.MustParseAddrPort("[2001:db8::1]:10911")
	for name, m := range map[string]message.Message{
		"V1":           {Topic: "topic"},
		"V2":           {Topic: strings.Repeat("t", 140)},
		"IPv6":         {Topic: "topic", BornHost: v6, StoreHost: v6},
		"without body": {Topic: "topic", Body: []byte{}},
	} {
		t.Run(name, func(t *testing.T) {
			if m.Body == nil {
				m.Body = []byte("a body that is not zero")
			}
			m.Properties = map[string]string{"KEYS": "torn"}
			l := storetest.New(t, filepath.Join(t.TempDir(), "commitlog"), 4096, 0)
			l.Fill(9, "topic", "k", 200)
			end := l.End
			whole := m
			whole.PhysicalOffset = end
			size := len(message.Append(nil, whole))
			for n := range size + 1 {
				l.Tear(m, n)
				for _, skip := range []bool{false, true} {
					in := inspect(t, l.Dir, store.Options{SkipBodyCRC: skip})
					want := end
					// No checksum covers properties: a broker takes them as they are, once their length is there.
					if n >= size-len(message.PropertiesString(m.Properties)) {
						want += int64(size)
					}
					if in.End != want || in.Findings.Err() != nil {
						t.Fatalf("%d of %d bytes: end %d, want %d, findings %v", n, size, in.End, want, in.Findings)
					}
				}
			}
		})
	}
}

func TestEndsWhereAStartingBrokerWouldStop(t *testing.T) {
	const fileSize = 4096
	body := message.Message{Topic: "topic", Body: bytes.Repeat([]byte("x"), 400)}
	for _, c := range []struct {
		name     string
		break_   func(t *testing.T, l *storetest.Log) (end int64)
		check    string
		severity diag.Severity
	}{
		{"a message cut in its header", func(t *testing.T, l *storetest.Log) int64 {
			l.Tear(body, 30)
			return l.End
		}, "store.trailing", diag.Warn},
		{"a message cut in its body", func(t *testing.T, l *storetest.Log) int64 {
			l.Tear(body, 300)
			return l.End
		}, "store.trailing", diag.Warn},
		{"a message whose body is not there yet", func(t *testing.T, l *storetest.Log) int64 {
			last := l.Messages[len(l.Messages)-1]
			storetest.Damage(t, l.Dir, fileSize, last.PhysicalOffset+100)
			return last.PhysicalOffset
		}, "store.trailing", diag.Warn},
		{"a damaged body in the last three files", func(t *testing.T, l *storetest.Log) int64 {
			m := l.Messages[len(l.Messages)-3]
			storetest.Damage(t, l.Dir, fileSize, m.PhysicalOffset+100)
			return m.PhysicalOffset
		}, "store.crc", diag.Fail},
		{"a damaged body before the last three files", func(t *testing.T, l *storetest.Log) int64 {
			storetest.Damage(t, l.Dir, fileSize, l.Messages[1].PhysicalOffset+100)
			return l.End
		}, "store.crc", diag.Fail},
		{"a damaged magic before the last three files", func(t *testing.T, l *storetest.Log) int64 {
			storetest.Damage(t, l.Dir, fileSize, l.Messages[1].PhysicalOffset+4)
			return l.End
		}, "store.unreadable", diag.Fail},
		{"a damaged magic in the file before the last one", func(t *testing.T, l *storetest.Log) int64 {
			base := l.End/fileSize*fileSize - fileSize
			for _, m := range l.Messages {
				if m.PhysicalOffset == base {
					storetest.Damage(t, l.Dir, fileSize, base+4)
				}
			}
			return base
		}, "store.trailing", diag.Fail},
		{"a file under another file's name", func(t *testing.T, l *storetest.Log) int64 {
			a, b := filepath.Join(l.Dir, store.FileName(0)), filepath.Join(l.Dir, store.FileName(fileSize))
			data, err := os.ReadFile(b)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(a, data, 0o644); err != nil {
				t.Fatal(err)
			}
			return l.End
		}, "store.offset", diag.Fail},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "commitlog")
			l := storetest.New(t, dir, fileSize, 0)
			l.Fill(40, "topic", "k", 400)
			end := c.break_(t, l)
			in := inspect(t, dir, store.Options{})
			if in.End != end {
				t.Errorf("end %d, want %d (written to %d)", in.End, end, l.End)
			}
			wantFinding(t, in, c.check, c.severity)
			if in.Messages == 0 || len(in.Files) != int(l.End/fileSize)+1 {
				t.Errorf("%d messages in %d files", in.Messages, len(in.Files))
			}
			if c.check == "store.crc" && end == l.End && in.Messages != int64(len(l.Messages)) {
				t.Errorf("%d messages of %d: damage that a start does not look at ends nothing", in.Messages, len(l.Messages))
			}
			if c.severity == diag.Warn {
				if in.Trailing == nil || in.Trailing.Offset < end || in.Trailing.Offset > end+3 || in.Findings.Err() != nil {
					t.Errorf("trailing %+v, findings %v", in.Trailing, in.Findings)
				}
				// The half-written tail is seen as well when CRCs are not asked for.
				if quick := inspect(t, dir, store.Options{SkipBodyCRC: true}); quick.End != end {
					t.Errorf("without CRCs the end is %d, want %d", quick.End, end)
				}
			}
			var hashed int64
			for _, c := range in.Chunks {
				hashed = max(hashed, c.Offset+c.Length)
			}
			if hashed != in.End && in.End%fileSize != 0 || hashed > in.End {
				t.Errorf("digests reach %d, the end is %d", hashed, in.End)
			}
		})
	}
}

func TestFilesThatKeepABrokerFromStarting(t *testing.T) {
	const fileSize = 4096
	for _, c := range []struct {
		name, check string
		do          func(dir string) error
	}{
		{"a name that is no offset", "store.junk", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "notes.txt"), make([]byte, fileSize), 0o644)
		}},
		{"a folder", "store.junk", func(dir string) error { return os.Mkdir(filepath.Join(dir, store.FileName(1<<40)), 0o755) }},
		{"another length", "store.length", func(dir string) error {
			return os.Truncate(filepath.Join(dir, store.FileName(0)), fileSize-1)
		}},
		{"an offset that is no multiple", "store.alignment", func(dir string) error {
			return os.Rename(filepath.Join(dir, store.FileName(0)), filepath.Join(dir, store.FileName(1)))
		}},
		{"a gap", "store.gap", func(dir string) error { return os.Remove(filepath.Join(dir, store.FileName(fileSize))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "commitlog")
			l := storetest.New(t, dir, fileSize, 0)
			l.Fill(40, "topic", "k", 400)
			if err := c.do(dir); err != nil {
				t.Fatal(err)
			}
			in := inspect(t, dir, store.Options{})
			wantFinding(t, in, c.check, diag.Fail)
			if in.FileSize != fileSize || in.End != l.End {
				t.Errorf("file size %d, end %d, want %d and %d", in.FileSize, in.End, fileSize, l.End)
			}
		})
	}
	t.Run("the length that the configuration demands", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "commitlog")
		storetest.New(t, dir, fileSize, 0)
		wantFinding(t, inspect(t, dir, store.Options{FileSize: 2 * fileSize}), "store.length", diag.Fail)
	})
}

// A broker that was killed with its system, and cut its log at the next start, writes over what was behind
// the cut and leaves the rest of it.
func TestMessagesOfBeforeACutAreNoDamage(t *testing.T) {
	const fileSize = 1 << 16
	old := storetest.New(t, filepath.Join(t.TempDir(), "commitlog"), fileSize, 0)
	old.Fill(40, "topic", "k", 400)
	data, err := os.ReadFile(filepath.Join(old.Dir, store.FileName(0)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		stored   int64 // of the message written over the cut
		severity diag.Severity
	}{{"later", 1600000000000, diag.Warn}, {"earlier than what follows", 1500000000000, diag.Fail}} {
		t.Run(c.name, func(t *testing.T) {
			l := storetest.New(t, filepath.Join(t.TempDir(), "commitlog"), fileSize, 0)
			path := filepath.Join(l.Dir, store.FileName(0))
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
			l.End = old.Messages[20].PhysicalOffset
			l.Append(message.Message{Topic: "topic", Body: make([]byte, 33), Stored: time.UnixMilli(c.stored)})
			in := inspect(t, l.Dir, store.Options{})
			if in.End != l.End {
				t.Errorf("end %d, want %d", in.End, l.End)
			}
			worst := diag.Pass
			for _, f := range in.Findings {
				worst = max(worst, f.Severity)
			}
			if worst != c.severity {
				t.Errorf("findings %v, want %s", in.Findings, c.severity)
			}
		})
	}
}

func TestEmptyAndMissingFolders(t *testing.T) {
	root := t.TempDir()
	if in := inspect(t, root, store.Options{}); len(in.Files) != 0 || in.End != 0 {
		t.Errorf("an empty folder gives %+v", in)
	}
	if _, err := store.Inspect(t.Context(), filepath.Join(root, "none"), store.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing folder gives %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, store.FileName(0)), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if in := inspect(t, root, store.Options{}); len(in.Findings) > 0 {
		t.Errorf("a file that is just being made: %v", in.Findings)
	}
	old := time.Now().Add(-time.Minute)
	if err := os.Chtimes(filepath.Join(root, store.FileName(0)), old, old); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, inspect(t, root, store.Options{}), "store.length", diag.Fail)
}

func TestAbortIsLookedForInTheRoot(t *testing.T) {
	root := t.TempDir()
	l := storetest.New(t, filepath.Join(root, "commitlog"), 4096, 0)
	if inspect(t, l.Dir, store.Options{}).Abort {
		t.Error("abort found in a store without it")
	}
	if err := os.WriteFile(filepath.Join(root, "abort"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if !inspect(t, l.Dir, store.Options{}).Abort {
		t.Error("abort not found")
	}
	if inspect(t, l.Dir, store.Options{Root: t.TempDir()}).Abort {
		t.Error("abort found in another root")
	}
}

// The writer goes on while the log is walked; every walk must end at a message boundary that was the
// end at some time in between.
func TestWalksALogThatIsBeingWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "commitlog")
	l := storetest.New(t, dir, 64<<10, 0)
	l.Prepared = 1
	l.Fill(10, "topic", "k", 300)
	ctx, stop := context.WithCancel(t.Context())
	type walked struct {
		in  *store.Inspection
		err error
	}
	done := make(chan walked)
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			in, err := store.Inspect(t.Context(), dir, store.Options{})
			done <- walked{in, err}
		}
	}()
	var all []walked
	for len(all) < 30 {
		select {
		case w := <-done:
			all = append(all, w)
		default:
			l.Fill(20, "topic", "k", 300)
		}
	}
	stop()
	for range done {
	}
	ends := map[int64]bool{}
	for _, m := range l.Messages {
		ends[m.PhysicalOffset+int64(m.Size)] = true
		ends[m.PhysicalOffset] = true
	}
	var before int64
	for _, w := range all {
		if w.err != nil {
			t.Fatal(w.err)
		}
		if !ends[w.in.End] || w.in.End < before {
			t.Fatalf("end %d after %d is no message boundary", w.in.End, before)
		}
		before = w.in.End
	}
}

func TestAFileCutShortUnderTheWalkIsAnErrorAndNoCrash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "commitlog")
	l := storetest.New(t, dir, 32<<20, 0)
	l.Fill(30, "topic", "k", 1<<20)
	once := true
	_, err := store.Inspect(t.Context(), dir, store.Options{Progress: func(int64) {
		if once {
			once = false
			if err := os.Truncate(filepath.Join(dir, store.FileName(0)), 4096); err != nil {
				t.Error(err)
			}
		}
	}})
	if err == nil {
		t.Skip("the walk was faster than the cut")
	}
	if !strings.Contains(err.Error(), "cut short") {
		t.Errorf("got %v", err)
	}
}

func TestStopsWhenTheContextEnds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "commitlog")
	storetest.New(t, dir, 1<<20, 0).Fill(100, "topic", "k", 300)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("pulled")
	cancel(why)
	if _, err := store.Inspect(ctx, dir, store.Options{}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkInspect(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "commitlog")
	l := storetest.New(b, dir, 64<<20, 0)
	l.Fill(200_000, "topic", "k", 1000)
	l.WriteQueues(l.Messages)
	b.SetBytes(l.End)
	for _, o := range []store.Options{{}, {Derived: true}, {SkipBodyCRC: true}, {Workers: 1}} {
		b.Run(fmt.Sprintf("workers=%d,skipCRC=%t,derived=%t", o.Workers, o.SkipBodyCRC, o.Derived), func(b *testing.B) {
			b.SetBytes(l.End)
			for b.Loop() {
				if _, err := store.Inspect(b.Context(), dir, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
