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
	for number, f := range Frames(b) {
		end := len(f) - 4
		binary.BigEndian.PutUint32(f[end:], checksum(uint64(number), f[:5], f[5:end]))
	}
	return b
}

// Frames are the whole frames of a stream, as parts of it.
func Frames(stream []byte) [][]byte {
	var frames [][]byte
	for len(stream) >= 9 {
		size := 9 + int(binary.BigEndian.Uint32(stream[1:]))
		if size > len(stream) {
			break
		}
		frames = append(frames, stream[:size:size])
		stream = stream[size:]
	}
	return frames
}

// MoveData says another position in the first frame of data.
func MoveData(stream []byte, at int64) []byte {
	b := bytes.Clone(stream)
	for _, f := range Frames(b) {
		if f[0] == frameData {
			binary.BigEndian.PutUint64(f[5:], uint64(at))
			break
		}
	}
	return Reseal(b)
}
