package rocketmq

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what the tolerant reader takes; real replies nest five deep, and one object as a key.
const (
	maxJSONDepth    = 64
	maxJSONKeyDepth = 2 // every level may double the length of a key, by its escapes
)

// DecodeJSON is json.Unmarshal for what fastjson writes and reads, in replies and in the broker's
// config/*.json: keys without quotes ({0:"ip:port"}), whole objects as keys
// ({{"queueId":0}:{…}}, GET_CONSUME_STATS), single quotes, stray commas, control characters in
// strings. A number as a key becomes its decimal string, as encoding/json wants it for maps by
// integer; an object as a key becomes the string of its strict JSON, to be decoded once more.
func DecodeJSON(data []byte, v any) error {
	strict, err := strictJSON(data)
	if err != nil {
		return err
	}
	err = json.Unmarshal(strict, v)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) { // its own words are Go's
		where := "it"
		if wrong.Field != "" {
			where = strings.TrimPrefix(wrong.Field, "header.")
		}
		return fmt.Errorf("JSON: %s holds %s where %s belongs", where, jsonKind(wrong.Value), goKind(wrong.Type))
	}
	return err
}

// jsonKind is json.UnmarshalTypeError.Value with an article; of a number it is the number itself.
func jsonKind(value string) string {
	switch word, rest, _ := strings.Cut(value, " "); {
	case value == "array" || value == "object":
		return "an " + value
	case word == "number" && rest != "":
		return strconv.Quote(rest)
	}
	return "a " + value
}

// goKind is what JSON calls a Go type.
func goKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	return "a number"
}

// strictJSON rewrites fastjson's dialect as JSON. What it returns without an error is always
// valid, and strict JSON comes through with the same meaning.
func strictJSON(data []byte) ([]byte, error) {
	p := &fastjsonReader{in: data, out: make([]byte, 0, len(data)+len(data)/8+16)}
	p.space()
	if err := p.value(0, 0); err != nil {
		return nil, err
	}
	p.space()
	if p.pos < len(p.in) {
		return nil, p.fail("something follows the value")
	}
	return p.out, nil
}

type fastjsonReader struct {
	in  []byte
	pos int
	out []byte
}

func (p *fastjsonReader) fail(what string) error {
	if p.pos >= len(p.in) {
		return fmt.Errorf("JSON: %s, at its end (byte %d)", what, p.pos)
	}
	return fmt.Errorf("JSON: %s, at byte %d (%q)", what, p.pos, p.in[p.pos:min(p.pos+16, len(p.in))])
}

// peek returns 0 at the end.
func (p *fastjsonReader) peek() byte {
	if p.pos < len(p.in) {
		return p.in[p.pos]
	}
	return 0
}

func (p *fastjsonReader) space() {
	for p.pos < len(p.in) {
		switch p.in[p.pos] {
		case ' ', '\t', '\r', '\n', '\f', '\b':
			p.pos++
		default:
			return
		}
	}
}

// commas skips any run of commas (fastjson's AllowArbitraryCommas, on by default) and tells
// whether there was one.
func (p *fastjsonReader) commas() bool {
	found := false
	for p.space(); p.peek() == ','; p.space() {
		p.pos++
		found = true
	}
	return found
}

func (p *fastjsonReader) value(depth, keyDepth int) error {
	if depth > maxJSONDepth {
		return p.fail("nested too deeply")
	}
	switch c := p.peek(); {
	case c == '{':
		return p.object(depth, keyDepth)
	case c == '[':
		return p.array(depth, keyDepth)
	case c == '"' || c == '\'':
		s, err := p.quoted()
		if err != nil {
			return err
		}
		p.out = appendJSONString(p.out, s)
		return nil
	}
	token := p.bare()
	switch {
	case token == "true" || token == "false" || token == "null":
		p.out = append(p.out, token...)
	case isJSONNumber(token):
		p.out = append(p.out, token...)
	case token == "NaN" || token == "undefined":
		p.out = append(p.out, "null"...)
	default:
		p.pos -= len(token)
		return p.fail("no value")
	}
	return nil
}

func (p *fastjsonReader) object(depth, keyDepth int) error {
	p.pos++
	p.out = append(p.out, '{')
	p.commas()
	for first := true; p.peek() != '}'; first = false {
		if !first {
			p.out = append(p.out, ',')
		}
		if err := p.key(depth, keyDepth); err != nil {
			return err
		}
		p.space()
		if p.peek() != ':' {
			return p.fail("no colon after a key")
		}
		p.pos++
		p.out = append(p.out, ':')
		p.space()
		if err := p.value(depth+1, keyDepth); err != nil {
			return err
		}
		if !p.commas() && p.peek() != '}' {
			return p.fail("neither a comma nor the object's end after a value")
		}
	}
	p.pos++
	p.out = append(p.out, '}')
	return nil
}

func (p *fastjsonReader) array(depth, keyDepth int) error {
	p.pos++
	p.out = append(p.out, '[')
	p.commas()
	for first := true; p.peek() != ']'; first = false {
		if !first {
			p.out = append(p.out, ',')
		}
		if err := p.value(depth+1, keyDepth); err != nil {
			return err
		}
		if !p.commas() && p.peek() != ']' {
			return p.fail("neither a comma nor the array's end after a value")
		}
	}
	p.pos++
	p.out = append(p.out, ']')
	return nil
}

