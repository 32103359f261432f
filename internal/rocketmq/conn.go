package rocketmq

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// conn is one connection with any number of requests under way, matched by their opaque. One
// goroutine writes whole frames, so that a caller who gives up never cuts one; another reads.
type conn struct {
	nc           net.Conn
	writeTimeout time.Duration
	out          chan outgoing
	done         chan struct{} // closed when broken; err is set then
	onBroken     func()

	mu       sync.Mutex
	pending  map[int32]chan *Command
	retired  bool
	err      error
	lastRead time.Time
}

// outgoing is a frame on its way to the writer, which closes taken before its first byte.
type outgoing struct {
	frame []byte
	taken chan struct{}
}

// timedOut marks a request that nothing was heard after, on a connection that may be dead.
type timedOut struct {
	waited time.Duration
	err    error
	silent bool
}

func (e *timedOut) Error() string {
	return fmt.Sprintf("no answer, waited %s: the process there hangs or is overloaded, or a firewall drops what is sent", e.waited)
}

func (e *timedOut) Unwrap() error { return e.err }

func newConn(nc net.Conn, writeTimeout time.Duration, onBroken func()) *conn {
	c := &conn{
		nc: nc, writeTimeout: writeTimeout, onBroken: onBroken,
		out: make(chan outgoing), done: make(chan struct{}),
		pending: map[int32]chan *Command{},
	}
	go c.write()
	go c.read()
	return c
}

// roundTrip sends a frame and waits for the response with its opaque. sent tells whether any byte
// of it may have left.
func (c *conn) roundTrip(ctx context.Context, opaque int32, frame []byte) (_ *Command, sent bool, _ error) {
	answer := make(chan *Command, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, false, c.err
	}
	c.pending[opaque] = answer
	c.mu.Unlock()
	defer c.forget(opaque)

	started := time.Now()
	o := outgoing{frame: frame, taken: make(chan struct{})}
	select {
	case c.out <- o:
	case <-c.done:
		return nil, false, c.err
	case <-ctx.Done():
		return nil, false, c.expired(ctx, started)
	}
	select {
	case r := <-answer:
		return r, true, nil
	case <-ctx.Done():
		return nil, isClosed(o.taken), c.expired(ctx, started)
	case <-c.done:
		select { // the answer may have come right before the end
		case r := <-answer:
			return r, true, nil
		default:
			return nil, isClosed(o.taken), c.err
		}
	}
}

func isClosed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// expired is the error of a request whose context ended. A caller who changed his mind says
// nothing about the connection; time run out without a byte from the peer since does.
func (c *conn) expired(ctx context.Context, started time.Time) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return &timedOut{
		waited: time.Since(started).Round(time.Millisecond),
		err:    ctx.Err(),
		silent: c.lastRead.Before(started),
	}
}

// silent tells that an error of roundTrip came of a connection on which nothing was heard for a
// whole request: its host may be gone, or be back under the same address without knowing of it.
func (c *conn) silent(err error) bool {
	var t *timedOut
	return errors.As(err, &t) && t.silent
}

func (c *conn) forget(opaque int32) {
	c.mu.Lock()
	delete(c.pending, opaque)
	idle := c.retired && len(c.pending) == 0
	c.mu.Unlock()
	if idle {
		c.fail(errRetired)
	}
}

var errRetired = errors.New("connection given up, nothing was heard on it")

// retire closes the connection as soon as nothing waits on it.
func (c *conn) retire() {
	c.mu.Lock()
	c.retired = true
	idle := len(c.pending) == 0
	c.mu.Unlock()
	if idle {
		c.fail(errRetired)
	}
}

// fail breaks the connection, once.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	c.mu.Unlock()
	c.onBroken() // first out of the pool: who sees done dials anew
	close(c.done)
	c.nc.Close()
}

func (c *conn) write() {
	for {
		select {
		case <-c.done:
			return
		case o := <-c.out:
			close(o.taken)
			c.nc.SetWriteDeadline(time.Now().Add(c.writeTimeout))
			if _, err := c.nc.Write(o.frame); err != nil {
				c.fail(fmt.Errorf("connection lost: %w", err))
				return
			}
		}
	}
}

func (c *conn) read() {
	r := bufio.NewReaderSize(c.nc, 32<<10)
	for {
		frame, err := readFrame(r)
		if errors.Is(err, io.EOF) {
			err = errors.New("closed by the peer")
		}
		var command *Command
		if err == nil {
			command, err = DecodeCommand(frame)
		}
		if err != nil {
			c.fail(fmt.Errorf("connection lost: %w", err))
			return
		}
		c.mu.Lock()
		c.lastRead = time.Now()
		answer := c.pending[command.Opaque]
		c.mu.Unlock()
		switch {
		case !command.IsResponse():
			c.deny(command)
		case answer != nil:
			select {
			case answer <- command:
			default: // answered twice
			}
		}
		// else: the answer to a request that was given up
	}
}

// deny answers a request of the peer's, such as GET_CONSUMER_RUNNING_INFO, as a client does that
// has nothing to say about it. One that wants no answer gets none, and one that comes while the
// writer is busy neither: brokers wait for such answers with a limit.
func (c *conn) deny(request *Command) {
	if request.Flag&flagOneWay != 0 {
		return
	}
	frame, err := (&Command{
		Code: ResponseRequestCodeNotSupported, Version: protocolVersion, Opaque: request.Opaque,
		Flag: flagResponse, Remark: fmt.Sprintf("mqlift does not take requests (code %d)", int(request.Code)),
	}).Encode()
	if err != nil {
		return
	}
	select {
	case c.out <- outgoing{frame: frame, taken: make(chan struct{})}:
	case <-time.After(time.Second):
	case <-c.done:
	}
}
