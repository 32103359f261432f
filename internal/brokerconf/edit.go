package brokerconf

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/magiconair/properties"
)

// KV is one key with its value, unescaped.
type KV struct{ Key, Value string }

// Edit is what is meant to change: keys set (in this order, where new ones are appended) and
// keys deleted with all their lines. Deleting a key that is not there is no error.
type Edit struct {
	Set    []KV
	Delete []string
}

// Empty tells whether there is nothing to do.
func (e Edit) Empty() bool { return len(e.Set) == 0 && len(e.Delete) == 0 }

// Apply makes the edited file. A key that is there keeps its place, its spelling and its separator,
// and only the value's bytes are replaced; of duplicates the effective line stays and the others
// go. New keys are appended with the line end that the file uses. Every other byte is kept; a key
// that has the value already keeps its line as it is. The result is read again, by this package
// and by magiconair/properties, and refused unless exactly the meant keys differ.
func (f *File) Apply(e Edit) (*File, error) {
	set := map[string]string{}
	for _, kv := range e.Set {
		if _, twice := set[kv.Key]; twice {
			return nil, fmt.Errorf("editing %s: %s is set twice in one edit", f.name, kv.Key)
		}
		if kv.Key == "" || !utf8.ValidString(kv.Key) || !utf8.ValidString(kv.Value) {
			return nil, fmt.Errorf("editing %s: %q=%q cannot be written: empty key or invalid UTF-8", f.name, kv.Key, kv.Value)
		}
		set[kv.Key] = kv.Value
	}
	remove := map[string]bool{}
	for _, k := range e.Delete {
		if _, both := set[k]; both {
			return nil, fmt.Errorf("editing %s: %s is set and deleted in one edit", f.name, k)
		}
		remove[k] = true
	}

	var out bytes.Buffer
	at, written := 0, map[string]bool{}
	for i, en := range f.entries {
		value, isSet := set[en.key]
		if !isSet && !remove[en.key] {
			continue
		}
		out.Write(f.data[at:en.start])
		at = en.end
		if !isSet || f.last[en.key] != i {
			continue
		}
		written[en.key] = true
		switch {
		case en.value == value:
			out.Write(f.data[en.start:en.end])
		case en.split: // the old line cannot be kept: its key or separator spans lines
			out.WriteString(escapeKey(en.key) + "=" + escapeValue(value, true) + en.tail)
		default:
			out.Write(f.data[en.start:en.valueAt])
			if en.sep == 0 {
				out.WriteByte('=')
			}
			out.WriteString(escapeValue(value, !blank(en.sep)) + en.tail)
		}
	}
	out.Write(f.data[at:])

	eol, first := f.eol(), true
	for _, kv := range e.Set {
		if written[kv.Key] {
			continue
		}
		if first {
			g, err := gap(out.Bytes(), eol)
			if err != nil {
				return nil, fmt.Errorf("editing %s: %w", f.name, err)
			}
			out.WriteString(g)
			first = false
		}
		out.WriteString(escapeKey(kv.Key) + "=" + escapeValue(kv.Value, true) + eol)
	}

	edited, err := Parse(f.name, out.Bytes())
	if err != nil {
		return nil, fmt.Errorf("editing %s: reading the result again: %w", f.name, err)
	}
	want := f.Map()
	maps.Copy(want, set)
	for k := range remove {
		delete(want, k)
	}
	if err := edited.check(want, set); err != nil {
		return nil, fmt.Errorf("editing %s: the result is not what was meant, nothing was written: %w", f.name, err)
	}
	return edited, nil
}

// gap is what must stand between data and an appended line: nothing, or the line end that data
// lacks, and one more when data ends within a continuation.
func gap(data []byte, eol string) (string, error) {
	if len(data) == 0 {
		return "", nil
	}
	f, err := Parse("", data)
	if err != nil {
		return "", err
	}
	last := data[len(data)-1]
	switch {
	case f.open && last == '\\':
		return eol + eol, nil
	case f.open && last == '\r': // not to be taken for half a CRLF
		return "\r", nil
	case f.open || !lineEnd(last):
		return eol, nil
	}
	return "", nil
}

