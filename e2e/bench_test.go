package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mqlift/e2e/wait"
	"mqlift/internal/diag"
	"mqlift/internal/lab"
	"mqlift/internal/message"
	"mqlift/internal/probe"
	"mqlift/internal/rocketmq"
)

const (
	group  = "broker-a"
	topic  = "orders"
	seeded = 100 // old messages m000000 … m000099
	// oldKeys is how mqlift's --keys names them.
	oldKeys = topic + ":m000000..m000099"
)

// bench is a lab with old messages on it, and the files of the operator who upgrades it.
type bench struct {
	*lab.Lab
	dir    string // the operator's
	state  string // where journals are kept; below dir when it is empty
	client *rocketmq.Client
}

// newBench starts a lab, which is gone after the test, and sends the old messages.
func newBench(t *testing.T) *bench {
	t.Helper()
	return newBenchIn(t, lab.Options{})
}

// newBenchIn is newBench in a lab with options of its own.
func newBenchIn(t *testing.T, o lab.Options) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	must(t, err)
	o.Dir = filepath.Join(dir, "lab")
	l, err := lab.Up(t.Context(), o, nil)
	if err != nil {
		t.Fatal(errors.Join(err, os.RemoveAll(dir)))
	}
	b := &bench{Lab: l, dir: dir, client: rocketmq.NewClient(rocketmq.Options{})}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.kill(ctx); err != nil { // nobody needs its stores: a clean stop takes seconds
			t.Errorf("ending the brokers: %v", err)
		}
		if err := errors.Join(b.client.Close(), l.Down(ctx, false, nil), os.RemoveAll(dir)); err != nil {
			t.Errorf("ending the lab: %v", err)
		}
	})
	master := b.broker("host-a")
	must(t, master.CreateTopic(t.Context(), rocketmq.NewTopic(topic, 1)))
	b.send(t, "m", seeded, 100)
	b.awaitSlave(t)
	return b
}

// kill ends all brokers at once.
func (b *bench) kill(ctx context.Context) error {
	s, err := b.Status(ctx)
	for _, h := range s.Hosts {
		for _, p := range h.Processes {
			if p.Kind == "broker" {
				err = errors.Join(err, syscall.Kill(p.PID, syscall.SIGKILL))
			}
		}
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until f has no more to object.
func eventually(t *testing.T, limit time.Duration, what string, f func(context.Context) error) {
	t.Helper()
	must(t, wait.Until(t.Context(), limit, what, f))
}

func (b *bench) host(name string) lab.Host {
	for _, h := range b.Hosts() {
		if h.Name == name {
			return h
		}
	}
	panic("the lab has no " + name)
}

func (b *bench) broker(host string) *rocketmq.Broker {
	return b.client.Broker(b.host(host).BrokerAddr())
}

// conf is a host's broker.conf.
func (b *bench) conf(host string) string {
	return filepath.Join(b.host(host).InstallDir, "conf", "broker.conf")
}

func (b *bench) stateDir() string { return cmp.Or(b.state, filepath.Join(b.dir, "state")) }

// send sends keyed messages of a size to the master, one by one.
func (b *bench) send(t *testing.T, prefix string, count, size int) {
	t.Helper()
	for i := range count {
		_, err := b.broker("host-a").Send(t.Context(), rocketmq.SendRequest{
			Group: "application", Topic: topic, Body: bytes.Repeat([]byte{'x'}, size),
			Properties: map[string]string{message.PropertyKeys: probe.NumberedKey(prefix, i)},
		})
		must(t, err)
	}
}

// awaitRegistered waits until both name servers know the slave.
func (b *bench) awaitRegistered(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "the slave to be registered", func(ctx context.Context) error {
		s, err := b.Status(ctx)
		if err != nil {
			return err
		}
		for _, ns := range s.NameServers {
			if id := ns.Brokers[b.host("host-b").BrokerAddr()]; id != 1 {
				return fmt.Errorf("name server %s gives it as %d among %v", ns.Address, id, ns.Brokers)
			}
		}
		return nil
	})
}

// awaitSlave waits until the slave is registered and holds what the master holds.
func (b *bench) awaitSlave(t *testing.T) {
	t.Helper()
	b.awaitRegistered(t)
	end := func(ctx context.Context, host string) (int64, error) {
		info, err := b.broker(host).RuntimeInfo(ctx)
		if err != nil {
			return 0, err
		}
		return info.CommitLogMaxOffset()
	}
	eventually(t, time.Minute, "the slave to be caught up", func(ctx context.Context) error {
		master, err := end(ctx, "host-a")
		if err != nil {
			return err
		}
		slave, err := end(ctx, "host-b")
		if err == nil && slave != master {
			err = fmt.Errorf("it holds %d of %d bytes", slave, master)
		}
		return err
	})
}

// find looks the old messages up on brokers by address.
func (b *bench) find(t *testing.T, hosts ...string) {
	t.Helper()
	var entries []probe.Entry
	for i := range seeded {
		entries = append(entries, probe.Entry{Topic: topic, Key: probe.NumberedKey("m", i)})
	}
	var addrs []string
	for _, h := range hosts {
		addrs = append(addrs, b.host(h).BrokerAddr())
	}
	found, err := probe.Lookup{Brokers: probe.BrokersOf(b.client)}.Find(t.Context(), entries, addrs)
	must(t, err)
	for i, f := range found {
		if len(f.Found) != seeded {
			t.Errorf("%s: %d of %d old messages are found by key: missing %v, unanswered %v %s", hosts[i], len(f.Found), seeded, f.Missing, f.Unanswered, f.FirstError)
		}
	}
}

// pid finds the one process of a kind on a host; 0 when there is none.
func (b *bench) pid(t *testing.T, host, kind string) int {
	t.Helper()
	s, err := b.Status(t.Context())
	must(t, err)
	for _, h := range s.Hosts {
		for _, p := range h.Processes {
			if h.Name == host && p.Kind == kind {
				return p.PID
			}
		}
	}
	return 0
}

// stopBroker stops a host's broker as an operator does.
func (b *bench) stopBroker(t *testing.T, host string) {
	t.Helper()
	pid := b.pid(t, host, "broker")
	if pid == 0 {
		t.Fatalf("no broker runs on %s", host)
	}
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	b.awaitGone(t, host, pid)
}

// killBroker kills a host's broker.
func (b *bench) killBroker(t *testing.T, host string) {
	t.Helper()
	pid := b.pid(t, host, "broker")
	if pid == 0 {
		t.Fatalf("no broker runs on %s", host)
	}
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	b.awaitGone(t, host, pid)
}

func (b *bench) awaitGone(t *testing.T, host string, pid int) {
	t.Helper()
	eventually(t, 30*time.Second, "the broker on "+host+" to end", func(context.Context) error {
		if b.pid(t, host, "broker") != 0 {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	})
}

// startBroker starts a host's broker with the line that the guide gives.
func (b *bench) startBroker(t *testing.T, host string) {
	t.Helper()
	_, err := b.Shell(t.Context(), host, "cd "+b.host(host).InstallDir+" && nohup bin/mqbroker -c conf/broker.conf >logs/broker_default.log 2>&1 </dev/null &")
	must(t, err)
}

// appendTo adds a line to a file; what it returns puts the file back.
func appendTo(t *testing.T, file, line string) (original func()) {
	t.Helper()
	before, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, append(bytes.Clone(before), line+"\n"...), 0o644))
	return func() {
		if err := os.WriteFile(file, before, 0o644); err != nil {
			t.Error(err)
		}
	}
}

