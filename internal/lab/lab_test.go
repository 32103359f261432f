package lab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"mqlift/internal/topology"
)

// victimVariable makes the test binary a process that holds a keeper and a host's processes, without
// RocketMQ, until it is killed.
const victimVariable = "LAB_TEST_VICTIM"

func TestMain(m *testing.M) {
	KeeperMain()
	if len(os.Args) > 2 && slices.Equal(os.Args[1:3], serveArgs()) {
		os.Exit(serveMain(os.Args[3:]))
	}
	if dir := os.Getenv(victimVariable); dir != "" {
		os.Unsetenv(victimVariable) // not for the keeper
		victimMain(dir)
	}
	os.Exit(m.Run())
}

// serveMain is what cmd/mqlift does for `mqlift lab serve`.
func serveMain(args []string) int {
	var o Options
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	flags.StringVar(&o.Dir, "dir", "", "")
	flags.StringVar(&o.Release, "release", "", "")
	flags.StringVar(&o.Cache, "cache", "", "")
	flags.Int64Var(&o.LogFileSize, "log-file-size", 0, "")
	flags.IntVar(&o.BasePort, "base-port", 0, "")
	flags.Parse(args)
	if err := ServeBackground(context.Background(), o); err != nil {
		return 1
	}
	return 0
}

func victimMain(dir string) {
	ctx := context.Background()
	s := newState(filepath.Base(dir), dir, DefaultRelease, firstBlock, false)
	l := &Lab{dir: dir, state: s, path: "/usr/bin:/bin", family: newFamily(ctx, s.ID)}
	must := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	must(s.write(dir))
	must(os.WriteFile(filepath.Join(dir, socketFile), nil, 0o600))
	must(os.MkdirAll(s.Hosts[0].Home(), 0o700))
	k, err := startKeeper(ctx, l.family, s.ID, dir)
	must(err)
	for _, line := range []string{
		"nohup sleep 600 >/dev/null 2>&1 </dev/null &",
		"setsid sh -c \"trap '' TERM; while :; do sleep 600; done\" >/dev/null 2>&1 </dev/null &",
	} {
		_, err := l.Shell(ctx, s.Hosts[0].Name, line)
		must(err)
	}
	fmt.Println("keeper", k.pid())
	select {}
}

// startVictim starts such a process and returns its lab's id, when the host's processes run.
func startVictim(t *testing.T) (victim *exec.Cmd, id string, keeper int) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "victim")
	if err != nil {
		t.Fatal(err)
	}
	id = filepath.Base(dir)
	victim = exec.Command(os.Args[0])
	victim.Env = append(os.Environ(), victimVariable+"="+dir)
	victim.Stderr = os.Stderr
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		victim.Process.Kill()
		victim.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := end(ctx, id, 0, nil); err != nil {
			t.Error(err)
		}
	})
	if _, err := fmt.Fscanf(out, "keeper %d\n", &keeper); err != nil {
		t.Fatal("the victim did not start:", err)
	}
	eventually(t, 10*time.Second, "the host's processes", func() bool { return len(left(t, id)) >= 3 })
	return victim, id, keeper
}

func left(t *testing.T, id string) []Process {
	t.Helper()
	found, err := processes(id)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain for %s", limit, what)
		}
	}
}

