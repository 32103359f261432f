package message

import (
	"bytes"
	"compress/zlib"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func sample() Message {
	return Message{
		QueueID: 3, Flag: 7, QueueOffset: 41, PhysicalOffset: 1 << 40, SysFlag: 4,
		Born: time.UnixMilli(1577836800123), BornHost: netip.MustParseAddrPort("192.168.0.10:50123"),
		Stored: time.UnixMilli(1577836800456), StoreHost: netip.MustParseAddrPort("192.168.0.220:10911"),
		ReconsumeTimes: 2, PreparedTransactionOffset: 99, Body: []byte("hello"), Topic: "topic_dw_test_by_order_01",
		Properties: map[string]string{"KEYS": "m600000 other", "UNIQ_KEY": "C0A8000A1B2C", "TAGS": "TagA", "WAIT": "true"},
	}
}

var messageEqual = cmp.Options{
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
	cmpopts.EquateEmpty(),
}

// The bytes are those that a 4.5.2 broker stores, put together by hand from
// CommitLog.DefaultAppendMessageCallback.doAppend, so that Append and Decode cannot be wrong alike.
func TestDecodesTheLayoutOf452(t *testing.T) {
	b, err := hex.DecodeString(strings.Join(strings.Fields(`
		0000006a daa320a7 3610a686 00000003 00000007 0000000000000029 0000010000000000 00000004
		0000016f5e66e87b c0a8000a 0000c3cb 0000016f5e66e9c8 c0a800dc 00002a9f 00000002 0000000000000063
		00000005 68656c6c6f 01 54 0009 4b455953 01 6b32 20 02`), ""))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	want := sample()
	want.Size, want.Magic, want.BodyCRC, want.Topic = len(b), Magic, 0x3610a686, "T"
	want.Properties = map[string]string{"KEYS": "k2 "}
	if d := cmp.Diff(want, m, messageEqual); d != "" {
		t.Errorf("decoded differs (-want +got):\n%s", d)
	}
	if !m.HasKey("k2") || m.HasKey("") || m.HasKey("k2 ") {
		t.Errorf("keys are %q", m.Keys())
	}
}

func TestWhatIsAppendedIsDecoded(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.AddrPort {
		b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")
		if rapid.Bool().Draw(t, "is v6") {
			b = rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6")
		}
		a, _ := netip.AddrFromSlice(b)
		return netip.AddrPortFrom(a, rapid.Uint16().Draw(t, "port"))
	})
	text := rapid.StringMatching(`[a-zA-Z0-9%_ \t-]{1,40}`)
	rapid.Check(t, func(t *rapid.T) {
		var all []Message
		var b []byte
		for range rapid.IntRange(1, 5).Draw(t, "messages") {
			m := Message{
				QueueID: rapid.Int32().Draw(t, "queue"), QueueOffset: rapid.Int64().Draw(t, "queue offset"),
				PhysicalOffset: rapid.Int64().Draw(t, "offset"), Flag: rapid.Int32().Draw(t, "flag"),
				SysFlag: rapid.Int32Range(0, 15).Draw(t, "sysflag"),
				Born:    time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "born")), BornHost: addr.Draw(t, "born host"),
				Stored: time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "stored")), StoreHost: addr.Draw(t, "store host"),
				ReconsumeTimes: rapid.Int32().Draw(t, "times"), PreparedTransactionOffset: rapid.Int64().Draw(t, "prepared"),
				Body:       rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body"),
				Topic:      rapid.StringN(0, 250, 250).Draw(t, "topic"),
				Properties: rapid.MapOf(text, text).Draw(t, "properties"),
			}
			start := len(b)
			b = Append(b, m)
			m.Size, m.BodyCRC, m.Magic = len(b)-start, BodyCRC(m.Body), Magic
			if len(m.Topic) > 127 {
				m.Magic = MagicV2
			}
			if m.BornHost.Addr().Is6() {
				m.SysFlag |= FlagBornHostV6
			}
			if m.StoreHost.Addr().Is6() {
				m.SysFlag |= FlagStoreHostV6
			}
			all = append(all, m)
		}
		got, err := DecodeAll(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(all, got, messageEqual); d != "" {
			t.Fatalf("decoded differs (-want +got):\n%s", d)
		}
		cut := rapid.IntRange(0, all[0].Size-1).Draw(t, "cut")
		if _, err := Decode(b[:cut]); !errors.Is(err, ErrShort) {
			t.Fatalf("first %d of %d bytes decode with %v, want ErrShort", cut, all[0].Size, err)
		}
	})
}

