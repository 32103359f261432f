package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mqlift/internal/hostinfo"
)

// server is a leader that a bridge goes to.
type server struct {
	net.Listener
	connections chan *net.TCPConn
}

func newServer(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{l, make(chan *net.TCPConn, 64)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.connections <- c.(*net.TCPConn)
		}
	}()
	return s
}

func (s *server) address() string { return s.Addr().String() }

func (s *server) next(t *testing.T) *net.TCPConn {
	t.Helper()
	select {
	case c := <-s.connections:
		c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(20 * time.Second):
		t.Fatal("nobody came")
		return nil
	}
}

// running is a bridge at work.
type running struct {
	end      context.CancelFunc
	retarget chan []string
	ended    chan struct{}
	err      error // once ended

	mu   sync.Mutex
	last State
}

func start(t *testing.T, r Request) *running {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	b := &running{end: end, retarget: make(chan []string), ended: make(chan struct{})}
	go func() {
		defer close(b.ended)
		last, err := Run(ctx, r, b.retarget, b.told)
		b.told(last)
		b.err = err
	}()
	t.Cleanup(func() {
		end()
		<-b.ended
	})
	return b
}

func (b *running) told(s State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = s
}

func (b *running) state() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// until waits for a state.
func (b *running) until(t *testing.T, what string, is func(State) bool) {
	t.Helper()
	eventually(t, what, func() bool { return is(b.state()) })
}

func (b *running) listens(t *testing.T, count int) {
	t.Helper()
	b.until(t, "the bridge to listen", func(s State) bool { return len(s.Listening) == count })
}

// allEnded is the state after so many connections, when none is left.
func allEnded(accepted int64) func(State) bool {
	return func(s State) bool { return s.Accepted == accepted && s.Open == 0 }
}

// stop ends a bridge, which is no error.
func (b *running) stop(t *testing.T) {
	t.Helper()
	b.end()
	select {
	case <-b.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the bridge does not end")
	}
	if s := b.state(); b.err != nil || s.Open != 0 || len(s.Listening) != 0 {
		t.Fatalf("it ended with %+v, %v", s, b.err)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// freeAddress is one that nobody listens on, outside of the ports that outgoing connections are given.
func freeAddress(t testing.TB) string {
	t.Helper()
	for port := 20000 + os.Getpid()%5000; port < 32000; port++ {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err == nil {
			l.Close()
			return "127.0.0.1:" + strconv.Itoa(port)
		}
	}
	t.Fatal("no port is free")
	return ""
}

// over starts a bridge with one port to the server, and returns it with its address.
func over(t *testing.T, s *server, change func(*Request)) (*running, string) {
	t.Helper()
	address := freeAddress(t)
	r := Request{Listen: []string{address}, Targets: []string{s.address()}}
	if change != nil {
		change(&r)
	}
	b := start(t, r)
	b.listens(t, 1)
	return b, address
}

func dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// say sends a word and checks that it arrives.
func say(t *testing.T, from, to net.Conn, word string) {
	t.Helper()
	if _, err := io.WriteString(from, word); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != word {
		t.Fatalf("%q arrived as %q, %v", word, got, err)
	}
}

// closed checks that a connection has been ended by the other side.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	if n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection goes on: %d bytes, %v", n, err)
	}
}

func TestAnyStreamArrivesUnchangedBothWays(t *testing.T) {
	s := newServer(t)
	_, address := over(t, s, nil)
	rapid.Check(t, func(r *rapid.T) {
		// A stream is said by few numbers: bytes that are drawn one by one would be few.
		stream := func(name string) [][]byte {
			var chunks [][]byte
			for i, size := range rapid.SliceOfN(rapid.IntRange(1, 3*bufferSize), 0, 6).Draw(r, name) {
				chunk := make([]byte, size)
				for j := range chunk {
					chunk[j] = byte(j*31 + j>>8 + i + size)
				}
				chunks = append(chunks, chunk)
			}
			return chunks
		}
		up, down := stream("up"), stream("down")
		client := dial(t, address)
		defer client.Close()
		leader := s.next(t)
		defer leader.Close()
		var work sync.WaitGroup
		end := func(c *net.TCPConn, send, expect [][]byte) {
			work.Go(func() {
				for _, chunk := range send {
					if _, err := c.Write(chunk); err != nil {
						r.Errorf("writing: %v", err)
						return
					}
				}
				c.CloseWrite()
			})
			work.Go(func() {
				got, err := io.ReadAll(c)
				if want := bytes.Join(expect, nil); err != nil || !bytes.Equal(got, want) {
					r.Errorf("%d of %d bytes arrived, or others: %v", len(got), len(want), err)
				}
			})
		}
		end(client, up, down)
		end(leader, down, up)
		work.Wait()
	})
}

