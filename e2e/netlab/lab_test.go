package netlab_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mqlift/e2e/netlab"
)

const a, b, c = "192.168.0.220", "192.168.0.221", "192.168.0.222"

// bare starts a lab whose hosts run nothing but their SSH servers.
func bare(t *testing.T) *netlab.Lab {
	t.Helper()
	inside(t)
	l, err := netlab.Up(t.Context(), netlab.Options{Empty: true}, nil)
	must(t, err)
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// shell runs a line on a host, which has to succeed.
func shell(t *testing.T, l *netlab.Lab, host, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := l.Shell(ctx, host, line)
	must(t, err)
	return strings.TrimSpace(out)
}

// greeting is how long it takes until an SSH server's first bytes are there: twice to it and back.
func greeting(address string, port int, limit time.Duration) (time.Duration, error) {
	began := time.Now()
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", address, port), limit)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(began.Add(limit))
	_, err = io.ReadFull(conn, make([]byte, 8))
	return time.Since(began), err
}

// answers waits until a host's SSH server answers again.
func answers(t *testing.T, address string, port int) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := greeting(address, port, time.Second)
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s:%d does not answer: %v", address, port, err)
		}
	}
}

// silent fails the test if a host's SSH server answers.
func silent(t *testing.T, address string, port int) {
	t.Helper()
	if took, err := greeting(address, port, 500*time.Millisecond); err == nil {
		t.Errorf("%s:%d answers, after %s", address, port, took)
	}
}

// secondServer starts another SSH server on a host, on port 2222.
func secondServer(t *testing.T, l *netlab.Lab, host string) {
	t.Helper()
	_, err := l.Console(t.Context(), host, "/usr/sbin/sshd -f /etc/ssh/sshd_config -p 2222")
	must(t, err)
}

// Every host has its own address, name, processes and disk, and nobody sees more of the others, nor
// changes the machine.
func TestHostsAreApart(t *testing.T) {
	l := bare(t)
	for _, h := range l.Hosts() {
		if got := shell(t, l, h.Name, "hostname -I || ip -4 -o addr show eth0 | awk '{print $4}'"); !strings.HasPrefix(got, h.Address) {
			t.Errorf("%s has the address %q", h.Name, got)
		}
		shell(t, l, h.Name, "echo "+h.Name+" >/tmp/mark")
		if got := shell(t, l, h.Name, "for p in /proc/[0-9]*/comm; do cat $p; done 2>/dev/null | grep -c sshd"); got == "0" {
			t.Errorf("%s: no SSH server among its processes", h.Name)
		}
		if _, err := l.Console(t.Context(), h.Name, "touch /usr/netlab-was-here"); err == nil {
			t.Errorf("%s: root can write to the machine's files", h.Name)
			os.Remove("/usr/netlab-was-here")
		}
		if got := shell(t, l, h.Name, "ls /run; ls -d /run/netlab 2>/dev/null || true"); got != "sshd" {
			t.Errorf("%s sees in /run: %s", h.Name, got)
		}
	}
	for _, h := range l.Hosts() {
		mark, err := os.ReadFile(h.Path("/tmp/mark"))
		must(t, err)
		if strings.TrimSpace(string(mark)) != h.Name {
			t.Errorf("on the disk of %s is the file of %s", h.Name, mark)
		}
	}
	if _, err := os.Stat(l.Hosts()[2].Path(netlab.InstallDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the new host has an installation: %v", err)
	}
	if conn, err := net.DialTimeout("tcp", "192.0.2.1:80", time.Second); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("there is a way out: %v, %v", conn, err)
	}
}

// A link that is cut carries nothing, one that stalls SSH carries all else, and one whose traffic with an
// address is lost carries that of all others; whole again, it carries everything.
func TestLinksFail(t *testing.T) {
	l := bare(t)
	secondServer(t, l, a)
	secondServer(t, l, b)
	answers(t, a, 2222)

	must(t, l.Cut(a))
	silent(t, a, netlab.SSHPort)
	out, err := l.Console(t.Context(), a, "ip link show eth0")
	must(t, err)
	if !strings.Contains(out, "NO-CARRIER") {
		t.Errorf("the host sees a carrier: %s", out)
	}
	must(t, l.Restore(a))
	answers(t, a, netlab.SSHPort)

	// A connection that was there stalls, and goes on.
	conn, err := net.Dial("tcp", a+":22")
	must(t, err)
	defer conn.Close()
	_, err = io.ReadFull(conn, make([]byte, 8))
	must(t, err)
	must(t, l.StallSSH(a))
	silent(t, a, netlab.SSHPort)
	answers(t, a, 2222)
	answers(t, b, netlab.SSHPort)
	_, err = io.WriteString(conn, "SSH-2.0-test\r\n")
	must(t, err)

	must(t, l.Stall(a, b))
	answers(t, a, netlab.SSHPort)
	reach := "exec 3<>/dev/tcp/" + a + "/2222"
	if _, err := l.Console(t.Context(), b, "timeout 1 bash -c '"+reach+"'"); err == nil {
		t.Errorf("%s reaches %s", b, a)
	}
	if _, err := l.Console(t.Context(), c, "timeout 10 bash -c '"+reach+"'"); err != nil {
		t.Error(err)
	}
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := io.ReadAtLeast(conn, make([]byte, 4096), 100); err != nil { // the rest of the greeting, and keys
		t.Errorf("the stalled connection does not go on: %d bytes, %v", n, err)
	}
	must(t, l.Restore(a))
	_, err = l.Console(t.Context(), b, "timeout 10 bash -c '"+reach+"'")
	must(t, err)
}

