package probe

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mqlift/internal/message"
	"mqlift/internal/rocketmq"
)

const (
	testTopic  = "topic_test"
	testBroker = "broker-a"
)

// group is a name server and a broker group of three that speak the remoting protocol on the loopback
// interface, with one log for all of them.
type group struct {
	t          testing.TB
	client     *rocketmq.Client
	nameServer *peer
	nodes      []*node

	mu     sync.Mutex
	leader int // index into nodes; -1: none
	perm   int
	log    []message.Message
}

// node is one broker of a group.
type node struct {
	*peer
	// All under group.mu.
	acts    bool          // as the leader, whoever that is: what a bridge makes of a node
	noIndex bool          // look-ups by key find nothing
	asked   func()        // before each look-up by key
	hides   map[int]bool  // messages of the log that it does not have
	held    chan struct{} // until it is closed nothing is answered
}

func newGroup(t testing.TB) *group {
	g := &group{t: t, perm: 6}
	g.nameServer = listen(t, g.route)
	for range 3 {
		n := &node{hides: map[int]bool{}}
		n.peer = listen(t, func(c *rocketmq.Command) *rocketmq.Command { return g.serve(n, c) })
		g.nodes = append(g.nodes, n)
	}
	g.client = rocketmq.NewClient(rocketmq.Options{})
	t.Cleanup(func() { g.client.Close() })
	return g
}

func (g *group) router() Router   { return g.client.NameServers(g.servers()) }
func (g *group) brokers() Brokers { return BrokersOf(g.client) }
func (g *group) servers() []string {
	return []string{g.nameServer.addr}
}

func (g *group) addrs() (addrs []string) {
	for _, n := range g.nodes {
		addrs = append(addrs, n.addr)
	}
	return addrs
}

// with runs do while nothing is served.
func (g *group) with(do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	do()
}

func (g *group) stored() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.log)
}

func (g *group) route(c *rocketmq.Command) *rocketmq.Command {
	if c.Code != rocketmq.GetRoute || c.Fields["topic"] != testTopic {
		return &rocketmq.Command{Code: rocketmq.ResponseTopicNotExist, Remark: "no such topic"}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	addrs := map[int]string{}
	for i, n := range g.nodes {
		switch {
		case i == g.leader:
			addrs[0] = n.addr
		case n.up():
			addrs[i+1] = n.addr
		}
	}
	body, err := json.Marshal(map[string]any{
		"queueDatas":  []any{map[string]any{"brokerName": testBroker, "readQueueNums": 4, "writeQueueNums": 4, "perm": g.perm}},
		"brokerDatas": []any{map[string]any{"cluster": "c", "brokerName": testBroker, "brokerAddrs": addrs}},
	})
	if err != nil {
		g.t.Error(err)
	}
	return &rocketmq.Command{Body: body}
}

func (g *group) serve(n *node, c *rocketmq.Command) *rocketmq.Command {
	g.mu.Lock()
	held := n.held
	g.mu.Unlock()
	if held != nil {
		<-held
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	has := func(keep func(i int, m message.Message) bool) *rocketmq.Command {
		var body []byte
		for i, m := range g.log {
			if !n.hides[i] && keep(i, m) {
				body = message.Append(body, m)
			}
		}
		if body == nil {
			return &rocketmq.Command{Code: rocketmq.ResponseQueryNotFound, Remark: "can not find message"}
		}
		return &rocketmq.Command{Body: body}
	}
	switch c.Code {
	case 34: // heartbeat
		return &rocketmq.Command{}
	case rocketmq.SendMessage, rocketmq.SendMessageV2:
		if !n.acts && (g.leader < 0 || g.nodes[g.leader] != n) {
			return &rocketmq.Command{Code: rocketmq.ResponseServiceNotAvailable, Remark: "not the leader"}
		}
		field := func(long, short string) string {
			if c.Code == rocketmq.SendMessage {
				return c.Fields[long]
			}
			return c.Fields[short]
		}
		queue, _ := strconv.Atoi(field("queueId", "e"))
		m := message.Message{Topic: field("topic", "b"), QueueID: int32(queue), QueueOffset: int64(len(g.log)),
			Born: time.Now(), Stored: time.Now(), Body: c.Body, Properties: properties(field("properties", "i")),
			BornHost: loopback, StoreHost: loopback}
		g.log = append(g.log, m)
		return &rocketmq.Command{Fields: map[string]string{"msgId": fmt.Sprintf("%032X", len(g.log)),
			"queueId": strconv.Itoa(queue), "queueOffset": strconv.FormatInt(m.QueueOffset, 10)}}
	case rocketmq.QueryMessage:
		if n.asked != nil {
			n.asked()
		}
		return has(func(_ int, m message.Message) bool { return !n.noIndex && m.HasKey(c.Fields["key"]) })
	case rocketmq.GetMinOffset, rocketmq.GetMaxOffset:
		offset := 0
		if c.Code == rocketmq.GetMaxOffset {
			offset = len(g.log)
		}
		return &rocketmq.Command{Fields: map[string]string{"offset": strconv.Itoa(offset)}}
	case rocketmq.PullMessage:
		r := has(func(i int, _ message.Message) bool { return strconv.Itoa(i) == c.Fields["queueOffset"] })
		if r.Code != 0 {
			r.Code = rocketmq.ResponsePullNotFound
		}
		r.Fields = map[string]string{"nextBeginOffset": "0", "minOffset": "0", "maxOffset": strconv.Itoa(len(g.log))}
		return r
	}
	return &rocketmq.Command{Code: rocketmq.ResponseRequestCodeNotSupported, Remark: fmt.Sprintf("request code %d", c.Code)}
}

var loopback = mustAddrPort("127.0.0.1:1")

func properties(s string) map[string]string {
	m := map[string]string{}
	for pair := range strings.SplitSeq(s, "\x02") {
		if k, v, ok := strings.Cut(pair, "\x01"); ok {
			m[k] = v
		}
	}
	return m
}

// peer is a listener that answers remoting requests.
type peer struct {
	t       testing.TB
	addr    string
	answer  func(*rocketmq.Command) *rocketmq.Command
	running sync.WaitGroup
	open    atomic.Int64 // connections

	mu       sync.Mutex
	listener net.Listener // nil: down
	conns    []net.Conn
}

func listen(t testing.TB, answer func(*rocketmq.Command) *rocketmq.Command) *peer {
	p := &peer{t: t, addr: "127.0.0.1:0", answer: answer}
	p.start()
	t.Cleanup(func() {
		p.kill()
		p.running.Wait()
	})
	return p
}

func (p *peer) up() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listener != nil
}

// start listens, again at the same address.
func (p *peer) start() {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Error(err)
		return
	}
	p.mu.Lock()
	p.listener, p.addr = l, l.Addr().String()
	p.mu.Unlock()
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, c)
			dead := p.listener != l
			p.mu.Unlock()
			if dead {
				c.Close()
				return
			}
			p.running.Go(func() { p.serve(c) })
		}
	})
}

