package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// openSSH starts the real sshd, as the user who runs the tests, on 127.0.0.1.
func openSSH(t *testing.T) (*site, Target, *exec.Cmd) {
	t.Helper()
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		t.Skip("no OpenSSH server is installed")
	}
	if os.Getuid() == 0 { // where sshd as root goes to before the login
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Skip(err)
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	key, data := newKey(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	config := s.write("sshd_config", fmt.Sprintf("ListenAddress %s\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nUsePAM no\nStrictModes no\nSubsystem sftp internal-sftp\n",
		addr, s.write("host_key", string(data)), s.write("authorized_keys", string(ssh.MarshalAuthorizedKey(s.key.PublicKey())))))
	s.know(addr, key.PublicKey())
	cmd := exec.Command(sshd, "-D", "-e", "-f", config)
	var log bytes.Buffer
	cmd.Stderr = &log
	cmd.WaitDelay = time.Second // what serves a connection holds it, too
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", log.String())
		}
	})
	eventually(t, "sshd listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	n, _ := strconv.Atoi(port)
	return s, Target{Name: "real", Address: "127.0.0.1", Port: n, User: me.Username,
		IdentityFiles: []string{s.identity}, KnownHosts: []string{s.known}}, cmd
}

func TestOpenSSH(t *testing.T) {
	s, to, _ := openSSH(t)
	sudo := exec.Command("sudo", "-n", "true").Run() == nil
	for _, c := range []struct {
		name   string
		change func(*Target)
	}{
		{"direct", func(*Target) {}},
		{"through a jump host", func(t *Target) { t.Jump = []Hop{{Address: t.Address, Port: t.Port, User: t.User}} }},
		{"through sudo", func(t *Target) { t.Sudo = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := to
			c.change(&to)
			if to.Sudo && !sudo {
				t.Skip("sudo wants a password or is not installed")
			}
			h, err := Dial(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			if err := h.StartSFTP(t.Context()); err != nil {
				t.Fatal(err)
			}
			who, err := h.Run(t.Context(), Cmd{Shell: `echo "$(id -u) $PWD $A"`, Dir: "/usr", Env: map[string]string{"A": "b  'c"}})
			want := fmt.Sprintf("%d /usr b  'c\n", os.Getuid())
			if to.Sudo {
				want = "0 /usr b  'c\n"
			}
			if err != nil || who.Stdout != want {
				t.Errorf("%+v %v", who, err)
			}
			var exit *ExitError
			if _, err := h.Run(t.Context(), Cmd{Shell: "exit 3"}); !errors.As(err, &exit) || exit.Status != 3 {
				t.Error(err)
			}

			dir := filepath.Join(t.TempDir(), "d")
			if err := h.MkdirAll(t.Context(), dir, 0o755); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "f")
			if err := h.WriteFile(t.Context(), file, []byte("one"), 0o640); err != nil {
				t.Fatal(err)
			}
			if err := h.WriteFile(t.Context(), file, []byte("two"), 0o600); err != nil {
				t.Fatal(err)
			}
			info, err := h.Stat(t.Context(), file)
			data, rerr := h.ReadFile(t.Context(), file)
			if err != nil || rerr != nil || info.Mode() != 0o640 || string(data) != "two" {
				t.Errorf("%v %v %v %q", err, rerr, info, data)
			}
			const size = 64 << 20
			began := time.Now()
			if err := h.Upload(t.Context(), file, io.LimitReader(zeros{}, size), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Logf("uploaded %d MiB in %v", size>>20, time.Since(began))
			list, err := h.ReadDir(t.Context(), dir)
			if err != nil || len(list) != 1 || list[0].Size() != size || list[0].Mode() != 0o755 {
				t.Errorf("%v %v", list, err)
			}

			var wg sync.WaitGroup
			for i := range 24 {
				wg.Go(func() {
					var err error
					if i%3 == 0 {
						_, err = h.Stat(t.Context(), "/")
					} else {
						_, err = h.Run(t.Context(), Cmd{Argv: []string{"true"}})
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()

			mark := filepath.Join(s.home, strings.ReplaceAll(c.name, " ", "-"))
			result, cancel := background(t, h, Cmd{Argv: []string{"sh", "-c", `echo $$ >"$1"; exec sleep 600`, "sh", mark}})
			pid := 0
			eventually(t, "running", func() bool {
				data, _ := os.ReadFile(mark)
				pid, _ = strconv.Atoi(strings.TrimSpace(string(data)))
				return pid != 0
			})
			cancel()
			if err := within(t, 2*time.Second, func() error { return <-result }); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if os.Getuid() != 0 && !to.Sudo { // see Run for root's processes
				eventually(t, "killed", func() bool { return syscall.Kill(pid, 0) != nil })
			}
			h.Run(t.Context(), Cmd{Argv: []string{"kill", strconv.Itoa(pid)}})
			h.Run(t.Context(), Cmd{Argv: []string{"rm", "-rf", dir}}) // may be root's
		})
	}
}

func TestOpenSSHThatStallsIsNoticed(t *testing.T) {
	_, to, sshd := openSSH(t)
	to.KeepAlive = 200 * time.Millisecond
	h, err := Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	res, err := h.Run(t.Context(), Cmd{Shell: "echo $PPID"}) // the sshd of this connection
	if err != nil {
		t.Fatal(err)
	}
	serving, err := strconv.Atoi(strings.TrimSpace(res.Stdout))
	if err != nil || serving == sshd.Process.Pid || serving < 2 {
		t.Fatalf("%d %v", serving, err)
	}
	result, cancel := background(t, h, Cmd{Argv: []string{"sleep", "5"}})
	defer cancel()
	began := time.Now()
	if err := syscall.Kill(serving, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(serving, syscall.SIGCONT)
		h.Close()
		eventually(t, "the stopped sshd has gone", func() bool { return syscall.Kill(serving, 0) != nil })
	})
	if err := within(t, 3*time.Second, func() error { return <-result }); !Transient(err) {
		t.Error(err)
	}
	t.Logf("noticed after %v", time.Since(began))
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
