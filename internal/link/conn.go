package link

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is one connection between the source and the target.
type Conn struct {
	wire  *wire
	r     io.Reader
	w     io.Writer
	offer int // how many connections the target takes; known to the source
}

func newConn(w *wire, t *tls.Conn, mode Mode) (*Conn, error) {
	switch mode {
	case Encrypted:
		return &Conn{wire: w, r: t, w: t}, nil
	case Plain:
		seal, open, err := sealed(w, t)
		return &Conn{wire: w, r: open, w: seal}, err
	}
	return nil, fmt.Errorf("there is no mode %q", mode)
}

// Read fails with ErrBroken, or with io.EOF when the other end has closed. What it returns has been sent by
// the source, in this order.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	return n, failure(err)
}

// Write fails with ErrBroken. What it has returned for is on its way.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err == nil {
		err = c.wire.flush()
	}
	return n, failure(err)
}

func failure(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

// Close ends the connection. What was written arrives none the less, while both hosts live.
func (c *Conn) Close() error { return c.wire.Close() }

// SetReadDeadline and SetWriteDeadline are those of net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error  { return c.wire.SetReadDeadline(t) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.wire.SetWriteDeadline(t) }

// Sent is how many bytes went over the wire from this end so far, handshake and all.
func (c *Conn) Sent() int64 { return c.wire.sent.Load() }

// wireBuffer is what goes to the kernel, and comes from it, at once. TLS would call it for each record of
// 16 KiB.
const wireBuffer = 320 << 10

// wire is a TCP connection that gathers writes until flush, and reads ahead.
type wire struct {
	net.Conn
	in   *bufio.Reader
	sent atomic.Int64

	mu  sync.Mutex // of out; a Read flushes as well
	out *bufio.Writer
}

func newWire(tcp net.Conn, mode Mode) *wire {
	if t, ok := tcp.(*net.TCPConn); ok {
		t.SetKeepAliveConfig(keepAlive) // without them a lost host is noticed later, no more
		setUserTimeout(t)
	}
	ahead := wireBuffer
	if mode == Plain { // whose records are read where they belong
		ahead = 4 << 10
	}
	w := &wire{Conn: tcp, in: bufio.NewReaderSize(tcp, ahead)}
	w.out = bufio.NewWriterSize(counted{w}, wireBuffer)
	return w
}

// within does a part of the handshake in its time, and no longer than ctx lasts.
func (w *wire) within(ctx context.Context, do func() error) error {
	w.SetDeadline(time.Now().Add(handshakeLimit))
	stop := context.AfterFunc(ctx, func() { w.Close() })
	err := do()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	w.SetDeadline(time.Time{})
	return err
}

// counted writes to the TCP connection itself.
type counted struct{ *wire }

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

// writeAll sends parts at once, without a copy of them.
func (w *wire) writeAll(parts ...[]byte) error {
	if err := w.flush(); err != nil {
		return err
	}
	n, err := (*net.Buffers)(&parts).WriteTo(w.Conn)
	w.sent.Add(n)
	return err
}

func (w *wire) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Flush()
}

// Read sends first what the other end may be waiting for.
func (w *wire) Read(p []byte) (int, error) {
	if w.in.Buffered() == 0 {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	return w.in.Read(p)
}
