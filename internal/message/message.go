// Package message is the format in which a broker stores a message: the same bytes stand in the
// commit log, in pull and query replies, and inside DLedger entries.
//
// Read from MessageDecoder, CommitLog.checkMessageAndReturnSize and MessageSysFlag of releases
// 4.5.2, 4.9.7 and 5.3.3; where Java is lenient (a negative body or properties length counts as
// none), so is this package, because the end of a log is where Java stops reading it.
package message

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Magic numbers, the second four bytes of whatever stands in a commit log.
const (
	Magic   uint32 = 0xdaa320a7 // a message; topic length of one byte
	MagicV2 uint32 = 0xdaa320ab // 5.x, a topic longer than 127 bytes; topic length of two bytes
	Blank   uint32 = 0xcbd43194 // nothing more in this file, go on with the next one
)

// Bits of Message.SysFlag (MessageSysFlag, 5.3.3).
const (
	FlagCompressed   = 1 << 0
	FlagBornHostV6   = 1 << 4
	FlagStoreHostV6  = 1 << 5
	FlagInnerBatch   = 1 << 7 // 5.x: several messages in one, in a queue of another format
	flagCompression  = 7 << 8 // which compression; 0 (before 5.x) and 3 are zlib
	compressionLZ4   = 1 << 8
	compressionZSTD  = 2 << 8
	compressionZLIB  = 3 << 8
	maxPlainBodySize = 256 << 20

	// FlagTransaction masks what a message is to a transaction: none of it for an ordinary one.
	FlagTransaction = 3 << 2
	FlagPrepared    = 1 << 2
	FlagCommitted   = 2 << 2
	FlagRolledBack  = 3 << 2
)

// Names of properties that are looked at here (MessageConst).
const (
	PropertyKeys      = "KEYS"     // application keys, separated by spaces
	PropertyUniqueKey = "UNIQ_KEY" // the message id given by the producer
	PropertyTags      = "TAGS"
)

// Errors that tell apart why bytes are no message.
var (
	ErrShort = errors.New("bytes end before the message does")
	ErrMagic = errors.New("no message magic")
	ErrBlank = errors.New("end of file mark")
	ErrSize  = errors.New("lengths inside the message do not add up to its size")
)

// Message is one stored message.
type Message struct {
	Size           int    // bytes in the log
	Magic          uint32 // Magic or MagicV2
	BodyCRC        uint32 // CRC-32 (IEEE) of the stored body, highest bit cleared
	QueueID, Flag  int32
	QueueOffset    int64
	PhysicalOffset int64
	SysFlag        int32
	Born           time.Time
	BornHost       netip.AddrPort
	Stored         time.Time
	StoreHost      netip.AddrPort
	ReconsumeTimes int32

	PreparedTransactionOffset int64

	Body       []byte // as stored, maybe compressed; a part of the slice given to Decode
	Topic      string
	Properties map[string]string
}

// Layout tells where the parts of a message stand, without taking them out. All positions count
// from the message's first byte.
type Layout struct {
	Size             int
	Magic            uint32
	Body, BodyEnd    int
	Topic, TopicEnd  int
	Props, PropsEnd  int
	bornEnd, storeAt int // end of the born host, start of the store timestamp's 8 bytes
}

const (
	sysFlagAt  = 36
	bornHostAt = 48
	minSize    = 91 // no body, no topic, no properties, IPv4 hosts
)

