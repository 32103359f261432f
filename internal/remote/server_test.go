package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// server is an SSH server on 127.0.0.1 that really runs commands and really writes files, and can
// be made to misbehave.
type server struct {
	addr string
	behaviour

	opened, most atomic.Int32 // sessions now, and at most
	conns        atomic.Int32
	pids         sync.Map // of running commands

	mu  sync.Mutex // guards behaviour and raw
	raw []*faultyConn
}

// behaviour is what a test may change between connections, by server.set.
type behaviour struct {
	keys    []ssh.Signer  // host keys
	clients ssh.PublicKey // the key that is let in
	path    string        // in front of PATH for its commands

	noSFTP, noForward, noKeys bool
	maxSessions               int    // refused beyond
	slow                      func() // called before a connection is answered; may block
	cutAfter                  int64  // bytes from the client; 0: never
}

func (srv *server) set(change func(*behaviour)) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	change(&srv.behaviour)
}

// faultyConn is a connection that can be cut or stalled.
type faultyConn struct {
	net.Conn
	stalled chan struct{} // closed: nothing is read or written any more
	ended   chan struct{}
	end     sync.Once
	left    *atomic.Int64 // bytes to read before it is cut; nil: any number
}

func (c *faultyConn) gate() error {
	select {
	case <-c.stalled:
		<-c.ended
		return net.ErrClosed
	default:
		return nil
	}
}

func (c *faultyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.left != nil && c.left.Add(-int64(n)) < 0 {
		c.Close()
		return 0, net.ErrClosed
	}
	if gone := c.gate(); gone != nil {
		return 0, gone
	}
	return n, err
}

