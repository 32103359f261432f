// Package brokerconf reads a broker.conf as the broker reads it (java.util.Properties, then
// setters), edits it without touching any other byte, and says what is wrong with it.
package brokerconf

import (
	"bytes"
	"fmt"
	"sort"
	"strconv"
	"unicode/utf16"
)

// File is a parsed broker.conf. It is not changed after Parse; Apply makes a new one.
type File struct {
	name    string
	data    []byte
	starts  []int // where each physical line begins
	entries []entry
	last    map[string]int // key to its effective entry: the last one
	open    bool           // the data ends in a continuation, which would swallow an appended line
}

// entry is one logical line with a key, and the bytes it was read from.
type entry struct {
	start, end int    // whole physical lines, leading blanks and line end included
	keyAt      int    // first byte of the key
	valueAt    int    // just after the separator
	tail       string // the line end, empty at the end of a file without one
	key, value string
	sep        byte // what separates key and value: = or :, a blank, or 0 for nothing
	joined     bool // made of several physical lines, or cut off by the end of the file
	split      bool // a line break stands before the value: key and separator cannot be kept
	exotic     bool // holds characters beyond U+FFFF or half of one
}

// Duplicate is a key that stands in the file more than once; the last line counts.
type Duplicate struct {
	Key   string
	Lines []int // in file order, from 1
}

// SyntaxError is what java.util.Properties refuses, and the broker with it: it does not start.
type SyntaxError struct {
	Where string // file:line:column
	What  string
}

func (e *SyntaxError) Error() string { return e.Where + ": " + e.What }

// Parse reads data as java.util.Properties.load does: bytes are ISO-8859-1, nothing is expanded,
// the last of several equal keys counts. The only thing refused is a malformed \u escape, as in
// Java (*SyntaxError). The name stands in messages.
func Parse(name string, data []byte) (*File, error) {
	f := &File{name: name, data: append([]byte(nil), data...), last: map[string]int{}, starts: []int{0}}
	for i, c := range f.data {
		if c == '\n' || c == '\r' && (i+1 == len(f.data) || f.data[i+1] != '\n') {
			f.starts = append(f.starts, i+1)
		}
	}
	for at := 0; ; {
		e, next, found, err := f.logicalLine(at)
		if err != nil {
			return nil, err
		}
		if !found {
			return f, nil
		}
		f.last[e.key] = len(f.entries)
		f.entries = append(f.entries, e)
		at = next
	}
}

func blank(c byte) bool   { return c == ' ' || c == '\t' || c == '\f' }
func lineEnd(c byte) bool { return c == '\n' || c == '\r' }

// logicalLine reads the next line that has a key, from offset i on. It follows the documented
// rules of java.util.Properties.load, and where these leave room what JDK 17 does (a test compares
// the two): a comment is looked for as long as the logical line is empty, also after a
// continuation; a backslash that ends the file is dropped, and when it stands alone it makes an
// empty key.
func (f *File) logicalLine(i int) (e entry, next int, found bool, err error) {
	d := f.data
	var text []byte // the logical line, continuations joined
	var at []int    // and where each of its bytes stands in the file
	start, skip, appended, escaped, cut, ended := i, true, false, false, false, false
	for ; i < len(d) && !ended; i++ {
		c := d[i]
		if skip {
			if blank(c) {
				continue
			}
			if !appended && lineEnd(c) {
				start, e.joined = i+1, false
				continue
			}
			skip, appended = false, false
		}
		crlf := c == '\r' && i+1 < len(d) && d[i+1] == '\n'
		switch {
		case len(text) == 0 && (c == '#' || c == '!'):
			for i < len(d) && !lineEnd(d[i]) {
				i++
			}
			start, skip, e.joined = i+1, true, false
		case !lineEnd(c):
			text, at = append(text, c), append(at, i)
			escaped = c == '\\' && !escaped
		case len(text) == 0: // an empty line, also after a lone backslash
			start, skip, e.joined = i+1, true, false
		case escaped:
			text, at = text[:len(text)-1], at[:len(at)-1]
			cut = i+1 == len(d)
			if crlf {
				i++
			}
			skip, appended, escaped, e.joined = true, true, false, true
		default:
			e.tail, ended = string(c), true
			if crlf {
				e.tail = "\r\n"
				i++
			}
		}
	}
	e.start, e.end = start, min(i, len(d))
	if !ended { // the file ended first
		if escaped {
			text, at = text[:len(text)-1], at[:len(at)-1]
			cut = true
		}
		f.open = f.open || escaped || appended
		e.joined = e.joined || escaped
		if len(text) == 0 && !cut {
			return entry{}, e.end, false, nil
		}
		if appended && lineEnd(d[len(d)-1]) {
			e.tail = string(d[len(d)-1:])
			if bytes.HasSuffix(d, []byte("\r\n")) {
				e.tail = "\r\n"
			}
		}
	}

	key, value := len(text), len(text)
	for j, escape := 0, false; j < len(text); j++ {
		c := text[j]
		if !escape && (c == '=' || c == ':' || blank(c)) {
			key, value, e.sep = j, j+1, c
			break
		}
		escape = c == '\\' && !escape
	}
	for ; value < len(text); value++ {
		if c := text[value]; !blank(c) {
			if !blank(e.sep) || c != '=' && c != ':' {
				break
			}
			e.sep = c
		}
	}
	e.keyAt, e.valueAt = start, start
	if len(text) == 0 {
		e.split = true
		return e, e.end, true, nil
	}
	e.keyAt, e.valueAt = at[0], at[value-1]+1
	for j := 1; j < value; j++ {
		e.split = e.split || at[j] != at[j-1]+1
	}
	if e.key, err = f.unescape(text[:key], at, &e.exotic); err != nil {
		return entry{}, 0, false, err
	}
	if e.value, err = f.unescape(text[value:], at[value:], &e.exotic); err != nil {
		return entry{}, 0, false, err
	}
	return e, e.end, true, nil
}

