// Package link connects two hosts for one copy: the target listens, the source connects, over one TCP
// connection or several, and each takes only the peer whose one-time certificate it has been told of. TLS 1.3
// makes a connection; the data that follows is encrypted, or, where that was asked for, only authenticated.
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// How long it may take to find one another. Data has no limit, since a disk may stall it at either end:
// keep-alives ask whether the other host is there, and whoever runs both ends hears when one of them dies.
const (
	connectLimit   = 5 * time.Second
	handshakeLimit = 10 * time.Second
	acceptWait     = 15 * time.Second
)

// keepAlive finds a host that went without a word, after 10 s and three unanswered questions.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// ErrBroken says that a connection between two hosts was not made, did not hold, or was tampered with, as
// against a failure of one of its ends.
var ErrBroken = errors.New("the direct connection failed")

// Mode is what becomes of the data on its way.
type Mode string

const (
	Encrypted Mode = "encrypted" // TLS 1.3
	// Plain is readable for whoever sees the wire. Each record carries a code (GMAC) that only the two ends
	// can make, by a key that comes from the TLS handshake, and its number.
	Plain Mode = "plain"
)

// Listener waits for the source. It holds its port until Accept or Serve returns, or Close.
type Listener struct {
	// Wait is for how long Accept waits for the source.
	Wait time.Duration
	// Most is how many connections it takes for one copy.
	Most int

	tcp net.Listener
	id  *Identity
}

// ErrTaken says that another program listens on the port.
var ErrTaken = errors.New("is taken")

