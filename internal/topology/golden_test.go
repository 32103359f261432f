package topology

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/aymanbagabas/go-udiff"

	"mqlift/internal/diag"
)

var update = flag.Bool("update", false, "write what is said into testdata")

const mark = "# what is said:\n"

// Each file of testdata ends with what is said about it. The quoted text behind each position is what
// stands there in the file, so that a position that slips is seen in review.
func TestEachFaultIsSaidWithItsPosition(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text, want, _ := bytes.Cut(data, []byte(mark))
			found := findingsOf("topology.yaml", text)
			got := describe(t, text, found)
			if *update {
				if err := os.WriteFile(file, append(append(bytes.Clone(text), mark...), got...), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Error(udiff.Unified("want", "got", string(want), got))
			}
			if len(found) == 0 {
				t.Error("nothing is said; a good topology belongs elsewhere")
			}
		})
	}
}

// findingsOf are all findings, where Parse has warnings only when nothing failed.
func findingsOf(name string, text []byte) diag.Findings {
	l := &loader{reader: reader{file: name}}
	l.topology(text)
	return l.findings()
}

var position = regexp.MustCompile(`:([0-9]+):([0-9]+)$`)

func describe(t *testing.T, text []byte, found diag.Findings) string {
	var b strings.Builder
	for _, f := range found {
		line, column, ok := positionOf(f)
		if !ok {
			t.Fatalf("no position: %v", f)
		}
		at, ok := textAt(text, line, column)
		if !ok {
			t.Fatalf("position outside the file: %v", f)
		}
		fmt.Fprintf(&b, "# %s %s %d:%d %q", f.Severity, strings.TrimPrefix(f.Check, "topology."), line, column, at)
		if f.Host != "" {
			fmt.Fprintf(&b, " %s", f.Host)
		}
		fmt.Fprintf(&b, "\n#   %s\n#   -> %s\n", f.What, f.Do)
	}
	return b.String()
}

func positionOf(f diag.Finding) (line, column int, ok bool) {
	m := position.FindStringSubmatch(f.Where)
	if m == nil {
		return 0, 0, false
	}
	line, _ = strconv.Atoi(m[1])
	column, _ = strconv.Atoi(m[2])
	return line, column, true
}

// textAt is the word at a position; a position may be just behind the end of a line.
func textAt(text []byte, line, column int) (string, bool) {
	lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	if line < 1 || column < 1 || line > len(lines) {
		return "", false
	}
	c := []rune(lines[line-1])
	if column > len(c)+1 {
		return "", false
	}
	rest := string(c[column-1:])
	if i := strings.IndexAny(rest, " ,]}"); i > 0 {
		rest = rest[:i]
	}
	return rest, true
}