// kill closes the port and all connections, as the end of a process does.
func (p *peer) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return
	}
	p.listener.Close()
	p.listener = nil
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func (p *peer) serve(c net.Conn) {
	p.open.Add(1)
	defer p.open.Add(-1)
	defer c.Close()
	in := bufio.NewReader(c)
	var write sync.Mutex
	for {
		var word [4]byte
		if _, err := io.ReadFull(in, word[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(word[:]))
		if _, err := io.ReadFull(in, frame); err != nil {
			return
		}
		request, err := rocketmq.DecodeCommand(frame)
		if err != nil {
			p.t.Error(err)
			return
		}
		p.running.Go(func() {
			r := p.answer(request)
			r.Opaque, r.Flag = request.Opaque, 1
			b, err := r.Encode()
			if err != nil {
				p.t.Error(err)
				return
			}
			write.Lock()
			defer write.Unlock()
			c.Write(b)
		})
	}
}

// runs starts what probe runs and stops it at the end, or before by calling stop.
func runs(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// within limits a wait in a test.
func within(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func send(t *testing.T, g *group, keys ...string) *Sent {
	t.Helper()
	s := &Sent{}
	for i, k := range keys {
		r, err := g.brokers()(g.nodes[g.leader].addr).Send(t.Context(), rocketmq.SendRequest{Topic: testTopic,
			QueueID: i % 4, Body: []byte(k), Properties: map[string]string{message.PropertyKeys: k}})
		if err != nil {
			t.Fatal(err)
		}
		s.Acknowledged(Entry{Topic: testTopic, Key: k, Broker: testBroker, MsgID: r.MsgID, Queue: r.QueueID,
			Offset: r.QueueOffset})
	}
	return s
}

func keyNames(keys []MessageKey) (names []string) {
	for _, k := range keys {
		names = append(names, k.Key)
	}
	slices.Sort(names)
	return names
}
