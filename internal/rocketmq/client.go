// Package rocketmq speaks RocketMQ's remoting protocol with brokers and name servers: what mqlift
// needs to look at a cluster and to change it. Shapes and codes were read from the sources of
// 4.5.2 and 5.3.3 and tried on real 4.5.2 brokers.
package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
)

// Options of a Client. The zero value is usable.
type Options struct {
	// DialTimeout bounds one connection attempt; 0 is 3 s.
	DialTimeout time.Duration
	// RequestTimeout bounds a call, dialling included, when its context ends later or never; 0 is
	// 10 s. It should stay above 6 s: a broker answers a change of brokerPermission only after it
	// has registered with its name servers, or has waited 6 s for a dead one
	// (BrokerConfig.registerBrokerTimeoutMills, 4.5.2).
	RequestTimeout time.Duration
	// Credentials sign every request when set.
	Credentials *Credentials
}

// Client keeps one connection per address, shared by all calls to it and dialled again when it
// broke. It is safe for concurrent use.
type Client struct {
	options Options
	opaque  atomic.Int32
	life    context.Context // ends with Close, and with it what is being dialled
	end     context.CancelFunc

	mu     sync.Mutex
	closed bool
	pool   map[string]*pooled
}

// pooled is a place in the pool: a connection, or one that is being dialled until ready closes.
type pooled struct {
	ready chan struct{}
	conn  *conn
	err   error
}

// ErrClosed is returned by calls on a closed client.
var ErrClosed = errors.New("the RocketMQ client is closed")

// ResponseError is a peer's refusal: it got the request and answered with another code than 0.
type ResponseError struct {
	Addr    string
	Request Code
	Code    Code
	Remark  string
}

