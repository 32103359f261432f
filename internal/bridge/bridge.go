// Package bridge forwards the TCP connections that clients make to a broker's old address to the broker that
// serves its queues now.
//
// A RocketMQ client asks for its routes every 30 s (pollNameServerInterval, 4.5.2 to 5.3.3). Until then one with
// an old route talks to the address of the old master, where nobody is any more, although the new leader has the
// same broker name and the same queues. A bridge on that address ends its outage at once.
//
// Which ports: clients use the broker's listenPort, and listenPort-2 where they have vipChannelEnabled (off by
// default since 4.5.1); a broker listens on both on all addresses (remotingServer and fastRemotingServer of
// BrokerController in 4.5.2 and 4.9.7; the TCP_REMOTING_SERVER and FAST_REMOTING_SERVER of 5.3.3, there on
// bindAddress, 0.0.0.0 by default). The HA port is for slaves, which a DLedger group has none of. A 5.x proxy in
// the broker's process has ports of its own (8080 and 8081), which its clients know as endpoints, not from routes.
//
// What the leader sees: every forwarded client has the address of the bridge's host. Three things follow.
//
// ACL: where plain_acl.yml white-lists that address (package acl), every client gets what its host may, unsigned:
// do not build a bridge there. Where it white-lists the clients' own addresses instead, those clients are refused
// over the bridge (code 16), and no better off than without it. The same holds of sourceIps in the policies of
// 5.3 (authorizationEnabled), which are in no file that could be read.
//
// Messages that come over the bridge have its host as their bornHost.
//
// Consumers: a broker keeps the members of a consumer group by connection and counts a client with two of them
// twice (ConsumerGroupInfo.getAllClientId in 4.5.2, 4.9.7 and 5.3.3; seen on 4.5.2); the group's queues are then
// shared out as if there were more clients, and some are consumed by nobody. Somebody with a fresh route keeps the old
// connection, silent, for two minutes (clientChannelMaxIdleTimeSeconds), or for as long as the bridge is there.
// That is why a connection that nothing goes over is closed after Request.Quiet. That the leader knows a group before
// its members' heartbeats come over the bridge, every 30 s, is not for the bridge to see to (package membership).
package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Request says what is forwarded where. Of each limit, 0 stands for the default.
type Request struct {
	// Listen are the addresses to listen on, host:port. Without a host it is all addresses, as a broker does.
	Listen []string `json:"listen"`
	// Targets are the host:port that the connections of each of Listen go to.
	Targets []string `json:"targets"`
	// Wait is for how long an address that is taken is tried again; 30 s. A broker gives its ports up some 25 ms
	// after SIGTERM.
	Wait time.Duration `json:"waitNs,omitempty"`
	// Dial is how long the target may take to answer; 3 s, as long as a client waits for a reply.
	Dial time.Duration `json:"dialNs,omitempty"`
	// Quiet is for how long nothing may go over a connection; 25 s: longer than a pull is held by the broker (15 s
	// for push consumers, 20 s for others) and shorter than the two polls in which clients get fresh routes.
	Quiet time.Duration `json:"quietNs,omitempty"`
	// Connections is how many there may be at once, 4096 and no more than there are files for. One that comes on
	// top is closed at once, so that its client does not wait.
	Connections int `json:"connections,omitempty"`
}

// State is how a bridge does.
type State struct {
	// Listening are those of Request.Listen that connections are taken on.
	Listening []string `json:"listening"`
	// Targets are where new connections go.
	Targets []string `json:"targets"`
	// Open are the connections there are now, Accepted all that came. When all clients have had the time for a poll,
	// none is open, and none has come for a while (SinceAccepted), clients have fresh routes.
	Open     int   `json:"open"`
	Accepted int64 `json:"accepted"`
	// Refused are those that were closed without having reached a target, and Trouble is why the last one was.
	Refused int64  `json:"refused,omitempty"`
	Trouble string `json:"trouble,omitempty"`
	// FromClients and ToClients are the bytes that were forwarded.
	FromClients int64 `json:"fromClients"`
	ToClients   int64 `json:"toClients"`
	// SinceAccepted is how long ago the last connection came, SinceHeard how long ago a client sent anything; 0: none
	// did.
	SinceAccepted time.Duration `json:"sinceAcceptedNs"`
	SinceHeard    time.Duration `json:"sinceHeardNs"`
}

const (
	// again is how long an address that is taken is left alone: what a client's outage may grow by.
	again = 5 * time.Millisecond
	// every is how often the state is told, and connections are looked at.
	every = time.Second
	// vanished is for how long a host may leave data or a question whether it is there unanswered.
	vanished = 10 * time.Second
)

// keepAlive asks whether the other host is there; what went unanswered counts for vanished.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

