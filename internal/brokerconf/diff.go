package brokerconf

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"
)

// Diff is the unified diff of two versions of a file, empty when they are equal, safe for a terminal
// and for a report: carriage returns are shown as ␍, bytes that are no UTF-8 and control characters
// as \xNN, and values that may be credentials as <hidden>. It is for reading, not for patch(1).
func Diff(oldName, newName string, old, new []byte) string {
	if bytes.Equal(old, new) {
		return ""
	}
	hidden := map[string]string{}
	a, b := shown(oldName, old, hidden), shown(newName, new, hidden)
	if a == b { // only where the text itself holds what shown writes
		a, b = quoted(hide(oldName, old, hidden)), quoted(hide(newName, new, hidden))
	}
	return renumber(udiff.Unified(printable(oldName), printable(newName), a, b))
}

// renumber sets right where hunks begin in the new file: go-udiff 0.4.1 does not count the
// unchanged lines of the hunks before.
func renumber(diff string) string {
	lines := strings.SplitAfter(diff, "\n")
	shift := 0 // by how many lines the new file is ahead
	for i, line := range lines {
		if !strings.HasPrefix(line, "@@ ") {
			continue
		}
		var start, from, to int
		fmt.Sscanf(line, "@@ -%d", &start)
		for _, l := range lines[i+1:] {
			if strings.HasPrefix(l, "@@ ") {
				break
			}
			if strings.HasPrefix(l, " ") || strings.HasPrefix(l, "-") {
				from++
			}
			if strings.HasPrefix(l, " ") || strings.HasPrefix(l, "+") {
				to++
			}
		}
		place := func(start, n int) string {
			if n == 0 {
				start = max(0, start-1) // as diff -u: the line before
			}
			if n == 1 {
				return fmt.Sprint(start)
			}
			return fmt.Sprintf("%d,%d", start, n)
		}
		start = max(1, start)
		lines[i] = fmt.Sprintf("@@ -%s +%s @@\n", place(start, from), place(start+shift, to))
		shift += to - from
	}
	return strings.Join(lines, "")
}

// shown is data with one line of text for each line; the same hidden value gets the same name.
func shown(name string, data []byte, hidden map[string]string) string {
	data = hide(name, data, hidden)
	var b strings.Builder
	for len(data) > 0 {
		i := bytes.IndexAny(data, "\r\n")
		if i < 0 {
			b.WriteString(printable(string(data)))
			break
		}
		b.WriteString(printable(string(data[:i])))
		if data[i] == '\r' {
			b.WriteString("␍")
			if i+1 < len(data) && data[i+1] == '\n' {
				i++
			}
		}
		b.WriteByte('\n')
		data = data[i+1:]
	}
	return b.String()
}

// printable shows UTF-8 as it is (comments are often in it, whatever Java makes of them), anything
// else byte by byte.
func printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\t' || unicode.IsPrint(r):
			b.WriteString(s[:n])
		default:
			for i := range n {
				fmt.Fprintf(&b, `\x%02x`, s[i])
			}
		}
		s = s[n:]
	}
	return b.String()
}

func quoted(data []byte) string {
	var b strings.Builder
	for line := range strings.SplitAfterSeq(string(data), "\n") {
		fmt.Fprintf(&b, "%q\n", line)
	}
	return b.String()
}

// secret tells whether a key's value is not to be shown. 5.x has innerClientAuthenticationCredentials
// and initAuthenticationUser (AuthConfig), the tiered store objectStoreSecretKey.
func secret(key string) bool {
	key = strings.ToLower(key)
	for _, word := range []string{"secret", "password", "passwd", "credential", "accesskey", "initauthenticationuser"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
}

// hide replaces the values of secret keys; different values get different names. Of a file that
// does not parse, each line that speaks of a secret is hidden as a whole.
func hide(name string, data []byte, hidden map[string]string) []byte {
	f, err := Parse(name, data)
	var out bytes.Buffer
	if err != nil {
		for line := range bytes.SplitAfterSeq(data, []byte("\n")) {
			if secret(string(line)) {
				line = []byte("<hidden line>\n")
			}
			out.Write(line)
		}
		return out.Bytes()
	}
	at := 0
	for _, e := range f.entries {
		if !secret(e.key) || e.value == "" {
			continue
		}
		if hidden[e.value] == "" {
			hidden[e.value] = "<hidden>"
			if n := len(hidden); n > 1 {
				hidden[e.value] = fmt.Sprintf("<hidden, value %d>", n)
			}
		}
		out.Write(data[at:e.valueAt])
		out.WriteString(hidden[e.value])
		at = e.end - len(e.tail)
	}
	out.Write(data[at:])
	return out.Bytes()
}
