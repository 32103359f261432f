package remote

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

func TestRunGivesOutputErrorsAndStatus(t *testing.T) {
	s := newSite(t)
	h := s.dial(s.start(nil), nil)
	res, err := h.Run(t.Context(), Cmd{Shell: "cat; echo bad >&2", Stdin: strings.NewReader("in")})
	if err != nil || res.Stdout != "in" || res.Stderr != "bad\n" || res.Took <= 0 {
		t.Errorf("%+v, %v", res, err)
	}
	_, err = h.Run(t.Context(), Cmd{Shell: "echo token=s3cret >&2; exit 7", Secrets: []string{"s3cret"}})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Status != 7 || exit.Host != "broker-a" || exit.Addr != h.Addr() {
		t.Fatalf("%#v", err)
	}
	if !strings.Contains(err.Error(), "exit status 7: token=[secret]") || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
	_, err = h.Run(t.Context(), Cmd{Shell: "kill -9 $$"})
	if !errors.As(err, &exit) || exit.Status != -1 || exit.Signal != "KILL" {
		t.Errorf("%#v", err)
	}
}

func TestRunStreamsOutput(t *testing.T) {
	s := newSite(t)
	h := s.dial(s.start(nil), nil)
	var n countingWriter
	res, err := h.Run(t.Context(), Cmd{Argv: []string{"head", "-c", "50000000", "/dev/zero"}, Stdout: &n})
	if err != nil || n != 50000000 || res.Stdout != "" {
		t.Errorf("%d bytes, %v", n, err)
	}
	_, err = h.Run(t.Context(), Cmd{Argv: []string{"head", "-c", "50000000", "/dev/zero"}})
	if err == nil || !strings.Contains(err.Error(), "larger than 16 MiB") {
		t.Errorf("50 MB collected: %v", err)
	}
}

type countingWriter int64

func (n *countingWriter) Write(b []byte) (int, error) {
	*n += countingWriter(len(b))
	return len(b), nil
}