// LayoutOf reads the lengths of the message at b[0:] and checks them against one another and
// against len(b). Its errors are ErrBlank, ErrMagic, ErrShort and ErrSize, the latter two wrapped.
func LayoutOf(b []byte) (Layout, error) {
	var l Layout
	if len(b) < 8 {
		return l, ErrShort
	}
	l.Magic = binary.BigEndian.Uint32(b[4:])
	topicLengthSize := 1
	switch l.Magic {
	case Magic:
	case MagicV2:
		topicLengthSize = 2
	case Blank:
		return l, ErrBlank
	default:
		return l, ErrMagic
	}
	size := int64(int32(binary.BigEndian.Uint32(b)))
	if size < minSize {
		return l, fmt.Errorf("size %d: %w", size, ErrSize)
	}
	if size > int64(len(b)) {
		return l, fmt.Errorf("size %d, %d bytes left: %w", size, len(b), ErrShort)
	}
	l.Size = int(size)
	b = b[:l.Size]

	sysFlag := binary.BigEndian.Uint32(b[sysFlagAt:])
	l.bornEnd = bornHostAt + hostSize(sysFlag&FlagBornHostV6 != 0)
	l.storeAt = l.bornEnd
	at := l.bornEnd + 8 + hostSize(sysFlag&FlagStoreHostV6 != 0) + 4 + 8
	// at is 80 to 104; the three lengths that follow are checked one by one.
	if at+4 > l.Size {
		return l, fmt.Errorf("size %d: %w", l.Size, ErrSize)
	}
	bodyLength := int(max(0, int32(binary.BigEndian.Uint32(b[at:]))))
	l.Body = at + 4
	if bodyLength > l.Size-l.Body-topicLengthSize {
		return l, fmt.Errorf("size %d, body of %d: %w", l.Size, bodyLength, ErrSize)
	}
	l.BodyEnd = l.Body + bodyLength

	var topicLength int
	if topicLengthSize == 1 {
		topicLength = int(int8(b[l.BodyEnd]))
	} else {
		topicLength = int(int16(binary.BigEndian.Uint16(b[l.BodyEnd:])))
	}
	l.Topic = l.BodyEnd + topicLengthSize
	if topicLength < 0 || topicLength > l.Size-l.Topic-2 {
		return l, fmt.Errorf("size %d, topic of %d: %w", l.Size, topicLength, ErrSize)
	}
	l.TopicEnd = l.Topic + topicLength

	propsLength := int(max(0, int16(binary.BigEndian.Uint16(b[l.TopicEnd:]))))
	l.Props = l.TopicEnd + 2
	l.PropsEnd = l.Props + propsLength
	if l.PropsEnd != l.Size {
		return l, fmt.Errorf("size %d, parts add up to %d: %w", l.Size, l.PropsEnd, ErrSize)
	}
	return l, nil
}

func hostSize(v6 bool) int {
	if v6 {
		return 20
	}
	return 8
}

// PhysicalOffset is the offset that the message at b says it stands at.
func (l Layout) PhysicalOffset(b []byte) int64 { return int64(binary.BigEndian.Uint64(b[28:])) }

// QueueID is the queue of the message at b.
func (l Layout) QueueID(b []byte) int32 { return int32(binary.BigEndian.Uint32(b[12:])) }

// QueueOffset is the logical offset of the message at b in its queue.
func (l Layout) QueueOffset(b []byte) int64 { return int64(binary.BigEndian.Uint64(b[20:])) }

// SysFlag is the system flag of the message at b.
func (l Layout) SysFlag(b []byte) int32 { return int32(binary.BigEndian.Uint32(b[sysFlagAt:])) }

// Property is the value of a property of the message at b, without a copy; nil without it. Of several
// with one name the last one counts, as in Java.
func (l Layout) Property(b []byte, name string) []byte {
	var value []byte
	for rest := b[l.Props:l.PropsEnd]; len(rest) > 0; {
		var entry []byte
		entry, rest, _ = bytes.Cut(rest, []byte{2})
		if len(entry) > len(name)+1 && entry[len(name)] == 1 && string(entry[:len(name)]) == name {
			value = entry[len(name)+1:]
		}
	}
	return value
}

// Stored is when the broker stored the message at b, in milliseconds since 1970.
func (l Layout) Stored(b []byte) int64 { return int64(binary.BigEndian.Uint64(b[l.storeAt:])) }

// BodyIntact tells whether the body's CRC is right. A message without a body has none to check.
func (l Layout) BodyIntact(b []byte) bool {
	return l.Body == l.BodyEnd || binary.BigEndian.Uint32(b[8:]) == BodyCRC(b[l.Body:l.BodyEnd])
}

// BodyCRC is the checksum that a broker stores for a body: CRC-32 (IEEE) without its highest bit
// (UtilAll.crc32).
func BodyCRC(body []byte) uint32 { return crc32.ChecksumIEEE(body) & 0x7fffffff }

