// Package corpus reads the cases of faulty input that tests keep in their testdata, and compares what
// is said about each with what is to be said. Only tests use it.
//
// A case is one file: the input, the line "# what is said:", and behind it the expected text, each
// line as a comment. A line of the input that begins with @ describes bytes that a text file should
// not hold (see Bytes). Run the test of the kind with -update to write what is said, and read it as
// the operator who gets it at night: what happened, where, what to do now.
package corpus

import (
	"bytes"
	"encoding/hex"
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

// Update tells that golden files are to be written.
func Update() bool { return *update }

const mark = "# what is said:\n"

// Cut parts a case into its input and what is said about it.
func Cut(file []byte) (input []byte, said string, ok bool) {
	input, rest, ok := bytes.Cut(file, []byte(mark))
	return input, string(rest), ok
}

// Files lists the files of a pattern (see filepath.Glob).
func Files(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	return files
}

// Input is the input of the case in a file, with its bytes expanded.
func Input(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	input, _, _ := Cut(data)
	return Expand(t, input)
}

// Run compares, for each file of a pattern, what say makes of its input with what stands in the file.
// Saying nothing fails: a good input is no case.
func Run(t *testing.T, pattern string, say func(t *testing.T, input []byte) string) {
	t.Helper()
	for _, file := range Files(t, pattern) {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, filepath.Ext(name)), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := Cut(data)
			got := say(t, bytes.Clone(input))
			if strings.TrimSpace(got) == "" {
				t.Error("nothing is said; a good input belongs elsewhere")
			}
			got = comment(got)
			if *update {
				if err := os.WriteFile(file, append(append(bytes.Clone(input), mark...), got...), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Error(udiff.Unified("want", "got", want, got))
			}
		})
	}
}

func comment(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		b.WriteString("# " + line)
	}
	return b.String()
}

var position = regexp.MustCompile(`:([0-9]+):([0-9]+)$`)

// Findings is what is said, for a golden text: severity, check, place, and in quotes what stands there
// in the input, so that a position that slips is seen in review. A finding without a sentence of what
// to do fails the test.
func Findings(t testing.TB, input []byte, found diag.Findings) string {
	t.Helper()
	var b strings.Builder
	for _, f := range found {
		if f.What == "" || f.Do == "" || f.Where == "" {
			t.Errorf("not three parts: %+v", f)
		}
		place := f.Where
		if line, column, ok := Position(f.Where); ok {
			at, ok := textAt(input, line, column)
			if !ok {
				t.Errorf("position outside the file: %v", f)
			}
			place = fmt.Sprintf("%d:%d %q", line, column, at)
		}
		fmt.Fprintf(&b, "%s %s %s", f.Severity, f.Check, place)
		if f.Host != "" {
			b.WriteString(" " + f.Host)
		}
		fmt.Fprintf(&b, "\n  %s\n  -> %s\n", f.What, f.Do)
	}
	return b.String()
}

// Position takes the line and the column off the end of a place.
func Position(where string) (line, column int, ok bool) {
	m := position.FindStringSubmatch(where)
	if m == nil {
		return 0, 0, false
	}
	line, errLine := strconv.Atoi(m[1])
	column, errColumn := strconv.Atoi(m[2])
	return line, column, errLine == nil && errColumn == nil
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

// Expand replaces each line that begins with @ by the bytes that it describes, without a line end.
func Expand(t testing.TB, input []byte) []byte {
	t.Helper()
	var out []byte
	for line := range bytes.Lines(input) {
		text, ok := bytes.CutPrefix(line, []byte("@"))
		if !ok {
			out = append(out, line...)
			continue
		}
		out = append(out, Bytes(t, string(text))...)
	}
	return out
}

// Bytes makes the bytes that a line describes, one part after another: "text" with Go's escapes,
// hex:00ff, u16:1, u32:-1, u64:0x10 (big-endian), each also many times, as 300*"x".
func Bytes(t testing.TB, line string) []byte {
	t.Helper()
	var out []byte
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimSpace(rest) {
		times := 1
		if n, after, ok := strings.Cut(rest, "*"); ok {
			if count, err := strconv.Atoi(n); err == nil {
				times, rest = count, after
			}
		}
		part, after, err := bytesOf(rest)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out, rest = append(out, bytes.Repeat(part, times)...), after
	}
	return out
}

func bytesOf(s string) (part []byte, rest string, err error) {
	if quoted, err := strconv.QuotedPrefix(s); err == nil {
		text, err := strconv.Unquote(quoted)
		return []byte(text), s[len(quoted):], err
	}
	word, rest, _ := strings.Cut(s, " ")
	kind, value, _ := strings.Cut(word, ":")
	if kind == "hex" {
		part, err = hex.DecodeString(value)
		return part, rest, err
	}
	size := map[string]int{"u16": 2, "u32": 4, "u64": 8}[kind]
	n, err := strconv.ParseInt(value, 0, 64)
	if size == 0 || err != nil {
		return nil, "", fmt.Errorf("%q describes no bytes", word)
	}
	for i := size - 1; i >= 0; i-- {
		part = append(part, byte(n>>(8*i)))
	}
	return part, rest, nil
}
