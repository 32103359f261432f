package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"mqlift/internal/diag"
)

const (
	// OpenSSH allows 10 sessions on a connection (MaxSessions). 8 may work at a time, one more is
	// an SFTP session kept for the next file, and one is left for a session that is just ending.
	maxSessions = 8
	maxMissed   = 3 // keepalives without an answer, as ServerAliveCountMax in ssh
)

// Host is a logged-in SSH connection to one host, safe for concurrent use.
type Host struct {
	at     Place
	sudo   bool
	client *ssh.Client
	base   net.Conn // the TCP connection under it, to the first jump host if there is one
	heard  *heardConn

	slots chan struct{} // one element per session in use

	mu   sync.Mutex
	idle *sftpSession // kept for the next file operation

	end   sync.Once
	done  chan struct{}
	cause error // why done is closed; written before that
}

var errClosed = fmt.Errorf("connection is closed: %w", net.ErrClosed)

// Dial connects and logs in, through the target's jump hosts. Errors are *UnreachableError,
// *HostKeyError, *AuthError, ctx's error, or say what is wrong with the target or ~/.ssh/config.
// ctx is for the dialling alone: the Host lives until Close or until the connection is lost.
func Dial(ctx context.Context, t Target) (*Host, error) {
	route, err := t.route()
	if err != nil {
		return nil, err
	}
	timeout := t.ConnectTimeout
	if timeout <= 0 {
		timeout = defaultConnectTimeout
	}
	h := &Host{
		at:    route[len(route)-1].Place,
		sudo:  t.Sudo,
		slots: make(chan struct{}, maxSessions),
		done:  make(chan struct{}),
	}
	for _, st := range route {
		conn, client, err := st.connect(ctx, h.client, timeout)
		if h.base == nil && conn != nil {
			h.base = conn
		}
		if err != nil {
			if h.base != nil {
				h.base.Close() // ends every hop, also one that no longer answers
			}
			return nil, err
		}
		h.client, h.heard = client, conn
	}
	interval := t.KeepAlive
	if interval <= 0 {
		interval = defaultKeepAlive
	}
	go h.keepAlive(interval)
	go func() { h.Lose(h.client.Wait()) }()
	return h, nil
}

// Absent stands for a host that is not connected to: whatever is asked of it fails at once, with cause, as it
// would on a connection that was lost.
func Absent(name, addr string, cause error) *Host {
	h := &Host{at: Place{Host: name, Addr: addr}, slots: make(chan struct{}, maxSessions), done: make(chan struct{}), cause: cause}
	h.end.Do(func() { close(h.done) })
	return h
}

// connect opens one station, through the one before it unless via is nil. The connection is
// returned with an error too, once there is one, for the caller to close.
func (s station) connect(ctx context.Context, via *ssh.Client, timeout time.Duration) (*heardConn, *ssh.Client, error) {
	tooLong := fmt.Errorf("no answer within %v", timeout)
	within, cancel := context.WithTimeoutCause(ctx, timeout, tooLong)
	defer cancel()

	doing, do := "connect", "check that the host is up, the address and the port are right, and no firewall is between"
	unreachable := func(err error) error {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %s: %w", s.Place, doing, ended(ctx))
		}
		if within.Err() != nil {
			err = tooLong
		}
		if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
			err = op.Err // the address is said already, and that it was connecting
			if sys := (*os.SyscallError)(nil); errors.As(err, &sys) {
				err = sys.Err
			}
		}
		if s.note != "" {
			do += "; " + s.note
		}
		return &UnreachableError{Place: s.Place, Doing: doing, Do: do, Err: err}
	}

	keys, err := s.hostKeys()
	if err != nil {
		return nil, nil, err
	}
	var raw net.Conn
	if via == nil {
		raw, err = (&net.Dialer{}).DialContext(within, "tcp", s.Addr)
		if tcp, ok := raw.(*net.TCPConn); ok && err == nil {
			// A request that waits in a cut link's buffer must not be carried out when the link is back: it
			// was given up, and perhaps undone. A reset throws it away, also when this process is killed.
			err = tcp.SetLinger(0)
		}
	} else {
		doing = "connect from the jump host before it"
		raw, err = via.DialContext(within, "tcp", s.Addr)
		if refused := (*ssh.OpenChannelError)(nil); errors.As(err, &refused) && refused.Reason == ssh.Prohibited {
			do = "allow forwarding on the jump host (AllowTcpForwarding, PermitOpen)"
		}
	}
	if err != nil {
		return nil, nil, unreachable(err)
	}
	conn := newHeardConn(raw)

	doing = "SSH key exchange"
	login, err := s.login(within)
	if err != nil {
		return conn, nil, err
	}
	defer login.close()
	config := &ssh.ClientConfig{
		User:              s.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(login.signers...)},
		AuthCallback:      login.progress,
		HostKeyCallback:   keys.check,
		HostKeyAlgorithms: keys.algorithms(),
		ClientVersion:     "SSH-2.0-mqlift",
	}
	type outcome struct {
		client *ssh.Client
		err    error
	}
	result := make(chan outcome, 1)
	go func() {
		c, channels, requests, err := ssh.NewClientConn(conn, s.Addr, config)
		if err != nil {
			result <- outcome{err: err}
			return
		}
		result <- outcome{client: ssh.NewClient(c, channels, requests)}
	}()
	var got outcome
	select {
	case got = <-result:
	case <-within.Done():
		// The caller closes the TCP connection under it, which ends the handshake. Until then what
		// it writes (verdict, began) is not to be looked at.
		return conn, nil, unreachable(nil)
	}
	noCommon := (*ssh.AlgorithmNegotiationError)(nil)
	switch err := got.err; {
	case err == nil:
		return conn, got.client, nil
	case keys.verdict != nil:
		return conn, nil, keys.verdict
	case errors.As(err, &noCommon) && noCommon.What == "host key" && len(keys.known()) > 0:
		return conn, nil, keys.noCommonKey(noCommon.RequestedAlgorithms)
	case ctx.Err() == nil && within.Err() == nil && login.began && !cutOff(err):
		return conn, nil, login.refused(errors.New(strings.TrimPrefix(err.Error(), "ssh: handshake failed: ssh: ")))
	default:
		do = "check that this is the SSH port and that the host has not run out of connections (MaxStartups)"
		return conn, nil, unreachable(err)
	}
}

