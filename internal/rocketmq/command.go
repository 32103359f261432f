package rocketmq

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// MaxFrame is the largest frame either side takes, in bytes without the length word itself:
// com.rocketmq.remoting.frameMaxLength, 16 MiB by default from 4.5.2 to 5.3.3.
const MaxFrame = 16 << 20

// ErrFrame is the sentinel under every error about bytes that are not a remoting frame.
var ErrFrame = errors.New("not a RocketMQ remoting frame")

// Flag bits of a command, RemotingCommand.RPC_TYPE and RPC_ONEWAY.
const (
	flagResponse = 1 << 0
	flagOneWay   = 1 << 1
)

// How a header is written (SerializeType.java). Requests go out as JSON, and a peer answers in
// the kind it was asked in; the binary kind is only ever read.
const (
	headerJSON   = 0
	headerBinary = 1
)

// protocolVersion goes into every request: the ordinal of V4_5_2 in MQVersion.java, the oldest
// release that mqlift moves. Brokers and name servers read it to choose between old and new
// shapes of an answer; the old shapes are understood by all of them.
const protocolVersion = 317

// Command is one remoting frame: a request or its response.
type Command struct {
	// Code is the request code, or in a response the result (ResponseSuccess, …).
	Code Code
	// Language is the sender's name in LanguageCode.java; GO where it is empty. It is written, and not read.
	Language string
	// Version is the sender's MQVersion ordinal.
	Version int
	// Opaque pairs a response with its request on one connection; Client.Call sets it.
	Opaque int32
	// Flag has bit 0 set in a response and bit 1 in a request that wants none.
	Flag int32
	// Remark is the peer's sentence about a failure.
	Remark string
	// Fields are the header's extFields.
	Fields map[string]string
	Body   []byte
}

// IsResponse tells a response from a request.
func (c *Command) IsResponse() bool { return c.Flag&flagResponse != 0 }

// Int64 reads a decimal header field; a missing or odd one is an error and never 0.
func (c *Command) Int64(field string) (int64, error) {
	s, ok := c.Fields[field]
	if !ok {
		return 0, fmt.Errorf("the response has no field %s", field)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the response's field %s is %q, not a number", field, s)
	}
	return n, nil
}

// header is RemotingCommand's JSON form.
type header struct {
	Code      int            `json:"code"`
	Language  string         `json:"language"`
	Version   int            `json:"version"`
	Opaque    int32          `json:"opaque"`
	Flag      int32          `json:"flag"`
	Remark    string         `json:"remark,omitempty"`
	Fields    looseStringMap `json:"extFields,omitempty"`
	Serialize string         `json:"serializeTypeCurrentRPC"`
}

// looseStringMap takes numbers and truth values as the strings that Java would make of them, and
// leaves nulls out.
type looseStringMap map[string]string

func (m *looseStringMap) UnmarshalJSON(b []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	if raw == nil {
		return nil
	}
	*m = make(looseStringMap, len(raw))
	for k, v := range raw {
		switch {
		case len(v) > 0 && v[0] == '"':
			var s string
			if err := json.Unmarshal(v, &s); err != nil {
				return err
			}
			(*m)[k] = s
		case string(v) != "null":
			(*m)[k] = string(v)
		}
	}
	return nil
}

// Encode writes the command as a whole frame, length word included. Fields and remark must be
// UTF-8, and the frame no longer than MaxFrame: a longer one would make the peer drop the
// connection without a word.
func (c *Command) Encode() ([]byte, error) {
	if !utf8.ValidString(c.Remark) {
		return nil, errors.New("encoding a command: the remark is not UTF-8")
	}
	for k, v := range c.Fields {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return nil, fmt.Errorf("encoding a command: the field %q is not UTF-8", k)
		}
	}
	h, err := json.Marshal(header{
		Code: int(c.Code), Language: cmp.Or(c.Language, "GO"), Version: c.Version, Opaque: c.Opaque, Flag: c.Flag,
		Remark: c.Remark, Fields: c.Fields, Serialize: "JSON",
	})
	if err != nil {
		return nil, fmt.Errorf("encoding a command: %w", err)
	}
	length := 4 + len(h) + len(c.Body)
	if length > MaxFrame {
		return nil, fmt.Errorf("encoding a command of %d bytes: longer than the %d a peer takes", length, MaxFrame)
	}
	b := make([]byte, 8, 4+length)
	binary.BigEndian.PutUint32(b, uint32(length))
	binary.BigEndian.PutUint32(b[4:], headerJSON<<24|uint32(len(h)))
	b = append(b, h...)
	return append(b, c.Body...), nil
}