func TestAnAnswerComesThroughAfterItsAskerHasSaidAll(t *testing.T) {
	s := newServer(t)
	b, address := over(t, s, nil)
	client := dial(t, address)
	leader := s.next(t)
	say(t, client, leader, "question")
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(leader); err != nil || len(rest) != 0 {
		t.Fatalf("the end did not arrive: %q, %v", rest, err)
	}
	say(t, leader, client, "the answer")
	leader.Close()
	closed(t, client)
	b.until(t, "the connection to have ended", allEnded(1))
	if s := b.state(); s.Accepted != 1 || s.FromClients != 8 || s.ToClients != 10 || s.Refused != 0 ||
		s.SinceAccepted <= 0 || s.SinceHeard <= 0 || s.SinceHeard > s.SinceAccepted {
		t.Errorf("numbers: %+v", s)
	}
}

func TestAnotherTargetGetsTheNewConnectionsAndEndsThoseToTheOldOne(t *testing.T) {
	old, other, fast := newServer(t), newServer(t), newServer(t)
	first := freeAddress(t)
	second := strings.Replace(first, "127.0.0.1", "127.0.0.2", 1)
	b := start(t, Request{Listen: []string{first, second}, Targets: []string{old.address(), fast.address()}})
	b.listens(t, 2)
	moved, stays := dial(t, first), dial(t, second)
	before, kept := old.next(t), fast.next(t)
	say(t, moved, before, "x")
	say(t, stays, kept, "x")
	b.retarget <- []string{other.address(), fast.address()}
	closed(t, moved)
	closed(t, before)
	say(t, stays, kept, "still")
	b.until(t, "the change to be told", func(s State) bool { return s.Targets[0] == other.address() })
	again := dial(t, first)
	say(t, again, other.next(t), "y")
	if s := b.state(); s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	close(b.retarget) // nobody has other targets any more: no matter
	say(t, stays, kept, "still")
	b.stop(t)
}

func TestTargetsThatDoNotFitAreAnError(t *testing.T) {
	s := newServer(t)
	b, _ := over(t, s, nil)
	b.retarget <- nil
	<-b.ended
	if b.err == nil {
		t.Error("none for one port was taken")
	}
}

// The old broker has its port for some time yet, and its connections for longer.
func TestAPortIsTakenAsSoonAsItIsFreeAndNotBefore(t *testing.T) {
	s, broker := newServer(t), newServer(t)
	client := dial(t, broker.address())
	stale := broker.next(t)
	say(t, client, stale, "x")
	b := start(t, Request{Listen: []string{broker.address()}, Targets: []string{s.address()}})
	for range 20 { // as long as the broker listens, it is the one that is reached
		c := dial(t, broker.address())
		say(t, c, broker.next(t), "for the broker")
		c.Close()
	}
	if got := b.state(); len(got.Listening) != 0 {
		t.Fatalf("it listens: %+v", got)
	}
	broker.Close()
	b.listens(t, 1)
	say(t, client, stale, "still the broker's")
	c := dial(t, broker.address())
	say(t, c, s.next(t), "for the leader")
}

func TestAPortThatIsNotGivenUpIsSaidWithItsHolder(t *testing.T) {
	s, broker := newServer(t), newServer(t)
	free := freeAddress(t)
	b := start(t, Request{Listen: []string{free, broker.address()}, Targets: []string{s.address(), s.address()}, Wait: 30 * time.Millisecond})
	<-b.ended
	want := fmt.Sprintf("cannot listen on %s, which is taken by pid %d (bridge.test of ", broker.address(), os.Getpid())
	if b.err == nil || !strings.Contains(b.err.Error(), want) || !errors.Is(b.err, syscall.EADDRINUSE) {
		t.Errorf("got %v\nwant %s", b.err, want)
	}
	canListen(t, free)
	b = start(t, Request{Listen: []string{"192.0.2.1:10911"}, Targets: []string{s.address()}})
	<-b.ended
	if b.err == nil || !strings.Contains(b.err.Error(), "192.0.2.1:10911") {
		t.Errorf("an address of another host: %v", b.err)
	}
}