func (r Request) withDefaults() Request {
	for limit, standard := range map[*time.Duration]time.Duration{&r.Wait: 30 * time.Second, &r.Dial: 3 * time.Second, &r.Quiet: 25 * time.Second} {
		if *limit <= 0 {
			*limit = standard
		}
	}
	if r.Connections <= 0 {
		r.Connections = 4096
	}
	const besides = 64 // files that are open for other purposes, and to spare
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil && files.Cur < uint64(2*r.Connections+besides) {
		r.Connections = max(1, (int(files.Cur)-besides)/2)
	}
	return r
}

// Run forwards until ctx ends; that is no error. Then nothing listens any more, and all connections are closed:
// a server with SO_REUSEADDR, which a JVM and Go set by themselves, can take the ports at once.
//
// Other targets that are told to retarget, which may be nil, replace Request.Targets: new connections go there,
// and those to a target that is not one any more are closed. tell, which may be nil, is told the state every
// second and when a port or the targets change, by one caller at a time. The state returned is the last one.
//
// An error says which address could not be listened on, and who has it.
func Run(ctx context.Context, r Request, retarget <-chan []string, tell func(State)) (State, error) {
	b := newBridge(r)
	if err := b.aim(r.Targets); err != nil {
		return b.state(), err
	}
	group, within := errgroup.WithContext(ctx)
	for i, address := range r.Listen {
		group.Go(func() error { return b.serve(within, i, address) })
	}
	group.Go(func() error { return b.attend(within, retarget, tell) })
	err := group.Wait()
	b.forwarding.Wait()
	b.mu.Lock()
	clear(b.listening)
	b.mu.Unlock()
	return b.state(), err
}

type bridge struct {
	request    Request
	began      time.Time
	buffers    sync.Pool // of *[bufferSize]byte
	changed    chan struct{}
	forwarding sync.WaitGroup

	fromClients, toClients atomic.Int64
	heard                  atomic.Int64 // when a client sent something, by now; 0: never

	mu           sync.Mutex
	listening    map[string]bool
	targets      []string
	open         map[*connection]struct{}
	accepted     int64
	lastAccepted time.Time
	refused      int64
	trouble      string
}

// connection is one of a client, with the target that it goes to.
type connection struct {
	port   int // index of Request.Listen
	target string
	client *net.TCPConn
	active atomic.Int64 // when something went over it, by now
	end    context.CancelFunc
}

func newBridge(r Request) *bridge {
	b := &bridge{
		request: r.withDefaults(), began: time.Now(),
		listening: map[string]bool{}, open: map[*connection]struct{}{}, changed: make(chan struct{}, 1),
	}
	b.buffers.New = func() any { return new([bufferSize]byte) }
	return b
}

// now is the time since the bridge began, in nanoseconds: no change of the host's clock is in it.
func (b *bridge) now() int64 { return int64(time.Since(b.began)) }

// state is how the bridge does now.
func (b *bridge) state() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := State{
		Listening: slices.Sorted(maps.Keys(b.listening)), Targets: b.targets,
		Open: len(b.open), Accepted: b.accepted, Refused: b.refused, Trouble: b.trouble,
		FromClients: b.fromClients.Load(), ToClients: b.toClients.Load(),
	}
	if !b.lastAccepted.IsZero() {
		s.SinceAccepted = time.Since(b.lastAccepted)
	}
	if heard := b.heard.Load(); heard != 0 {
		s.SinceHeard = time.Duration(b.now() - heard)
	}
	return s
}

// attend tells the state, takes other targets, and ends quiet connections, until ctx ends.
func (b *bridge) attend(ctx context.Context, retarget <-chan []string, tell func(State)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case targets, more := <-retarget:
			if !more {
				retarget = nil
				continue
			}
			if err := b.aim(targets); err != nil {
				return err
			}
		case <-b.changed:
		case <-tick.C:
			b.endQuiet()
		}
		if tell != nil {
			tell(b.state())
		}
	}
}