func TestAKilledLabLeavesNothingRunning(t *testing.T) {
	victim, id, keeper := startVictim(t)
	dir := strings.TrimPrefix(victim.Env[len(victim.Env)-1], victimVariable+"=")
	victim.Process.Kill()
	victim.Wait()
	eventually(t, 15*time.Second, "the processes to end", func() bool { return len(left(t, id)) == 0 })
	eventually(t, 10*time.Second, "the keeper to end", func() bool {
		stat, ok := readStat(keeper)
		return !ok || stat.state == 'Z'
	})
	if _, err := os.Stat(filepath.Join(dir, socketFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestAKilledKeeperIsReplaced(t *testing.T) {
	victim, id, keeper := startVictim(t)
	child := func(not int) int {
		entries, _ := filepath.Glob("/proc/[0-9]*")
		for _, e := range entries {
			var pid int
			fmt.Sscanf(filepath.Base(e), "%d", &pid)
			args, _ := os.ReadFile(e + "/cmdline")
			stat, ok := readStat(pid)
			if ok && pid != not && stat.parent == victim.Process.Pid && stat.state != 'Z' &&
				strings.Contains(string(args), "\x00keep\x00"+id+"\x00") {
				return pid
			}
		}
		return 0
	}
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "another keeper", func() bool { return child(keeper) != 0 })
	if len(left(t, id)) < 3 {
		t.Error("the keeper took the lab's processes with it")
	}
	victim.Process.Kill()
	victim.Wait()
	eventually(t, 15*time.Second, "the processes to end", func() bool { return len(left(t, id)) == 0 })
}

func TestAnEndedOrphanIsNoZombie(t *testing.T) {
	victim, id, _ := startVictim(t)
	for _, p := range left(t, id) {
		p.signal(syscall.SIGKILL)
	}
	eventually(t, 3*grace, "the dead to be buried", func() bool {
		entries, _ := filepath.Glob("/proc/[0-9]*")
		for _, e := range entries {
			var pid int
			fmt.Sscanf(filepath.Base(e), "%d", &pid)
			if stat, ok := readStat(pid); ok && stat.parent == victim.Process.Pid && stat.state == 'Z' {
				return false
			}
		}
		return true
	})
}

// Two labs in one process: a number that was a session's in one may be given to a child of the other.
func TestALabLeavesAnothersChildrenAlone(t *testing.T) {
	one, other := &family{sessions: map[int]bool{}}, &family{sessions: map[int]bool{}}
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := one.start(cmd); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	other.sessions[pid] = true
	eventually(t, 10*time.Second, "the child's end", func() bool {
		stat, ok := readStat(pid)
		return ok && stat.state == 'Z'
	})
	other.bury(nil)
	if err := one.wait(cmd); err != nil {
		t.Fatal(err)
	}
	if other.bury(nil); other.sessions[pid] {
		t.Error("a session without processes is taken for one that goes on")
	}
}

func TestAProcessIsSignalledOnlyWhileItIsTheSame(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	stat, ok := readStat(cmd.Process.Pid)
	if !ok {
		t.Fatal("no such process")
	}
	other := Process{PID: cmd.Process.Pid, started: stat.started + 1} // one that had the pid before
	if err := other.signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Which signal it dies of tells whether the first one was sent.
	if err := (Process{PID: cmd.Process.Pid, started: stat.started}).signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
		t.Errorf("another process was killed: %v", status.Signal())
	}
}

func TestPortBlocksDoNotOverlap(t *testing.T) {
	used := map[int]string{}
	for _, base := range []int{firstBlock, firstBlock + blockPorts} {
		ports := append(javaPorts(base), base+sshAt, base+sshAt+1, base+sshAt+2)
		for _, port := range ports {
			if before, ok := used[port]; ok {
				t.Errorf("port %d belongs to %s and to block %d", port, before, base)
			}
			used[port] = fmt.Sprintf("block %d", base)
			if port < base || port >= base+blockPorts {
				t.Errorf("port %d is outside of block %d", port, base)
			}
		}
	}
}

func TestABlockWithOneTakenPortIsPassedOver(t *testing.T) {
	take := func(int) error { return nil }
	base, err := choosePorts(0, take)
	if err != nil {
		t.Fatal(err)
	}
	if base+blockPorts > ephemeralStart() {
		t.Errorf("block %d reaches into the ephemeral ports", base)
	}
	for _, port := range javaPorts(base) {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		again, err := choosePorts(0, take)
		if err != nil || again == base {
			t.Errorf("with port %d taken: block %d, %v", port, again, err)
		}
		if _, err := choosePorts(base, take); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("with port %d taken and asked for: %v", port, err)
		}
		l.Close()
	}
}