func (c *faultyConn) Write(b []byte) (int, error) {
	if err := c.gate(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *faultyConn) Close() error {
	c.end.Do(func() { close(c.ended) })
	return c.Conn.Close()
}

func newKey(t testing.TB) (ssh.Signer, []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// site is a home directory with a key, and what the tests' servers need to be reached from it.
type site struct {
	t        testing.TB
	home     string
	key      ssh.Signer
	identity string // its file
	known    string // known_hosts
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, home: t.TempDir()}
	t.Setenv("HOME", s.home)
	t.Setenv("SSH_AUTH_SOCK", "")
	if err := os.Mkdir(filepath.Join(s.home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	var data []byte
	s.key, data = newKey(t)
	s.identity = s.write(".ssh/key", string(data))
	s.known = s.write(".ssh/known_hosts", "")
	return s
}

func (s *site) write(name, content string) string {
	s.t.Helper()
	file := filepath.Join(s.home, name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// start starts a server and writes its keys into known_hosts.
func (s *site) start(faults func(*behaviour)) *server {
	s.t.Helper()
	host, _ := newKey(s.t)
	srv := &server{behaviour: behaviour{keys: []ssh.Signer{host}, clients: s.key.PublicKey(), maxSessions: 10}}
	if faults != nil {
		faults(&srv.behaviour)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	srv.addr = l.Addr().String()
	s.t.Cleanup(func() {
		l.Close()
		srv.cut()
		srv.pids.Range(func(pid, _ any) bool { syscall.Kill(-pid.(int), syscall.SIGKILL); return true })
		eventually(s.t, "its commands ended", func() bool { return srv.running() == 0 })
	})
	s.know(srv.addr, srv.keys[0].PublicKey())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go srv.serve(c)
		}
	}()
	return srv
}

func (s *site) know(addr string, key ssh.PublicKey) {
	s.t.Helper()
	f, err := os.OpenFile(s.known, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintln(f, knownhosts.Line([]string{addr}, key))
		f.Close()
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// target reaches the server with everything declared.
func (s *site) target(name string, srv *server) Target {
	host, port, _ := net.SplitHostPort(srv.addr)
	n, _ := strconv.Atoi(port)
	return Target{Name: name, Address: host, Port: n, User: "op", IdentityFiles: []string{s.identity}, KnownHosts: []string{s.known},
		ConnectTimeout: 5 * time.Second}
}

func (s *site) dial(srv *server, change func(*Target)) *Host {
	s.t.Helper()
	t := s.target("broker-a", srv)
	if change != nil {
		change(&t)
	}
	h, err := Dial(s.t.Context(), t)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { h.Close() })
	return h
}

func (srv *server) each(f func(*faultyConn)) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, c := range srv.raw {
		f(c)
	}
}

func (srv *server) cut() { srv.each(func(c *faultyConn) { c.Close() }) }

func (srv *server) stall() {
	srv.each(func(c *faultyConn) {
		select {
		case <-c.stalled:
		default:
			close(c.stalled)
		}
	})
}

func (srv *server) serve(raw net.Conn) {
	srv.conns.Add(1)
	defer srv.conns.Add(-1)
	c := &faultyConn{Conn: raw, stalled: make(chan struct{}), ended: make(chan struct{})}
	srv.mu.Lock()
	srv.raw = append(srv.raw, c)
	now := srv.behaviour
	srv.mu.Unlock()
	if now.cutAfter > 0 {
		c.left = new(atomic.Int64)
		c.left.Store(now.cutAfter)
	}
	defer c.Close()
	if now.slow != nil {
		now.slow()
	}
	config := &ssh.ServerConfig{}
	if now.noKeys {
		config.PasswordCallback = func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, errors.New("no") }
	} else {
		config.PublicKeyCallback = func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if now.clients == nil || string(key.Marshal()) != string(now.clients.Marshal()) {
				return nil, errors.New("not this one")
			}
			return nil, nil
		}
	}
	for _, k := range now.keys {
		config.AddHostKey(k)
	}
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		switch {
		case ch.ChannelType() == "direct-tcpip" && !now.noForward:
			go forward(ch)
		case ch.ChannelType() != "session":
			ch.Reject(ssh.Prohibited, "administratively prohibited")
		case int(srv.opened.Add(1)) > now.maxSessions:
			srv.opened.Add(-1)
			ch.Reject(ssh.ConnectionFailed, "open failed")
		default:
			for n := srv.opened.Load(); n > srv.most.Load(); {
				srv.most.Store(n)
			}
			go srv.session(ch, now)
		}
	}
	conn.Wait()
}

func forward(ch ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		From       string
		OriginPort uint32
	}
	ssh.Unmarshal(ch.ExtraData(), &to)
	out, err := net.Dial("tcp", net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
	if err != nil {
		ch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	in, requests, err := ch.Accept()
	if err != nil {
		out.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	go func() { io.Copy(out, in); out.Close() }()
	io.Copy(in, out)
	in.Close()
}

func (srv *server) session(nc ssh.NewChannel, now behaviour) {
	defer srv.opened.Add(-1)
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	var cmd *exec.Cmd
	over := make(chan int, 1)
	for {
		select {
		case status := <-over:
			if status >= 0 {
				ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
			} else {
				ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
					Signal        string
					Core          bool
					Message, Lang string
				}{Signal: strings.TrimPrefix(signalName(syscall.Signal(-status)), "SIG")}))
			}
			return
		case r, ok := <-requests:
			if !ok {
				if cmd != nil { // as sshd: the program sees its input end, and nobody reads its output
					<-over
				}
				return
			}
			switch r.Type {
			case "exec":
				var line struct{ Line string }
				ssh.Unmarshal(r.Payload, &line)
				cmd = srv.exec(line.Line, now.path, ch, over)
				r.Reply(true, nil)
			case "subsystem":
				r.Reply(!now.noSFTP, nil)
				if !now.noSFTP {
					go func() {
						if s, err := sftp.NewServer(ch); err == nil {
							s.Serve()
						}
						over <- 0
					}()
				}
			case "signal":
				if cmd != nil {
					syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				}
			default:
				r.Reply(false, nil)
			}
		}
	}
}

func (srv *server) exec(line, path string, ch ssh.Channel, over chan int) *exec.Cmd {
	cmd := exec.Command("sh", "-c", line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	in, _ := cmd.StdinPipe()
	if err := cmd.Start(); err != nil {
		over <- 126
		return nil
	}
	srv.pids.Store(cmd.Process.Pid, true)
	go func() { io.Copy(in, ch); in.Close() }()
	go func() {
		err := cmd.Wait()
		srv.pids.Delete(cmd.Process.Pid)
		status := 0
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
				status = -int(ws.Signal())
			} else {
				status = ws.ExitStatus()
			}
		}
		over <- status
	}()
	return cmd
}

func signalName(s syscall.Signal) string {
	if s == syscall.SIGKILL {
		return "SIGKILL"
	}
	return "SIGTERM"
}

func (srv *server) running() int {
	n := 0
	srv.pids.Range(func(any, any) bool { n++; return true })
	return n
}

// eventually waits until what holds, for up to ten seconds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 10 s still not: %s", what)
		}
	}
}

// within fails the test if f takes longer than limit.
func within[T any](t testing.TB, limit time.Duration, f func() T) T {
	t.Helper()
	result := make(chan T, 1)
	began := time.Now()
	go func() { result <- f() }()
	select {
	case v := <-result:
		return v
	case <-time.After(limit):
		t.Fatalf("not back after %v", time.Since(began))
		panic("unreachable")
	}
}

func background(t testing.TB, h *Host, c Cmd) (<-chan error, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := h.Run(ctx, c)
		result <- err
	}()
	return result, cancel
}