// canListen tells whether a server could, at once.
func canListen(t *testing.T, address string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		t.Errorf("not free: %v", err)
		return
	}
	l.Close()
}

func TestAtItsEndThePortsAreFreeAlsoForAJVM(t *testing.T) {
	s := newServer(t)
	b, address := over(t, s, func(r *Request) { r.Listen[0] = strings.TrimPrefix(r.Listen[0], "127.0.0.1") })
	var clients []*net.TCPConn
	for range 8 {
		c := dial(t, "127.0.0.1"+strings.TrimPrefix(address, "127.0.0.1"))
		say(t, c, s.next(t), "x")
		clients = append(clients, c)
	}
	b.stop(t)
	canListen(t, address)
	for _, c := range clients { // which are closed, and leave the bridge's side in TIME_WAIT
		closed(t, c)
		c.Close()
	}
	canListen(t, address)
	java, err := exec.LookPath("java")
	if err != nil {
		t.Skip("NOT TRIED WITH JAVA: no java in PATH")
	}
	_, port, _ := net.SplitHostPort(address)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, java, "-Xmx64m", "testdata/Bind.java", port).CombinedOutput()
	if err != nil && (bytes.Contains(out, []byte("ClassNotFoundException")) || bytes.Contains(out, []byte("jdk.compiler"))) {
		t.Skipf("NOT TRIED WITH JAVA: this java has no single-file source mode: %v", err)
	}
	if err != nil || string(out) != "bound" {
		t.Errorf("%s, %v", out, err)
	}
}

// The kernel gives outgoing connections ports of their own, and one may be that of the Raft peer to come.
func TestAServerCanTakeThePortThatAConnectionOfTheBridgeHas(t *testing.T) {
	s := newServer(t)
	b, address := over(t, s, nil)
	client := dial(t, address)
	leader := s.next(t)
	say(t, client, leader, "x")
	own := leader.RemoteAddr().String()
	canListen(t, own)
	b.stop(t)
	canListen(t, own)
	if err := hostinfo.CanBind(leader.RemoteAddr().(*net.TCPAddr).Port); err != nil {
		t.Error(err)
	}
}

func TestWhatIsTooMuchIsClosedAtOnce(t *testing.T) {
	s := newServer(t)
	b, address := over(t, s, func(r *Request) { r.Connections = 3 })
	var held, leaders []*net.TCPConn
	for range 3 {
		c := dial(t, address)
		leader := s.next(t)
		say(t, c, leader, "x")
		held, leaders = append(held, c), append(leaders, leader)
	}
	for range 5 {
		closed(t, dial(t, address))
	}
	b.until(t, "the numbers", func(s State) bool { return s.Refused == 5 })
	if s := b.state(); s.Open != 3 || s.Accepted != 8 || !strings.Contains(s.Trouble, "3 connections") {
		t.Errorf("%+v", s)
	}
	held[0].Close()
	leaders[0].Close()
	b.until(t, "a place to be free", func(s State) bool { return s.Open == 2 })
	say(t, dial(t, address), s.next(t), "x")
}

func TestTheCapLeavesFilesForOtherPurposes(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	r := Request{Connections: int(files.Cur)}.withDefaults()
	if uint64(2*r.Connections) >= files.Cur || r.Connections < 1 {
		t.Errorf("%d connections with %d files", r.Connections, files.Cur)
	}
	if r := (Request{}).withDefaults(); r.Connections < 1 || r.Connections > 4096 || r.Quiet <= 20*time.Second || r.Dial <= 0 || r.Wait <= 0 {
		t.Errorf("%+v", r)
	}
}

func TestAClientNoticesThatTheTargetIsGone(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		s := newServer(t)
		s.Close()
		b, address := over(t, s, nil)
		closed(t, dial(t, address))
		b.until(t, "the numbers", func(s State) bool { return s.Refused == 1 && s.Open == 0 })
		if s := b.state(); !strings.Contains(s.Trouble, "refused") {
			t.Errorf("%+v", s)
		}
	})
	t.Run("meanwhile", func(t *testing.T) {
		s := newServer(t)
		b, address := over(t, s, nil)
		client := dial(t, address)
		leader := s.next(t)
		say(t, client, leader, "x")
		leader.SetLinger(0) // as when its process is killed with something unread
		leader.Close()
		closed(t, client)
		b.until(t, "the connection to have ended", allEnded(1))
	})
	t.Run("the target notices, too", func(t *testing.T) {
		s := newServer(t)
		_, address := over(t, s, nil)
		client := dial(t, address)
		leader := s.next(t)
		say(t, client, leader, "x")
		client.SetLinger(0)
		client.Close()
		closed(t, leader)
	})
}