// unescape turns the bytes of a key or a value into text; at has their places in the file. Java
// holds UTF-16: halves of a pair that find no other half become U+FFFD here.
func (f *File) unescape(b []byte, at []int, exotic *bool) (string, error) {
	units := make([]uint16, 0, len(b))
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c == '\\' && i+1 < len(b) {
			i++
			switch c = b[i]; c {
			case 'u':
				n, err := strconv.ParseUint(string(b[i+1:min(i+5, len(b))]), 16, 16)
				if err != nil || i+5 > len(b) {
					return "", &SyntaxError{f.where(at[i-1]),
						`\u is not followed by four hexadecimal digits: the broker refuses to start on this file; write \\ for each backslash that is meant`}
				}
				i += 4
				units = append(units, uint16(n))
				*exotic = *exotic || utf16.IsSurrogate(rune(n))
				continue
			case 't':
				c = '\t'
			case 'r':
				c = '\r'
			case 'n':
				c = '\n'
			case 'f':
				c = '\f'
			}
		}
		units = append(units, uint16(c))
	}
	return string(utf16.Decode(units)), nil
}

// where is file:line:column of a byte; columns count bytes from 1.
func (f *File) where(offset int) string {
	line := f.lineOf(offset)
	return fmt.Sprintf("%s:%d:%d", f.name, line, offset-f.starts[line-1]+1)
}

func (f *File) lineOf(offset int) int {
	return sort.Search(len(f.starts), func(i int) bool { return f.starts[i] > offset })
}

// Name is the name given to Parse.
func (f *File) Name() string { return f.name }

// Bytes is the file's content.
func (f *File) Bytes() []byte { return append([]byte(nil), f.data...) }

// Get returns the value that counts for key, as java.util.Properties gives it: blanks at its end
// included, the last of several.
func (f *File) Get(key string) (string, bool) {
	i, ok := f.last[key]
	if !ok {
		return "", false
	}
	return f.entries[i].value, true
}

// Keys lists the keys in the order of their first lines, each once.
func (f *File) Keys() []string {
	seen := make(map[string]bool, len(f.last))
	keys := make([]string, 0, len(f.last))
	for _, e := range f.entries {
		if !seen[e.key] {
			seen[e.key] = true
			keys = append(keys, e.key)
		}
	}
	return keys
}

// Map is every key with the value that counts.
func (f *File) Map() map[string]string {
	m := make(map[string]string, len(f.last))
	for k, i := range f.last {
		m[k] = f.entries[i].value
	}
	return m
}

// Line is the line, from 1, on which the entry that counts begins; 0 for a key that is not there.
func (f *File) Line(key string) int {
	i, ok := f.last[key]
	if !ok {
		return 0
	}
	return f.lineOf(f.entries[i].keyAt)
}

// Duplicates lists the keys that stand there more than once, in the order of their first lines.
func (f *File) Duplicates() []Duplicate {
	lines := map[string][]int{}
	for _, e := range f.entries {
		lines[e.key] = append(lines[e.key], f.lineOf(e.keyAt))
	}
	var d []Duplicate
	for _, k := range f.Keys() {
		if len(lines[k]) > 1 {
			d = append(d, Duplicate{k, lines[k]})
		}
	}
	return d
}

// whereKey is file:line:column of a key's name, or the file alone when the key is not there.
func (f *File) whereKey(key string) string {
	if i, ok := f.last[key]; ok {
		return f.where(f.entries[i].keyAt)
	}
	return f.name
}

// whereValue is file:line:column of the value that counts, or the file alone.
func (f *File) whereValue(key string) string {
	if i, ok := f.last[key]; ok {
		return f.where(f.entries[i].valueAt)
	}
	return f.name
}