func TestInputThatFailsIsNotTakenForItsEnd(t *testing.T) {
	s := newSite(t)
	srv := s.start(nil)
	h := s.dial(srv, nil)
	whole := filepath.Join(s.home, "whole")
	broken := errors.New("disk on fire")
	_, err := h.Run(t.Context(), Cmd{
		Argv:  []string{"sh", "-c", `cat >/dev/null && sleep 0.2 && touch "$1"`, "sh", whole},
		Stdin: io.MultiReader(strings.NewReader("half"), failing{broken}),
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "read its input") {
		t.Errorf("%v", err)
	}
	eventually(t, "command ended", func() bool { return srv.running() == 0 })
	if _, err := os.Stat(whole); err == nil {
		t.Error("the command took the half for the whole")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestOutputThatCannotBePassedOnEndsTheCommand(t *testing.T) {
	s := newSite(t)
	srv := s.start(nil)
	h := s.dial(srv, nil)
	full := errors.New("no space left")
	err := within(t, 3*time.Second, func() error {
		_, err := h.Run(t.Context(), Cmd{Argv: []string{"yes"}, Stdout: failing{full}})
		return err
	})
	if !errors.Is(err, full) {
		t.Error(err)
	}
	eventually(t, "command ended", func() bool { return srv.running() == 0 })
}

func TestCancelledCommandIsKilled(t *testing.T) {
	s := newSite(t)
	srv := s.start(nil)
	h := s.dial(srv, nil)
	result, cancel := background(t, h, Cmd{Argv: []string{"sleep", "600"}})
	eventually(t, "running", func() bool { return srv.running() == 1 })
	cancel()
	if err := within(t, 2*time.Second, func() error { return <-result }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	eventually(t, "killed", func() bool { return srv.running() == 0 })
	if _, err := h.Run(t.Context(), Cmd{Argv: []string{"true"}}); err != nil {
		t.Errorf("the host cannot be used after it: %v", err)
	}
}

func TestCancelReturnsAtOnceOnAStalledHost(t *testing.T) {
	s := newSite(t)
	srv := s.start(nil)
	h := s.dial(srv, func(t *Target) { t.KeepAlive = time.Hour })
	result, cancel := background(t, h, Cmd{Argv: []string{"sleep", "600"}})
	eventually(t, "running", func() bool { return srv.running() == 1 })
	srv.stall()
	cancel()
	if err := within(t, 2*time.Second, func() error { return <-result }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// New work, too, ends with its context.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for name, f := range map[string]func() error{
		"run":    func() error { _, err := h.Run(ctx, Cmd{Argv: []string{"true"}}); return err },
		"stat":   func() error { _, err := h.Stat(ctx, "/"); return err },
		"write":  func() error { return h.WriteFile(ctx, "/nowhere/x", nil, 0o600) },
		"upload": func() error { return h.Upload(ctx, "/nowhere/x", strings.NewReader("x"), 0o600) },
	} {
		if err := within(t, 2*time.Second, f); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	within(t, time.Second, h.Close)
	eventually(t, "slots given back", func() bool { return len(h.slots) == 0 })
}

func TestEveryRunningCommandLearnsThatTheConnectionIsLost(t *testing.T) {
	for name, fault := range map[string]func(*server){"cut": (*server).cut, "stalled": (*server).stall} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			srv := s.start(nil)
			h := s.dial(srv, func(t *Target) { t.KeepAlive = 200 * time.Millisecond })
			var results []<-chan error
			for range 5 {
				r, cancel := background(t, h, Cmd{Argv: []string{"sleep", "600"}, Stdout: io.Discard})
				defer cancel()
				results = append(results, r)
			}
			eventually(t, "running", func() bool { return srv.running() == 5 })
			began := time.Now()
			fault(srv)
			for _, r := range results {
				err := within(t, 2*time.Second, func() error { return <-r })
				var lost *TransientError
				if !errors.As(err, &lost) || !Transient(err) || lost.Host != "broker-a" || lost.Addr != srv.addr {
					t.Fatalf("%v", err)
				}
			}
			t.Logf("noticed after %v", time.Since(began))
			within(t, time.Second, func() struct{} { <-h.Done(); return struct{}{} })
			if _, err := h.Run(t.Context(), Cmd{Argv: []string{"true"}}); !Transient(err) {
				t.Errorf("afterwards: %v", err)
			}
			if _, err := h.Stat(t.Context(), "/"); !Transient(err) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestKeepalivesKeepAnIdleConnection(t *testing.T) {
	s := newSite(t)
	h := s.dial(s.start(nil), func(t *Target) { t.KeepAlive = 200 * time.Millisecond })
	if _, err := h.Run(t.Context(), Cmd{Argv: []string{"sleep", "2"}}); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsWhatIsRunningAndIsNotTransient(t *testing.T) {
	s := newSite(t)
	srv := s.start(nil)
	h := s.dial(srv, nil)
	result, cancel := background(t, h, Cmd{Argv: []string{"sleep", "600"}})
	defer cancel()
	eventually(t, "running", func() bool { return srv.running() == 1 })
	h.Close()
	h.Close()
	err := within(t, 2*time.Second, func() error { return <-result })
	if !errors.Is(err, net.ErrClosed) || Transient(err) {
		t.Error(err)
	}
	eventually(t, "server has let go", func() bool { return srv.conns.Load() == 0 })
}

func TestNoMoreSessionsThanOpenSSHAllows(t *testing.T) {
	s := newSite(t)
	srv := s.start(nil)
	h := s.dial(srv, nil)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			var err error
			if i%3 == 0 {
				_, err = h.Stat(t.Context(), s.home)
			} else {
				_, err = h.Run(t.Context(), Cmd{Argv: []string{"sleep", "0.05"}})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most := srv.most.Load(); most < maxSessions || most > maxSessions+2 {
		t.Errorf("%d sessions at a time", most)
	}
	if len(h.slots) != 0 {
		t.Errorf("%d slots not given back", len(h.slots))
	}
}

func TestAHostThatAllowsOneSessionIsUsedOneByOne(t *testing.T) {
	s := newSite(t)
	srv := s.start(func(srv *behaviour) { srv.maxSessions = 1 })
	h := s.dial(srv, nil)
	for range 3 {
		if _, err := h.Stat(t.Context(), s.home); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Run(t.Context(), Cmd{Argv: []string{"true"}}); err != nil {
			t.Fatal(err)
		}
	}
	result, cancel := background(t, h, Cmd{Argv: []string{"sleep", "600"}})
	defer func() { cancel(); <-result }()
	eventually(t, "running", func() bool { return srv.running() == 1 })
	_, err := h.Run(t.Context(), Cmd{Argv: []string{"true"}})
	var full *TransientError
	if !errors.As(err, &full) || !strings.Contains(err.Error(), "MaxSessions") {
		t.Errorf("%v", err)
	}
}

func TestHostKeys(t *testing.T) {
	other, _ := newKey(t)
	secp, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ssh.NewSignerFromKey(secp)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		arrange func(*site, *server) // after the server's key was written to known_hosts
		problem error
		says    []string
	}{
		{"known", func(*site, *server) {}, nil, nil},
		{"known by one of two key types", func(s *site, srv *server) {
			srv.set(func(b *behaviour) { b.keys = []ssh.Signer{other, second} })
			s.write(".ssh/known_hosts", "")
			s.know(srv.addr, second.PublicKey())
		}, nil, nil},
		{"known by the other of two key types", func(s *site, srv *server) {
			srv.set(func(b *behaviour) { b.keys = append(b.keys, second) })
		}, nil, nil},
		{"unknown", func(s *site, srv *server) { s.write(".ssh/known_hosts", "") },
			ErrHostKeyUnknown, []string{"not known", "SHA256:", "known_hosts", "ssh-ed25519 AAAA"}},
		{"changed", func(s *site, srv *server) { srv.set(func(b *behaviour) { b.keys = []ssh.Signer{other} }) },
			ErrHostKeyChanged, []string{"known_hosts:1", ssh.FingerprintSHA256(other.PublicKey()), "ssh-keygen -R"}},
		{"changed to another type", func(s *site, srv *server) { srv.set(func(b *behaviour) { b.keys = []ssh.Signer{second} }) },
			ErrHostKeyChanged, []string{"known_hosts:1", "ecdsa-sha2-nistp256"}},
		{"revoked", func(s *site, srv *server) {
			s.write(".ssh/known_hosts", "@revoked * "+string(ssh.MarshalAuthorizedKey(srv.keys[0].PublicKey())))
		}, ErrHostKeyRevoked, []string{"known_hosts:1"}},
		{"known_hosts damaged", func(s *site, srv *server) { s.write(".ssh/known_hosts", "\n\nhost ssh-rsa %%%\n") },
			ErrKnownHostsInvalid, []string{"known_hosts:3", "mend"}},
		{"known_hosts missing", func(s *site, srv *server) { os.Remove(s.known) },
			ErrKnownHostsInvalid, []string{"there is no ", "/.ssh/known_hosts, which the topology names"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			srv := s.start(nil)
			c.arrange(s, srv)
			h, err := Dial(t.Context(), s.target("broker-a", srv))
			if c.problem == nil {
				if err != nil {
					t.Fatal(err)
				}
				h.Close()
				return
			}
			var refused *HostKeyError
			if !errors.As(err, &refused) || !errors.Is(err, c.problem) || refused.Do == "" || Transient(err) {
				t.Fatalf("%T %v", err, err)
			}
			for _, s := range append(c.says, "broker-a: "+srv.addr) {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q is not in: %v", s, err)
				}
			}
		})
	}
}

// serveAgent runs an ssh-agent that holds the keys.
func serveAgent(t *testing.T, keys ...any) {
	t.Helper()
	ring := agent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: k}); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "agent") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(ring, c)
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", l.Addr().String())
}

func TestLogins(t *testing.T) {
	// One key with a passphrase for all, because making one takes long on purpose.
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("pass"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	lock := func(s *site, srv *server) any {
		s.write(".ssh/key", string(pem.EncodeToMemory(block)))
		srv.set(func(b *behaviour) { b.clients = signer.PublicKey() })
		return &private
	}
	for _, c := range []struct {
		name    string
		arrange func(*testing.T, *site, *server, *Target)
		says    []string // nil: logs in
		is      error
	}{
		{"key file", func(*testing.T, *site, *server, *Target) {}, nil, nil},
		{"the agent's key, no file", func(t *testing.T, s *site, srv *server, to *Target) {
			serveAgent(t, lock(s, srv))
			to.IdentityFiles = nil
		}, nil, nil},
		{"locked file that the agent holds", func(t *testing.T, s *site, srv *server, to *Target) {
			serveAgent(t, lock(s, srv))
		}, nil, nil},
		{"locked file, no agent", func(t *testing.T, s *site, srv *server, to *Target) { lock(s, srv) },
			[]string{"passphrase", "ssh-agent", "ssh-add", "key"}, ErrPassphrase},
		{"refused", func(_ *testing.T, _ *site, srv *server, _ *Target) { srv.set(func(b *behaviour) { b.clients = nil }) },
			[]string{"log in as op", "offered ssh-ed25519 SHA256:", ".ssh/key", "authorized_keys"}, nil},
		{"passwords only", func(_ *testing.T, _ *site, srv *server, _ *Target) { srv.set(func(b *behaviour) { b.noKeys = true }) },
			[]string{"takes only password"}, nil},
		{"no key at all", func(_ *testing.T, _ *site, _ *server, to *Target) { to.IdentityFiles = nil },
			[]string{"no private key to offer", "ssh-add"}, nil},
		{"file missing", func(_ *testing.T, _ *site, _ *server, to *Target) { to.IdentityFiles = []string{"/nowhere/key"} },
			[]string{"/nowhere/key", "no such file"}, os.ErrNotExist},
		{"the public half", func(_ *testing.T, s *site, _ *server, to *Target) {
			to.IdentityFiles = []string{s.write("key.pub", string(ssh.MarshalAuthorizedKey(s.key.PublicKey())))}
		}, []string{"key.pub is no private key"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			srv := s.start(nil)
			to := s.target("broker-a", srv)
			c.arrange(t, s, srv, &to)
			h, err := Dial(t.Context(), to)
			if c.says == nil {
				if err != nil {
					t.Fatal(err)
				}
				h.Close()
				return
			}
			var refused *AuthError
			if !errors.As(err, &refused) || refused.User != "op" || refused.Do == "" || c.is != nil && !errors.Is(err, c.is) || Transient(err) {
				t.Fatalf("%T %v", err, err)
			}
			for _, s := range append(c.says, "broker-a: "+srv.addr) {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q is not in: %v", s, err)
				}
			}
		})
	}
}

func TestUnreachableHostsSayWhy(t *testing.T) {
	s := newSite(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts (the kernel does) and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	hold := make(chan struct{})
	defer close(hold)
	slow := s.start(func(srv *behaviour) { srv.slow = func() { <-hold } })
	cut := s.start(func(srv *behaviour) { srv.cutAfter = 1500 })
	for name, c := range map[string]struct{ addr, says string }{
		"nobody listens":    {free.Addr().String(), "refused"},
		"silent":            {silent.Addr().String(), "no answer within"},
		"accepted late":     {slow.addr, "no answer within"},
		"cut in the middle": {cut.addr, "SSH key exchange"},
	} {
		t.Run(name, func(t *testing.T) {
			to := s.target("broker-a", &server{addr: c.addr})
			to.ConnectTimeout = 300 * time.Millisecond
			err := within(t, 3*time.Second, func() error { _, err := Dial(t.Context(), to); return err })
			var e *UnreachableError
			if !errors.As(err, &e) || !Transient(err) || e.Do == "" || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.addr) {
				t.Errorf("%T %v", err, err)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := within(t, 2*time.Second, func() error { _, err := Dial(ctx, s.target("broker-a", slow)); return err })
		if !errors.Is(err, context.DeadlineExceeded) || Transient(err) {
			t.Error(err)
		}
	})
}

func TestJumpHosts(t *testing.T) {
	s := newSite(t)
	first, second, last := s.start(nil), s.start(nil), s.start(nil)
	hop := func(srv *server) Hop {
		to := s.target("", srv)
		return Hop{Address: to.Address, Port: to.Port, User: "op"}
	}
	to := s.target("broker-a", last)
	to.Jump = []Hop{hop(first), hop(second)}

	h, err := Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	res, err := h.Run(t.Context(), Cmd{Argv: []string{"echo", "through"}})
	if err != nil || res.Stdout != "through\n" {
		t.Errorf("%+v %v", res, err)
	}
	if first.conns.Load() != 1 || second.conns.Load() != 1 || first.most.Load() != 0 || second.most.Load() != 0 {
		t.Error("not through both, or sessions on them")
	}

	t.Run("one that is cut ends the connection", func(t *testing.T) {
		result, cancel := background(t, h, Cmd{Argv: []string{"sleep", "600"}})
		defer cancel()
		eventually(t, "running", func() bool { return last.running() == 1 })
		second.cut()
		if err := within(t, 2*time.Second, func() error { return <-result }); !Transient(err) {
			t.Error(err)
		}
		eventually(t, "all let go", func() bool {
			return first.conns.Load() == 0 && second.conns.Load() == 0 && last.conns.Load() == 0
		})
	})
	t.Run("their own host keys are checked", func(t *testing.T) {
		for _, srv := range []*server{first, second} {
			other, _ := newKey(t)
			was := srv.keys
			srv.set(func(b *behaviour) { b.keys = []ssh.Signer{other} })
			_, err := Dial(t.Context(), to)
			srv.set(func(b *behaviour) { b.keys = was })
			var e *HostKeyError
			if !errors.As(err, &e) || !errors.Is(err, ErrHostKeyChanged) || !e.Jump || e.Addr != srv.addr || e.Host != "broker-a" {
				t.Errorf("%v", err)
			}
		}
	})
	t.Run("the host's own, too", func(t *testing.T) {
		other, _ := newKey(t)
		defer func(was []ssh.Signer) { last.set(func(b *behaviour) { b.keys = was }) }(last.keys)
		last.set(func(b *behaviour) { b.keys = []ssh.Signer{other} })
		_, err := Dial(t.Context(), to)
		var e *HostKeyError
		if !errors.As(err, &e) || e.Jump || e.Addr != last.addr {
			t.Errorf("%v", err)
		}
	})
	t.Run("one that forwards nothing", func(t *testing.T) {
		closed := s.start(func(srv *behaviour) { srv.noForward = true })
		to := to
		to.Jump = []Hop{hop(closed)}
		_, err := Dial(t.Context(), to)
		var e *UnreachableError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), "AllowTcpForwarding") {
			t.Errorf("%v", err)
		}
		eventually(t, "let go", func() bool { return closed.conns.Load() == 0 })
	})
}

func TestClientConfigurationFillsWhatIsLeftEmpty(t *testing.T) {
	s := newSite(t)
	srv, bastion := s.start(nil), s.start(nil)
	port := func(srv *server) string { _, p, _ := net.SplitHostPort(srv.addr); return p }
	s.write(".ssh/config", fmt.Sprintf(`
Host bastion
  HostName 127.0.0.1
  Port %s
Host brk-*
  HostName 127.0.0.1
  Port %s
Host *
  User op
  IdentityFile ~/.ssh/key
  UserKnownHostsFile ~/.ssh/known_hosts
  ProxyJump bastion
`, port(bastion), port(srv)))

	h, err := Dial(t.Context(), Target{Name: "broker-a", Address: "brk-a"})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if h.Addr() != srv.addr || bastion.conns.Load() != 1 {
		t.Errorf("reached %s, %d connections on the jump host", h.Addr(), bastion.conns.Load())
	}
	direct, err := Dial(t.Context(), Target{Name: "brk-b", Jump: []Hop{}})
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	if bastion.conns.Load() != 1 {
		t.Error("went through the jump host though none was declared")
	}
	_, err = Dial(t.Context(), Target{Name: "broker-a", Address: "brk-a", User: "other", IdentityFiles: []string{"/nowhere/key"}})
	var refused *AuthError
	if !errors.As(err, &refused) || refused.User != "other" || !strings.Contains(err.Error(), "/nowhere/key") {
		t.Errorf("what is declared does not win: %v", err)
	}

	s.write(".ssh/config", "Match exec true\n  User op\n")
	if _, err = Dial(t.Context(), Target{Name: "broker-a"}); err == nil || !strings.Contains(err.Error(), ".ssh/config") {
		t.Errorf("unreadable configuration: %v", err)
	}
}

func TestEachFailureToReachAHostIsAFinding(t *testing.T) {
	s := newSite(t)
	changed := s.start(nil)
	other, _ := newKey(t)
	changed.set(func(b *behaviour) { b.keys = []ssh.Signer{other} })
	for want, to := range map[string]Target{
		"ssh.hostkey": s.target("a", changed),
		"ssh.auth":    s.target("a", s.start(func(srv *behaviour) { srv.clients = nil })),
		"ssh.sftp":    s.target("a", s.start(func(srv *behaviour) { srv.noSFTP = true })),
		"ssh.connect": s.target("a", &server{addr: "127.0.0.1:1"}),
	} {
		h, err := Dial(t.Context(), to)
		if err == nil {
			err = h.StartSFTP(t.Context())
			h.Close()
		}
		if err == nil {
			t.Errorf("%s: no error", want)
			continue
		}
		if f := Finding(to, err); f.Check != want || f.Host != "a" || f.Where == "" || f.What == "" || f.Do == "" {
			t.Errorf("%s: %+v", want, f)
		}
	}
}

func TestSudoRunsCommandsAsDeclared(t *testing.T) {
	s := newSite(t)
	bin := t.TempDir()
	script := "#!/bin/sh\n[ \"$1 $2\" = '-n --' ] || exit 99\nshift 2\nSUDO=yes exec \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "sudo"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	h := s.dial(s.start(func(srv *behaviour) { srv.path = bin }), func(t *Target) { t.Sudo = true })
	res, err := h.Run(t.Context(), Cmd{Shell: `echo "$SUDO $A $PWD"`, Env: map[string]string{"A": "b c"}, Dir: "/usr"})
	if err != nil || res.Stdout != "yes b c /usr\n" {
		t.Errorf("%+v %v", res, err)
	}
}

func TestSFTPThroughSudoThatWantsAPasswordSaysSo(t *testing.T) {
	s := newSite(t)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "sudo"), []byte("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	h := s.dial(s.start(func(srv *behaviour) { srv.path = bin }), func(t *Target) { t.Sudo = true })
	_, err := h.Stat(t.Context(), "/")
	var e *SFTPError
	if !errors.As(err, &e) || !e.Sudo {
		t.Fatalf("%v", err)
	}
	if !strings.Contains(err.Error(), "a password is required") && !strings.Contains(err.Error(), "usual paths") || !strings.Contains(err.Error(), "NOPASSWD") {
		t.Error(err)
	}
	if len(h.slots) != 0 {
		t.Errorf("%d slots not given back", len(h.slots))
	}
}

func TestNothingIsWrittenAfterRunReturned(t *testing.T) {
	s := newSite(t)
	h := s.dial(s.start(nil), nil)
	var returned, late atomic.Bool
	writes := make(chan struct{}, 100)
	slow := writerFunc(func(b []byte) (int, error) { // much of the output is still to be passed on at the end
		if returned.Load() {
			late.Store(true)
		}
		select {
		case writes <- struct{}{}:
		default:
		}
		time.Sleep(grace / 2)
		return len(b), nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for range 4 { // by then the window of 2 MiB is full
			<-writes
		}
		cancel()
	}()
	h.Run(ctx, Cmd{Argv: []string{"yes"}, Stdout: slow})
	returned.Store(true)
	eventually(t, "the session ended", func() bool { return len(h.slots) == 0 })
	if late.Load() {
		t.Error("written to afterwards")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestHomeIsKnownWithoutTheVariable(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", "")
	if home, err := Home(); err != nil || home == "" || home != me.HomeDir {
		t.Errorf("%q and not %q: %v", home, me.HomeDir, err)
	}
}