func TestAConnectionThatNothingGoesOverIsClosed(t *testing.T) {
	s := newServer(t)
	b, address := over(t, s, func(r *Request) { r.Quiet = time.Millisecond })
	client := dial(t, address)
	closed(t, client)
	b.until(t, "the connection to have ended", allEnded(1))

	idle := newBridge(Request{Quiet: time.Minute})
	idle.began = time.Now().Add(-time.Hour)
	var ended []string
	for name, since := range map[string]time.Duration{"quiet": 61 * time.Second, "in use": 59 * time.Second} {
		c := &connection{end: func() { ended = append(ended, name) }}
		c.active.Store(idle.now() - int64(since))
		idle.open[c] = struct{}{}
	}
	idle.endQuiet()
	if !slices.Equal(ended, []string{"quiet"}) {
		t.Errorf("ended: %q", ended)
	}
}

func TestABridgeToItselfIsRefused(t *testing.T) {
	for _, test := range []struct {
		listen, target string
		ok             bool
	}{
		{":10911", "127.0.0.1:10911", false},
		{":10911", "127.0.0.5:10911", false},
		{"0.0.0.0:10911", "127.0.0.1:10911", false},
		{"[::]:10911", "[::1]:10911", false},
		{"127.0.0.1:10911", "127.0.0.1:10911", false},
		{"127.0.0.1:10911", "127.0.0.2:10911", true}, // a lab's hosts
		{":10911", "127.0.0.1:10912", true},
		{":10911", "192.0.2.1:10911", true},
		{":10911", "[2001:db8::1]:10911", true},
		{":10911", "broker-b:10911", true},
		{":10911", "10911", false},
		{"10911", "192.0.2.1:10911", false},
	} {
		if err := notItself(test.listen, test.target); (err == nil) != test.ok {
			t.Errorf("%s to %s: %v", test.listen, test.target, err)
		}
	}
	if _, err := Run(t.Context(), Request{Listen: []string{":10911"}, Targets: []string{"127.0.0.1:10911"}}, nil, nil); err == nil {
		t.Error("it runs")
	}
}

func TestABridgeListensWhereItIsTold(t *testing.T) {
	s := newServer(t)
	_, port, _ := net.SplitHostPort(freeAddress(t))
	for _, test := range []struct {
		listen       string
		taken, spare []string // hosts
	}{
		{":" + port, []string{"127.0.0.1", "127.0.0.2", "::1"}, nil},
		{"0.0.0.0:" + port, []string{"127.0.0.1", "127.0.0.2"}, nil},
		{"127.0.0.2:" + port, []string{"127.0.0.2"}, []string{"127.0.0.1"}},
		{"[::1]:" + port, []string{"::1"}, []string{"127.0.0.1"}},
	} {
		t.Run(test.listen, func(t *testing.T) {
			if slices.Contains(test.taken, "::1") {
				l, err := net.Listen("tcp", "[::1]:0")
				if err != nil {
					t.Skipf("no IPv6 here: %v", err)
				}
				l.Close()
			}
			b := start(t, Request{Listen: []string{test.listen}, Targets: []string{s.address()}})
			b.listens(t, 1)
			for _, host := range test.taken {
				c := dial(t, net.JoinHostPort(host, port))
				say(t, c, s.next(t), "x")
			}
			for _, host := range test.spare {
				l, err := net.Listen("tcp", net.JoinHostPort(host, port))
				if err != nil {
					t.Error(err)
					continue
				}
				l.Close()
			}
			b.stop(t)
		})
	}
}

func BenchmarkStream(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(io.Discard, c)
				c.Close()
			}()
		}
	}()
	ctx, end := context.WithCancel(b.Context())
	listening, ended := make(chan struct{}), make(chan struct{})
	var once sync.Once
	address := freeAddress(b)
	go func() {
		defer close(ended)
		Run(ctx, Request{Listen: []string{address}, Targets: []string{l.Addr().String()}}, nil, func(State) { once.Do(func() { close(listening) }) })
	}()
	<-listening
	for name, to := range map[string]string{"direct": l.Addr().String(), "bridged": address} {
		b.Run(name, func(b *testing.B) {
			c := dial(b, to)
			chunk := make([]byte, 256<<10)
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				if _, err := c.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	end()
	<-ended
}
