package rocketmq

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// peer is a broker or name server in this process. Each accepted connection runs serve.
type peer struct {
	t     testing.TB
	addr  string
	dials atomic.Int32
	serve func(p *peerConn)
}

type peerConn struct {
	net.Conn
	t testing.TB
}

func newPeer(t testing.TB, serve func(p *peerConn)) *peer {
	t.Helper()
	return newPeerAt(t, "127.0.0.1:0", serve)
}

func newPeerAt(t testing.TB, addr string, serve func(p *peerConn)) *peer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, addr: l.Addr().String(), serve: serve}
	var mu sync.Mutex
	var open []net.Conn
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			p.dials.Add(1)
			mu.Lock()
			open = append(open, nc)
			mu.Unlock()
			all.Go(func() {
				defer nc.Close()
				p.serve(&peerConn{nc, t})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, nc := range open {
			nc.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return p
}

// answering is a peer that answers every request by f; nil leaves one without an answer.
func answering(t testing.TB, f func(*Command) *Command) *peer {
	return newPeer(t, func(p *peerConn) {
		for r := p.next(); r != nil; r = p.next() {
			if a := f(r); a != nil {
				p.reply(r, a)
			}
		}
	})
}

// next is the next request, or nil at the connection's end.
func (p *peerConn) next() *Command {
	frame, err := readFrame(p)
	if err != nil {
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			p.t.Logf("peer: %v", err)
		}
		return nil
	}
	c, err := DecodeCommand(frame)
	if err != nil {
		p.t.Errorf("the client sent what is no frame: %v", err)
		return nil
	}
	return c
}

func (p *peerConn) reply(request, answer *Command) {
	a := *answer
	a.Opaque, a.Flag = request.Opaque, flagResponse
	p.send(&a)
}

func (p *peerConn) send(c *Command) {
	b, err := c.Encode()
	if err != nil {
		p.t.Error(err)
		return
	}
	p.Write(b)
}

func newTestClient(t testing.TB, o Options) *Client {
	c := NewClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

// within is a context with the limit of a test that should need milliseconds.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func ok(fields map[string]string) *Command { return &Command{Fields: fields} }
