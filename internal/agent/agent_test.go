package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mqlift/internal/bridge"
	"mqlift/internal/hostinfo"
	"mqlift/internal/remote"
	"mqlift/internal/store"
	"mqlift/internal/transfer"
)

// TestMain lets the test binary be the programs that the tests need: the agent itself, a JVM that runs
// a broker, and tools that push an agent, or have it bridge a port, and are then killed.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "agent":
		c := Command()
		c.SetArgs(os.Args[2:])
		if c.Execute() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case filepath.Base(os.Args[0]) == "java":
		os.Exit(pretendBroker(os.Args))
	case len(os.Args) > 1 && os.Args[1] == "push-and-wait":
		a, err := Push(context.Background(), &localHost{name: "local"}, WithParent(os.Args[2]))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(a.Dir())
		select {}
	case len(os.Args) > 1 && os.Args[1] == "push-and-bridge":
		a, err := Push(context.Background(), &localHost{name: "local"}, WithParent(os.Args[2]))
		if err == nil {
			listening := sync.OnceFunc(func() { fmt.Println("listening") })
			_, err = a.Bridge(context.Background(), bridge.Request{Listen: os.Args[3:4], Targets: os.Args[4:5]}, nil, func(s bridge.State) {
				if len(s.Listening) > 0 {
					listening()
				}
			})
		}
		fmt.Println(err)
		os.Exit(1)
	}
	status := m.Run()
	if toClose != nil {
		if err := toClose.Close(); err != nil {
			fmt.Println(err)
			status = 1
		}
	}
	os.Exit(status)
}

// sharedAgent is pushed once: the test binary is large, and packing it takes a second.
var sharedAgent = sync.OnceValues(func() (*Agent, error) {
	a, err := Push(context.Background(), &localHost{name: "local"})
	toClose = a
	return a, err
})

var toClose *Agent // the shared one, once it is there