// Decode reads exactly one message at b[0:]; b may be longer. The message's Body is a part of b,
// everything else is copied. The body's CRC is not checked, see BodyCRC.
func Decode(b []byte) (Message, error) {
	l, err := LayoutOf(b)
	if err != nil {
		return Message{}, fmt.Errorf("message: %w", err)
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	u64 := func(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
	m := Message{
		Size:           l.Size,
		Magic:          l.Magic,
		BodyCRC:        u32(8),
		QueueID:        int32(u32(12)),
		Flag:           int32(u32(16)),
		QueueOffset:    u64(20),
		PhysicalOffset: u64(28),
		SysFlag:        int32(u32(sysFlagAt)),
		Born:           time.UnixMilli(u64(40)),
		BornHost:       host(b[bornHostAt:l.bornEnd]),
		Stored:         time.UnixMilli(u64(l.storeAt)),
		ReconsumeTimes: int32(u32(l.Body - 16)),

		PreparedTransactionOffset: u64(l.Body - 12),

		Body:       b[l.Body:l.BodyEnd:l.BodyEnd],
		Topic:      string(b[l.Topic:l.TopicEnd]),
		Properties: parseProperties(string(b[l.Props:l.PropsEnd])),
	}
	m.StoreHost = host(b[l.storeAt+8 : l.Body-16])
	return m, nil
}

func host(b []byte) netip.AddrPort {
	addr, ok := netip.AddrFromSlice(b[:len(b)-4])
	if !ok {
		return netip.AddrPort{}
	}
	// Java stores the port as an int; nothing above 65535 can be a port.
	return netip.AddrPortFrom(addr, uint16(binary.BigEndian.Uint32(b[len(b)-4:])))
}

// DecodeAll reads messages that follow one another until b ends, as in query and pull replies.
// On an error it returns the messages before it too.
func DecodeAll(b []byte) ([]Message, error) {
	var all []Message
	for at := 0; at < len(b); {
		m, err := Decode(b[at:])
		if err != nil {
			return all, fmt.Errorf("byte %d: %w", at, err)
		}
		all = append(all, m)
		at += m.Size
	}
	return all, nil
}

// parseProperties reads name\x01value\x02…, the last \x02 being optional (4.9.x and later leave it
// out). Entries with an empty name or value count as absent, as they do in Java.
func parseProperties(s string) map[string]string {
	p := map[string]string{}
	for entry := range strings.SplitSeq(s, "\x02") {
		if name, value, ok := strings.Cut(entry, "\x01"); ok && name != "" && value != "" {
			p[name] = value
		}
	}
	return p
}

// PropertiesString writes properties as they are stored and sent: name\x01value\x02, sorted by name.
func PropertiesString(properties map[string]string) string {
	names := make([]string, 0, len(properties))
	for name := range properties {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name + "\x01" + properties[name] + "\x02")
	}
	return b.String()
}

// Keys are the application's keys, in their order; nil when there are none.
func (m Message) Keys() []string {
	var keys []string
	// A space and nothing else separates keys (MessageConst.KEY_SEPARATOR); a tab is part of one.
	for key := range strings.SplitSeq(m.Properties[PropertyKeys], " ") {
		if key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

// OffsetID is the id that a broker gives to the message: where it is stored, in 32 hexadecimal digits,
// or 56 with an IPv6 address (MessageDecoder.createMessageId).
func (m Message) OffsetID() string {
	b := appendHost(nil, m.StoreHost)
	return strings.ToUpper(hex.EncodeToString(binary.BigEndian.AppendUint64(b, uint64(m.PhysicalOffset))))
}

// UniqueKey is the id that the producer gave to the message, empty when it gave none.
func (m Message) UniqueKey() string { return m.Properties[PropertyUniqueKey] }

// Tags is the message's tag.
func (m Message) Tags() string { return m.Properties[PropertyTags] }

// HasKey tells whether key is the unique key or one of the application's keys. A look-up by key
// must ask this: a broker finds by hash, and 4.5.2 does not compare the keys.
func (m Message) HasKey(key string) bool {
	return key != "" && (m.UniqueKey() == key || slices.Contains(m.Keys(), key))
}

// PlainBody is the body as the application sent it. LZ4 and ZSTD (5.x producers, when configured)
// are refused with errors.ErrUnsupported. The result may be Body itself.
func (m Message) PlainBody() ([]byte, error) {
	if m.SysFlag&FlagCompressed == 0 {
		return m.Body, nil
	}
	switch c := m.SysFlag & flagCompression; c {
	case 0, compressionZLIB:
	case compressionLZ4:
		return nil, fmt.Errorf("body compressed with LZ4: %w", errors.ErrUnsupported)
	case compressionZSTD:
		return nil, fmt.Errorf("body compressed with ZSTD: %w", errors.ErrUnsupported)
	default:
		return nil, fmt.Errorf("body compressed in unknown way %d: %w", c>>8, errors.ErrUnsupported)
	}
	z, err := zlib.NewReader(bytes.NewReader(m.Body))
	if err != nil {
		return nil, fmt.Errorf("compressed body: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxPlainBodySize+1))
	if err != nil {
		return nil, fmt.Errorf("compressed body: %w", err)
	}
	if len(plain) > maxPlainBodySize {
		return nil, fmt.Errorf("compressed body is larger than %d bytes", maxPlainBodySize)
	}
	return plain, nil
}
