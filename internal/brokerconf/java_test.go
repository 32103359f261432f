package brokerconf

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
)

// javaLoad has java.util.Properties read each file; nil stands for a refused one.
func javaLoad(t *testing.T, files [][]byte) []map[string]string {
	t.Helper()
	java, err := exec.LookPath("java")
	if err != nil {
		t.Skip("NOT COMPARED WITH JAVA: no java in PATH")
	}
	var in bytes.Buffer
	for _, f := range files {
		in.WriteString(base64.StdEncoding.EncodeToString(f) + "\n")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, java, "-Xmx256m", "testdata/Load.java")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		if strings.Contains(stderr.String(), "ClassNotFoundException") || strings.Contains(stderr.String(), "jdk.compiler") {
			t.Skipf("NOT COMPARED WITH JAVA: this java has no single-file source mode: %v", err)
		}
		t.Fatalf("java: %v\n%s", err, &stderr)
	}
	text := func(hex string) string {
		var units []uint16
		for ; hex != ""; hex = hex[4:] {
			n, err := strconv.ParseUint(hex[:4], 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			units = append(units, uint16(n))
		}
		return string(utf16.Decode(units))
	}
	var read []map[string]string
	for scan := bufio.NewScanner(bytes.NewReader(out)); scan.Scan(); {
		if scan.Text() == "refused" {
			read = append(read, nil)
			continue
		}
		m := map[string]string{}
		for kv := range strings.SplitSeq(strings.TrimSuffix(scan.Text(), ";"), ";") {
			if k, v, ok := strings.Cut(kv, "="); ok {
				m[text(k)] = text(v)
			}
		}
		read = append(read, m)
	}
	if len(read) != len(files) {
		t.Fatalf("java answered %d of %d files", len(read), len(files))
	}
	return read
}

// randomFile is made of what properties files stumble over.
func randomFile(r *rand.Rand) []byte {
	parts := []string{"\\", "\\", "\n", "\n", "\r\n", "\r", "=", ":", " ", "\t", "\f", "#", "!", "a", "b", "k", "v",
		"\\u0041", "\\u00", "\\ud83d\\ude00", "\\ud83d", "\\t", "\\n", "\\:", "\\\\", "\xe9", "\x00", "a=1\n", "b = 2\r\n", "${a}", "\\\n", "\\\r\n", "k", "\xef\xbb\xbf"}
	var b strings.Builder
	for range r.IntN(24) {
		p := parts[r.IntN(len(parts))]
		if strings.HasPrefix(p, "\\u") && r.IntN(3) > 0 { // malformed ones would be most of the files
			p = "x"
		}
		b.WriteString(p)
	}
	return []byte(b.String())
}

func randomEdit(r *rand.Rand) Edit {
	values := []string{"", "x", " x ", "=x", ":x", "a\\b", "\t", "new\nline", "é", "😀", "#", "n0-10.0.0.1:40911;n1-10.0.0.2:40911"}
	var e Edit
	for i, k := range []string{"a", "b", "k", "new key", "!n"} {
		switch r.IntN(4) {
		case 0:
			e.Set = append(e.Set, KV{k, values[r.IntN(len(values))]})
		case 1:
			e.Delete = append(e.Delete, []string{"a", "b", "k", "", "av"}[i])
		}
	}
	for _, kv := range e.Set {
		for i, k := range e.Delete {
			if k == kv.Key {
				e.Delete[i] = "neither"
			}
		}
	}
	return e
}

// endsInLoneBackslash: for Java that is an empty key, but only at the very end.
func endsInLoneBackslash(f *File) bool {
	n := len(f.entries)
	return f.open && n > 0 && f.entries[n-1].split && f.entries[n-1].key == "" && f.entries[n-1].value == ""
}

func TestJavaReadsTheSameAsParseAndWhatApplyMeant(t *testing.T) {
	n := 40000
	if testing.Short() {
		n = 2000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var files [][]byte
	var want []map[string]string
	var what []string
	for range n {
		data := randomFile(r)
		f, err := Parse("broker.conf", data)
		files, what = append(files, data), append(what, "Parse")
		if err != nil {
			want = append(want, nil)
			continue
		}
		want = append(want, f.Map())

		e := randomEdit(r)
		edited, err := f.Apply(e)
		if err != nil && endsInLoneBackslash(f) {
			continue // refused: nothing can be appended to it that leaves its empty key
		}
		if err != nil {
			t.Fatalf("%q\nedit %q: %v", data, e, err)
		}
		m := f.Map()
		for _, kv := range e.Set {
			m[kv.Key] = kv.Value
		}
		for _, k := range e.Delete {
			delete(m, k)
		}
		files, want, what = append(files, edited.Bytes()), append(want, m), append(what, fmt.Sprintf("%q with %q", data, e))
	}
	for i, got := range javaLoad(t, files) {
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Fatalf("%s: Java reads %q otherwise (-meant +Java):\n%s", what[i], files[i], diff)
		}
	}
}
