package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCallsShareOneConnectionAndGetTheirOwnAnswers(t *testing.T) {
	const n = 50
	p := newPeer(t, func(p *peerConn) { // answers all at once, the last asked first
		var asked []*Command
		for len(asked) < n {
			r := p.next()
			if r == nil {
				return
			}
			asked = append(asked, r)
		}
		for i := n - 1; i >= 0; i-- {
			p.reply(asked[i], ok(map[string]string{"offset": asked[i].Fields["queueId"]}))
		}
		p.next()
	})
	c := newTestClient(t, Options{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			got, err := c.Broker(p.addr).MaxOffset(within(t), "t", i)
			if err != nil || got != int64(i) {
				t.Errorf("queue %d got %d, %v", i, got, err)
			}
		})
	}
	all.Wait()
	if d := p.dials.Load(); d != 1 {
		t.Errorf("%d connections for one address", d)
	}
}

func TestARequestThatTimesOutDoesNotPoisonTheConnection(t *testing.T) {
	release := make(chan struct{})
	p := newPeer(t, func(p *peerConn) {
		slow := p.next()
		quick := p.next()
		p.reply(quick, ok(map[string]string{"offset": "2"}))
		<-release
		p.reply(slow, ok(map[string]string{"offset": "1"})) // too late: must be dropped
		for r := p.next(); r != nil; r = p.next() {
			p.reply(r, ok(map[string]string{"offset": "3"}))
		}
	})
	c := newTestClient(t, Options{})
	b := c.Broker(p.addr)
	slow := make(chan error)
	ctx, cancel := context.WithTimeout(within(t), 150*time.Millisecond)
	defer cancel()
	go func() {
		_, err := b.MaxOffset(ctx, "slow", 0)
		slow <- err
	}()
	waitFor(t, func() bool { return pendingOn(c, p.addr) == 1 })
	if got, err := b.MaxOffset(within(t), "quick", 0); err != nil || got != 2 {
		t.Fatal(got, err)
	}
	err := <-slow
	var ce *CallError
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &ce) || !ce.Sent || ce.Addr != p.addr {
		t.Errorf("%#v", err)
	}
	close(release)
	if got, err := b.MaxOffset(within(t), "next", 0); err != nil || got != 3 {
		t.Error(got, err)
	}
	if d := p.dials.Load(); d != 1 {
		t.Errorf("dialled %d times", d)
	}
}

// pendingOn counts what waits on an address's connection.
func pendingOn(c *Client, addr string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pool[addr]
	if p == nil || p.conn == nil {
		return 0
	}
	p.conn.mu.Lock()
	defer p.conn.mu.Unlock()
	return len(p.conn.pending)
}

func waitFor(t testing.TB, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited 10 s in vain")
		}
	}
}

