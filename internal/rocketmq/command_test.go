package rocketmq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// captured reads a reply that a real 4.5.2 broker or name server gave.
func captured(t testing.TB, name string) *Command { return capturedFrom(t, "4.5.2", name) }

func capturedFrom(t testing.TB, release, name string) *Command {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", release, name+".frame"))
	if err != nil {
		t.Fatal(err)
	}
	frame, err := readFrame(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c, err := DecodeCommand(frame)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEveryCapturedFrameIsDecoded(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.frame")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d captured frames, %v", len(files), err)
	}
	for _, f := range files {
		c := capturedFrom(t, filepath.Base(filepath.Dir(f)), strings.TrimSuffix(filepath.Base(f), ".frame"))
		if !c.IsResponse() {
			t.Errorf("%s is not a response", f)
		}
	}
}

func TestAHeaderInTheBinaryKindIsRead(t *testing.T) {
	want := &Command{ // written by RocketMQSerializable of 4.5.2
		Code: ResponsePullNotFound, Opaque: 77, Flag: flagResponse, Remark: "späte Antwort",
		Fields: map[string]string{"offset": "12", "k": "ü"}, Body: []byte("B"),
	}
	if d := cmp.Diff(want, captured(t, "binary-header")); d != "" {
		t.Error(d)
	}
}

func TestACommandComesBackAsItWasEncoded(t *testing.T) {
	text := rapid.String()
	rapid.Check(t, func(t *rapid.T) {
		want := &Command{
			Code:    Code(rapid.IntRange(-1<<31, 1<<31-1).Draw(t, "code")),
			Version: rapid.IntRange(0, 1<<15).Draw(t, "version"),
			Opaque:  rapid.Int32().Draw(t, "opaque"),
			Flag:    rapid.Int32().Draw(t, "flag"),
			Remark:  text.Draw(t, "remark"),
			Fields:  rapid.MapOfN(text, text, 1, 5).Draw(t, "fields"),
			Body:    rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "body"),
		}
		b, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		frame, err := readFrame(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeCommand(frame)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestWhatAPeerWouldNotTakeIsNotEncoded(t *testing.T) {
	for name, c := range map[string]*Command{
		"longer than a frame":   {Body: make([]byte, MaxFrame)},
		"a field not in UTF-8":  {Fields: map[string]string{"i": "\xff"}},
		"a remark not in UTF-8": {Remark: "\xff"},
	} {
		if _, err := c.Encode(); err == nil {
			t.Errorf("%s was encoded", name)
		}
	}
}

func TestFieldsThatAreNotStringsAreReadAsJavaWould(t *testing.T) {
	raw := []byte(`{code:0,flag:1,"extFields":{"n":5,"b":true,"x":null,"s":"t"},"language":12,"remark":null}`)
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(raw)))
	c, err := DecodeCommand(append(frame, raw...))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"n": "5", "b": "true", "s": "t"}, c.Fields); d != "" {
		t.Error(d)
	}
}

func TestBytesThatAreNoFrameAreRefused(t *testing.T) {
	for name, b := range map[string]string{
		"an HTTP answer":                  "HTTP/1.1 400 Bad Request\r\n\r\n",
		"a negative length":               "\xff\xff\xff\xff",
		"a length below its header":       "\x00\x00\x00\x03abc",
		"a length over the limit":         "\x01\x00\x00\x01",
		"a header longer than its frame":  "\x00\x00\x00\x06\x00\x00\x00\x03{}",
		"an unknown kind of header":       "\x00\x00\x00\x06\x02\x00\x00\x02{}",
		"a header that is no JSON":        "\x00\x00\x00\x06\x00\x00\x00\x02{]",
		"a header without a code":         "\x00\x00\x00\x06\x00\x00\x00\x02{}",
		"a header that is null":           "\x00\x00\x00\x08\x00\x00\x00\x04null",
		"a binary header that is cut":     "\x00\x00\x00\x06\x01\x00\x00\x02{}",
		"a binary remark past the header": "\x00\x00\x00\x15\x01\x00\x00\x11\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x7f\xff\xff\xff",
	} {
		frame, err := readFrame(strings.NewReader(b))
		if err == nil {
			_, err = DecodeCommand(frame)
		}
		if !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFrameThatEndsEarlySaysSo(t *testing.T) {
	_, err := readFrame(strings.NewReader("\x00\x00\x01\x00\x00\x00"))
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

func TestALengthThatNothingFollowsTakesLittleMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		readFrame(strings.NewReader("\x01\x00\x00\x00\x00\x00"))
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("%d bytes were allocated for ten empty frames of 16 MiB", grown)
	}
}

func FuzzDecodeCommand(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/*.frame")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[4:])
	}
	f.Add([]byte("\x00\x00\x00\x0a{\"code\":1}body"))
	f.Add([]byte("\x01\x00\x00\x15\x00\x01\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Fatal(err)
			}
			return
		}
		if len(c.Body) > len(b) {
			t.Fatal("the body is longer than the frame")
		}
		again, err := c.Encode()
		if err != nil {
			return // not UTF-8, which only reading bears
		}
		d, err := DecodeCommand(again[4:])
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Fields) == 0 {
			c.Fields, d.Fields = nil, nil
		}
		if diff := cmp.Diff(c, d); diff != "" {
			t.Fatal(diff)
		}
	})
}
