package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWriteFileReplacesAsOneAndKeepsWhatWasThere(t *testing.T) {
	a := pushLocal(t)
	dir := t.TempDir()
	real := filepath.Join(dir, "broker.conf")
	if err := os.WriteFile(real, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(real, 0o640); err != nil {
		t.Fatal(err)
	}
	was := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(real, was, was); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(real, 1234, 1234); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link.conf")
	if err := os.Symlink("broker.conf", link); err != nil {
		t.Fatal(err)
	}
	backup := real + ".before-r1"
	if err := a.WriteFile(t.Context(), WriteRequest{Path: link, Content: []byte("new"), Replaces: digest([]byte("old")), Backup: backup}); err != nil {
		t.Fatal(err)
	}
	f, err := a.ReadFile(t.Context(), real)
	if err != nil || string(f.Content) != "new" || f.Mode != 0o640 || f.SHA256 != digest([]byte("new")) {
		t.Errorf("file %+v, %v", f, err)
	}
	b, err := a.ReadFile(t.Context(), backup)
	if err != nil || string(b.Content) != "old" || b.Mode != 0o640 || !b.Modified.Equal(was) {
		t.Errorf("backup %+v, %v", b, err)
	}
	if os.Geteuid() == 0 && (f.UID != 1234 || b.GID != 1234) {
		t.Errorf("owners %+v, %+v", f.Owner, b.Owner)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode().Type() != fs.ModeSymlink {
		t.Errorf("the link: %v, %v", st, err)
	}
	// A second try keeps the first backup, and finds that the file has changed.
	if err := a.WriteFile(t.Context(), WriteRequest{Path: real, Content: []byte("x"), Replaces: digest([]byte("old"))}); !errors.Is(err, ErrChanged) {
		t.Errorf("changed: %v", err)
	}
	if err := a.WriteFile(t.Context(), WriteRequest{Path: real, Content: []byte("newer"), Backup: backup}); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(backup); string(b) != "old" {
		t.Errorf("backup is %q", b)
	}
	if err := a.WriteFile(t.Context(), WriteRequest{Path: real, Replaces: "absent"}); !errors.Is(err, ErrChanged) {
		t.Errorf("absent: %v", err)
	}
	fresh := filepath.Join(dir, "fresh")
	if err := a.WriteFile(t.Context(), WriteRequest{Path: fresh, Content: []byte("1"), Replaces: "absent"}); err != nil {
		t.Error(err)
	}
	if f, err := a.ReadFile(t.Context(), fresh); err != nil || f.Mode != 0o644 {
		t.Errorf("fresh %+v, %v", f, err)
	}
	if err := a.WriteFile(t.Context(), WriteRequest{Path: filepath.Join(dir, "no/dir")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestMoveAsideFindsAFreeNameAndLosesNothing(t *testing.T) {
	a := pushLocal(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "dledger-n0")
	var got []string
	for i := range 3 {
		if err := os.MkdirAll(filepath.Join(path, fmt.Sprint(i)), 0o755); err != nil {
			t.Fatal(err)
		}
		to, err := a.MoveAside(t.Context(), path, "r1")
		if err != nil || missing(filepath.Join(to, fmt.Sprint(i))) || !missing(path) {
			t.Fatalf("moved to %s: %v", to, err)
		}
		got = append(got, strings.TrimPrefix(to, path))
	}
	if want := []string{".mqlift-r1", ".mqlift-r1-2", ".mqlift-r1-3"}; !slices.Equal(got, want) {
		t.Errorf("names %q", got)
	}
	if _, err := a.MoveAside(t.Context(), path, "r1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing to move: %v", err)
	}
	for _, bad := range []MoveAsideRequest{{"/", "r"}, {"x", "r"}, {"/../", "r"}, {dir, "../r"}, {dir, ""}} {
		if _, err := moveAside(t.Context(), bad, nil); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}

func TestListTreeShowsSizesModesAndHashes(t *testing.T) {
	a := pushLocal(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "topic/0"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "topic/0/q"), []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("topic", filepath.Join(dir, "z")); err != nil {
		t.Fatal(err)
	}
	list, err := a.ListTree(t.Context(), ListRequest{Dir: dir, SHA256: true}, nil)
	if err != nil || len(list) != 4 {
		t.Fatalf("list %+v, %v", list, err)
	}
	if e := list[2]; e.Path != "topic/0/q" || e.Size != 3 || e.Mode != 0o600 || e.SHA256 != digest([]byte("abc")) || e.Allocated <= 0 || e.Modified.IsZero() {
		t.Errorf("file %+v", e)
	}
	if e := list[3]; e.Link != "topic" {
		t.Errorf("link %+v", e)
	}
	if list, err := a.ListTree(t.Context(), ListRequest{Dir: dir, Depth: 1}, nil); err != nil || len(list) != 2 {
		t.Errorf("depth 1: %+v, %v", list, err)
	}
	if _, err := a.ListTree(t.Context(), ListRequest{Dir: filepath.Join(dir, "none")}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// The tail is what reading the whole file and taking its last lines gives, wherever blocks end.
func TestTailFileAgreesWithReadingTheWholeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.OneOf(rapid.StringMatching(`[a-c ]{0,5}`), rapid.Just(strings.Repeat("x", 40<<10)))
		text := strings.Join(rapid.SliceOfN(line, 0, 12).Draw(t, "lines"), "\n")
		if rapid.Bool().Draw(t, "ends with a newline") {
			text += "\n"
		}
		from := rapid.IntRange(0, len(text)+3).Draw(t, "from")
		r := TailRequest{Path: path, Lines: rapid.IntRange(1, 6).Draw(t, "n"), From: int64(from), Grep: rapid.SampledFrom([]string{"", "a", "^$"}).Draw(t, "grep")}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := tailFile(r)
		if err != nil {
			t.Fatal(err)
		}
		if from > len(text) {
			from = 0
		}
		want := []string{}
		for line := range bytes.Lines([]byte(text[from:])) {
			line := strings.TrimSuffix(string(line), "\n")
			if r.Grep == "" || r.Grep == "a" && strings.Contains(line, "a") || r.Grep == "^$" && line == "" {
				want = append(want, line)
			}
		}
		want = want[max(0, len(want)-r.Lines):]
		if !slices.Equal(got.Lines, want) {
			t.Fatalf("got %.200q, want %.200q", got.Lines, want)
		}
	})
}

func TestTailFileSaysWhatIsWrong(t *testing.T) {
	if _, err := tailFile(TailRequest{Path: "/nowhere/log"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := tailFile(TailRequest{Path: "/etc/hosts", Grep: "("}); err == nil {
		t.Error("a bad expression passed")
	}
}