func TestAfterSilenceTheNextCallDialsAnew(t *testing.T) {
	var conns atomic.Int32
	p := newPeer(t, func(p *peerConn) {
		mute := conns.Add(1) == 1 // as of a host that went away without a word
		for r := p.next(); r != nil; r = p.next() {
			if !mute {
				p.reply(r, ok(map[string]string{"offset": "7"}))
			}
		}
	})
	c := newTestClient(t, Options{RequestTimeout: 100 * time.Millisecond})
	if _, err := c.Broker(p.addr).MaxOffset(within(t), "t", 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if got, err := c.Broker(p.addr).MaxOffset(within(t), "t", 0); err != nil || got != 7 {
		t.Fatal(got, err)
	}
	if p.dials.Load() != 2 {
		t.Errorf("dialled %d times", p.dials.Load())
	}
}

func TestACallerWhoGivesUpDoesNotDropTheConnection(t *testing.T) {
	p := answering(t, func(r *Command) *Command {
		if r.Fields["topic"] == "never" {
			return nil
		}
		return ok(map[string]string{"offset": "1"})
	})
	c := newTestClient(t, Options{})
	ctx, cancel := context.WithCancel(within(t))
	go func() {
		waitFor(t, func() bool { return pendingOn(c, p.addr) == 1 })
		cancel()
	}()
	if _, err := c.Broker(p.addr).MaxOffset(ctx, "never", 0); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := c.Broker(p.addr).MaxOffset(within(t), "t", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Broker(p.addr).MaxOffset(ctx, "t", 0); !errors.Is(err, context.Canceled) {
		t.Error("a context that has ended was used:", err)
	}
	if p.dials.Load() != 1 {
		t.Errorf("dialled %d times", p.dials.Load())
	}
}

func TestABrokenConnectionIsDialledAgain(t *testing.T) {
	for name, end := range map[string]func(p *peerConn){
		"closed":            func(p *peerConn) {},
		"reset":             func(p *peerConn) { p.Conn.(*net.TCPConn).SetLinger(0) },
		"cut mid frame":     func(p *peerConn) { p.next(); p.Write([]byte("\x00\x00\x01\x00\x00\x00\x00\x50{\"co")) },
		"garbage":           func(p *peerConn) { p.next(); p.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
		"garbage in frame":  func(p *peerConn) { p.next(); p.Write([]byte("\x00\x00\x00\x08\x00\x00\x00\x04]]]]")) },
		"a length too long": func(p *peerConn) { p.next(); p.Write([]byte("\x7f\xff\xff\xff")) },
	} {
		t.Run(name, func(t *testing.T) {
			var conns atomic.Int32
			p := newPeer(t, func(p *peerConn) {
				first := conns.Add(1) == 1
				if r := p.next(); r != nil {
					p.reply(r, ok(map[string]string{"offset": "1"}))
				}
				if first {
					end(p)
					return
				}
				for r := p.next(); r != nil; r = p.next() {
					p.reply(r, ok(map[string]string{"offset": "2"}))
				}
			})
			c := newTestClient(t, Options{})
			for i := range 5 { // the second meets the broken connection, and is not to notice
				if _, err := c.Broker(p.addr).MaxOffset(within(t), "t", i); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestASendThatMayHaveArrivedIsNotRepeated(t *testing.T) {
	var sends atomic.Int32
	p := newPeer(t, func(p *peerConn) {
		for r := p.next(); r != nil; r = p.next() {
			if r.Code == SendMessageV2 {
				sends.Add(1)
				return // taken, and no answer
			}
			p.reply(r, ok(map[string]string{"offset": "0"}))
		}
	})
	c := newTestClient(t, Options{})
	b := c.Broker(p.addr)
	if _, err := b.MaxOffset(within(t), "t", 0); err != nil { // so that the connection is a kept one
		t.Fatal(err)
	}
	_, err := b.Send(within(t), SendRequest{Topic: "t", Body: []byte("x")})
	var ce *CallError
	if !errors.As(err, &ce) || !ce.Sent {
		t.Errorf("%v", err)
	}
	if n := sends.Load(); n != 1 {
		t.Errorf("the broker got the message %d times", n)
	}
}

func TestAConnectionThatBreaksFailsAllThatWaitOnIt(t *testing.T) {
	const n = 20
	p := newPeer(t, func(p *peerConn) {
		for range n {
			p.next()
		}
	})
	c := newTestClient(t, Options{})
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			_, err := c.Broker(p.addr).Send(within(t), SendRequest{Topic: "t"}) // sends are not repeated
			var ce *CallError
			if !errors.As(err, &ce) || !strings.Contains(err.Error(), "closed by the peer") {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestAnAddressWithoutAListenerIsACallErrorWithItsCause(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c := newTestClient(t, Options{})
	_, err = c.Broker(l.Addr().String()).MaxOffset(within(t), "t", 0)
	var ce *CallError
	if !errors.As(err, &ce) || ce.Sent || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("%v", err)
	}
	want := "reading a queue's end at " + l.Addr().String() + ": connecting: connect: connection refused"
	if err.Error() != want {
		t.Errorf("%q, want %q", err.Error(), want)
	}
}

func TestAPeerThatComesUpLaterIsReached(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := newTestClient(t, Options{})
	if _, err := c.Broker(addr).MaxOffset(within(t), "t", 0); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
	p := newPeerAt(t, addr, func(p *peerConn) {
		for r := p.next(); r != nil; r = p.next() {
			p.reply(r, ok(map[string]string{"offset": "1"}))
		}
	})
	if _, err := c.Broker(p.addr).MaxOffset(within(t), "t", 0); err != nil {
		t.Error(err)
	}
}

func TestAPeerThatStopsReadingHoldsNobodyForLong(t *testing.T) {
	stop := make(chan struct{})
	p := newPeer(t, func(*peerConn) { <-stop })
	t.Cleanup(func() { close(stop) })
	c := newTestClient(t, Options{RequestTimeout: 300 * time.Millisecond})
	var all sync.WaitGroup
	started := time.Now()
	for range 4 {
		all.Go(func() {
			_, err := c.Broker(p.addr).Send(within(t), SendRequest{Topic: "t", Body: make([]byte, 12<<20)})
			if err == nil {
				t.Error("an answer came from nowhere")
			}
		})
	}
	all.Wait()
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("took %s with a limit of 300 ms", took)
	}
}

func TestRequestsOfThePeerAreDeniedAndOneWayOnesIgnored(t *testing.T) {
	denied := make(chan *Command, 1)
	p := newPeer(t, func(p *peerConn) {
		r := p.next()
		p.send(&Command{Code: 40, Opaque: r.Opaque + 1, Flag: flagOneWay}) // NOTIFY_CONSUMER_IDS_CHANGED
		p.send(&Command{Code: 307, Opaque: r.Opaque})                      // GET_CONSUMER_RUNNING_INFO
		denied <- p.next()
		p.reply(r, ok(map[string]string{"offset": "9"}))
		p.next()
	})
	c := newTestClient(t, Options{})
	got, err := c.Broker(p.addr).MaxOffset(within(t), "t", 0)
	if err != nil || got != 9 {
		t.Fatal("a pushed request was taken for the answer:", got, err)
	}
	if d := <-denied; d == nil || !d.IsResponse() || d.Code != ResponseRequestCodeNotSupported || d.Opaque != 1 {
		t.Errorf("%+v", d)
	}
}

func TestCloseFailsWhatIsUnderWayAndWhatComesLater(t *testing.T) {
	p := answering(t, func(*Command) *Command { return nil })
	c := NewClient(Options{})
	waiting := make(chan error)
	go func() {
		_, err := c.Broker(p.addr).MaxOffset(within(t), "t", 0)
		waiting <- err
	}()
	waitFor(t, func() bool { return pendingOn(c, p.addr) == 1 })
	c.Close()
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := c.Broker(p.addr).MaxOffset(within(t), "t", 0); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	c.Close()
}

func TestARefusalCarriesCodeAndRemark(t *testing.T) {
	p := answering(t, func(*Command) *Command {
		return &Command{Code: ResponseNoPermission, Remark: "forbidden\nSee http://x for further details."}
	})
	c := newTestClient(t, Options{})
	response, err := c.Call(within(t), p.addr, &Command{Code: GetMaxOffset})
	var re *ResponseError
	if !errors.As(err, &re) || re.Code != ResponseNoPermission || response == nil {
		t.Fatal(response, err)
	}
	want := "reading a queue's end at " + p.addr + ": code 16 NO_PERMISSION: forbidden See http://x for further details."
	if err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

func TestSignaturesAreThoseOfTheJavaClient(t *testing.T) {
	// Vectors made by AclClientRPCHook of rocketmq-acl 4.5.2.
	for token, want := range map[string]string{
		"":    "6sT5tlgrBIQe4fy2pUJc0LtR+dk=",
		"tok": "4S/fAMo3epf3IOUFww98xJGBZBc=",
	} {
		got := make(chan *Command, 1)
		p := answering(t, func(r *Command) *Command { got <- r; return ok(nil) })
		c := newTestClient(t, Options{Credentials: &Credentials{
			AccessKey: "RocketMQ", SecretKey: "12345678", SecurityToken: token,
		}})
		request := &Command{
			Code:   QueryConsumerOffset,
			Fields: map[string]string{"consumerGroup": "grüppe", "topic": "topicA", "queueId": "3"},
			Body:   []byte("body bytes"),
		}
		for range 2 { // the request stays as it was, and can be used again
			if _, err := c.Call(within(t), p.addr, request); err != nil {
				t.Fatal(err)
			}
			r := <-got
			fields := map[string]string{
				"consumerGroup": "grüppe", "topic": "topicA", "queueId": "3",
				"AccessKey": "RocketMQ", "Signature": want,
			}
			if token != "" {
				fields["SecurityToken"] = token
			}
			if d := cmp.Diff(fields, r.Fields); d != "" {
				t.Error(d)
			}
		}
		if len(request.Fields) != 3 || request.Opaque != 0 {
			t.Errorf("the caller's request was changed: %+v", request)
		}
	}
}

func TestCredentialsAreNotPrinted(t *testing.T) {
	c := Credentials{AccessKey: "ak", SecretKey: "hidden", SecurityToken: "hidden"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, v := range []any{c, &c, Options{Credentials: &c}} {
			if s := fmt.Sprintf(format, v); strings.Contains(s, "hidden") {
				t.Errorf("%s of %T shows %s", format, v, s)
			}
		}
	}
}

func TestManyCallersThroughManyBreaksEndWithTheirOwnAnswers(t *testing.T) {
	var requests atomic.Int32
	p := newPeer(t, func(p *peerConn) {
		for r := p.next(); r != nil; r = p.next() {
			p.reply(r, ok(map[string]string{"offset": r.Fields["queueId"]}))
			if requests.Add(1)%37 == 0 {
				return
			}
		}
	})
	c := newTestClient(t, Options{})
	var all sync.WaitGroup
	var failed atomic.Int32
	for w := range 8 {
		all.Go(func() {
			for i := range 200 {
				q := w*1000 + i
				got, err := c.Broker(p.addr).MaxOffset(within(t), "t", q)
				switch {
				case err != nil:
					failed.Add(1) // on a connection that was not a kept one
				case strconv.FormatInt(got, 10) != strconv.Itoa(q):
					t.Errorf("queue %d got %d", q, got)
				}
			}
		})
	}
	all.Wait()
	if n := failed.Load(); n > 400 {
		t.Errorf("%d of 1600 calls failed", n)
	}
	if n := pendingOn(c, p.addr); n != 0 {
		t.Errorf("%d requests are still waited for", n)
	}
}
