package javaclient

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"mqlift/e2e/wait"
	"mqlift/internal/lab"
	"mqlift/internal/probe"
)

// What the application tells becomes the same record that the clients in Go make.
func TestLinesBecomeATimelineALedgerAndWhatWasGiven(t *testing.T) {
	var timeline probe.Timeline
	var ledger probe.Sent
	type sight struct {
		k        probe.MessageKey
		physical int64
		retries  int32
	}
	var seen []sight
	c := Client{Topic: "orders", Timeline: &timeline, Sent: &ledger, started: make(chan struct{}), stopped: make(chan struct{}),
		Given: func(_ time.Time, k probe.MessageKey, physical int64, retries int32) {
			seen = append(seen, sight{k, physical, retries})
		}}
	// In the order of completion, which is not that of the beginnings.
	err := c.read(strings.NewReader("started\n" +
		"sent\t1000000\t1500000\tj000001\t3\t42\tSEND_OK\tAC10\n" +
		"failed\t2600000\t2700000\tj000003\tCODE: 1 DESC: refused\n" +
		"failed\t1600000\t4600000\tj000002\ttimed out\n" +
		"given\t4700000\tj000001\t4096\t1\n" +
		"sent\t4800000\t5000000\tj000002\t0\t43\tFLUSH_DISK_TIMEOUT\tAC11\n" +
		"stopped\n" +
		"sent\t4800000\t50")) // torn
	if err != nil {
		t.Fatal(err)
	}
	<-c.started
	<-c.stopped
	s := timeline.Summary()
	if s.OK != 2 || s.Failed != 2 || s.Longest != 3500*time.Millisecond || s.Outages[0].FirstError != "CODE: 1 DESC: refused" {
		t.Errorf("%+v", s)
	}
	if at := time.UnixMicro(1_500_000); !s.Outages[0].From.Equal(at) {
		t.Errorf("writes are away from %s on, not from %s", s.Outages[0].From, at)
	}
	acked := ledger.Acked()
	if len(acked) != 2 || acked[0].Topic != "orders" || acked[0].Key != "j000001" || acked[0].Queue != 3 || acked[0].Offset != 42 ||
		acked[0].MsgID != "AC10" || acked[0].Status != "" || acked[1].Key != "j000002" || acked[1].Tries != 2 || acked[1].Status != "FLUSH_DISK_TIMEOUT" {
		t.Errorf("acknowledged: %+v", acked)
	}
	if unacked := ledger.Unacked(); len(unacked) != 1 || unacked[0].Key != "j000003" || unacked[0].Error != "CODE: 1 DESC: refused" {
		t.Errorf("not acknowledged: %+v", unacked)
	}
	if len(seen) != 1 || seen[0] != (sight{probe.MessageKey{Topic: "orders", Key: "j000001"}, 4096, 1}) {
		t.Errorf("given: %+v", seen)
	}
}

// A line that cannot be read may be an acknowledgement that nobody looks for any more.
func TestALineThatCannotBeReadIsAnErrorAndTheRestIsRead(t *testing.T) {
	for _, bad := range []string{
		"", "sent", "unknown\t1", "started\t1", "given\t1\tj1\t2", "given\tx\tj1\t2\t0", "given\t1\t\t2\t0", "given\t1\tj1\t2\t4294967296",
		"sent\t1\t2\tj1\t0\t0\tSEND_OK", "sent\t1\t2\tj1\tzero\t0\tSEND_OK\tid", "sent\t1\t2\t\t0\t0\tSEND_OK\tid",
		"failed\t1\t2\tj1\t", "failed\t1\t2\tj1", "failed\t1\t2\t\twhy",
	} {
		var ledger probe.Sent
		c := Client{Topic: "orders", Timeline: &probe.Timeline{}, Sent: &ledger}
		if err := c.read(strings.NewReader(bad + "\nsent\t1\t2\tj1\t0\t0\tSEND_OK\tid\n")); err == nil {
			t.Errorf("%q passes", bad)
		}
		if n := len(ledger.Acked()); n != 1 {
			t.Errorf("%d messages are acknowledged after %q", n, bad)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, text := range []string{
		"started", "stopped", "sent\t1\t2\tj000001\t3\t42\tSEND_OK\tAC10", "failed\t1\t2\tj000001\twhy", "given\t1\tj000001\t4096\t0", "sent\t\t\t\t\t\t\t",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parse(text)
		if err != nil {
			return
		}
		e := l.entry
		switch l.kind {
		case sent:
			if e.Key == "" || !e.Acked || e.Error != "" || e.At != l.end {
				t.Errorf("%q: %+v", text, l)
			}
		case failed:
			if e.Key == "" || e.Acked || e.Error == "" || e.At != l.end {
				t.Errorf("%q: %+v", text, l)
			}
		case given:
			if e.Key == "" || e.Acked || l.begin.IsZero() {
				t.Errorf("%q: %+v", text, l)
			}
		case started, stopped:
			if l != (line{kind: text}) {
				t.Errorf("%q: %+v", text, l)
			}
		default:
			t.Errorf("%q is of the kind %q", text, l.kind)
		}
	})
}

// A JRE is named at once, and not by what java says about a source file.
func TestAJREIsNotEnough(t *testing.T) {
	home := t.TempDir()
	if err := os.Mkdir(home+"/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	java := "#!/bin/sh\necho 'openjdk version \"17.0.1\" 2021-10-19' >&2\n"
	if err := os.WriteFile(home+"/bin/java", []byte(java), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JAVA_HOME", home)
	_, err := FindJDK(t.Context())
	if err == nil || !strings.Contains(err.Error(), "openjdk-17-jdk-headless") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
}

// newClient is an application whose name servers are not there: it starts, and no send succeeds.
func newClient(t *testing.T) *Client {
	t.Helper()
	jars, err := lab.FetchRelease(t.Context(), "", lab.DefaultRelease, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	return &Client{Jars: jars, Dir: t.TempDir(), NameServers: []string{"127.0.0.1:1"}, Topic: "orders", ProducerGroup: "p", ConsumerGroup: "c",
		KeyPrefix: "j", Rate: 50, Timeline: &probe.Timeline{}, Sent: &probe.Sent{}}
}

func TestTheProgramEndsWithItsInput(t *testing.T) {
	c := newClient(t)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer c.cmd.Process.Kill()
	if err := wait.Until(t.Context(), time.Minute, "attempts", func(context.Context) error {
		if _, n := c.Timeline.Count(); n < 3 {
			return errors.New("too few")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.StopSending(); err != nil {
		t.Fatal(err)
	}
	_, before := c.Timeline.Count()
	c.input.Close() // as when this process dies, which leaves nobody to call Stop
	select {
	case <-c.ended:
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
	if !c.cmd.ProcessState.Success() {
		t.Errorf("%s: %v", c.cmd.ProcessState, c.err)
	}
	if _, after := c.Timeline.Count(); after != before {
		t.Errorf("%d attempts after the last", after-before)
	}
	if err := c.Stop(); err == nil {
		t.Error("that it ended by itself is not said")
	}
}

func TestAProgramThatDiesIsAnErrorWithItsLastWords(t *testing.T) {
	c := newClient(t)
	c.Jars = t.TempDir()
	err := c.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "compilation failed") {
		t.Errorf("without its jars: %v", err)
	}
	c = newClient(t)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.cmd.Process.Kill()
	if err := c.StopSending(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("killed: %v", err)
	}
	if err := c.Stop(); err == nil {
		t.Error("killed, and stopping says nothing")
	}
}