// eol is the line end that most lines of the file have; \n for a file without any.
func (f *File) eol() string {
	crlf := bytes.Count(f.data, []byte("\r\n"))
	cr := bytes.Count(f.data, []byte("\r")) - crlf
	lf := bytes.Count(f.data, []byte("\n")) - crlf
	switch {
	case crlf > lf && crlf >= cr:
		return "\r\n"
	case cr > lf:
		return "\r"
	}
	return "\n"
}

// check compares what was read with what was meant: by the own reader for everything, and by
// magiconair/properties for every line that it reads as Java does.
func (f *File) check(want, set map[string]string) error {
	var errs []error
	differ := func(reader string, got, want map[string]string) {
		for k, v := range want {
			if g, ok := got[k]; !ok || g != v {
				errs = append(errs, fmt.Errorf("%s: %s is %q, meant was %q", reader, k, g, v))
			}
		}
		for k := range got {
			if _, ok := want[k]; !ok {
				errs = append(errs, fmt.Errorf("%s: %s should not be there", reader, k))
			}
		}
	}
	differ("read again", f.Map(), want)
	for _, d := range f.Duplicates() {
		if _, ok := set[d.Key]; ok {
			errs = append(errs, fmt.Errorf("read again: %s stands on lines %v", d.Key, d.Lines))
		}
	}

	plain, rest := f.plain()
	own, err := Parse(f.name, plain)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	loader := properties.Loader{Encoding: properties.ISO_8859_1, DisableExpansion: true}
	second, err := loader.LoadBytes(plain)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("second reader: %w", err))...)
	}
	differ("second reader", second.Map(), own.Map())
	for k, v := range set {
		if g, ok := own.Get(k); !rest[k] && (!ok || g != v) {
			errs = append(errs, fmt.Errorf("second reader: %s=%q is not among its lines", k, v))
		}
	}
	return errors.Join(errs...)
}

// plain is the file without the lines that magiconair/properties 1.18 reads otherwise than Java
// does, and the keys of those (a test compares the three readers):
//   - lines continued before CRLF, within a key or before its separator; a backslash at the end
//     of the file is an error there; a backslash alone on its line is a key there;
//   - an empty key, as in "=x", is an error there;
//   - a surrogate pair written as two \u escapes is two replacement characters there.
//
// Apply never writes such a line, except for the last kind, where a value needs it.
func (f *File) plain() ([]byte, map[string]bool) {
	var out bytes.Buffer
	rest := map[string]bool{}
	between := func(from, to int) { // comments and empty lines
		for _, line := range bytes.SplitAfter(f.data[from:to], []byte("\n")) {
			for _, line := range bytes.SplitAfter(line, []byte("\r")) {
				if !bytes.HasPrefix(bytes.TrimLeft(line, " \t\f"), []byte("\\")) {
					out.Write(line)
				}
			}
		}
	}
	at := 0
	for _, e := range f.entries {
		between(at, e.start)
		at = e.end
		if e.joined || e.exotic || e.key == "" {
			rest[e.key] = true
			continue
		}
		out.Write(f.data[e.start:e.end])
	}
	between(at, len(f.data))
	return out.Bytes(), rest
}

// escapeValue writes a value so that Java reads it back. signed says that = or : stands before
// it; without one, a leading = or : would be taken for the separator.
func escapeValue(s string, signed bool) string {
	var b strings.Builder
	for i, r := range s {
		if i == 0 && (r == ' ' || !signed && (r == '=' || r == ':')) {
			b.WriteByte('\\')
		}
		escapeRune(&b, r)
	}
	return b.String()
}

func escapeKey(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune(" =:#!", r) {
			b.WriteByte('\\')
		}
		escapeRune(&b, r)
	}
	return b.String()
}

// escapeRune writes one character of a key or value in ASCII.
func escapeRune(b *strings.Builder, r rune) {
	switch {
	case r == '\\':
		b.WriteString(`\\`)
	case r == '\t':
		b.WriteString(`\t`)
	case r == '\n':
		b.WriteString(`\n`)
	case r == '\r':
		b.WriteString(`\r`)
	case r == '\f':
		b.WriteString(`\f`)
	case r >= ' ' && r <= '~':
		b.WriteRune(r)
	case r <= 0xffff:
		fmt.Fprintf(b, `\u%04X`, r)
	default:
		hi, lo := utf16.EncodeRune(r)
		fmt.Fprintf(b, `\u%04X\u%04X`, hi, lo)
	}
}
