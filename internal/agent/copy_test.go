package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mqlift/internal/diag"
	"mqlift/internal/hostinfo"
	"mqlift/internal/message"
	"mqlift/internal/remote"
	"mqlift/internal/store"
	"mqlift/internal/transfer"
)

const logFileSize = 1 << 20

// newStore makes a store with two commit log files, the second one half full, and a consume queue
// with a hole. It returns where the log ends.
func newStore(t *testing.T, root string) int64 {
	t.Helper()
	random := rand.NewChaCha8(sha256.Sum256([]byte(t.Name())))
	fill := func(name string, size, data int) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, data)
		random.Read(b)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, int64(size)); err != nil {
			t.Fatal(err)
		}
	}
	fill("commitlog/"+store.FileName(0), logFileSize, logFileSize)
	fill("commitlog/"+store.FileName(logFileSize), logFileSize, logFileSize/2)
	fill("consumequeue/topic/0/"+store.FileName(0), 6000000, 20000)
	fill("config/topics.json", 100, 100)
	return logFileSize * 3 / 2
}

func storeSpec(from, to string, end int64) CopySpec {
	return CopySpec{
		FromRoot: from, ToRoot: to, Trees: []string{"consumequeue", "index", "config"},
		Logs: []transfer.LogRange{{Dir: "commitlog", FileSize: logFileSize, To: end}},
	}
}

// twoHosts are two hosts that use one agent's binary; each may have its commands changed.
func twoHosts(t *testing.T) (from, to *Agent, fromHost, toHost *localHost) {
	shared := pushLocal(t)
	fromHost, toHost = &localHost{name: "b1"}, &localHost{name: "b2"}
	return &Agent{host: fromHost, binary: shared.binary}, &Agent{host: toHost, binary: shared.binary}, fromHost, toHost
}

func isVerb(c *remote.Cmd, verb string) bool { return len(c.Argv) == 3 && c.Argv[2] == verb }

