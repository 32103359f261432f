package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFactsTellWhatIsTrueOnTheHost(t *testing.T) {
	a := pushLocal(t)
	b := newBroker(t, "brokerName=broker-a")
	store := filepath.Join(b.dir, "store")
	for _, dir := range []string{"dledger-n0/data", "commitlog"} {
		if err := os.MkdirAll(filepath.Join(store, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(b.dir, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, jar := range []string{"rocketmq-broker-4.5.2.jar", "rocketmq-store-4.5.2.jar", "dledger-0.3.1.2.jar"} {
		if err := os.WriteFile(filepath.Join(b.dir, "lib", jar), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sparse := filepath.Join(store, "commitlog/00000000000000000000")
	if err := os.WriteFile(sparse, make([]byte, 64<<10), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, 64<<20); err != nil {
		t.Fatal(err)
	}
	// The lock of a running broker, taken as Java does.
	lock, err := os.Create(filepath.Join(store, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.FcntlFlock(lock.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK, Len: 1}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken, free := l.Addr().(*net.TCPAddr).Port, freePort(t)

	missing := filepath.Join(b.dir, "not/yet")
	f, err := a.Facts(t.Context(), FactsRequest{
		InstallDir: b.dir, BrokerConf: b.conf, StoreRoots: []string{store, missing},
		Paths: []string{store, missing, "relative"}, List: []string{store, missing},
		Ports: []int{taken, free}, Env: map[string]string{"JAVA_HOME": filepath.Join(b.dir, "jdk")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.OS != "linux" || f.Arch != runtime.GOARCH || f.Hostname == "" || f.UID != os.Geteuid() || f.CPUs < 1 ||
		f.Memory.Total < f.Memory.Available || f.Memory.Available <= 0 || f.OpenFiles <= 0 || f.MaxMapCount <= 0 {
		t.Errorf("host %+v", f)
	}
	if since := time.Since(f.Clock); since < 0 || since > time.Minute {
		t.Errorf("clock %v", f.Clock)
	}
	if len(f.Problems) > 0 {
		t.Errorf("problems %q", f.Problems)
	}
	if j, ok := f.JavaFor("4.5.2"); !ok || j.Path != b.java || j.Version != "1.8.0_392" || j.Major() != 8 {
		t.Errorf("java %+v", f.Java)
	}
	if *f.Install != (Install{b.dir, true, "4.5.2", "0.3.1.2"}) {
		t.Errorf("install %+v", f.Install)
	}
	if c := f.BrokerConf; c == nil || !strings.HasPrefix(string(c.Content), "brokerName=broker-a\n") || c.Mode != 0o644 || c.UID != os.Geteuid() {
		t.Errorf("conf %+v", c)
	}
	if s := f.Stores[0]; !s.Exists || s.Abort || s.LockedBy != os.Getpid() || len(s.Ledgers) != 1 || s.Ledgers[0].Path != filepath.Join(s.Root, "dledger-n0") {
		t.Errorf("store %+v", s)
	}
	if s := f.Stores[1]; s.Exists {
		t.Errorf("missing store %+v", s)
	}
	p := f.Paths[0]
	if !p.Exists || !p.IsDir || !p.Writable || p.Filesystem.Type == "" || p.Filesystem.Free <= 0 || p.Filesystem.Total < p.Filesystem.Free ||
		p.Size.Files != 2 || p.Size.Dirs != 4 || p.Size.Apparent != 64<<20 || p.Size.Allocated < 64<<10 || p.Size.Allocated > 1<<20 {
		t.Errorf("path %+v", p)
	}
	if p := f.Paths[1]; p.Exists || p.Nearest != b.dir || !p.Writable || p.Filesystem.Free <= 0 || p.Problem != "" {
		t.Errorf("missing path %+v", p)
	}
	if p := f.Paths[2]; p.Problem == "" {
		t.Errorf("relative path %+v", p)
	}
	if l := f.Lists[0]; !l.Exists || len(l.Entries) != 3 || l.Entries[0].Path != "commitlog" || !l.Entries[0].Mode.IsDir() {
		t.Errorf("listing %+v", l)
	}
	if l := f.Lists[1]; l.Exists {
		t.Errorf("missing listing %+v", l)
	}
	if p := f.Ports[0]; p.Free || len(p.Listeners) != 1 || p.Listeners[0].PID != os.Getpid() || p.Listeners[0].Address.String() != fmt.Sprintf("127.0.0.1:%d", taken) {
		t.Errorf("taken port %+v", p)
	}
	if p := f.Ports[1]; !p.Free || p.Problem != "" || !p.Ephemeral {
		t.Errorf("free port %+v", p)
	}
}

func TestTheEnvironmentOfALoginShellIsThatOfItsProfile(t *testing.T) {
	home := t.TempDir()
	profile := "echo Welcome\nexport JAVA_HOME=/from/profile\nexport TWO='a\nb'\n"
	for _, name := range []string{".profile", ".bash_profile"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(profile), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	t.Setenv("JAVA_HOME", "/from/sshd")
	for _, shell := range []string{"/bin/sh", "/bin/bash", "/usr/sbin/nologin"} {
		t.Setenv("SHELL", shell)
		env, err := environment(t.Context(), map[string]string{"ADDED": "x"}, true)
		if err != nil {
			t.Fatal(err)
		}
		if valueOf(env, "JAVA_HOME") != "/from/profile" || valueOf(env, "TWO") != "a\nb" || valueOf(env, "ADDED") != "x" {
			t.Errorf("%s: %q", shell, env)
		}
	}
	env, err := environment(t.Context(), map[string]string{"JAVA_HOME": "/given"}, false)
	if err != nil || valueOf(env, "JAVA_HOME") != "/given" {
		t.Errorf("without a login shell: %v, %v", env, err)
	}
}
