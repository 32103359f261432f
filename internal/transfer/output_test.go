package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"mqlift/internal/store"
)

// What comes in runs, with holes between them, is in the file as it came: past the page cache and through it,
// whatever does not begin or end with a page, and holes stay holes.
func TestRunsAreWrittenWhereTheyBelong(t *testing.T) {
	base, run := t.TempDir(), 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		f, err := os.Create(filepath.Join(base, fmt.Sprint(run)))
		if err != nil {
			r.Fatal(err)
		}
		size := int64(12 << 20)
		if err := f.Truncate(size); err != nil {
			r.Fatal(err)
		}
		o := newOutput(f, rapid.SampledFrom([]int64{directFrom, 0}).Draw(r, "expected"))
		if o.direct != nil && rapid.IntRange(0, 3).Draw(r, "file system") == 0 { // it says no only when it is written to
			o.direct.Close()
			o.direct = refusing(r)
		}
		want := make([]byte, size)
		random := rand.NewChaCha8(sha256.Sum256([]byte(fmt.Sprint(run))))
		s := newBlocks()
		failed := func(err error) { r.Error(err) }
		for at := rapid.Int64Range(0, 3<<20).Draw(r, "first"); ; {
			n := min(rapid.IntRange(1, maxData).Draw(r, "length"), int(size-at))
			if end := int(at)&(page-1) + n; rapid.Bool().Draw(r, "ends with a page") && end >= 2*page {
				n = end&^(page-1) - int(at)&(page-1)
			}
			mem, err := s.room(t.Context(), o, at, n, failed)
			if err != nil {
				r.Fatal(err)
			}
			random.Read(mem)
			copy(want[at:], mem)
			s.taken(n)
			if at += int64(n); rapid.IntRange(0, 9).Draw(r, "hole") == 0 {
				at += rapid.Int64Range(1, 1<<20).Draw(r, "hole's length")
			}
			if at >= size {
				break
			}
		}
		s.flush(o, failed)
		if err := o.written(); err != nil {
			r.Fatal(err)
		}
		o.close()
		got, err := os.ReadFile(f.Name())
		if err != nil || !bytes.Equal(got, want) {
			r.Fatalf("the file is another one: %v", err)
		}
		if n := s.pending.Load(); n != 0 {
			r.Errorf("%d bytes are still said to be under way", n)
		}
		os.Remove(f.Name())
	})
}

// refusing is a file whose writes fail as those of a file system do that knows no O_DIRECT.
func refusing(r *rapid.T) *os.File {
	f, err := os.OpenFile("/proc/self/oom_score_adj", os.O_WRONLY, 0) // a text that is no number: EINVAL
	if err != nil {
		r.Skip(err)
	}
	return f
}

// A write that fails behind the receiver's back is the copy's failure, with its own reason, and no file of the
// copy gets its name.
func TestAFailedWriteIsTheReason(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	if err := unix.Mount("none", dst, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dst, 0) })
	const size = 48 << 20
	name := filepath.Join(src, "commitlog", store.FileName(0))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(b)
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if _, err := Pack(t.Context(), &stream, Spec{Root: src, Logs: []LogRange{{Dir: "commitlog", FileSize: size, To: size}}}); err != nil {
		t.Fatal(err)
	}
	_, err := Unpack(t.Context(), &stream, dst, Options{})
	if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if all, _ := os.ReadDir(filepath.Join(dst, "commitlog")); len(all) > 0 {
		t.Errorf("left %v", all)
	}
}

func TestLongFilesAreWrittenPastThePageCache(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	if o := newOutput(f, directFrom-1); o.direct != nil {
		t.Error("a short one is")
	}
	o := newOutput(f, directFrom)
	defer o.close()
	if o.direct == nil {
		t.Skip("this file system cannot")
	}
	flags, err := unix.FcntlInt(o.direct.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_DIRECT == 0 {
		t.Errorf("flags %x, %v", flags, err)
	}
}
