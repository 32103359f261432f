package corpus

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Peer answers as a case describes, on a port of loopback, and returns its address. The description has
// one directive a line:
//
//	answer [CODE]    begins the answer to requests with that code, or to all others
//	header TEXT      a frame with this header, and $OPAQUE for the request's number; its lengths are right
//	body BYTES       its body (see Bytes), also on several lines
//	raw BYTES        bytes as they are, instead of a frame; u32:$OPAQUE is the request's number
//	close            ends the connection after the answer
//
// Without an answer for a request it stays silent. Other lines are the caller's.
func Peer(t testing.TB, description []byte) string {
	t.Helper()
	answers := answersOf(t, string(description))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			all.Go(func() { defer c.Close(); serve(t, c, answers) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

type answer struct {
	header     string
	framed     bool
	body, raws []string
	close      bool
}

func answersOf(t testing.TB, description string) map[string]*answer {
	t.Helper()
	answers := map[string]*answer{}
	var a *answer
	for line := range strings.Lines(description) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word == "answer" {
			a = &answer{}
			answers[rest] = a
			continue
		}
		if a == nil {
			continue
		}
		switch word {
		case "header":
			a.header, a.framed = rest, true
		case "body":
			a.body = append(a.body, rest)
		case "raw":
			a.raws = append(a.raws, rest)
		case "close":
			a.close = true
		case "", "#":
		default:
			t.Fatalf("%q is no directive", word)
		}
	}
	return answers
}

func serve(t testing.TB, c net.Conn, answers map[string]*answer) {
	for {
		var length [4]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(length[:]))
		if _, err := io.ReadFull(c, frame); err != nil || len(frame) < 4 {
			return
		}
		n := binary.BigEndian.Uint32(frame) & 0xffffff
		var request struct{ Code, Opaque int }
		if err := json.Unmarshal(frame[4:4+n], &request); err != nil {
			t.Errorf("the request's header: %v", err)
			return
		}
		a := answers[strconv.Itoa(request.Code)]
		if a == nil {
			a = answers[""]
		}
		if a == nil {
			continue
		}
		c.Write(a.bytes(t, strconv.Itoa(request.Opaque)))
		if a.close {
			return
		}
	}
}

func (a *answer) bytes(t testing.TB, opaque string) []byte {
	put := func(lines []string) []byte {
		var b bytes.Buffer
		for _, l := range lines {
			b.Write(Bytes(t, strings.ReplaceAll(l, "$OPAQUE", opaque)))
		}
		return b.Bytes()
	}
	if !a.framed {
		return put(a.raws)
	}
	header, body := strings.ReplaceAll(a.header, "$OPAQUE", opaque), put(a.body)
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(header)+len(body)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(header)))
	return append(append(append(b, header...), body...), put(a.raws)...)
}