func TestTheTopologyIsOneThatMqliftReads(t *testing.T) {
	s := newState("id", "/var/lib/lab", "4.5.2", 20000, false)
	text, err := s.topology("/var/lib/lab", "operator")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), topologyFile)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	top, err := topology.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if w := top.Warnings(); len(w) > 0 {
		t.Error(w)
	}
	group, err := top.Group("")
	if err != nil {
		t.Fatal(err)
	}
	if want := "n0-127.0.0.1:20005;n1-127.0.0.1:20006;n2-127.0.0.1:20007"; group.Peers() != want {
		t.Errorf("peers %s, want %s", group.Peers(), want)
	}
	if !slices.Equal(top.NameServers, s.NameServers) {
		t.Errorf("name servers %v, want %v", top.NameServers, s.NameServers)
	}
	for i, m := range group.Members {
		h := s.Hosts[i]
		if m.Host != h.Name || m.InstallDir != h.InstallDir || m.SSH.Port != h.SSHPort || m.SSH.User != "operator" {
			t.Errorf("member %d is %+v, want %+v", i, m, h)
		}
	}
}

func TestADirectoryWithOtherFilesIsRefusedAndLeftAlone(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "precious")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := claim(t.Context(), dir, func(string) {}); err == nil {
		t.Error("claimed")
	}
	if err := removeFiles(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(name); err != nil {
		t.Error(err)
	}
}

