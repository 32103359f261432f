package transfer

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// Rewrite replaces text of the same length in a stream and puts the checksums right.
func Rewrite(t testing.TB, stream []byte, old, text string) []byte {
	t.Helper()
	if len(old) != len(text) || !bytes.Contains(stream, []byte(old)) {
		t.Fatalf("cannot put %q for %q", text, old)
	}
	return Reseal(bytes.ReplaceAll(stream, []byte(old), []byte(text)))
}

// Reseal puts the checksums of all whole frames right.
func Reseal(stream []byte) []byte {
	b := bytes.Clone(stream)
	for at, number := 0, uint64(0); at+9 <= len(b); number++ {
		end := at + 5 + int(binary.BigEndian.Uint32(b[at+1:]))
		if end+4 > len(b) {
			break
		}
		binary.BigEndian.PutUint32(b[end:], checksum(number, b[at:at+5], b[at+5:end]))
		at = end + 4
	}
	return b
}