func (p *fastjsonReader) key(depth, keyDepth int) error {
	switch c := p.peek(); {
	case c == '"' || c == '\'':
		s, err := p.quoted()
		if err != nil {
			return err
		}
		p.out = appendJSONString(p.out, s)
		return nil
	case c == '{' || c == '[':
		if keyDepth == maxJSONKeyDepth {
			return p.fail("objects as keys nested too deeply")
		}
		start := len(p.out)
		if err := p.value(depth+1, keyDepth+1); err != nil {
			return err
		}
		text := string(p.out[start:])
		p.out = appendJSONString(p.out[:start], []byte(text))
		return nil
	}
	token := p.bare()
	if token == "" {
		return p.fail("no key")
	}
	p.out = appendJSONString(p.out, []byte(token))
	return nil
}

// bare reads what stands without quotes, up to anything that ends a key or a value.
func (p *fastjsonReader) bare() string {
	start := p.pos
	for p.pos < len(p.in) {
		switch c := p.in[p.pos]; c {
		case ':', ',', '{', '}', '[', ']', '"', '\'', '\\':
			return string(p.in[start:p.pos])
		default:
			if c <= ' ' {
				return string(p.in[start:p.pos])
			}
			p.pos++
		}
	}
	return string(p.in[start:p.pos])
}

// quoted reads a string in either kind of quotes and returns what it says. Beside JSON's escapes
// it knows those of fastjson's JSONLexerBase: \', \v, \0 to \7 and \xhh.
func (p *fastjsonReader) quoted() ([]byte, error) {
	quote := p.in[p.pos]
	p.pos++
	start := p.pos
	for p.pos < len(p.in) && p.in[p.pos] != quote && p.in[p.pos] != '\\' {
		p.pos++
	}
	if p.peek() == quote && p.pos < len(p.in) { // nothing escaped: nearly always
		s := p.in[start:p.pos]
		p.pos++
		return s, nil
	}
	s := append([]byte(nil), p.in[start:p.pos]...)
	for p.pos < len(p.in) {
		c := p.in[p.pos]
		p.pos++
		switch {
		case c == quote:
			return s, nil
		case c != '\\':
			s = append(s, c)
			continue
		}
		if p.pos == len(p.in) {
			break
		}
		e := p.in[p.pos]
		p.pos++
		switch e {
		case '"', '\'', '/', '\\':
			s = append(s, e)
		case 'b':
			s = append(s, '\b')
		case 'f', 'F':
			s = append(s, '\f')
		case 'n':
			s = append(s, '\n')
		case 'r':
			s = append(s, '\r')
		case 't':
			s = append(s, '\t')
		case 'v':
			s = append(s, '\v')
		case '0', '1', '2', '3', '4', '5', '6', '7':
			s = append(s, e-'0')
		case 'x':
			n, err := p.hex(2)
			if err != nil {
				return nil, err
			}
			s = utf8.AppendRune(s, rune(n))
		case 'u':
			r, err := p.utf16()
			if err != nil {
				return nil, err
			}
			s = utf8.AppendRune(s, r)
		default:
			p.pos -= 2
			return nil, p.fail("an unknown escape")
		}
	}
	return nil, p.fail("a string without its closing quote")
}

func (p *fastjsonReader) hex(digits int) (uint64, error) {
	if p.pos+digits > len(p.in) {
		return 0, p.fail("a cut escape")
	}
	n, err := strconv.ParseUint(string(p.in[p.pos:p.pos+digits]), 16, 32)
	if err != nil {
		return 0, p.fail("an escape that is not hexadecimal")
	}
	p.pos += digits
	return n, nil
}

// utf16 reads the digits of a \u escape and, where they are a high surrogate, of the low one that
// must follow; a lone one becomes U+FFFD, as in encoding/json.
func (p *fastjsonReader) utf16() (rune, error) {
	hi, err := p.hex(4)
	if err != nil {
		return 0, err
	}
	r := rune(hi)
	if r < 0xd800 || r > 0xdfff {
		return r, nil
	}
	if r < 0xdc00 && p.pos+6 <= len(p.in) && p.in[p.pos] == '\\' && p.in[p.pos+1] == 'u' {
		mark := p.pos
		p.pos += 2
		lo, err := p.hex(4)
		if err == nil && lo >= 0xdc00 && lo <= 0xdfff {
			return (r-0xd800)<<10 | (rune(lo) - 0xdc00) + 0x10000, nil
		}
		p.pos = mark
	}
	return utf8.RuneError, nil
}

// appendJSONString quotes s. Bytes that are not UTF-8 are kept: json.Unmarshal makes them U+FFFD.
func appendJSONString(out, s []byte) []byte {
	const digits = "0123456789abcdef"
	out = append(out, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c < ' ':
			out = append(out, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}

func isJSONNumber(s string) bool {
	return s != "" && (s[0] == '-' || s[0] >= '0' && s[0] <= '9') && json.Valid([]byte(s))
}