// cutOff tells a connection that broke from what the host said on it.
func cutOff(err error) bool {
	var network net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &network)
}

// StartSFTP finds out whether files can be read and written; the error is an *SFTPError where not. The session
// is kept for the first file.
func (h *Host) StartSFTP(ctx context.Context) error {
	return h.withSFTP(ctx, "start SFTP", func(*sftpSession) error { return nil })
}

// Finding is the finding about a target for an error of Dial or of what followed it: the error's own, where it
// has one, and otherwise of check ssh.connect.
func Finding(t Target, err error) diag.Finding {
	var known interface{ Finding() diag.Finding }
	if errors.As(err, &known) {
		return known.Finding()
	}
	what := strings.TrimPrefix(err.Error(), t.Name+": ")
	return diag.Finding{
		Check: "ssh.connect", Severity: diag.Fail, Host: t.Name, Where: t.Address, What: what,
		Do: "mend how the host is reached in the topology or ~/.ssh/config",
	}
}

// Name is the topology's name of the host.
func (h *Host) Name() string { return h.at.Host }

// Addr is the host's SSH address:port.
func (h *Host) Addr() string { return h.at.Addr }

// String is name and address, as in messages.
func (h *Host) String() string { return h.at.String() }

// Done is closed when the connection has ended, by Close or by being lost.
func (h *Host) Done() <-chan struct{} { return h.done }

// Close ends the connection and everything on it, at once and without waiting for the host. It
// may be called more than once.
func (h *Host) Close() error {
	h.Lose(errClosed)
	return nil
}

// Lose ends the connection as if it had been lost, once, for the first reason: what is under way and what is
// asked later fails with a *TransientError.
func (h *Host) Lose(cause error) {
	h.end.Do(func() {
		if cause == nil {
			cause = errors.New("the host closed the connection")
		}
		h.cause = cause
		close(h.done)
		h.base.Close()
	})
}

func (h *Host) isDone() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

// gone is the error of something that the end of the connection interrupted.
func (h *Host) gone(doing string) error {
	if errors.Is(h.cause, errClosed) {
		return fmt.Errorf("%s: %s: %w", h, doing, h.cause)
	}
	return &TransientError{Place: h.at, Doing: doing, Err: fmt.Errorf("connection lost: %w", h.cause)}
}

// keepAlive ends the connection when the host has been silent for maxMissed intervals after being
// asked. Anything heard counts, so that an answer that waits behind a slow transfer is not missed.
func (h *Host) keepAlive(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	answered := make(chan struct{}, 1)
	asking := false
	var asked time.Time // or when the host was last heard since then
	for {
		select {
		case <-h.done:
			return
		case <-answered:
			asking = false
		case now := <-tick.C:
			if !asking {
				asking, asked = true, now
				go func() {
					// An error means that the connection is ending, which Wait tells better.
					h.client.SendRequest("keepalive@openssh.com", true, nil)
					answered <- struct{}{}
				}()
				continue
			}
			if last := h.heard.last(); last.After(asked) {
				asked = last
			}
			// Half an interval of grace: ticks and answers do not come to the microsecond.
			if silent := now.Sub(asked); silent > maxMissed*interval-interval/2 {
				h.Lose(fmt.Errorf("no sign of life for %v (%d keepalives)", silent.Round(time.Millisecond), maxMissed))
				return
			}
		}
	}
}

// heardConn remembers when something last came in.
type heardConn struct {
	net.Conn
	start time.Time
	when  atomic.Int64 // nanoseconds since start
}

func newHeardConn(c net.Conn) *heardConn { return &heardConn{Conn: c, start: time.Now()} }

func (c *heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.when.Store(int64(time.Since(c.start)))
	}
	return n, err
}

func (c *heardConn) last() time.Time { return c.start.Add(time.Duration(c.when.Load())) }