func TestOneDirectoryHoldsOneLab(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	unlock, err := claim(t.Context(), dir, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := claim(t.Context(), dir, func(string) {}); !errors.Is(err, ErrRunning) {
		t.Errorf("a second lab: %v", err)
	}
}

func TestALabThatCouldNotStartLeavesItsDirectoryToTheNext(t *testing.T) {
	cache, dir := t.TempDir(), filepath.Join(t.TempDir(), "lab")
	jars := filepath.Join(cache, "rocketmq-"+DefaultRelease)
	for _, artifact := range []string{"broker", "namesrv", "tools"} { // which no java takes for jars
		name := filepath.Join(jars, "rocketmq-"+artifact+"-"+DefaultRelease+".jar")
		if err := errors.Join(os.MkdirAll(jars, 0o755), os.WriteFile(name, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	taken, err := choosePorts(0, func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", taken))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, o := range map[string]Options{
		"port in use":    {Dir: dir, Cache: cache, BasePort: taken},
		"broken release": {Dir: dir, Cache: cache},
	} {
		for range 2 {
			_, err := Up(t.Context(), o, nil)
			if err == nil {
				t.Fatal("it started")
			}
			if strings.Contains(err.Error(), "choose another directory") || strings.Contains(err.Error(), "not there after") {
				t.Errorf("%s: %v", name, err)
			}
			s, err := readState(dir)
			if err != nil {
				t.Fatal(err)
			}
			if found := left(t, s.ID); len(found) > 0 {
				t.Errorf("%s: left running: %v", name, found)
			}
		}
	}
}

func TestFilesThatWereToBeKeptAreKept(t *testing.T) {
	dir := t.TempDir()
	if err := (state{ID: "ended", Kept: true}).write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := claim(t.Context(), dir, func(string) {}); err == nil {
		t.Error("another lab took the directory")
	}
	if err := Down(t.Context(), dir, false, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("down left the directory: %v", err)
	}
}

func TestOptionsThatCannotWorkAreRefusedFirst(t *testing.T) {
	for name, o := range map[string]Options{
		"directory with a space": {Dir: "/tmp/a b"},
		"log file too small":     {Dir: "/tmp/a", LogFileSize: 1},
		"log file too large":     {Dir: "/tmp/a", LogFileSize: 2 << 30},
	} {
		if err := o.complete(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := FetchRelease(t.Context(), t.TempDir(), "../4.5.2", func(string) {}); err == nil {
		t.Error("a release that is a path was accepted")
	}
}

// dial opens an SSH connection to a host of the lab, with the key and the host keys of the lab.
func dial(t *testing.T, dir string, h Host, user string) *ssh.Client {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(dir, clientKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	known, err := knownhosts.New(filepath.Join(dir, knownHostsFile))
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", h.SSHAddr(), &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: known, Timeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func output(t *testing.T, client *ssh.Client, command string) string {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.Output(command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return strings.TrimSpace(string(out))
}

// TestALabRunsRealRocketMQAndLeavesNothing takes a lab in this process from up to down.
func TestALabRunsRealRocketMQAndLeavesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real brokers")
	}
	begun := time.Now()
	l, err := Up(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "lab")}, func(line string) {
		t.Logf("%5.1fs %s", time.Since(begun).Seconds(), line)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Down(context.Background(), false, nil)
	t.Logf("up after %.1f s", time.Since(begun).Seconds())

	status, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hosts := l.Hosts()
	for _, ns := range status.NameServers {
		if ns.Brokers[hosts[0].BrokerAddr()] != 0 || ns.Brokers[hosts[1].BrokerAddr()] != 1 || len(ns.Brokers) != 2 {
			t.Errorf("name server %s knows %v", ns.Address, ns.Brokers)
		}
	}
	for i, kinds := range [][]string{{kindBroker, kindNameServer}, {kindBroker, kindNameServer}, nil} {
		var running []string
		for _, p := range status.Hosts[i].Processes {
			if p.InstallDir != "" {
				running = append(running, p.Kind)
			}
		}
		if slices.Sort(running); !slices.Equal(running, kinds) {
			t.Errorf("%s runs %v, want %v", hosts[i].Name, running, kinds)
		}
	}
	if _, err := topology.Load(l.Topology()); err != nil {
		t.Error(err)
	}

	empty := dial(t, l.Dir(), hosts[2], l.user)
	if got := output(t, empty, "pwd; java -version 2>&1 | wc -l; ls ../opt"); got != hosts[2].Home()+"\n3" {
		t.Errorf("the empty host said %q", got)
	}
	files, err := sftp.NewClient(empty)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if err := files.Mkdir("made"); err != nil {
		t.Fatal(err)
	}
	if got := output(t, empty, "ls"); got != "made" {
		t.Errorf("after mkdir by SFTP: %q", got)
	}

	// A broker that was stopped as an operator does is gone for those who look for its pid.
	slave := dial(t, l.Dir(), hosts[1], l.user)
	var pid int
	for _, p := range status.Hosts[1].Processes {
		if p.Kind == kindBroker {
			pid = p.PID
		}
	}
	output(t, slave, fmt.Sprintf("kill %d; n=0; while kill -0 %d 2>/dev/null; do n=$((n+1)); [ $n -lt 300 ]; sleep 0.1; done", pid, pid))
	eventually(t, 10*time.Second, "the stopped broker to be gone", func() bool {
		return !errors.Is(syscall.Kill(pid, 0), nil)
	})
	if _, err := os.Stat(filepath.Join(hosts[1].InstallDir, "store", "abort")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it did not stop cleanly: %v", err)
	}

	id, keeper := l.state.ID, l.keeper.pid()
	if err := l.Down(context.Background(), false, nil); err != nil {
		t.Fatal(err)
	}
	if got := left(t, id); len(got) > 0 {
		t.Errorf("left running: %v", got)
	}
	if stat, ok := readStat(keeper); ok && stat.state != 'Z' {
		t.Error("the keeper is left running")
	}
	if _, err := os.Stat(l.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
	if err := l.Down(context.Background(), false, nil); err != nil {
		t.Errorf("a second down: %v", err)
	}
}

// TestAKilledLabTakesItsBrokersAlong does what `kill -9` to the process behind `mqlift lab up` does.
func TestAKilledLabTakesItsBrokersAlong(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real brokers")
	}
	dir := filepath.Join(t.TempDir(), "lab")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := Down(ctx, dir, false, func(string) {}); err != nil {
			t.Error(err)
		}
	})
	status, err := Start(t.Context(), Options{Dir: dir}, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	if !status.Running {
		t.Errorf("%+v", status)
	}
	if _, err := Start(t.Context(), Options{Dir: dir}, func(string) {}); err == nil || !strings.Contains(err.Error(), ErrRunning.Error()) {
		t.Errorf("a second lab in the same directory: %v", err)
	}
	if err := InjectFault(t.Context(), dir, "host-b", Cut); err != nil {
		t.Error(err)
	}
	if status, err = Query(t.Context(), dir); err != nil || status.Hosts[1].Fault != Cut {
		t.Errorf("after cutting host-b: %+v, %v", status.Hosts[1], err)
	}
	s, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(status.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the brokers to end", func() bool { return len(left(t, s.ID)) == 0 })
	if status, err = Query(t.Context(), dir); err != nil || status.Running {
		t.Errorf("status of the dead lab: running %v, %v", status.Running, err)
	}
	if err := Down(t.Context(), dir, false, func(string) {}); err != nil {
		t.Errorf("down of the dead lab: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("down left the directory: %v", err)
	}
}
