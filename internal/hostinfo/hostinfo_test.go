package hostinfo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sleeper(t *testing.T) (*exec.Cmd, ProcessID) {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p, err := ReadProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, p.ProcessID
}

func TestAProcessIsSeenAsItIs(t *testing.T) {
	cmd, id := sleeper(t)
	deadline := time.Now().Add(10 * time.Second)
	var found *Process
	for found == nil && time.Now().Before(deadline) { // between fork and exec it still is the test
		all, err := Processes()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if p.ProcessID == id && len(p.Argv) == 2 && p.Argv[1] == "60" {
				found = &p
			}
		}
	}
	if found == nil {
		t.Fatal("not found")
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if found.Parent != os.Getpid() || found.UID != os.Geteuid() || found.Dir != dir || filepath.Base(found.Argv[0]) != "sleep" || found.Exe == "" {
		t.Errorf("got %+v", found)
	}
	if ago := time.Since(found.Started); ago < -100*time.Millisecond || ago > 20*time.Second {
		t.Errorf("started %v ago", ago)
	}
	if _, ok := Environment(cmd.Process.Pid, "PATH"); !ok {
		t.Error("its PATH is not seen")
	}
}

// Both ways must do: with a pidfd, and as on kernels without it.
func handles(t *testing.T, id ProcessID) map[string]*Handle {
	h, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return map[string]*Handle{"pidfd": h, "proc": {id: id, fd: -1}}
}

func TestAHandleSignalsAndWaitsForItsProcess(t *testing.T) {
	for _, way := range []string{"pidfd", "proc"} {
		t.Run(way, func(t *testing.T) {
			cmd, id := sleeper(t)
			h := handles(t, id)[way]
			short, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
			defer cancel()
			if err := h.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("waiting for a living process: %v", err)
			}
			if err := h.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := h.Wait(ctx); err != nil { // still a zombie: nobody has waited for it
				t.Fatal(err)
			}
			if alive, err := Alive(id); alive || err != nil {
				t.Errorf("a zombie is alive: %v, %v", alive, err)
			}
			cmd.Wait()
			if err := h.Signal(unix.SIGTERM); !errors.Is(err, ErrGone) {
				t.Errorf("signal after the end: %v", err)
			}
			if _, err := Open(id); !errors.Is(err, ErrGone) {
				t.Errorf("open after the end: %v", err)
			}
			if _, err := ReadProcess(id.PID); !errors.Is(err, ErrGone) {
				t.Errorf("read after the end: %v", err)
			}
		})
	}
}

func TestAnotherStartTimeOrBootIsAnotherProcess(t *testing.T) {
	_, id := sleeper(t)
	other, reboot := id, id
	other.Start++
	reboot.Boot = "another"
	for _, wrong := range []ProcessID{other, reboot} {
		if _, err := Open(wrong); !errors.Is(err, ErrGone) {
			t.Errorf("%+v: %v", wrong, err)
		}
		h := &Handle{id: wrong, fd: -1}
		if err := h.Signal(unix.SIGKILL); !errors.Is(err, ErrGone) {
			t.Errorf("%+v was signalled: %v", wrong, err)
		}
	}
	if alive, err := Alive(id); !alive || err != nil {
		t.Errorf("alive %v, %v", alive, err)
	}
	id.Boot = ""
	if alive, err := Alive(id); !alive || err != nil {
		t.Errorf("without a boot ID: alive %v, %v", alive, err)
	}
}

func TestStatIsReadWhateverTheProgramIsCalled(t *testing.T) {
	const rest = "S 1 4242 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 33 0 987654 1 2"
	for _, name := range []string{"java", "a b", "x) R 9 (y", "", "((("} {
		st, err := parseStat([]byte("4242 (" + name + ") " + rest))
		if err != nil || st != (stat{'S', 1, 77, 987654}) {
			t.Errorf("%q: %+v, %v", name, st, err)
		}
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1 2", "1 (x) S " + strings.Repeat("x ", 30)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("4242 (java) S 1 4242 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 33 0 987654 1 2"))
	f.Add([]byte("1 (a) b) S"))
	f.Add([]byte("Name:\tjava\nUid:\t1000\t1000\t1000\t1000\nMemTotal: 99999999999999999999 kB\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := parseStat(data)
		if err == nil && st.state == 0 {
			t.Fatalf("%q is %+v", data, st)
		}
		if uid, err := effectiveUID(data); err == nil && uid < 0 {
			t.Fatalf("uid %d", uid)
		}
		parseMemory(data)
	})
}

func TestListenersAreFoundWithTheirProcess(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::]:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("not here: %v", err)
			continue
		}
		defer l.Close()
		want := l.Addr().(*net.TCPAddr).AddrPort()
		list, err := Listeners(int(want.Port()))
		if err != nil || len(list) != 1 || list[0].Address != want || list[0].PID != os.Getpid() || list[0].UID != os.Geteuid() {
			t.Errorf("%s: %+v, %v", want, list, err)
		}
		if address == "127.0.0.1:0" && CanBind(int(want.Port())) == nil {
			t.Errorf("%s is taken and could be bound", want)
		}
	}
	if first, last := EphemeralPorts(); first <= 0 || last <= first {
		t.Errorf("ephemeral ports %d to %d", first, last)
	}
}