// Listen takes a port on all addresses, as the Raft peer will. One that is taken is tried again for some time:
// whoever sees which hosts reach one another holds it for a moment. Then the error is ErrTaken.
func Listen(ctx context.Context, port int, id *Identity, limit time.Duration) (*Listener, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		tcp, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err == nil {
			return &Listener{acceptWait, Streams(), tcp, id}, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("port %d, over which the data is to come, %w: %w", port, ErrTaken, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Close gives the port back.
func (l *Listener) Close() error { return l.tcp.Close() }

// Accept returns the stream of the peer when all its connections have come, and gives the port back. Others
// are turned away.
func (l *Listener) Accept(ctx context.Context, pin string, mode Mode) (*Receiver, error) {
	within, cancel := context.WithTimeout(ctx, l.Wait)
	defer cancel()
	var mu sync.Mutex
	var came []*Conn // by the number that each says
	missing := 0
	turned, err := l.Serve(within, []string{pin}, mode, func(_ int, c *Conn) {
		number, of, err := c.introduced(within)
		mu.Lock()
		defer mu.Unlock()
		if came == nil && err == nil && of <= l.Most {
			came, missing = make([]*Conn, of), of
		}
		if err != nil || of != len(came) || number >= of || came[number] != nil {
			c.Close()
			return
		}
		came[number] = c
		if missing--; missing == 0 {
			cancel()
		}
	})
	if came != nil && missing == 0 {
		return newReceiver(came), nil
	}
	for _, c := range came {
		if c != nil {
			c.Close()
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	case came != nil:
		return nil, fmt.Errorf("%w: %d of %d connections of the source did not come to %s within %s%s", ErrBroken, missing, len(came), l.Addr(), l.Wait, turned)
	}
	return nil, fmt.Errorf("%w: the source did not connect to %s within %s%s", ErrBroken, l.Addr(), l.Wait, turned)
}

// introduced reads what the source says of a connection: which it is, and of how many.
func (c *Conn) introduced(ctx context.Context) (number, of int, err error) {
	var said [2]byte
	err = c.wire.within(ctx, func() error {
		_, err := io.ReadFull(c, said[:])
		return err
	})
	return int(said[0]), int(said[1]), err
}

// Turned are those who were turned away.
type Turned struct {
	Count int
	Last  string // address
	Err   error  // why it was
}

func (t Turned) String() string {
	if t.Count == 0 {
		return ""
	}
	return fmt.Sprintf("; turned away: %d, at last %s: %v", t.Count, t.Last, t.Err)
}

// maxWaiting is how many may be in a handshake at once. What comes on top pushes out the one that has been at
// it for longest: who says nothing keeps nobody off.
const maxWaiting = 32

var errPushedOut = errors.New("too many connections at once, and this one was the slowest to say who it is")

// Serve calls take, side by side, for each connection of a peer, with the index of its pin, until ctx
// ends. Then it gives the port back.
func (l *Listener) Serve(ctx context.Context, pins []string, mode Mode, take func(who int, c *Conn)) (Turned, error) {
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var (
		mu      sync.Mutex
		turned  Turned
		wait    sync.WaitGroup
		shaking []net.Conn // the oldest first
	)
	refuse := func(tcp net.Conn, err error) {
		tcp.Close()
		mu.Lock()
		defer mu.Unlock()
		turned.Count++
		turned.Last, turned.Err = tcp.RemoteAddr().String(), err
	}
	var failed error
	for {
		tcp, err := l.tcp.Accept()
		if err != nil {
			if ctx.Err() == nil {
				failed = err
			}
			break
		}
		mu.Lock()
		if len(shaking) == maxWaiting {
			shaking[0].Close()
			shaking = shaking[1:]
		}
		shaking = append(shaking, tcp)
		mu.Unlock()
		wait.Go(func() {
			c, who, err := l.welcome(ctx, tcp, pins, mode)
			mu.Lock()
			still := slices.Index(shaking, tcp)
			if still >= 0 {
				shaking = slices.Delete(shaking, still, still+1)
			}
			mu.Unlock()
			if still < 0 {
				err = errPushedOut
			}
			if err != nil {
				refuse(tcp, err)
				return
			}
			take(who, c)
		})
	}
	wait.Wait()
	return turned, failed
}

// welcome is the target's half of the handshake. Its last word tells the source that it has been taken (in
// TLS 1.3 a client is through before the server has looked at its certificate), and how many connections are.
func (l *Listener) welcome(ctx context.Context, tcp net.Conn, pins []string, mode Mode) (*Conn, int, error) {
	w := newWire(tcp, mode)
	t := tls.Server(w, l.id.config(pins))
	if err := shake(ctx, t, w); err != nil {
		return nil, 0, err
	}
	err := w.within(ctx, func() error {
		if _, err := t.Write([]byte{byte(l.Most)}); err != nil {
			return err
		}
		return w.flush()
	})
	if err != nil {
		return nil, 0, err
	}
	c, err := newConn(w, t, mode)
	return c, whose(t, pins), err
}

// Dial connects to the target and returns when it has been taken.
func Dial(ctx context.Context, address string, id *Identity, pin string, mode Mode) (*Conn, error) {
	c, err := dial(ctx, address, id, pin, mode)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBroken, address, err)
	}
	return c, nil
}

func dial(ctx context.Context, address string, id *Identity, pin string, mode Mode) (*Conn, error) {
	d := net.Dialer{Timeout: connectLimit}
	tcp, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	w := newWire(tcp, mode)
	t := tls.Client(w, id.config([]string{pin}))
	err = shake(ctx, t, w)
	var offer [1]byte
	if err == nil {
		err = w.within(ctx, func() error {
			_, err := io.ReadFull(t, offer[:])
			return err
		})
	}
	if err != nil {
		tcp.Close()
		return nil, fmt.Errorf("shaking hands: %w", err)
	}
	c, err := newConn(w, t, mode)
	if err != nil {
		tcp.Close()
		return nil, err
	}
	c.offer = int(offer[0])
	return c, nil
}

func shake(ctx context.Context, t *tls.Conn, w *wire) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	err := t.HandshakeContext(ctx)
	if err != nil {
		w.flush() // the other end is told why, if it still can be
	}
	return err
}