// A delay is on every frame both ways, and is gone when it is undone.
func TestLinkDelays(t *testing.T) {
	l := bare(t)
	const each = 100 * time.Millisecond
	must(t, l.Delay(a, each))
	took, err := greeting(a, netlab.SSHPort, 30*time.Second)
	must(t, err)
	t.Logf("%s each way: first bytes after %s", each, took)
	if took < 4*each {
		t.Errorf("a greeting took %s, and four frames in a row are %s", took, 4*each)
	}
	must(t, l.Restore(a))
	for limit := time.Now().Add(30 * time.Second); ; {
		took, err := greeting(a, netlab.SSHPort, time.Second)
		if err == nil && took < 4*each {
			t.Logf("no delay: first bytes after %s", took)
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("a greeting takes %s, %v, without a delay", took, err)
		}
	}
}

// A limit holds both ways.
func TestLinkLimits(t *testing.T) {
	l := bare(t)
	must(t, l.Limit(a, 100_000))
	for way, line := range map[string]string{"from": "head -c 200000 /dev/zero", "to": "true " + strings.Repeat("x", 100_000)} {
		began := time.Now()
		shell(t, l, a, line)
		took := time.Since(began)
		t.Logf("%s the host: %s", way, took)
		if took < 800*time.Millisecond {
			t.Errorf("100 kB %s the host took %s at 100 kB/s", way, took)
		}
	}
	must(t, l.Restore(a))
	shell(t, l, a, "head -c 2000000 /dev/zero")
}

// A disk fills up for the operator as it would, and can be freed.
func TestDiskFills(t *testing.T) {
	l := bare(t)
	must(t, l.Fill(a, 1<<20))
	if out, err := l.Shell(t.Context(), a, "head -c 3000000 /dev/zero >/tmp/x"); err == nil || !strings.Contains(err.Error(), "No space left on device") {
		t.Errorf("writing 3 MB to a disk with 1 MiB free: %q, %v", out, err)
	}
	shell(t, l, b, "head -c 3000000 /dev/zero >/tmp/x")
	must(t, l.Free(a))
	shell(t, l, a, "head -c 3000000 /dev/zero >/tmp/x")
}

// A host that is killed ends with all that runs on it, and comes back with its disk and its own SSH key.
func TestHostIsKilledAndBack(t *testing.T) {
	l := bare(t)
	shell(t, l, a, "echo kept >/tmp/file; sleep 1000 </dev/null >/dev/null 2>&1 & echo")
	must(t, l.Kill(a))
	silent(t, a, netlab.SSHPort)
	if out, err := exec.Command("pgrep", "-x", "sleep").CombinedOutput(); err == nil {
		t.Errorf("there is still %s", out)
	}
	must(t, l.Boot(t.Context(), a))
	if got := shell(t, l, a, "cat /tmp/file"); got != "kept" {
		t.Errorf("the file has %q", got)
	}
}

// A program that is killed with a lab in it leaves no process and no disk.
func TestNothingIsLeftOfAKilledProgram(t *testing.T) {
	inside(t)
	victim := exec.Command("/proc/self/exe")
	victim.Env = append(os.Environ(), victimVariable+"=1")
	said, err := victim.StdoutPipe()
	must(t, err)
	victim.Stderr, victim.WaitDelay = t.Output(), time.Second
	must(t, victim.Start())
	dir, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		t.Error(err)
	}
	lab := filepath.Dir(strings.TrimSpace(dir))
	if left := leftOf(t, lab); len(left) < 5+3 { // two programs, their first process, three hosts' and their disks
		t.Errorf("before the end only %q are found", left)
	}
	must(t, victim.Process.Kill())
	victim.Wait()
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left := leftOf(t, lab)
		if len(left) == 0 {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("left: %q", left)
		}
	}
}

// leftOf finds the processes of the victim, and the disks of its lab.
func leftOf(t *testing.T, lab string) []string {
	t.Helper()
	var left []string
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	must(t, err)
	for _, name := range environs {
		if environ, err := os.ReadFile(name); err == nil && bytes.Contains(environ, []byte(victimVariable+"=1")) {
			left = append(left, name)
		}
	}
	disks, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	must(t, err)
	for _, name := range disks {
		if file, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(file), lab+"/") {
			left = append(left, string(file))
		}
	}
	return left
}

// Reset brings every disk back to the snapshot, and every host and link to where they were.
func TestResetToSnapshot(t *testing.T) {
	l := bare(t)
	shell(t, l, a, "echo before >/tmp/file")
	s, err := l.Snapshot(t.Context())
	must(t, err)
	for range 2 {
		shell(t, l, a, "echo after >/tmp/file")
		must(t, l.Fill(b, 1<<20))
		must(t, l.Cut(b))
		must(t, l.Kill(c))
		must(t, l.Reset(t.Context(), s))
		if got := shell(t, l, a, "cat /tmp/file"); got != "before" {
			t.Errorf("the file has %q", got)
		}
		shell(t, l, b, "head -c 3000000 /dev/zero >/tmp/x")
		shell(t, l, c, "true")
	}
}