// DecodeCommand reads one frame without its length word. It never panics, and what it allocates
// is bounded by len(frame). Errors are ErrFrame. The body is a part of frame, not a copy.
func DecodeCommand(frame []byte) (*Command, error) {
	if len(frame) < 4 {
		return nil, fmt.Errorf("%w: %d bytes are too few for a header length", ErrFrame, len(frame))
	}
	word := binary.BigEndian.Uint32(frame)
	kind, n := word>>24, int(word&0xffffff)
	if n > len(frame)-4 {
		return nil, fmt.Errorf("%w: a header of %d bytes in a frame of %d", ErrFrame, n, len(frame))
	}
	raw, body := frame[4:4+n], frame[4+n:]
	var c *Command
	var err error
	switch kind {
	case headerJSON:
		c, err = decodeJSONHeader(raw)
	case headerBinary:
		c, err = decodeBinaryHeader(raw)
	default:
		err = fmt.Errorf("header kind %d is unknown", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	if len(body) > 0 {
		c.Body = body
	}
	return c, nil
}

func decodeJSONHeader(raw []byte) (*Command, error) {
	var h struct {
		header
		Language  json.RawMessage `json:"language"` // any shape: nothing is decided on them
		Serialize json.RawMessage `json:"serializeTypeCurrentRPC"`
		Code      *int            `json:"code"` // an object without one is some other JSON
	}
	if err := DecodeJSON(raw, &h); err != nil {
		return nil, fmt.Errorf("its header: %w", err)
	}
	if h.Code == nil {
		return nil, errors.New("its header has no code")
	}
	return &Command{
		Code: Code(*h.Code), Version: h.Version, Opaque: h.Opaque, Flag: h.Flag,
		Remark: h.Remark, Fields: h.Fields,
	}, nil
}

// decodeBinaryHeader reads the layout of RocketMQSerializable.java: code 2, language 1, version 2,
// opaque 4, flag 4, remark length 4 + remark, fields length 4 + fields, each key length 2 + key +
// value length 4 + value.
func decodeBinaryHeader(raw []byte) (*Command, error) {
	const fixed = 2 + 1 + 2 + 4 + 4
	if len(raw) < fixed {
		return nil, fmt.Errorf("a binary header of %d bytes is too short", len(raw))
	}
	c := &Command{
		Code:    Code(int16(binary.BigEndian.Uint16(raw))),
		Version: int(int16(binary.BigEndian.Uint16(raw[3:]))),
		Opaque:  int32(binary.BigEndian.Uint32(raw[5:])),
		Flag:    int32(binary.BigEndian.Uint32(raw[9:])),
	}
	rest := raw[fixed:]
	remark, rest, ok := cutPrefixed(rest, 4)
	if !ok {
		return nil, errors.New("the remark of a binary header runs past its end")
	}
	c.Remark = string(remark)
	fields, _, ok := cutPrefixed(rest, 4)
	if !ok {
		return nil, errors.New("the fields of a binary header run past its end")
	}
	for len(fields) > 0 {
		var k, v []byte
		k, fields, ok = cutPrefixed(fields, 2)
		if ok {
			v, fields, ok = cutPrefixed(fields, 4)
		}
		if !ok {
			return nil, errors.New("a field of a binary header runs past their end")
		}
		if c.Fields == nil {
			c.Fields = map[string]string{}
		}
		c.Fields[string(k)] = string(v)
	}
	return c, nil
}

// cutPrefixed cuts what a big-endian length word of that width announces off b.
func cutPrefixed(b []byte, width int) (value, rest []byte, ok bool) {
	if len(b) < width {
		return nil, nil, false
	}
	var n uint64
	for _, x := range b[:width] {
		n = n<<8 | uint64(x)
	}
	b = b[width:]
	if n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// notALength says what speaks there, going by its first four bytes.
func notALength(b []byte) string {
	switch {
	case !bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Sprintf("it begins with %q; another program listens there, compare the address and the port", b)
	case b[0] >= 0x14 && b[0] <= 0x17 && b[1] == 3: // content type and major version of a TLS record
		return "it is a TLS record; that port wants TLS, which mqlift does not speak: set tls.server.mode=permissive there"
	}
	return fmt.Sprintf("its length is %d; another program listens there, compare the address and the port", int32(binary.BigEndian.Uint32(b)))
}

// readFrame reads one whole frame and returns it without its length word. A length out of bounds
// is refused before anything is allocated for it, and memory is taken only as bytes arrive.
func readFrame(r io.Reader) ([]byte, error) {
	var word [4]byte
	if _, err := io.ReadFull(r, word[:]); err != nil {
		return nil, err
	}
	n := int32(binary.BigEndian.Uint32(word[:]))
	if n < 4 || n > MaxFrame {
		return nil, fmt.Errorf("%w: %s", ErrFrame, notALength(word[:]))
	}
	var b bytes.Buffer
	b.Grow(int(min(n, 64<<10)))
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("reading a frame of %d bytes, %d came: %w", n, b.Len(), err)
	}
	return b.Bytes(), nil
}