// outcome is how a call of mqlift went.
type outcome struct {
	code   int
	stdout string
	text   string // stdout and stderr
	took   time.Duration
}

// call is a call of mqlift; the zero value takes the lab's topology.
type call struct {
	topology string
	env      []string // all of it; nil: this process's
	stdin    string
}

func (b *bench) command(c call, args ...string) *exec.Cmd {
	if c.topology == "" {
		c.topology = b.Topology()
	}
	args = append(args, "-t", c.topology)
	if (args[0] == "apply" || args[0] == "rollback" || args[0] == "status") && !slices.Contains(args, "--state-dir") {
		args = append(args, "--state-dir", b.stateDir())
	}
	if args[0] == "apply" { // clients here ask for their routes all the time
		args = append(args, "--route-poll", "1s", "--pull-hold", "1s")
	}
	cmd := exec.Command(os.Getenv(binaryVariable), args...)
	cmd.Env, cmd.Stdin = c.env, strings.NewReader(c.stdin)
	return cmd
}

// here calls mqlift without a topology.
func (b *bench) here(t *testing.T, args ...string) outcome {
	t.Helper()
	return runToEnd(t, exec.Command(os.Getenv(binaryVariable), args...), args)
}

// run calls mqlift and lets it end by itself.
func (b *bench) run(t *testing.T, c call, args ...string) outcome {
	t.Helper()
	return runToEnd(t, b.command(c, args...), args)
}

func runToEnd(t *testing.T, cmd *exec.Cmd, args []string) outcome {
	t.Helper()
	var stdout bytes.Buffer
	var text screen
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, &text), &text
	began := time.Now()
	must(t, cmd.Start())
	stuck := time.AfterFunc(5*time.Minute, func() { cmd.Process.Signal(syscall.SIGQUIT) }) // says where it hangs
	defer stuck.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	o := outcome{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), text: text.String(), took: time.Since(began)}
	t.Logf("mqlift %s: exit code %d after %s", strings.Join(args, " "), o.code, o.took.Round(10*time.Millisecond))
	return o
}

// screen takes what a program writes to stdout and stderr.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// wants fails the test unless mqlift ended with the code and said all of it.
func (o outcome) wants(t *testing.T, code int, says ...string) {
	t.Helper()
	if o.code != code {
		t.Fatalf("exit code %d, want %d:\n%s", o.code, code, o.text)
	}
	for _, s := range says {
		if !strings.Contains(o.text, s) {
			t.Errorf("%q is not said:\n%s", s, o.text)
		}
	}
}

// findings decodes what `check --json` prints.
func (o outcome) findings(t *testing.T) diag.Findings {
	t.Helper()
	var found diag.Findings
	if err := json.Unmarshal([]byte(o.stdout), &found); err != nil {
		t.Fatalf("not a list of findings: %v\n%s", err, o.text)
	}
	return found
}