func TestAPortThatAnOutgoingConnectionHasCannotBeBound(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	port := conn.LocalAddr().(*net.TCPAddr).Port
	if list, err := Listeners(port); err != nil || len(list) != 0 {
		t.Fatalf("listeners %+v, %v", list, err)
	}
	if err := CanBind(port); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("binding: %v", err)
	}
}

func TestSocketTablesAreRead(t *testing.T) {
	if runtime.GOARCH == "s390x" {
		t.Skip("the example is little-endian")
	}
	const table = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:2A9F 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:2A9F 0000000000000000FFFF00000100007F:A001 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 100 0 0 10 0
   2: B80D01200000000067452301EFCDAB89:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
   3: 0100007F:2694 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 4714 1 0 100 0 0 10 0
`
	list, err := parseListeners(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := "[::]:10911/1000/4711 [2001:db8::123:4567:89ab:cdef]:8080/0/4713 127.0.0.1:9876/33/4714"
	var got []string
	for _, l := range list {
		got = append(got, fmt.Sprintf("%v/%d/%d", l.Address, l.UID, l.inode))
	}
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got %s", s)
	}
	if _, err := parseListeners(strings.NewReader("header\n0: zz:1 00:0 0A a b c d e f g\n")); err == nil {
		t.Error("nonsense passed")
	}
}

func FuzzListeners(f *testing.F) {
	f.Add("header\n 0: 0100007F:2694 00000000:0000 0A 0:0 0:0 0 33 0 4714 1\n")
	f.Fuzz(func(t *testing.T, table string) {
		list, err := parseListeners(strings.NewReader(table))
		if err == nil && len(list) > strings.Count(table, "\n")+1 {
			t.Fatalf("%d listeners", len(list))
		}
		for _, l := range list {
			if err == nil && !l.Address.Addr().IsValid() {
				t.Fatalf("%+v", l)
			}
		}
	})
}

func TestTheMountOfAPathIsTheLongestAndLastOne(t *testing.T) {
	const mountinfo = `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:25 / /data ro,noexec,relatime shared:1 master:2 - xfs /dev/vdb rw
31 27 0:26 / /data rw,relatime - xfs /dev/vdc rw
32 27 0:27 / /data/a\040b rw,noexec - tmpfs none rw
33 27 0:28 / /dat rw - nfs4 host:/x rw
`
	for path, want := range map[string]string{
		"/": "/dev/vda", "/database": "/dev/vda", "/data": "/dev/vdc", "/data/x": "/dev/vdc",
		"/data/a b": "none", "/data/a b/c": "none", "/data/a bc": "/dev/vdc", "/dat/x": "host:/x",
	} {
		f, err := mountOf([]byte(mountinfo), path)
		if err != nil || f.Device != want {
			t.Errorf("%s: %+v, %v", path, f, err)
		}
		if path == "/data/a b" && (!f.NoExec || f.ReadOnly || f.Type != "tmpfs") {
			t.Errorf("%s: %+v", path, f)
		}
	}
	if _, err := mountOf([]byte("1 2 3\n"), "/"); err == nil {
		t.Error("nonsense passed")
	}
}

func FuzzMount(f *testing.F) {
	f.Add([]byte("27 1 254:0 / / rw - ext4 /dev/vda rw\n"), "/x")
	f.Add([]byte("27 1 254:0 / /a\\04 rw - ext4 /dev\\777 rw\n"), "/a")
	f.Fuzz(func(t *testing.T, data []byte, path string) {
		m, err := mountOf(data, path)
		if err == nil && !contains(m.MountPoint, path) {
			t.Fatalf("%q is said to be on %+v", path, m)
		}
	})
}

func TestFilesystemsAreReported(t *testing.T) {
	dir := t.TempDir()
	f, err := FilesystemOf(dir)
	if err != nil || f.Type == "" || f.Total <= 0 || f.Free <= 0 || f.Free > f.Total || f.ReadOnly {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err := FilesystemOf("/proc/self"); err != nil || f.Type != "proc" {
		t.Errorf("/proc/self: %+v, %v", f, err)
	}
	if _, err := FilesystemOf(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestATreeIsSizedWithHolesAndHardLinksInMind(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	a := filepath.Join(dir, "a")
	if err := os.WriteFile(a, make([]byte, 100<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(a, filepath.Join(dir, "sub/b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(a, 1<<30); err != nil {
		t.Fatal(err)
	}
	size, err := SizeOf(t.Context(), dir)
	if err != nil || size.Files != 1 || size.Dirs != 2 || size.Apparent != 1<<30 || size.Allocated < 100<<10 || size.Allocated > 1<<20 {
		t.Errorf("%+v, %v", size, err)
	}
	if _, err := SizeOf(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := SizeOf(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestMemoryIsRead(t *testing.T) {
	got := parseMemory([]byte("MemTotal:       49368172 kB\nMemFree: 1 kB\nMemAvailable:   48000000 kB\nSwapTotal:             0 kB\n"))
	if got != (Memory{Total: 49368172 * 1024, Available: 48000000 * 1024}) {
		t.Errorf("got %+v", got)
	}
	if m, err := ReadMemory(); err != nil || m.Total <= 0 {
		t.Errorf("%+v, %v", m, err)
	}
}
