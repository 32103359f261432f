package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mqlift/internal/bridge"
	"mqlift/internal/lab/sshhost/sshhosttest"
	"mqlift/internal/remote"
)

// leader answers each line with its name and the line.
func leader(t *testing.T, name string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					io.WriteString(c, name+" "+lines.Text()+"\n")
				}
			}()
		}
	}()
	return l.Addr().String()
}

// client is connected to the address, and has talked to the leader of that name.
func client(t *testing.T, address, name string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, "hello\n")
	if got, err := bufio.NewReader(c).ReadString('\n'); got != name+" hello\n" {
		t.Fatalf("%q answered, not %s: %v", got, name, err)
	}
	return c
}

// lost checks that a connection has been ended by the other side.
func lost(t *testing.T, c net.Conn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	if n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection goes on: %d bytes, %v", n, err)
	}
}

// bridging is a bridge that is at work on a host.
type bridging struct {
	end      context.CancelFunc
	retarget chan []string
	ended    chan struct{}
	result   bridge.State // once ended
	err      error

	mu   sync.Mutex
	last bridge.State
}

// bridgeOf has an agent bridge one port to the target, and waits until it does.
func bridgeOf(t *testing.T, a *Agent, port int, target string) *bridging {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	b := &bridging{end: end, retarget: make(chan []string), ended: make(chan struct{})}
	go func() {
		defer close(b.ended)
		b.result, b.err = a.Bridge(ctx, bridge.Request{Listen: []string{local(port)}, Targets: []string{target}}, b.retarget, func(s bridge.State) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.last = s
		})
	}()
	t.Cleanup(func() {
		end()
		<-b.ended
	})
	eventually(t, "the bridge to listen", func() bool {
		select {
		case <-b.ended:
			t.Fatal(b.err)
		default:
		}
		return len(b.state().Listening) == 1
	})
	return b
}

func (b *bridging) state() bridge.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

func (b *bridging) over(t *testing.T) {
	t.Helper()
	select {
	case <-b.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the bridge goes on")
	}
}

func TestABridgeGoesWhereItIsToldUntilItsContextEnds(t *testing.T) {
	a, port := pushLocal(t), freePort(t)
	old, other := leader(t, "old"), leader(t, "other")
	b := bridgeOf(t, a, port, old)
	c := client(t, local(port), "old")
	b.retarget <- []string{other}
	lost(t, c)
	eventually(t, "the change to be told", func() bool { return b.state().Targets[0] == other })
	c = client(t, local(port), "other")
	eventually(t, "the numbers to be told", func() bool { return b.state().Accepted == 2 })
	b.end()
	b.over(t)
	if l, err := net.Listen("tcp", local(port)); err != nil {
		t.Errorf("it has ended, and its port is not free: %v", err)
	} else {
		l.Close()
	}
	lost(t, c)
	if r := b.result; b.err != nil || r.Open != 0 || r.Accepted != 2 || r.FromClients != 12 || r.ToClients != int64(len("old hello\nother hello\n")) {
		t.Errorf("%+v, %v", r, b.err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := a.Bridge(ended, bridge.Request{Listen: []string{"to nowhere"}}, nil, nil); err != nil {
		t.Errorf("ended before it began, it was tried: %v", err)
	}
}

func TestABridgeThatCannotListenSaysWhereAndWhoDoes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := bridge.Request{Listen: []string{l.Addr().String()}, Targets: []string{"127.0.0.1:1"}, Wait: time.Millisecond}
	_, err = pushLocal(t).Bridge(t.Context(), r, nil, nil)
	want := l.Addr().String() + ", which is taken by pid " + strconv.Itoa(os.Getpid())
	if err == nil || !strings.HasPrefix(err.Error(), "local: bridge: ") || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}

func TestOverSSHABridgeEndsWithItsConnection(t *testing.T) {
	server, host, home := sshhosttest.Dial(t, "b1")
	a, err := Push(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	b := bridgeOf(t, a, port, leader(t, "new"))
	c := client(t, local(port), "new")
	server.Cut()
	b.over(t)
	var gone *remote.TransientError
	if !errors.As(b.err, &gone) {
		t.Errorf("it is not known that it ended: %v", b.err)
	}
	lost(t, c)
	released(t, port)
	cutHostTidy(t, home, t.TempDir())
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestABridgeEndsWithWhoAskedForIt(t *testing.T) {
	parent, port := t.TempDir(), freePort(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "push-and-bridge", parent, local(port), leader(t, "new"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c := client(t, local(port), "new")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	lost(t, c)
	released(t, port)
	eventually(t, "the directory to be removed", func() bool {
		left, err := filepath.Glob(filepath.Join(parent, "*"))
		return err == nil && len(left) == 0
	})
}

// Whoever takes the group over puts another agent in the place of one that is cut off; the old one's input stays
// open.
func TestABridgeEndsWithTheAgentsFolder(t *testing.T) {
	a, err := Push(t.Context(), &localHost{name: "b1"}, WithParent(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	b := bridgeOf(t, a, port, leader(t, "new"))
	c := client(t, local(port), "new")
	if err := os.RemoveAll(a.Dir()); err != nil {
		t.Fatal(err)
	}
	b.over(t)
	if b.err == nil || !strings.Contains(b.err.Error(), errRemoved.Error()) {
		t.Errorf("it ended with %v", b.err)
	}
	lost(t, c)
	released(t, port)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// A cable that is pulled ends no connection.
func TestABridgeThatIsNotSpokenToEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		ctx, s := openSession(t.Context(), io.Discard)
		s.in = bufio.NewReader(r)
		began := time.Now()
		go func() {
			time.Sleep(unheard - time.Second)
			w.Write([]byte("\n"))
		}()
		_, err := runBridge(ctx, bridge.Request{}, s)
		if took := time.Since(began); !errors.Is(err, errAlone) || took != 2*unheard-time.Second {
			t.Errorf("it ended after %s with %v", took, err)
		}
		w.Close()
		s.finish(nil, nil)
	})
	var out bytes.Buffer
	ctx, s := openSession(t.Context(), &out)
	s.in = bufio.NewReader(strings.NewReader("\n"))
	if _, err := runBridge(ctx, bridge.Request{}, s); err != nil {
		t.Errorf("dismissed, it ended with %v", err)
	}
	s.finish(nil, nil)
	ctx, s = openSession(t.Context(), &out)
	s.in = bufio.NewReader(strings.NewReader("{}\n"))
	if _, err := runBridge(ctx, bridge.Request{}, s); err == nil {
		t.Error("targets that are none were taken")
	}
	s.finish(nil, nil)
}
