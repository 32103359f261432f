package sshhost_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"mqlift/internal/lab/sshhost"
)

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

type site struct {
	host   *sshhost.Host
	key    ssh.Signer
	home   string
	config ssh.ClientConfig
}

func newSite(t *testing.T) *site {
	t.Helper()
	hostKey, key, home := newSigner(t), newSigner(t), t.TempDir()
	host, err := sshhost.Listen(sshhost.Config{
		Name: "host-a", Address: "127.0.0.1:0", User: "operator", Authorized: key.PublicKey(), HostKey: hostKey,
		Home: home, Env: []string{"PATH=/usr/bin:/bin", "HOME=" + home},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return &site{host: host, key: key, home: home, config: ssh.ClientConfig{
		User: "operator", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.FixedHostKey(hostKey.PublicKey()), Timeout: 5 * time.Second,
	}}
}

func (s *site) dial(t *testing.T) *ssh.Client {
	t.Helper()
	client, err := ssh.Dial("tcp", s.host.Address(), &s.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func session(t *testing.T, client *ssh.Client) *ssh.Session {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// eventually waits for a condition, with a limit.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func TestCommandsRunInHomeWithTheHostsEnvironmentOnly(t *testing.T) {
	t.Setenv("LAB_SECRET", "leaked")
	s := newSite(t)
	out, err := session(t, s.dial(t)).Output("pwd; echo $HOME; echo \"[$LAB_SECRET]\"")
	if err != nil {
		t.Fatal(err)
	}
	if want := s.home + "\n" + s.home + "\n[]\n"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func TestOutputStatusAndSignalReachTheClient(t *testing.T) {
	client := newSite(t).dial(t)
	for _, tt := range []struct {
		name, command, stdin, out, trouble string
		status                             int
		signal                             string
	}{
		{name: "success", command: "echo out; echo err >&2", out: "out\n", trouble: "err\n"},
		{name: "exit status", command: "exit 42", status: 42},
		{name: "unknown command", command: "no-such-program 2>/dev/null", status: 127},
		{name: "signal", command: "kill -TERM $$", signal: "TERM"},
		{name: "stdin to its end", command: "cat; echo end", stdin: "in\n", out: "in\nend\n"},
		{name: "much output", command: "head -c 3000000 /dev/zero | tr '\\0' x", out: strings.Repeat("x", 3000000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := session(t, client)
			var out, trouble bytes.Buffer
			s.Stdin, s.Stdout, s.Stderr = strings.NewReader(tt.stdin), &out, &trouble
			err := s.Run(tt.command)
			exit, isExit := errors.AsType[*ssh.ExitError](err)
			if tt.status == 0 && tt.signal == "" && err != nil || (tt.status != 0 || tt.signal != "") && !isExit {
				t.Fatal(err)
			}
			if isExit && (tt.signal == "" && exit.ExitStatus() != tt.status || exit.Signal() != tt.signal) {
				t.Errorf("status %d signal %q", exit.ExitStatus(), exit.Signal())
			}
			if out.String() != tt.out || trouble.String() != tt.trouble {
				t.Errorf("out %d bytes, want %d; stderr %q, want %q", out.Len(), len(tt.out), trouble.String(), tt.trouble)
			}
		})
	}
}

func TestASignalReachesTheWholeProcessGroup(t *testing.T) {
	client := newSite(t).dial(t)
	s := session(t, client)
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("sleep 600 & echo $!; wait"); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 16)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGKILL) // which also ends the session, if the signal does not
	if err := s.Signal(ssh.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the grandchild's end", func() bool { return !alive(pid) })
	if exit, ok := errors.AsType[*ssh.ExitError](s.Wait()); !ok || exit.Signal() != "KILL" {
		t.Errorf("ended as %v", exit)
	}
}

func TestWhatIsDetachedOutlivesTheConnection(t *testing.T) {
	site := newSite(t)
	client := site.dial(t)
	out, err := session(t, client).Output("nohup sleep 600 >/dev/null 2>&1 </dev/null & echo $!")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGKILL)
	client.Close()
	site.host.Close()
	if !alive(pid) {
		t.Error("it died with the connection")
	}
}

func TestACommandLosesItsPipesWithItsConnection(t *testing.T) {
	for name, command := range map[string]string{
		"reader": "cat >/dev/null; echo done >reader",
		"writer": "trap '' PIPE; while echo x; do sleep 0.01; done 2>/dev/null; echo done >writer",
	} {
		t.Run(name, func(t *testing.T) {
			site := newSite(t)
			s := session(t, site.dial(t))
			if _, err := s.StdinPipe(); err != nil {
				t.Fatal(err)
			}
			if err := s.Start(command); err != nil {
				t.Fatal(err)
			}
			site.host.Cut()
			eventually(t, "the command to go on", func() bool {
				_, err := os.Stat(filepath.Join(site.home, name))
				return err == nil
			})
		})
	}
}

func TestSFTPMovesFiles(t *testing.T) {
	site := newSite(t)
	client, err := sftp.NewClient(site.dial(t))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	write := func(name string, data []byte) {
		t.Helper()
		f, err := client.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write("old", []byte("old")) // relative: in the home directory
	write("new", data)
	if err := client.PosixRename("new", "old"); err != nil { // over an existing file
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(site.home, "old"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := client.Stat("none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestOnlyTheOneUserWithTheOneKeyIsLetIn(t *testing.T) {
	site := newSite(t)
	other := site.config
	other.User = "root2"
	if _, err := ssh.Dial("tcp", site.host.Address(), &other); err == nil {
		t.Error("another user was let in")
	}
	other = site.config
	other.Auth = []ssh.AuthMethod{ssh.PublicKeys(newSigner(t))}
	if _, err := ssh.Dial("tcp", site.host.Address(), &other); err == nil {
		t.Error("another key was let in")
	}
}

func TestAJumpLeadsThroughTheHostToLoopbackOnly(t *testing.T) {
	near, far := newSite(t), newSite(t)
	jump := near.dial(t)
	conn, err := jump.Dial("tcp", far.host.Address())
	if err != nil {
		t.Fatal(err)
	}
	c, channels, requests, err := ssh.NewClientConn(conn, far.host.Address(), &far.config)
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(c, channels, requests)
	defer client.Close()
	out, err := session(t, client).Output("pwd")
	if err != nil || strings.TrimSpace(string(out)) != far.home {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := jump.Dial("tcp", "192.0.2.1:22"); err == nil {
		t.Error("it forwards to the world")
	}
}

func TestCutDropsAndRefusesUntilRestore(t *testing.T) {
	site := newSite(t)
	client := site.dial(t)
	site.host.Cut()
	if err := client.Wait(); err == nil {
		t.Error("the connection ended in good order")
	}
	if conn, err := net.Dial("tcp", site.host.Address()); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			conn.Close()
		}
		t.Errorf("dialling a cut host: %v", err)
	}
	if err := site.host.Restore(); err != nil {
		t.Fatal(err)
	}
	if out, err := session(t, site.dial(t)).Output("echo back"); err != nil || string(out) != "back\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestStallHoldsEveryByteUntilRestore(t *testing.T) {
	site := newSite(t)
	client := site.dial(t)
	s := session(t, client)
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("tee received"); err != nil {
		t.Fatal(err)
	}
	received := func() string {
		data, _ := os.ReadFile(filepath.Join(site.home, "received"))
		return string(data)
	}
	if _, err := io.WriteString(in, "first\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	site.host.Stall()
	if _, err := io.WriteString(in, "held\n"); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		line := make([]byte, 5)
		io.ReadFull(out, line)
		got <- string(line)
	}()
	conn, err := net.Dial("tcp", site.host.Address())
	if err != nil {
		t.Fatal("a stalled host accepts connections:", err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stalled host said %d bytes, %v", n, err)
	}
	select {
	case line := <-got:
		t.Errorf("%q came through", line)
	default:
	}
	if received() != "first\n" {
		t.Errorf("the host received %q", received())
	}
	if err := site.host.Restore(); err != nil {
		t.Fatal(err)
	}
	select {
	case line := <-got:
		if line != "held\n" {
			t.Errorf("got %q", line)
		}
	case <-time.After(10 * time.Second):
		t.Error("what was held never came")
	}
}

func TestAStalledHostCanBeClosed(t *testing.T) {
	site := newSite(t)
	site.dial(t)
	site.host.Stall()
	closed := make(chan struct{})
	go func() { site.host.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs")
	}
}
