package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"mqlift/internal/hostinfo"
	"mqlift/internal/lab/sshhost"
	"mqlift/internal/remote"
)

// dialLab starts an SSH server that plays a host and connects to it.
func dialLab(t *testing.T, name string) (*sshhost.Host, *remote.Host, string) {
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
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", home) // no ssh_config of whoever runs the tests
	server, err := sshhost.Listen(sshhost.Config{
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
	h, err := remote.Dial(t.Context(), remote.Target{
		Name: name, Address: "127.0.0.1", Port: server.Port(), User: "mq",
		IdentityFiles: []string{filepath.Join(dir, "user")}, KnownHosts: []string{known}, Jump: []remote.Hop{},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return server, h, home
}

func TestOverSSHAnAgentWorksAndABrokerOutlivesTheConnection(t *testing.T) {
	_, host, home := dialLab(t, "b1")
	a, err := Push(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	b := newBroker(t, "")
	started, err := a.StartBroker(t.Context(), b.start())
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the agent's directory to be removed", func() bool {
		left, err := filepath.Glob(filepath.Join(home, "mqlift.*"))
		return err == nil && len(left) == 0
	})
	if alive, err := hostinfo.Alive(started.Process.ProcessID); !alive || err != nil {
		t.Errorf("the broker is alive: %v, %v", alive, err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("closing after the connection: %v", err)
	}
}

func TestOverSSHACopyIsMadeAndSurvivesNothingOfALostHost(t *testing.T) {
	_, from, _ := dialLab(t, "b1")
	cutServer, to, cutHome := dialLab(t, "b2")
	a, err := Push(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Push(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	source, target := t.TempDir(), t.TempDir()
	spec := storeSpec(source, target, newStore(t, source))
	if _, err := Copy(t.Context(), a, b, spec, nil); err != nil {
		t.Fatal(err)
	}
	same(t, source, target)

	spec.ToRoot, spec.BytesPerSecond = t.TempDir(), 300<<10
	began := time.Now()
	_, err = Copy(t.Context(), a, b, spec, func(Progress) { cutServer.Cut() })
	var failed *CopyError
	var lost *remote.TransientError
	if !errors.As(err, &failed) || failed.Source != nil || !errors.As(failed.Target, &lost) {
		t.Errorf("the target's connection was cut: %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	eventually(t, "the cut host to be tidy", func() bool {
		left, err := filepath.Glob(filepath.Join(cutHome, "mqlift.*"))
		entries, listErr := listTree(t.Context(), ListRequest{Dir: spec.ToRoot}, nil)
		clean := err == nil && listErr == nil && len(left) == 0
		for _, e := range entries {
			clean = clean && filepath.Base(e.Path)[0] != '.'
		}
		return clean
	})
	tidy(t, spec.ToRoot)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
