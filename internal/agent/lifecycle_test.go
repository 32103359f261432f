package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mqlift/internal/hostinfo"
)

// broker is a place with a program named java that pretends to be a broker.
type broker struct {
	dir, java, conf, log, abort string
}

func newBroker(t *testing.T, conf string) *broker {
	t.Helper()
	b := &broker{dir: t.TempDir()}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b.java = filepath.Join(b.dir, "jdk/bin/java")
	b.conf = filepath.Join(b.dir, "conf/broker.conf")
	b.log = filepath.Join(b.dir, "logs/broker_default.log")
	b.abort = filepath.Join(b.dir, "abort")
	for _, dir := range []string{filepath.Dir(b.java), filepath.Dir(b.conf)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.java, data, 0o755); err != nil {
		t.Fatal(err)
	}
	b.write(t, conf+"\nabort="+b.abort)
	t.Cleanup(func() { // whatever still runs of this place, and of no other
		processes, err := hostinfo.Processes()
		if err != nil {
			t.Error(err)
		}
		for _, p := range processes {
			if p.Exe == b.java {
				end(t, p.ProcessID)
			}
		}
	})
	return b
}

func (b *broker) write(t *testing.T, conf string) {
	t.Helper()
	if err := os.WriteFile(b.conf, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
}

func end(t *testing.T, id hostinfo.ProcessID) {
	h, err := hostinfo.Open(id)
	if errors.Is(err, hostinfo.ErrGone) {
		return
	}
	if err == nil {
		defer h.Close()
		err = h.Signal(unix.SIGKILL)
	}
	if err != nil {
		t.Error(err)
	}
}

const mainName = "org.apache.rocketmq.broker.BrokerStartup"

func (b *broker) start() StartRequest {
	return StartRequest{
		Shell: `"$JAVA_HOME/bin/java" -Xmx1m -cp . ` + mainName + " -c conf/broker.conf",
		Dir:   b.dir, Env: map[string]string{"JAVA_HOME": filepath.Join(b.dir, "jdk")},
		Log: b.log, ExpectConf: b.conf, Timeout: 20 * time.Second,
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestABrokerIsStartedDetachedSeenAndStopped(t *testing.T) {
	port := freePort(t)
	for name, line := range map[string]string{
		"in the foreground": "%s",
		"in the background": "nohup %s &",
		"behind a wrapper":  "sh -c '%s; true'",
	} {
		t.Run(name, func(t *testing.T) {
			a := pushLocal(t)
			b := newBroker(t, fmt.Sprintf("listen=%d", port))
			r := b.start()
			r.Shell = fmt.Sprintf(line, r.Shell)
			r.Listen = port
			started, err := a.StartBroker(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			p := started.Process
			if p.Exe != b.java || p.Conf != b.conf || !p.Java || p.Kind != Broker || p.Dir != b.dir {
				t.Errorf("started %+v", p)
			}
			if since := time.Since(p.Started); since < -time.Second || since > 20*time.Second {
				t.Errorf("started %v ago", since)
			}
			if p.Env["JAVA_HOME"] != r.Env["JAVA_HOME"] {
				t.Errorf("environment %v", p.Env)
			}
			// The agent that started it is gone by now: it lives on.
			if alive, err := hostinfo.Alive(p.ProcessID); !alive || err != nil {
				t.Fatalf("alive %v, %v", alive, err)
			}

			facts, err := a.Facts(t.Context(), FactsRequest{Ports: []int{port}, StoreRoots: []string{b.dir}})
			if err != nil {
				t.Fatal(err)
			}
			seen := false
			for _, f := range facts.Brokers {
				seen = seen || f.Java && f.ProcessID == p.ProcessID && f.Conf == b.conf && f.UID == os.Geteuid()
			}
			if !seen {
				t.Errorf("not among %+v", facts.Brokers)
			}
			if l := facts.Ports[0]; l.Free || len(l.Listeners) != 1 || l.Listeners[0].PID != p.PID {
				t.Errorf("port %+v", l)
			}
			if s := facts.Stores[0]; !s.Abort || !s.Exists {
				t.Errorf("store %+v", s)
			}

			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(b.dir, link); err != nil {
				t.Fatal(err)
			}
			other := filepath.Join(link, "conf/broker.conf")
			if f, err := a.Broker(t.Context(), other); err != nil || f == nil || f.PID != p.PID || f.Conf != other {
				t.Errorf("through a link: %+v, %v", f, err)
			}
			if f, err := a.Broker(t.Context(), "/no/broker.conf"); err != nil || f != nil {
				t.Errorf("with another file: %+v, %v", f, err)
			}

			var already *AlreadyRunningError
			if _, err := a.StartBroker(t.Context(), r); !errors.As(err, &already) || already.Process.PID != p.PID {
				t.Errorf("a second start: %v", err)
			}
			if _, err := a.WaitPort(t.Context(), WaitPortRequest{Address: fmt.Sprintf("127.0.0.1:%d", port), Process: p.ProcessID}); err != nil {
				t.Error(err)
			}

			stopped, err := a.StopBroker(t.Context(), StopRequest{Process: p.ProcessID, Abort: b.abort, Timeout: 20 * time.Second})
			if err != nil || stopped.Unclean || stopped.AlreadyGone || stopped.Successor != nil {
				t.Errorf("stopped %+v, %v", stopped, err)
			}
			if alive, _ := hostinfo.Alive(p.ProcessID); alive {
				t.Error("stopped and still there")
			}
			again, err := a.StopBroker(t.Context(), StopRequest{Process: p.ProcessID, Abort: b.abort})
			if err != nil || !again.AlreadyGone {
				t.Errorf("stopped again: %+v, %v", again, err)
			}
			if tail, err := a.TailFile(t.Context(), TailRequest{Path: b.log}); err != nil || len(tail.Lines) != 1 {
				t.Errorf("log %+v, %v", tail, err)
			}
		})
	}
}

func TestABrokerHasASessionOfItsOwn(t *testing.T) {
	b := newBroker(t, "")
	started, err := startBroker(t.Context(), b.start(), nil) // from this very process
	if err != nil {
		t.Fatal(err)
	}
	own, err := unix.Getsid(0)
	if err != nil || started.Process.Session == own {
		t.Errorf("session %d, this one %d, %v", started.Process.Session, own, err)
	}
}

func TestAnEarlyDeathShowsTheEndOfTheLogAndNothingOlder(t *testing.T) {
	for name, line := range map[string]string{
		"in the foreground": "%s",
		"in the background": "nohup %s &",
	} {
		t.Run(name, func(t *testing.T) {
			a := pushLocal(t)
			b := newBroker(t, "fail=java.lang.IllegalStateException: no self id")
			if err := os.MkdirAll(filepath.Dir(b.log), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(b.log, []byte("OLD\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			r := b.start()
			r.Shell = fmt.Sprintf(line, r.Shell)
			r.Listen, r.Timeout = freePort(t), 5*time.Second
			_, err := a.StartBroker(t.Context(), r)
			var failed *StartError
			if !errors.As(err, &failed) {
				t.Fatalf("got %v", err)
			}
			if name == "in the foreground" && !failed.Died {
				t.Errorf("not said to have died: %v", err)
			}
			lines := failed.Tails[0].Lines
			if len(lines) != 30 || lines[29] != "java.lang.IllegalStateException: no self id" || lines[0] != "line 11" {
				t.Errorf("%d lines: %q", len(lines), lines)
			}
			if !strings.Contains(err.Error(), "no self id") || !strings.HasPrefix(err.Error(), "local: start: ") {
				t.Errorf("message %q", err)
			}
		})
	}
}

// A JVM that refuses an option is gone before anybody has seen it, and a start line in the background has
// ended well.
func TestALineThatLeavesNothingIsNotWaitedForToTheEnd(t *testing.T) {
	a := pushLocal(t)
	b := newBroker(t, "")
	r := b.start()
	r.Shell = `(printf 'Unrecognized VM option\n\tat some.Frame\n'; exit 1) &`
	r.Timeout, r.HandOver = time.Hour, 50*time.Millisecond
	_, err := a.StartBroker(t.Context(), r)
	var failed *StartError
	if !errors.As(err, &failed) || !failed.Died {
		t.Fatalf("got %v", err)
	}
	if lines := failed.Tails[0].Lines; len(lines) != 1 || lines[0] != "Unrecognized VM option" {
		t.Errorf("shown: %q", lines)
	}
}

func TestAnEarlyDeathDoesNotShowLinesFromBefore(t *testing.T) {
	a := pushLocal(t)
	b := newBroker(t, "")
	if err := os.MkdirAll(filepath.Dir(b.log), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.log, []byte("OLD\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := b.start()
	r.Shell = "echo no such release; exit 3"
	_, err := a.StartBroker(t.Context(), r)
	var failed *StartError
	if !errors.As(err, &failed) || !failed.Died || len(failed.Tails[0].Lines) != 1 || failed.Tails[0].Lines[0] != "no such release" {
		t.Errorf("got %v", err)
	}
}

func TestAStartThatIsNotSeenInTimeIsLeftAlone(t *testing.T) {
	a := pushLocal(t)
	b := newBroker(t, "")
	r := b.start()
	r.Listen, r.Timeout = freePort(t), time.Second
	_, err := a.StartBroker(t.Context(), r)
	var failed *StartError
	if !errors.As(err, &failed) || failed.Died || failed.Process == nil {
		t.Fatalf("got %v", err)
	}
	if alive, _ := hostinfo.Alive(failed.Process.ProcessID); !alive {
		t.Error("it was ended")
	}
}

func TestOnlyTheProcessWithThatStartTimeIsEnded(t *testing.T) {
	a := pushLocal(t)
	b := newBroker(t, "")
	started, err := a.StartBroker(t.Context(), b.start())
	if err != nil {
		t.Fatal(err)
	}
	id := started.Process.ProcessID
	other := id
	other.Start-- // as if the number had been given to a new process
	if stopped, err := a.StopBroker(t.Context(), StopRequest{Process: other}); err != nil || !stopped.AlreadyGone {
		t.Errorf("stop: %+v, %v", stopped, err)
	}
	if _, err := a.KillBroker(t.Context(), KillRequest{Process: other}); !errors.Is(err, hostinfo.ErrGone) {
		t.Errorf("kill: %v", err)
	}
	reboot := id
	reboot.Boot = "another"
	if _, err := a.KillBroker(t.Context(), KillRequest{Process: reboot}); !errors.Is(err, hostinfo.ErrGone) {
		t.Errorf("kill after a reboot: %v", err)
	}
	for _, none := range []hostinfo.ProcessID{{}, {PID: id.PID}, {PID: -1, Start: 1}, {PID: 1, Start: 1}} {
		if _, err := a.KillBroker(t.Context(), KillRequest{Process: none}); err == nil {
			t.Errorf("kill %+v: no error", none)
		}
	}
	if alive, _ := hostinfo.Alive(id); !alive {
		t.Fatal("it was ended")
	}
	killed, err := a.KillBroker(t.Context(), KillRequest{Process: id})
	if err != nil || time.Since(killed.At) > 20*time.Second {
		t.Errorf("killed %+v, %v", killed, err)
	}
	if alive, _ := hostinfo.Alive(id); alive {
		t.Error("killed and still there")
	}
	if missing(b.abort) {
		t.Error("a killed broker leaves its abort file")
	}
}

func TestStopWaitsReportsUncleanAndNeverKills(t *testing.T) {
	a := pushLocal(t)
	slow := newBroker(t, "slow=400ms\nunclean=")
	started, err := a.StartBroker(t.Context(), slow.start())
	if err != nil {
		t.Fatal(err)
	}
	waitForLog(t, slow)
	stopped, err := a.StopBroker(t.Context(), StopRequest{Process: started.Process.ProcessID, Abort: slow.abort})
	if err != nil || !stopped.Unclean || stopped.Took < 400*time.Millisecond {
		t.Errorf("slow and unclean: %+v, %v", stopped, err)
	}

	deaf := newBroker(t, "deaf=")
	if started, err = a.StartBroker(t.Context(), deaf.start()); err != nil {
		t.Fatal(err)
	}
	waitForLog(t, deaf)
	_, err = a.StopBroker(t.Context(), StopRequest{Process: started.Process.ProcessID, Timeout: 300 * time.Millisecond})
	var still *StillRunningError
	if !errors.As(err, &still) || still.Process != started.Process.ProcessID {
		t.Errorf("deaf: %v", err)
	}
	if alive, _ := hostinfo.Alive(started.Process.ProcessID); !alive {
		t.Error("deaf: it was killed")
	}
}

// waitForLog waits until the pretended broker handles signals.
func waitForLog(t *testing.T, b *broker) {
	t.Helper()
	eventually(t, "the broker's first line", func() bool {
		data, _ := os.ReadFile(b.log)
		return strings.Contains(string(data), "success")
	})
}

func TestTheOperatorsStopLineIsUsedAndItsFailureSaid(t *testing.T) {
	a := pushLocal(t)
	b := newBroker(t, "")
	started, err := a.StartBroker(t.Context(), b.start())
	if err != nil {
		t.Fatal(err)
	}
	waitForLog(t, b)
	id := started.Process.ProcessID
	_, err = a.StopBroker(t.Context(), StopRequest{Process: id, Shell: "echo unit not found >&2; exit 5", Timeout: 20 * time.Second})
	var still *StillRunningError
	if !errors.As(err, &still) || !strings.Contains(err.Error(), "unit not found") || still.Waited > 10*time.Second {
		t.Errorf("failing line: %v", err)
	}
	stopped, err := a.StopBroker(t.Context(), StopRequest{Process: id, Shell: fmt.Sprintf("kill %d", id.PID), Abort: b.abort, Timeout: 20 * time.Second})
	if err != nil || stopped.Unclean {
		t.Errorf("good line: %+v, %v", stopped, err)
	}
}

func TestABrokerThatIsStartedAgainBySomethingIsReported(t *testing.T) {
	a := pushLocal(t)
	b := newBroker(t, "")
	r := b.start()
	r.Shell = fmt.Sprintf("%s; touch restarted; exec %s", r.Shell, r.Shell)
	started, err := a.StartBroker(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	waitForLog(t, b)
	id := started.Process.ProcessID
	// The line stops it and waits for what its keeper does.
	line := fmt.Sprintf("kill %d; until grep -c success %s | grep -qx 2; do sleep 0.05; done", id.PID, b.log)
	stopped, err := a.StopBroker(t.Context(), StopRequest{Process: id, Shell: line, Timeout: 20 * time.Second})
	if err != nil || stopped.Successor == nil || stopped.Successor.PID == id.PID {
		t.Errorf("got %+v, %v", stopped, err)
	}
}

func TestWaitPortGivesUpWhenItsProcessIsGone(t *testing.T) {
	a := pushLocal(t)
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	began := time.Now()
	_, err := a.WaitPort(t.Context(), WaitPortRequest{Address: address, Process: hostinfo.ProcessID{PID: os.Getpid(), Start: 1}})
	if !errors.Is(err, hostinfo.ErrGone) || time.Since(began) > 20*time.Second {
		t.Errorf("process gone: %v", err)
	}
	if _, err := a.WaitPort(t.Context(), WaitPortRequest{Address: address, Timeout: 200 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), syscall.ECONNREFUSED.Error()) {
		t.Errorf("nobody listens: %v", err)
	}
}