func same(t *testing.T, from, to string) {
	t.Helper()
	for _, dir := range []string{"commitlog", "consumequeue", "config"} {
		want, err := listTree(t.Context(), ListRequest{Dir: filepath.Join(from, dir), SHA256: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := listTree(t.Context(), ListRequest{Dir: filepath.Join(to, dir), SHA256: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d entries, want %d", dir, len(got), len(want))
		}
		for i := range want {
			if got[i].Path != want[i].Path || got[i].SHA256 != want[i].SHA256 || got[i].Size != want[i].Size ||
				got[i].Mode.IsRegular() && !got[i].Modified.Equal(want[i].Modified) {
				t.Errorf("%+v instead of %+v", got[i], want[i])
			}
		}
	}
}

func TestCopyMovesAStoreBetweenTwoHosts(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	from, to := t.TempDir(), t.TempDir()
	end := newStore(t, from)
	var arrived int64
	spec := storeSpec(from, to, end)
	spec.BytesPerSecond = 4 << 20 // long enough for progress to be told
	r, err := Copy(t.Context(), a, b, spec, func(p Progress) { arrived = p.Done })
	if err != nil {
		t.Fatal(err)
	}
	same(t, from, to)
	if r.Bytes < end || r.Bytes > end+100<<10 || r.Apparent <= r.Bytes || r.Digest == "" || r.Rate() <= 0 || arrived <= 0 || arrived > r.Bytes {
		t.Errorf("result %+v, progress %d", r, arrived)
	}
	// Once more, with something that the source does not have.
	extra := filepath.Join(to, "config/old.json")
	if err := os.WriteFile(extra, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	spec.BytesPerSecond = 0
	var found *transfer.ExtraError
	var failed *CopyError
	if _, err := Copy(t.Context(), a, b, spec, nil); !errors.As(err, &found) || !errors.As(err, &failed) || failed.Source != nil {
		t.Errorf("without a quarantine: %v", err)
	}
	spec.Quarantine = filepath.Join(to, "quarantine")
	if r, err = Copy(t.Context(), a, b, spec, nil); err != nil || len(r.MovedAway) != 1 || missing(filepath.Join(spec.Quarantine, "config/old.json")) {
		t.Errorf("with a quarantine: %+v, %v", r, err)
	}
	same(t, from, to)
}

func TestCopyLocalMirrorsTreesOnOneHost(t *testing.T) {
	a := pushLocal(t)
	from, to := t.TempDir(), t.TempDir()
	newStore(t, from)
	s, err := a.CopyLocal(t.Context(), CopyLocalSpec{FromRoot: from, ToRoot: to, Trees: []string{"consumequeue", "config", "commitlog"}}, nil)
	if err != nil || s.Apparent == 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	same(t, from, to)
}

func TestCopyToAFullDiskBlamesTheTargetOnly(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	from, to := t.TempDir(), t.TempDir()
	if err := syscall.Mount("none", to, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	defer syscall.Unmount(to, 0)
	spec := storeSpec(from, to, newStore(t, from))
	_, err := Copy(t.Context(), a, b, spec, nil)
	var failed *CopyError
	if !errors.As(err, &failed) || failed.Source != nil || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "b2: unpack: ") {
		t.Errorf("got %v", err)
	}
}

func TestCopyOfADamagedStreamBlamesTheTargetOnlyAndLeavesNothing(t *testing.T) {
	a, b, _, toHost := twoHosts(t)
	from, to := t.TempDir(), t.TempDir()
	toHost.rewrite = func(c *remote.Cmd) {
		if isVerb(c, "unpack") {
			c.Stdin = &flip{from: c.Stdin, at: 700 << 10}
		}
	}
	_, err := Copy(t.Context(), a, b, storeSpec(from, to, newStore(t, from)), nil)
	var failed *CopyError
	if !errors.As(err, &failed) || failed.Source != nil || !errors.Is(err, transfer.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	tidy(t, to)
}

// flip changes one byte of a stream.
type flip struct {
	from io.Reader
	at   int
}

func (f *flip) Read(p []byte) (int, error) {
	n, err := f.from.Read(p)
	if f.at >= 0 && f.at < n {
		p[f.at] ^= 1
	}
	f.at -= n
	return n, err
}

// tidy checks that no file of an interrupted copy is in a folder that a broker reads.
func tidy(t *testing.T, root string) {
	t.Helper()
	entries, err := listTree(t.Context(), ListRequest{Dir: root}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		whole := e.Mode.IsDir() || strings.HasPrefix(e.Path, "commitlog/000") && (e.Size == logFileSize || e.Size == bigFile)
		if !whole || strings.Contains(e.Path, ".mqlift") {
			t.Errorf("left behind: %+v", e)
		}
	}
}

func TestCopyFromAFailingSourceBlamesTheSourceOnly(t *testing.T) {
	t.Run("it cannot read what is asked for", func(t *testing.T) {
		a, b, _, _ := twoHosts(t)
		from, to := t.TempDir(), t.TempDir()
		end := newStore(t, from)
		_, err := Copy(t.Context(), a, b, storeSpec(from, to, end+10*logFileSize), nil)
		var failed *CopyError
		if !errors.As(err, &failed) || failed.Source == nil || failed.Target != nil || !strings.Contains(err.Error(), "b1: pack: ") {
			t.Errorf("got %v", err)
		}
		tidy(t, to)
	})
	t.Run("it is killed in the middle", func(t *testing.T) {
		a, b, fromHost, _ := twoHosts(t)
		from, to := t.TempDir(), t.TempDir()
		started := filepath.Join(t.TempDir(), "started")
		fromHost.rewrite = func(c *remote.Cmd) {
			if isVerb(c, "pack") {
				script := `exec 3<&0; "$0" agent pack <&3 & p=$!; until [ -e "$1" ]; do sleep 0.02; done; kill -9 $p; wait $p`
				c.Argv = []string{"sh", "-c", script, c.Argv[0], started}
			}
		}
		spec := storeSpec(from, to, newStore(t, from))
		spec.BytesPerSecond = 300 << 10
		_, err := Copy(t.Context(), a, b, spec, func(Progress) { os.WriteFile(started, nil, 0o644) })
		var failed *CopyError
		var exit *remote.ExitError
		if !errors.As(err, &failed) || failed.Source == nil || failed.Target != nil || !errors.As(err, &exit) {
			t.Errorf("got %v", err)
		}
		tidy(t, to)
	})
}

func TestBothEndsFailuresAreSaidWhenBothFail(t *testing.T) {
	a, b, fromHost, toHost := twoHosts(t)
	broken := func(name, first string) func(*remote.Cmd) {
		return func(c *remote.Cmd) {
			c.Argv = []string{"sh", "-c", "echo " + name + " fell over >&2; " + first + " exit 9"}
		}
	}
	fromHost.rewrite, toHost.rewrite = broken("b1", ""), broken("b2", "cat >/dev/null;") // which ends with the source
	from := t.TempDir()
	_, err := Copy(t.Context(), a, b, storeSpec(from, t.TempDir(), newStore(t, from)), nil)
	var failed *CopyError
	if !errors.As(err, &failed) || failed.Source == nil || failed.Target == nil ||
		!strings.Contains(err.Error(), "b1 fell over") || !strings.Contains(err.Error(), "b2 fell over") {
		t.Errorf("got %v", err)
	}
}

func TestACancelledCopyEndsBothEndsAndTidiesUp(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	from, to := t.TempDir(), t.TempDir()
	spec := storeSpec(from, to, newStore(t, from))
	spec.BytesPerSecond = 200 << 10
	why := errors.New("the operator said stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	began := time.Now()
	_, err := Copy(ctx, a, b, spec, func(Progress) { cancel(why) })
	if !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	tidy(t, to)
	eventually(t, "both agents to be gone", func() bool {
		all, err := hostinfo.Processes()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if p.Argv[0] == a.binary && (p.Argv[2] == "pack" || p.Argv[2] == "unpack") {
				return false
			}
		}
		return true
	})
}

func TestInspectAnswersAsTheStorePackageDoes(t *testing.T) {
	a := pushLocal(t)
	root := t.TempDir()
	dir := filepath.Join(root, "commitlog")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var b []byte
	for i := range 50 {
		b = message.Append(b, message.Message{
			Magic: message.Magic, QueueID: 1, QueueOffset: int64(i), PhysicalOffset: int64(len(b)),
			Born: time.UnixMilli(1600000000000), Stored: time.UnixMilli(1600000000000 + int64(i)),
			Body: bytes.Repeat([]byte{byte(i)}, 100), Topic: "t", Properties: map[string]string{"KEYS": fmt.Sprintf("m%d", i)},
		})
	}
	end := int64(len(b))
	b = append(b, bytes.Repeat([]byte{7}, 100)...) // torn, which gives a finding
	file := filepath.Join(dir, store.FileName(0))
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, logFileSize); err != nil {
		t.Fatal(err)
	}
	o := store.Options{Samples: 3, FileSize: logFileSize}
	want, err := store.Inspect(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Inspect(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if got.End != end || got.Messages != 50 || len(got.Samples) != 3 || len(got.Chunks) != len(want.Chunks) || got.Chunks[0] != want.Chunks[0] {
		t.Errorf("got %+v", got)
	}
	if len(got.Findings) == 0 || got.Findings[0] != want.Findings[0] || got.Findings[0].Severity == diag.Pass {
		t.Errorf("findings %+v, want %+v", got.Findings, want.Findings)
	}
	var outside *store.RangeError
	if _, err := a.Inspect(t.Context(), dir, store.Options{From: 1 << 40}); !errors.As(err, &outside) || outside.Offset != 1<<40 {
		t.Errorf("out of range: %v", err)
	}
	// What is compared with copies elsewhere answers as the package does, too.
	here, there := store.Local{Dir: dir, FileSize: logFileSize}, a.CommitLog(dir, logFileSize)
	if at, found, err := store.FirstDifference(t.Context(), here, there, 0, end); found || err != nil {
		t.Errorf("differs from itself at %d, %v", at, err)
	}
	for _, offset := range []int64{0, 300, end + 1} {
		want, err := here.At(t.Context(), offset)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := there.At(t.Context(), offset); err != nil || fmt.Sprint(got) != fmt.Sprint(want) || got.Kind != want.Kind {
			t.Errorf("at %d: %v, %v, want %v", offset, got, err, want)
		}
	}
	if got, err := there.Bytes(t.Context(), 10, 400); err != nil || !bytes.Equal(got, b[10:400]) {
		t.Errorf("bytes: %v", err)
	}
	if _, err := there.Bytes(t.Context(), logFileSize, logFileSize+1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("bytes of a missing file: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(root, "config"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "config", "delayOffset.json"), []byte("{offsetTable:{1:2}}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if m, err := a.Metadata(t.Context(), root); err != nil || string(m.Files["delayOffset.json"]) != `{"offsetTable":{"1":2}}` {
		t.Errorf("metadata %+v, %v", m, err)
	}
	o = store.Options{FileSize: logFileSize, Derived: true}
	if got, err := a.Inspect(t.Context(), dir, o); err != nil || got.Derived == nil || got.Derived.Root != root || len(got.Derived.Findings) == 0 {
		t.Errorf("queues and index: %+v, %v", got, err)
	}
}