// aim has new connections go to these targets, and ends those that go elsewhere.
func (b *bridge) aim(targets []string) error {
	if len(targets) != len(b.request.Listen) {
		return fmt.Errorf("a bridge on %d addresses cannot go to %d targets", len(b.request.Listen), len(targets))
	}
	for i, target := range targets {
		if err := notItself(b.request.Listen[i], target); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.targets = slices.Clone(targets)
	for c := range b.open {
		if c.target != b.targets[c.port] {
			c.end()
		}
	}
	return nil
}

// notItself refuses a bridge whose connections would come back to it, for ever.
func notItself(listen, target string) error {
	from, port, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	to, targetPort, err := net.SplitHostPort(target)
	if err != nil || port != targetPort {
		return err
	}
	own := to == from
	if goal, err := netip.ParseAddr(to); err == nil && !own {
		source, err := netip.ParseAddr(from)
		if all := err != nil || source.IsUnspecified(); all {
			addresses, err := net.InterfaceAddrs()
			if err != nil {
				return err
			}
			own = goal.IsLoopback() || slices.ContainsFunc(addresses, func(a net.Addr) bool {
				prefix, err := netip.ParsePrefix(a.String())
				return err == nil && prefix.Addr() == goal.Unmap()
			})
		}
	}
	if own {
		return fmt.Errorf("the bridge on %s cannot go to %s: that is its own address", listen, target)
	}
	return nil
}

func (b *bridge) endQuiet() {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.now() - int64(b.request.Quiet)
	for c := range b.open {
		if c.active.Load() < before {
			c.end()
		}
	}
}

// serve takes connections on one address until ctx ends.
func (b *bridge) serve(ctx context.Context, port int, address string) error {
	l, err := b.listen(ctx, address)
	if l == nil {
		return err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	b.mu.Lock()
	b.listening[address] = true
	b.mu.Unlock()
	select {
	case b.changed <- struct{}{}:
	default: // it has not been told of an earlier change yet
	}
	for {
		client, err := l.AcceptTCP()
		switch {
		case err == nil:
			b.take(ctx, port, client)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			b.refuse(err)
			time.Sleep(again) // until some connection has ended
		default:
			return fmt.Errorf("taking connections on %s: %w", address, err)
		}
	}
}

// take has a connection forwarded, if there is room for it.
func (b *bridge) take(ctx context.Context, port int, client *net.TCPConn) {
	b.mu.Lock()
	b.accepted++
	b.lastAccepted = time.Now()
	full := len(b.open) >= b.request.Connections
	if !full {
		c := &connection{port: port, target: b.targets[port], client: client}
		c.active.Store(b.now())
		ctx, c.end = context.WithCancel(ctx)
		b.open[c] = struct{}{}
		b.forwarding.Go(func() {
			b.forward(ctx, c)
			c.end()
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.open, c)
		})
	}
	b.mu.Unlock()
	if full {
		client.Close()
		b.refuse(fmt.Errorf("there are %d connections already", b.request.Connections))
	}
}

func (b *bridge) refuse(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused++
	b.trouble = err.Error()
}

// forward connects to the target and carries what comes from either end to the other, until both have ended, one
// has failed, or ctx ends.
func (b *bridge) forward(ctx context.Context, c *connection) {
	defer c.client.Close()
	c.client.SetKeepAliveConfig(keepAlive) // without it a lost client is noticed later, no more
	dial := net.Dialer{Timeout: b.request.Dial, KeepAliveConfig: keepAlive, Control: onOutgoing}
	conn, err := dial.DialContext(ctx, "tcp", c.target)
	if err != nil {
		if ctx.Err() == nil {
			b.refuse(err)
		}
		return
	}
	target := conn.(*net.TCPConn)
	defer target.Close()
	defer context.AfterFunc(ctx, func() {
		c.client.Close()
		target.Close()
	})()
	var both sync.WaitGroup
	carry := func(to, from *net.TCPConn, count func(n int)) {
		both.Go(func() {
			if err := b.carry(to, from, func(n int) {
				c.active.Store(b.now())
				count(n)
			}); err != nil {
				c.end() // so that both ends notice
			}
		})
	}
	carry(target, c.client, func(n int) {
		b.fromClients.Add(int64(n))
		b.heard.Store(c.active.Load())
	})
	carry(c.client, target, func(n int) { b.toClients.Add(int64(n)) })
	both.Wait()
}

// bufferSize is what is carried at once. A connection has a buffer only while it carries something: there may be
// thousands, on a broker's host. (io.Copy would splice, and hold two pipes for each of them all the time: four
// files more, and the pipe pages of the broker's user.)
const bufferSize = 64 << 10

// carry copies until the end of one connection, which it passes on to the other.
func (b *bridge) carry(to, from *net.TCPConn, count func(n int)) error {
	raw, err := from.SyscallConn()
	if err != nil {
		return err
	}
	for {
		buffer, n, err := b.read(raw)
		if err == io.EOF {
			return to.CloseWrite()
		}
		if err != nil {
			return err
		}
		_, err = to.Write(buffer[:n])
		b.buffers.Put(buffer)
		if err != nil {
			return err
		}
		count(n)
	}
}

// read waits until something has come, and only then takes a buffer for it.
func (b *bridge) read(raw syscall.RawConn) (buffer *[bufferSize]byte, n int, err error) {
	waitErr := raw.Read(func(fd uintptr) bool {
		buffer = b.buffers.Get().(*[bufferSize]byte)
		for {
			if n, err = unix.Read(int(fd), buffer[:]); err != unix.EINTR {
				break
			}
		}
		if n <= 0 {
			b.buffers.Put(buffer)
			buffer = nil
		}
		return err != unix.EAGAIN
	})
	switch {
	case waitErr != nil:
		return nil, 0, waitErr
	case err != nil:
		return nil, 0, err
	case n == 0:
		return nil, 0, io.EOF
	}
	return buffer, n, nil
}
