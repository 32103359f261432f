// Package sshhost is an SSH server that plays one host of a lab: real commands through a real
// shell, in that host's home directory, and SFTP, with public keys only. It behaves as OpenSSH's
// sshd does for sessions without a terminal (session.c, do_exec_no_pty), and it can fail on
// purpose.
package sshhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Config describes one host.
type Config struct {
	// Name is the host's name, used in errors.
	Name string
	// Address is the IP:port to listen on; with port 0 any free one is taken.
	Address string
	// User is the only user name that is let in, Authorized the only key.
	User       string
	Authorized ssh.PublicKey
	// HostKey is the key by which clients know the host.
	HostKey ssh.Signer
	// Home is the directory in which commands and relative SFTP paths begin.
	Home string
	// Env is the whole environment of commands, as KEY=value; nothing else is inherited.
	Env []string
	// Run, if set, answers a command line of a session in this process instead of a shell, and returns its exit
	// status. ctx ends with the connection.
	Run func(ctx context.Context, line string, stdin io.Reader, stdout, stderr io.Writer) int
	// Count, if set, counts the connections; several hosts may share one.
	Count *Count
	// Start and Wait start a command of a session and wait for it; nil means those of *exec.Cmd.
	Start, Wait func(*exec.Cmd) error
}

// Host is a running SSH server.
type Host struct {
	conf    Config
	ssh     *ssh.ServerConfig
	address string
	gate    gate
	work    sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while cut or closed
	conns    map[net.Conn]struct{}
	closed   bool
}

// Listen starts the server; Close ends it.
func Listen(conf Config) (*Host, error) {
	h := &Host{conf: conf, conns: map[net.Conn]struct{}{}}
	if h.conf.Start == nil {
		h.conf.Start = (*exec.Cmd).Start
	}
	if h.conf.Wait == nil {
		h.conf.Wait = (*exec.Cmd).Wait
	}
	h.ssh = &ssh.ServerConfig{
		PublicKeyCallback: h.authenticate,
		ServerVersion:     "SSH-2.0-mqlift_lab",
	}
	h.ssh.AddHostKey(conf.HostKey)
	h.address = conf.Address
	if err := h.listen(); err != nil {
		return nil, err
	}
	return h, nil
}

// Address is the IP:port that the host listens on.
func (h *Host) Address() string { return h.address }

// Port is the port that the host listens on.
func (h *Host) Port() int {
	_, port, _ := net.SplitHostPort(h.address)
	n, _ := strconv.Atoi(port)
	return n
}

// Close ends the server and every connection. Commands lose their pipes and are not killed, as
// with sshd.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.drop()
	h.gate.open()
	h.work.Wait()
	return nil
}

func (h *Host) authenticate(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if meta.User() != h.conf.User {
		return nil, fmt.Errorf("%s: no user %q here", h.conf.Name, meta.User())
	}
	if string(key.Marshal()) != string(h.conf.Authorized.Marshal()) {
		return nil, fmt.Errorf("%s: key %s is not authorized", h.conf.Name, ssh.FingerprintSHA256(key))
	}
	return &ssh.Permissions{}, nil
}

// listen opens the port and begins to serve it.
func (h *Host) listen() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("%s: the host is closed", h.conf.Name)
	}
	if h.listener != nil {
		return nil
	}
	listener, err := net.Listen("tcp", h.address)
	if err != nil {
		return fmt.Errorf("%s: opening the SSH port: %w", h.conf.Name, err)
	}
	h.listener = listener
	h.address = listener.Addr().String()
	h.work.Go(func() { h.accept(listener) })
	return nil
}

func (h *Host) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors: let some go
			continue
		}
		h.mu.Lock()
		dropped := h.listener != listener // cut while this one was in the queue
		if !dropped {
			h.conns[conn] = struct{}{}
		}
		h.mu.Unlock()
		if dropped {
			conn.Close()
			continue
		}
		h.work.Go(func() {
			h.serve(conn)
			conn.Close()
			h.mu.Lock()
			delete(h.conns, conn)
			h.mu.Unlock()
		})
	}
}

// drop closes the port and resets every connection.
func (h *Host) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listener != nil {
		h.listener.Close()
		h.listener = nil
	}
	for conn := range h.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0) // a reset, not an orderly end
		}
		conn.Close()
	}
}

func (h *Host) serve(raw net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	counted := h.conf.Count.accepted()
	defer counted.ended()
	config := *h.ssh
	config.AuthLogCallback = func(_ ssh.ConnMetadata, _ string, err error) {
		if err == nil { // before the client is told
			counted.loggedIn()
		}
	}
	gated := &gatedConn{Conn: raw, gate: &h.gate, done: make(chan struct{})}
	conn, channels, requests, err := ssh.NewServerConn(gated, &config)
	if err != nil {
		return
	}
	defer conn.Close()
	go func() { conn.Wait(); counted.ended() }()
	go ssh.DiscardRequests(requests) // keepalive@openssh.com is answered "no", which is an answer

	var open sync.WaitGroup
	for channel := range channels {
		switch channel.ChannelType() {
		case "session":
			open.Go(func() { h.session(ctx, channel) })
		case "direct-tcpip":
			open.Go(func() { h.forward(ctx, channel) })
		default:
			channel.Reject(ssh.UnknownChannelType, "unknown channel type")
		}
	}
	cancel() // the connection is gone
	open.Wait()
}

// forward carries a direct-tcpip channel (RFC 4254, 7.2), which is what a jump through this host
// uses. It leads to loopback addresses only: a lab has no business elsewhere.
func (h *Host) forward(ctx context.Context, request ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(request.ExtraData(), &to); err != nil {
		request.Reject(ssh.ConnectionFailed, "malformed direct-tcpip request")
		return
	}
	if ip := net.ParseIP(to.Host); to.Host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		request.Reject(ssh.Prohibited, "a lab host forwards to loopback addresses only")
		return
	}
	var dialer net.Dialer
	target, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		request.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer target.Close()
	defer context.AfterFunc(ctx, func() { target.Close() })()
	channel, requests, err := request.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	go ssh.DiscardRequests(requests)

	back := make(chan struct{})
	go func() {
		defer close(back)
		io.Copy(channel, target)
		channel.CloseWrite()
	}()
	io.Copy(target, channel)
	if tcp, ok := target.(*net.TCPConn); ok {
		tcp.CloseWrite()
	}
	<-back
}
