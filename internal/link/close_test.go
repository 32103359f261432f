package link

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
)

// piped is a connection that holds nothing: what is written waits until it is read.
func piped(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	w := newWire(here, Encrypted)
	return &Conn{wire: w, r: w, w: w}, there
}

// A target that takes nothing holds Close no longer than its context lasts.
func TestCloseEndsWithItsContext(t *testing.T) {
	c, _ := piped(t)
	s := newSender([]*Conn{c})
	if _, err := s.Write(make([]byte, blockData+10)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the operator said stop")
	cancel(why)
	if err := s.Close(ctx); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// A connection may end between two blocks, where nothing of what it carries is cut.
func TestAConnectionWithoutALastWordIsCut(t *testing.T) {
	first, one := piped(t)
	second, other := piped(t)
	r := newReceiver([]*Conn{first, second})
	defer r.Close()
	go func() {
		head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, 0), 3)
		one.Write(append(head, "abc"...))
		one.Close()
		for number := uint64(2); number < 2+4; number++ { // goes on, without block 1; the last one is too early
			head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, number), 3)
			other.Write(append(head, "xyz"...))
		}
	}()
	got, err := io.ReadAll(r)
	if !errors.Is(err, ErrBroken) || string(got) != "abc" {
		t.Errorf("%q, %v", got, err)
	}
}