// pretendBroker does what the configuration file says: "listen=PORT", "fail=TEXT", "abort=PATH"
// (made at once, removed at a clean stop), "deaf" (SIGTERM is ignored), "slow=DURATION" (to stop).
func pretendBroker(argv []string) int {
	if slices.Contains(argv, "-version") {
		fmt.Fprintln(os.Stderr, "Picked up JAVA_TOOL_OPTIONS: -Da=b\nopenjdk version \"1.8.0_392\"")
		return 0
	}
	at := slices.Index(argv, "-c")
	conf, err := os.ReadFile(argv[at+1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	set := map[string]string{}
	for line := range strings.Lines(string(conf)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		set[k] = v
	}
	if text, ok := set["fail"]; ok {
		for i := range 40 {
			fmt.Println("line", i)
		}
		fmt.Println(text)
		return 255
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if path := set["abort"]; path != "" {
		os.WriteFile(path, nil, 0o644)
	}
	if port := set["listen"]; port != "" {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer l.Close()
	}
	fmt.Println("The broker boot success.")
	deadline := time.After(2 * time.Minute) // whatever a test forgets
	for {
		select {
		case <-deadline:
			return 1
		case <-term:
			if _, deaf := set["deaf"]; deaf {
				continue
			}
			if d, err := time.ParseDuration(set["slow"]); err == nil {
				time.Sleep(d)
			}
			if _, unclean := set["unclean"]; !unclean && set["abort"] != "" {
				os.Remove(set["abort"])
			}
			return 0
		}
	}
}

// localHost runs commands on this machine the way sshd does: in a session of their own, and when
// the channel closes the pipes go and the session's group gets KILL.
type localHost struct {
	name string
	// rewrite, if set, may change a command before it is run.
	rewrite func(*remote.Cmd)
	// lost, if set, is given the cause for which the connection is taken as lost.
	lost chan error
}

func (h *localHost) Name() string { return h.name }

func (h *localHost) Lose(cause error) {
	if h.lost != nil {
		h.lost <- cause
	}
}

func (h *localHost) Run(ctx context.Context, c remote.Cmd) (remote.Result, error) {
	if h.rewrite != nil {
		h.rewrite(&c)
	}
	argv := c.Argv
	if c.Shell != "" {
		argv = []string{"sh", "-c", c.Shell}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = c.Dir
	cmd.Env = os.Environ()
	for k, v := range c.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = c.Stdout, &stderr
	if c.Stdout == nil {
		cmd.Stdout = &stdout
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return remote.Result{}, err
	}
	if err := cmd.Start(); err != nil {
		return remote.Result{}, err
	}
	read := make(chan error, 1)
	go func() {
		var err error
		if c.Stdin != nil {
			source := &source{from: c.Stdin}
			io.Copy(stdin, source)
			err = source.err
		}
		if err != nil {
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		stdin.Close()
		read <- err
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		return remote.Result{}, ctx.Err()
	}
	select {
	case readErr := <-read:
		if readErr != nil {
			return remote.Result{}, readErr
		}
	default:
	}
	result := remote.Result{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = &remote.ExitError{Host: h.name, Cmd: c.String(), Status: exit.ExitCode(), Stderr: result.Stderr}
	}
	return result, err
}

type source struct {
	from io.Reader
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func pushLocal(t *testing.T) *Agent {
	t.Helper()
	a, err := sharedAgent()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func TestPushLeavesAPrivateDirectoryThatCloseRemoves(t *testing.T) {
	parent := t.TempDir()
	a, err := Push(t.Context(), &localHost{name: "local"}, WithParent(parent))
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(a.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o700 || filepath.Dir(a.Dir()) != parent {
		t.Errorf("directory %s has mode %v", a.Dir(), st.Mode())
	}
	if _, uncertain, err := a.Skew(t.Context()); err != nil || uncertain > 10*time.Second {
		t.Errorf("skew uncertain by %v, error %v", uncertain, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := a.Facts(t.Context(), FactsRequest{}); err == nil {
		t.Error("a closed agent answered")
	}
}

func TestTheGuardRemovesTheDirectoryWhenThePusherIsKilled(t *testing.T) {
	parent := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "push-and-wait", parent)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	dir := strings.TrimSpace(line)
	if err != nil || missing(filepath.Join(dir, "mqlift")) {
		t.Fatalf("pushed to %q: %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the directory to be removed", func() bool {
		left, err := os.ReadDir(parent)
		return err == nil && len(left) == 0
	})
}

func TestTheGuardDoesNotListenToHangUps(t *testing.T) {
	parent := t.TempDir()
	cmd := exec.Command("sh", "-c", guardScript, "sh", parent, guardSeconds, guardTimes)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	in.Close()
	eventually(t, "the directory to be removed", func() bool {
		left, err := os.ReadDir(parent)
		return err == nil && len(left) == 0
	})
}

// A cable that is pulled ends no connection: the guard's input stays open, and nothing comes in.
func TestTheGuardEndsWhenItHearsNothing(t *testing.T) {
	parent := t.TempDir()
	cmd := exec.Command("sh", "-c", guardScript, "sh", parent, "1", "4")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	out := bufio.NewReader(stdout)
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, dir, _ := strings.Cut(strings.TrimPrefix(line, "guard "), " ")
	dir = strings.TrimSpace(dir)
	for range 10 { // longer than it goes unheard
		if _, err := io.WriteString(in, "here\n"); err != nil || missing(dir) {
			t.Fatalf("a guard that is spoken to went: %v", err)
		}
		time.Sleep(500 * time.Millisecond) // the pulse itself
	}
	eventually(t, "the directory to be removed", func() bool { return missing(dir) })
	if rest, err := io.ReadAll(out); err != nil || strings.Trim(string(rest), "\n") != "" || len(rest) < 4 {
		t.Errorf("silent for four times its time it sent %q (%v), which is what shows it a lost connection", rest, err)
	}
}

func TestAnAgentWhoseGuardEndedIsALostConnection(t *testing.T) {
	parent := t.TempDir()
	end := filepath.Join(parent, "end") // the guard ends when it is there
	host := &localHost{name: "b1", lost: make(chan error, 1), rewrite: func(c *remote.Cmd) {
		for i, arg := range c.Argv {
			c.Argv[i] = strings.Replace(arg, `timeout -s KILL "$2" true`, `until [ -e "$1/end" ]; do sleep 0.1; done; rm -rf -- "$d"; exit`, 1)
		}
	}}
	a, err := Push(t.Context(), host, WithParent(parent))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-host.lost; !errors.Is(err, errUnheard) || !missing(a.Dir()) {
		t.Errorf("lost for %v", err)
	}

	host.rewrite = nil
	if a, err = Push(t.Context(), host, WithParent(t.TempDir())); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-host.lost:
		t.Errorf("closed, it is taken as lost: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
}

func TestAnAgentInPlaceOfAnotherEndsWhatWorksThere(t *testing.T) {
	parent := t.TempDir()
	host := &localHost{name: "b1"}
	old, err := Push(t.Context(), host, WithParent(parent))
	if err != nil {
		t.Fatal(err)
	}
	worked := make(chan error, 1)
	go func() {
		_, err := old.WaitPort(t.Context(), WaitPortRequest{Address: "127.0.0.1:1", Timeout: time.Minute})
		worked <- err
	}()
	eventually(t, "the first agent to work", func() bool {
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		return err == nil && slices.ContainsFunc(lines, func(path string) bool {
			line, err := os.ReadFile(path)
			return err == nil && strings.HasPrefix(string(line), old.binary+"\x00agent\x00wait-port")
		})
	})
	a, err := Push(t.Context(), host, WithParent(parent), InPlaceOf(old))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-worked:
		if err == nil || !strings.Contains(err.Error(), errRemoved.Error()) {
			t.Errorf("what worked there ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("what worked there goes on")
	}
	for _, a := range []*Agent{old, a} {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPushRefusesAnotherPlatformAndAPlaceWithoutExecution(t *testing.T) {
	other := &localHost{name: "b1", rewrite: func(c *remote.Cmd) {
		if strings.Contains(strings.Join(c.Argv, " "), "uname -s") {
			*c = remote.Cmd{Argv: []string{"printf", `Linux\ns390x\n`}}
		}
	}}
	_, err := Push(t.Context(), other, WithParent(t.TempDir()))
	var platform *PlatformError
	if !errors.As(err, &platform) || platform.Have != "linux/s390x" || !strings.Contains(err.Error(), "b1: ") {
		t.Errorf("another platform: %v", err)
	}

	parent := t.TempDir()
	noexec := &localHost{name: "b1", rewrite: func(c *remote.Cmd) {
		for i, arg := range c.Argv {
			c.Argv[i] = strings.ReplaceAll(arg, `"$d/try" 2>/dev/null`, "(exit 126)")
		}
	}}
	_, err = Push(t.Context(), noexec, WithParent(parent))
	var place *NoExecError
	if !errors.As(err, &place) || place.Dir != parent {
		t.Errorf("a place without execution: %v", err)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPushSaysWhenTheParentIsMissingAndWhenTheBinaryIsDamaged(t *testing.T) {
	_, err := Push(t.Context(), &localHost{name: "b1"}, WithParent(filepath.Join(t.TempDir(), "none")))
	if err == nil || !strings.Contains(err.Error(), "b1: no directory could be made for it: mktemp: ") {
		t.Errorf("missing parent: %v", err)
	}
	parent := t.TempDir()
	damaging := &localHost{name: "b1", rewrite: func(c *remote.Cmd) {
		for i, arg := range c.Argv {
			c.Argv[i] = strings.ReplaceAll(arg, `&& chmod 700 "$1"`, `&& chmod 700 "$1" && echo >>"$1"`)
		}
	}}
	if _, err := Push(t.Context(), damaging, WithParent(parent)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged: %v", err)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPushEndsWithItsContextAndLeavesNothing(t *testing.T) {
	parent := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	host := &localHost{name: "b1", rewrite: func(c *remote.Cmd) {
		if strings.Contains(strings.Join(c.Argv, " "), "chmod 700 \"$1\"") {
			cancel()
		}
	}}
	if _, err := Push(ctx, host, WithParent(parent)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestErrorsCrossTheWireAsWhatTheyAre(t *testing.T) {
	a := pushLocal(t)
	_, err := a.ReadFile(t.Context(), "/nowhere/at/all")
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "local: read-file: ") {
		t.Errorf("missing file: %v", err)
	}
	process := RocketMQ{Process: hostinfo.Process{ProcessID: hostinfo.ProcessID{PID: 7, Start: 8}}}
	for _, sent := range []error{
		fmt.Errorf("x: %w", syscall.ENOSPC), fmt.Errorf("x: %w", ErrChanged), hostinfo.ErrGone,
		&StartError{What: "died", Died: true, Process: &process, Tails: []Tail{{Path: "/l", Lines: []string{"a"}}}},
		&AlreadyRunningError{process}, &StillRunningError{Process: process.ProcessID, Waited: time.Second},
		&store.RangeError{Dir: "/d", Offset: 5, Reason: "it is outside"}, &transfer.ExtraError{Paths: []string{"a"}},
		&transfer.PartialError{Files: []string{"/f"}, Err: fmt.Errorf("x: %w", transfer.ErrTruncated)},
		&transfer.PartialError{Files: []string{"/f"}, Err: fmt.Errorf("x: %w", syscall.ENOSPC)},
	} {
		var out bytes.Buffer
		_, s := openSession(t.Context(), &out)
		s.finish(nil, fmt.Errorf("doing: %w", sent))
		in := &answer{}
		io.WriteString(in, "Welcome to b1\n") // a shell's start-up file
		for _, b := range out.Bytes() {       // in the smallest pieces
			in.Write([]byte{b})
		}
		got := in.decide("b1", "verb", &remote.ExitError{Status: 1}, new(int))
		if got.Error() != "b1: verb: doing: "+sent.Error() {
			t.Errorf("message %q", got)
		}
		for cause := sent; cause != nil; cause = errors.Unwrap(cause) {
			if errors.Unwrap(cause) == nil && reflect.TypeOf(cause).Kind() != reflect.Pointer && !errors.Is(got, cause) {
				t.Errorf("%v is not %v", got, cause)
			}
		}
		if want := reflect.TypeOf(sent); strings.HasPrefix(want.String(), "*agent.") || strings.HasPrefix(want.String(), "*transfer.") || strings.HasPrefix(want.String(), "*store.") {
			received := got
			for received != nil && reflect.TypeOf(received) != want {
				received = errors.Unwrap(received)
			}
			if received == nil || received.Error() != sent.Error() {
				t.Errorf("%#v became %v", sent, received)
			}
		}
	}
}

func TestAnAgentThatDiesIsSaidToHaveDied(t *testing.T) {
	a := &Agent{host: &localHost{name: "local"}, binary: filepath.Join(t.TempDir(), "mqlift")}
	if err := os.WriteFile(a.binary, []byte("#!/bin/sh\necho motd\necho boom >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := a.ReadFile(t.Context(), "/etc/hosts")
	var exit *remote.ExitError
	if !errors.As(err, &exit) || exit.Status != 3 || !strings.Contains(err.Error(), "motd") {
		t.Errorf("got %v", err)
	}
}

func TestAWorkingAgentEndsWhenNobodyListens(t *testing.T) {
	r, w := io.Pipe()
	ctx, s := openSession(t.Context(), w)
	r.CloseWithError(syscall.EPIPE)
	select {
	case <-ctx.Done():
		if !errors.Is(context.Cause(ctx), syscall.EPIPE) {
			t.Errorf("cause %v", context.Cause(ctx))
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the heartbeat did not notice")
	}
	s.finish(nil, ctx.Err())
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("{}\n{\"progress\":{\"done\":1}}\n{\"result\":3}\n"))
	f.Add([]byte("motd\n{\"error\":{\"kind\":\"start\",\"message\":\"x\",\"detail\":[]}}\n"))
	f.Add([]byte("{\"result\":null}\n{\"error\":null}\n{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a := &answer{onProgress: func(Progress) {}}
		if n, err := a.Write(data); n != len(data) || err != nil {
			t.Fatalf("took %d of %d: %v", n, len(data), err)
		}
		// However the bytes are cut on their way, the answer is the same.
		b := &answer{}
		for _, c := range data {
			b.Write([]byte{c})
		}
		text := func(err error) string {
			if err == nil {
				return ""
			}
			errors.Is(err, fs.ErrNotExist)
			return err.Error()
		}
		var result, other int
		if x, y := text(a.decide("h", "v", nil, &result)), text(b.decide("h", "v", nil, &other)); x != y || result != other {
			t.Fatalf("%d %q, byte by byte %d %q", result, x, other, y)
		}
	})
}

// The agent of a host that is left out fails as a lost connection does, at once, and is nothing to close.
func TestAnAbsentHostsAgentFailsAsALostConnection(t *testing.T) {
	cause := errors.New("left out")
	a := Absent(remote.Absent("host-c", "10.0.0.3:22", cause))
	_, err := a.MoveAside(t.Context(), "/store", "run-1")
	if !errors.Is(err, cause) || !remote.Transient(err) {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
