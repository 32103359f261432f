package probe

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// forwarder is a name server's stand-in on the loopback interface: what connects to it is connected
// to the first of the real ones that accepts. Once it is closed a client keeps the route it has: a
// refused query leaves the old one in place (client-go v2.1.2, UpdateTopicRouteInfo).
type forwarder struct {
	listener net.Listener
	targets  []string
	running  sync.WaitGroup
	ctx      context.Context // ends at Close, and a dial with it
	end      context.CancelFunc

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

const forwardDialTimeout = 3 * time.Second

func forward(targets []string) (*forwarder, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	f := &forwarder{listener: l, targets: targets, ctx: ctx, end: end, conns: map[net.Conn]struct{}{}}
	f.running.Go(f.accept)
	return f, nil
}

// Addr is the address to give to the client.
func (f *forwarder) Addr() string { return f.listener.Addr().String() }

// Close ends all connections and refuses new ones, for good. Closing again does nothing.
func (f *forwarder) Close() {
	f.end()
	f.listener.Close()
	f.mu.Lock()
	f.closed = true
	for c := range f.conns {
		c.Close()
	}
	f.mu.Unlock()
	f.running.Wait()
}

func (f *forwarder) accept() {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.running.Go(func() { f.serve(c) })
	}
}

func (f *forwarder) serve(client net.Conn) {
	defer client.Close()
	for _, target := range f.targets {
		dialer := net.Dialer{Timeout: forwardDialTimeout}
		server, err := dialer.DialContext(f.ctx, "tcp", target)
		if err != nil {
			continue
		}
		defer server.Close()
		if !f.keep(client, server) {
			return
		}
		defer f.drop(client, server)
		back := make(chan struct{})
		go func() {
			defer close(back)
			io.Copy(client, server)
			client.Close()
		}()
		io.Copy(server, client)
		server.Close()
		<-back
		return
	}
}

func (f *forwarder) keep(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		f.conns[c] = struct{}{}
	}
	return !f.closed
}

func (f *forwarder) drop(conns ...net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		delete(f.conns, c)
	}
}