func (e *ResponseError) Error() string {
	s := fmt.Sprintf("%s at %s: code %d", requestName(e.Request), e.Addr, int(e.Code))
	if name := responseName(e.Code); name != "" {
		s += " " + name
	}
	if e.Remark != "" { // some run over two lines, with a link to a FAQ
		s += ": " + strings.Join(strings.FieldsFunc(e.Remark, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	}
	return s
}

// CallError is a call without an answer: no connection, a connection lost, time run out.
// It wraps the cause, such as context.DeadlineExceeded or syscall.ECONNREFUSED.
type CallError struct {
	Addr    string
	Request Code
	// Sent tells that the peer may have got the request and carried it out; when false it
	// certainly has not.
	Sent bool
	Err  error
}

func (e *CallError) Error() string {
	return fmt.Sprintf("%s at %s: %v", requestName(e.Request), e.Addr, e.Err)
}

func (e *CallError) Unwrap() error { return e.Err }

// NewClient makes a client; it connects when it is first asked for something.
func NewClient(o Options) *Client {
	if o.DialTimeout <= 0 {
		o.DialTimeout = 3 * time.Second
	}
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = 10 * time.Second
	}
	if o.Credentials != nil {
		copied := *o.Credentials
		o.Credentials = &copied
	}
	c := &Client{options: o, pool: map[string]*pooled{}}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// Close drops all connections; calls under way fail with ErrClosed.
func (c *Client) Close() error {
	c.end()
	c.mu.Lock()
	c.closed = true
	pool := c.pool
	c.pool = map[string]*pooled{}
	c.mu.Unlock()
	for _, p := range pool {
		select {
		case <-p.ready:
			if p.conn != nil {
				p.conn.fail(ErrClosed)
			}
		default: // its dialler sees closed, and closes what it got
		}
	}
	return nil
}

// Call sends a request to host:port and returns its response. The request is not changed, and may
// be used again. An answer with a code other than 0 comes back beside a *ResponseError, no answer
// at all as a *CallError. A request that failed on a connection kept from before is sent once more
// on a new one, unless it is a send that the broker may have stored.
func (c *Client) Call(ctx context.Context, addr string, request *Command) (*Command, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.RequestTimeout)
	defer cancel()
	response, kept, err := c.once(ctx, addr, request)
	var lost *CallError
	if errors.As(err, &lost) && kept && ctx.Err() == nil && !errors.Is(err, ErrClosed) &&
		(!lost.Sent || repeatable(request.Code)) {
		response, _, err = c.once(ctx, addr, request) // the broken connection has left the pool
	}
	return response, err
}

// repeatable tells that carrying a request out twice is the same as once. All but sends are reads
// or set a state.
func repeatable(c Code) bool { return c != SendMessage && c != SendMessageV2 }

// once tries a call on one connection; kept tells that this one was not dialled for it.
func (c *Client) once(ctx context.Context, addr string, request *Command) (_ *Command, kept bool, _ error) {
	fail := func(sent bool, err error) error {
		return &CallError{Addr: addr, Request: request.Code, Sent: sent, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return nil, false, fail(false, err)
	}
	cn, kept, err := c.connection(ctx, addr)
	if err != nil {
		return nil, false, fail(false, err)
	}
	out := *request
	out.Opaque = c.opaque.Add(1)
	out.Flag &^= flagResponse | flagOneWay
	if out.Version == 0 {
		out.Version = protocolVersion
	}
	if c.options.Credentials != nil {
		out.Fields = maps.Clone(request.Fields)
		c.options.Credentials.sign(&out)
	}
	frame, err := out.Encode()
	if err != nil {
		return nil, false, fail(false, err)
	}
	response, sent, err := cn.roundTrip(ctx, out.Opaque, frame)
	if err != nil {
		if cn.silent(err) {
			c.retire(addr, cn)
		}
		return nil, kept, fail(sent, err)
	}
	if response.Code != ResponseSuccess {
		return response, kept, &ResponseError{Addr: addr, Request: request.Code, Code: response.Code, Remark: response.Remark}
	}
	return response, kept, nil
}

// connection returns the address's connection, dialling when there is none. Callers share a dial,
// and it goes on when one of them gives up.
func (c *Client) connection(ctx context.Context, addr string) (_ *conn, kept bool, _ error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, false, ErrClosed
	}
	p, kept := c.pool[addr]
	if !kept {
		p = &pooled{ready: make(chan struct{})}
		c.pool[addr] = p
		go c.dial(addr, p)
	}
	c.mu.Unlock()
	select {
	case <-p.ready:
	default:
		kept = false // still being dialled: as good as new
	}
	select {
	case <-p.ready:
		return p.conn, kept, p.err
	case <-ctx.Done():
		return nil, false, fmt.Errorf("connecting: %w", ctx.Err())
	}
}

func (c *Client) dial(addr string, p *pooled) {
	ctx, cancel := context.WithTimeout(c.life, c.options.DialTimeout)
	defer cancel()
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
	}}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if tcp, ok := nc.(*net.TCPConn); ok && err == nil {
		// What was given up must not arrive later: a change of configuration that waits in a cut link's
		// buffer would be carried out after it has been undone. A reset throws it away, also when this
		// process is killed. A connection that ends in order has nothing left to send.
		err = tcp.SetLinger(0)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(p.ready)
	switch {
	case c.closed:
		if nc != nil {
			nc.Close()
		}
		p.err = ErrClosed
	case err != nil:
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // the address is said by CallError
		}
		p.err = fmt.Errorf("connecting: %w", err)
		c.removeLocked(addr, p)
	default:
		p.conn = newConn(nc, c.options.RequestTimeout, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.removeLocked(addr, p)
		})
	}
}

func (c *Client) removeLocked(addr string, p *pooled) {
	if c.pool[addr] == p {
		delete(c.pool, addr)
	}
}

// retire takes a connection out of the pool without breaking the requests under way on it.
func (c *Client) retire(addr string, cn *conn) {
	c.mu.Lock()
	if p := c.pool[addr]; p != nil && p.conn == cn {
		delete(c.pool, addr)
	}
	c.mu.Unlock()
	cn.retire()
}
