// Package sshhosttest connects tests to an SSH server that can be made to fail.
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

// Dial starts an SSH server that plays a host and connects to it; both end with the test. home is the
// host's home directory.
func Dial(t *testing.T, name string) (server *sshhost.Host, connection *remote.Host, home string) {
	t.Helper()
	dir := t.TempDir()
	pair := func(file string) ssh.Signer {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.NewSignerFromKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return signer
	}
	user, host := pair("user"), pair("host")
	home = filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", home) // no ssh_config of whoever runs the tests
	var err error
	server, err = sshhost.Listen(sshhost.Config{
		Name: name, Address: "127.0.0.1:0", User: "mq", Authorized: user.PublicKey(), HostKey: host, Home: home,
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	known := filepath.Join(dir, "known_hosts")
	line := knownhosts.Line([]string{server.Address()}, host.PublicKey())
	if err := os.WriteFile(known, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	connection, err = remote.Dial(t.Context(), remote.Target{
		Name: name, Address: "127.0.0.1", Port: server.Port(), User: "mq",
		IdentityFiles: []string{filepath.Join(dir, "user")}, KnownHosts: []string{known}, Jump: []remote.Hop{},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return server, connection, home
}
