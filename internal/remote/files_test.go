package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func entries(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestFilesAreReadListedMovedAndRemoved(t *testing.T) {
	s := newSite(t)
	h := s.dial(s.start(nil), nil)
	ctx, dir := t.Context(), t.TempDir()
	sub := filepath.Join(dir, "a", "b")
	if err := h.MkdirAll(ctx, sub, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := h.MkdirAll(ctx, sub, 0o700); err != nil {
		t.Errorf("a second time: %v", err)
	}
	for _, d := range []string{filepath.Dir(sub), sub} {
		if info, err := h.Stat(ctx, d); err != nil || !info.IsDir() || info.Mode().Perm() != 0o750 {
			t.Errorf("%s: %v %v", d, info, err)
		}
	}
	file := filepath.Join(sub, "z")
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB: many packets
	if err := h.WriteFile(ctx, file, big, 0o640); err != nil {
		t.Fatal(err)
	}
	if got, err := h.ReadFile(ctx, file); err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := h.WriteFile(ctx, filepath.Join(sub, "y"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Rename(ctx, file, filepath.Join(sub, "y")); err != nil {
		t.Errorf("over an existing file: %v", err)
	}
	h.WriteFile(ctx, filepath.Join(sub, "a"), nil, 0o600)
	list, err := h.ReadDir(ctx, sub)
	if err != nil || len(list) != 2 || list[0].Name() != "a" || list[1].Size() != int64(len(big)) {
		t.Errorf("%v %v", list, err)
	}
	if err := h.Remove(ctx, filepath.Join(sub, "a")); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"read": second(h.ReadFile(ctx, file)), "stat": second(h.Stat(ctx, file)),
		"list": second(h.ReadDir(ctx, file)), "remove": h.Remove(ctx, file),
	} {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "broker-a ("+h.Addr()+")") || !strings.Contains(err.Error(), file) {
			t.Errorf("%s of a missing file: %v", name, err)
		}
	}
	if err := h.MkdirAll(ctx, filepath.Join(sub, "y", "below"), 0o700); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("directory below a file: %v", err)
	}
	if err := h.WriteFile(ctx, sub, nil, 0o600); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("over a directory: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestWriteFileKeepsModeOwnerAndLink(t *testing.T) {
	s := newSite(t)
	h := s.dial(s.start(nil), nil)
	dir := t.TempDir()
	file, link := filepath.Join(dir, "broker.conf"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Chmod(file, 0o664)
	uid := os.Getuid()
	if uid == 0 {
		uid = 12345
		if err := os.Chown(file, uid, 54321); err != nil {
			t.Fatal(err)
		}
	}
	os.Symlink("broker.conf", link)
	if err := h.WriteFile(t.Context(), link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(file)
	info, _ := os.Stat(file)
	if string(data) != "new" || info.Mode() != 0o664 || int(info.Sys().(*syscall.Stat_t).Uid) != uid {
		t.Errorf("%q %v %+v", data, info.Mode(), info.Sys())
	}
	if to, err := os.Readlink(link); err != nil || to != "broker.conf" {
		t.Errorf("the link is gone: %v", err)
	}
	if err := h.Upload(t.Context(), file, strings.NewReader("up"), 0o755); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(file); info.Mode() != 0o755 || info.Size() != 2 {
		t.Errorf("upload: %v", info.Mode())
	}
	if got := entries(t, dir); got != "broker.conf link" {
		t.Errorf("left behind: %s", got)
	}
}

func TestReadersSeeTheOldFileOrTheNewOne(t *testing.T) {
	s := newSite(t)
	h := s.dial(s.start(nil), nil)
	file := filepath.Join(t.TempDir(), "f")
	content := func(c string) []byte { return []byte(strings.Repeat(c, 200_000)) }
	if err := os.WriteFile(file, content("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			data, err := os.ReadFile(file)
			if err != nil || len(data) != 200_000 || bytes.Count(data, data[:1]) != len(data) {
				t.Errorf("%d bytes, %v", len(data), err)
				return
			}
		}
	})
	for _, c := range []string{"b", "c", "d", "e", "f"} {
		if err := h.WriteFile(t.Context(), file, content(c), 0o600); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestWriteFileCutAnywhereLeavesTheOldFileOrTheNewOne(t *testing.T) {
	s := newSite(t)
	srv := s.start(nil)
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	old, new := bytes.Repeat([]byte("o"), 300_000), bytes.Repeat([]byte("n"), 400_000)
	replaced := false
	for cut := int64(4_000); !replaced; cut += 23_000 {
		if cut > 1_000_000 {
			t.Fatal("never got through")
		}
		if err := os.WriteFile(file, old, 0o640); err != nil {
			t.Fatal(err)
		}
		srv.set(func(b *behaviour) { b.cutAfter = cut })
		h, err := Dial(t.Context(), s.target("broker-a", srv))
		if err != nil {
			continue // cut while logging in
		}
		err = within(t, 5*time.Second, func() error { return h.WriteFile(t.Context(), file, new, 0o600) })
		h.Close()
		data, rerr := os.ReadFile(file)
		info, _ := os.Stat(file)
		if rerr != nil || info.Mode() != 0o640 || !bytes.Equal(data, old) && !bytes.Equal(data, new) {
			t.Fatalf("cut after %d: %d bytes, %v, %v", cut, len(data), info.Mode(), rerr)
		}
		if err == nil && !bytes.Equal(data, new) {
			t.Fatalf("cut after %d: reported as written", cut)
		}
		if err != nil && !Transient(err) {
			t.Fatalf("cut after %d: %v", cut, err)
		}
		replaced = err == nil
	}
}

func TestAFailedWriteRemovesItsTemporaryFile(t *testing.T) {
	s := newSite(t)
	h := s.dial(s.start(nil), nil)
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	broken := errors.New("source is broken")
	err := h.Upload(t.Context(), file, io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), failing{broken}), 0o600)
	if !errors.Is(err, broken) || Transient(err) {
		t.Error(err)
	}
	if got := entries(t, dir); got != "" {
		t.Errorf("left behind: %s", got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	endless := readerFunc(func(b []byte) (int, error) { return len(b), nil })
	go func() {
		for entries(t, dir) == "" {
			time.Sleep(time.Millisecond)
		}
		list, _ := os.ReadDir(dir)
		if info, err := list[0].Info(); err == nil && info.Size() > 0 && info.Mode() != 0o600 {
			t.Errorf("readable while written: %v", info.Mode())
		}
		cancel()
	}()
	err = within(t, 5*time.Second, func() error { return h.Upload(ctx, file, endless, 0o644) })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := entries(t, dir); got != "" {
		t.Errorf("left behind after cancelling: %s", got)
	}
	if err := h.WriteFile(t.Context(), file, []byte("x"), 0o600); err != nil {
		t.Errorf("the host cannot be used after it: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