func TestRefusesWhatIsNoMessage(t *testing.T) {
	good := Append(nil, sample())
	edit := func(at int, bytes ...byte) []byte {
		b := append([]byte(nil), good...)
		copy(b[at:], bytes)
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, ErrShort},
		{"zeros", make([]byte, 200), ErrMagic},
		{"end of file mark", []byte{0, 0, 0, 8, 0xcb, 0xd4, 0x31, 0x94}, ErrBlank},
		{"size below the smallest", edit(0, 0, 0, 0, 90), ErrSize},
		{"negative size", edit(0, 0xff), ErrSize},
		{"size past the end", edit(0, 0x7f), ErrShort},
		{"body length past the end", edit(84, 0x7f), ErrSize},
		{"body length one off", edit(84, 0, 0, 0, 4), ErrSize},
		{"topic length past 127 in the one-byte form", edit(93, 0x80), ErrSize},
		{"IPv6 bit on IPv4 hosts", edit(39, FlagBornHostV6), ErrSize},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Decode(c.b); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestDecodeAllReturnsWhatStandsBeforeTheDamage(t *testing.T) {
	b := Append(Append(nil, sample()), sample())
	got, err := DecodeAll(b[:len(b)-1])
	if len(got) != 1 || !errors.Is(err, ErrShort) {
		t.Errorf("got %d messages and %v", len(got), err)
	}
}

func TestReadsPropertiesOfAllReleases(t *testing.T) {
	want := map[string]string{"A": "1", "B": "x\x01y"}
	for name, s := range map[string]string{
		"closed by a separator (4.5.2)":  "A\x011\x02B\x01x\x01y\x02",
		"not closed (4.9.x)":             "A\x011\x02B\x01x\x01y",
		"with empty names and values":    "\x01z\x02C\x01\x02A\x011\x02D\x02\x02B\x01x\x01y",
		"in the form that is sent again": PropertiesString(want),
	} {
		if d := cmp.Diff(want, parseProperties(s)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestPlainBody(t *testing.T) {
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	w.Write([]byte("plain text"))
	w.Close()
	for _, flag := range []int32{FlagCompressed, FlagCompressed | 3<<8} {
		got, err := Message{SysFlag: flag, Body: z.Bytes()}.PlainBody()
		if err != nil || string(got) != "plain text" {
			t.Errorf("flag %#x: %q, %v", flag, got, err)
		}
	}
	if got, err := (Message{Body: []byte("as is")}).PlainBody(); err != nil || string(got) != "as is" {
		t.Errorf("uncompressed: %q, %v", got, err)
	}
	for _, c := range []int32{1, 2, 4} {
		if _, err := (Message{SysFlag: FlagCompressed | c<<8}).PlainBody(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("compression %d: %v, want errors.ErrUnsupported", c, err)
		}
	}
	if _, err := (Message{SysFlag: FlagCompressed, Body: []byte("no zlib")}).PlainBody(); err == nil {
		t.Error("a broken compressed body was accepted")
	}
}

func FuzzDecode(f *testing.F) {
	m := sample()
	f.Add(Append(nil, m))
	f.Add(Append(Append(nil, m), m)[:300])
	m.BornHost = netip.MustParseAddrPort("[2001:db8::1]:50123")
	m.Topic = strings.Repeat("t", 200)
	f.Add(Append(nil, m))
	f.Add([]byte{0, 0, 0, 8, 0xcb, 0xd4, 0x31, 0x94})
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := DecodeAll(b)
		size := 0
		for _, m := range all {
			size += m.Size
			m.Keys()
			if len(m.Body) < 1<<10 {
				m.PlainBody()
			}
		}
		if size > len(b) || err == nil && size != len(b) {
			t.Fatalf("%d messages take %d of %d bytes, %v", len(all), size, len(b), err)
		}
		l, err := LayoutOf(b)
		if err != nil {
			return
		}
		if _, err := Decode(b[:l.Size]); err != nil {
			t.Fatalf("alone it does not decode: %v", err)
		}
		l.BodyIntact(b)
	})
}
