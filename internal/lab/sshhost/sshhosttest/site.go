// Package sshhosttest has SSH servers for tests, and what is needed to reach them.
package sshhosttest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"mqlift/internal/lab/sshhost"
	"mqlift/internal/remote"
)

// User is whom the servers let in.
const User = "mq"

// Site is a place from which hosts are reached: a home directory without an ssh_config of whoever runs the tests,
// a key that the hosts let in, and what is known of theirs.
type Site struct {
	Home     string
	Identity string // private key file
	Known    string // known_hosts

	t   testing.TB
	dir string
	key ssh.Signer
}

// NewSite makes a site, and its home the test's; both end with the test.
func NewSite(t testing.TB) *Site {
	t.Helper()
	s := &Site{t: t, dir: t.TempDir()}
	s.Home, s.Identity, s.Known = filepath.Join(s.dir, "home"), filepath.Join(s.dir, "user"), filepath.Join(s.dir, "known_hosts")
	var private ed25519.PrivateKey
	s.key, private = newKey(t)
	block, err := ssh.MarshalPrivateKey(private, "")
	if err == nil {
		err = os.WriteFile(s.Identity, pem.EncodeToMemory(block), 0o600)
	}
	if err == nil {
		err = os.WriteFile(s.Known, nil, 0o600)
	}
	if err == nil {
		err = os.Mkdir(s.Home, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", s.Home)
	return s
}

func newKey(t testing.TB) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer, key
}

// Start starts a host of the site, on a free port of 127.0.0.1 with a home of its own, unless change says
// otherwise. It ends with the test.
func (s *Site) Start(name string, change func(*sshhost.Config)) *sshhost.Host {
	s.t.Helper()
	hostKey, _ := newKey(s.t)
	home := filepath.Join(s.dir, name+".home")
	conf := sshhost.Config{
		Name: name, Address: "127.0.0.1:0", User: User, Authorized: s.key.PublicKey(), HostKey: hostKey, Home: home,
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home},
	}
	if change != nil {
		change(&conf)
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		s.t.Fatal(err)
	}
	host, err := sshhost.Listen(conf)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { host.Close() })
	known, err := os.OpenFile(s.Known, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = known.WriteString(knownhosts.Line([]string{host.Address()}, conf.HostKey.PublicKey()) + "\n")
		known.Close()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return host
}

// HostHome is the home of a host that Start has started.
func (s *Site) HostHome(name string) string { return filepath.Join(s.dir, name+".home") }

// Target is how the site reaches a host.
func (s *Site) Target(name string, h *sshhost.Host) remote.Target {
	return remote.Target{
		Name: name, Address: "127.0.0.1", Port: h.Port(), User: User,
		IdentityFiles: []string{s.Identity}, KnownHosts: []string{s.Known}, Jump: []remote.Hop{},
	}
}

// Dial starts an SSH server that plays a host and connects to it; both end with the test. home is the
// host's home directory.
func Dial(t *testing.T, name string) (server *sshhost.Host, connection *remote.Host, home string) {
	t.Helper()
	s := NewSite(t)
	server = s.Start(name, nil)
	connection, err := remote.Dial(t.Context(), s.Target(name, server))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return server, connection, s.HostHome(name)
}
