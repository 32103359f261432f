// Package javaclient is an application with RocketMQ's own client in Java, unmodified and with its default
// settings, that sends and consumes, for those who measure what becomes of it. It renews its routes every 30 s,
// and tries a failed send twice more by itself (DefaultMQProducer, 4.5.2).
package javaclient

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"mqlift/internal/lab"
	"mqlift/internal/probe"
)

// source is compiled by java itself when it is run (JEP 330).
//
//go:embed Application.java
var source []byte

const (
	startLimit = time.Minute      // with the compilation
	endLimit   = 30 * time.Second // more than the program takes by itself in the worst case
)

// Client is the application. Its fields are set before Start and not changed after it.
type Client struct {
	// Jars is a folder with a release's jars, rocketmq-client and what it needs among them.
	Jars string
	// Dir is where the program and its logs go; it must be there.
	Dir           string
	NameServers   []string // IP:port
	Topic         string
	ProducerGroup string
	ConsumerGroup string // begins with the first message of each queue when it is new
	// Keys are KeyPrefix and a number of at least six digits, counted up from 1.
	KeyPrefix string
	Rate      float64 // attempts to send per second
	// Timeline has an attempt for each call of the producer's send, which tries thrice by itself.
	Timeline *probe.Timeline
	Sent     *probe.Sent
	// Given is called for each message that the application is given: when, which, the physical offset of the
	// stored copy, and how often that copy had been sent back before.
	Given func(at time.Time, k probe.MessageKey, physical int64, retries int32)

	input   io.WriteCloser
	cmd     *exec.Cmd
	started chan struct{} // closed when it has said so
	stopped chan struct{} // closed when no send is under way and none will be
	ended   chan struct{} // closed when the program is gone and all of its lines are read

	mu     sync.Mutex
	ending bool // by Stop
	// Set before ended is closed: what could not be read, and how the program ended.
	err error
}

// FindJDK returns the folder with java and javac.
func FindJDK(ctx context.Context) (string, error) {
	bin, err := lab.FindJava(ctx)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(bin, "javac")); err != nil {
		return "", fmt.Errorf("%s has java and no javac: the Java client comes as source, which takes a JDK (Debian: apt install openjdk-17-jdk-headless)", bin)
	}
	return bin, nil
}

// Start starts the application and returns when its producer and consumer have started, which they do also
// where no name server answers. It goes on until Stop, or until this process ends, or for two hours.
func (c *Client) Start(ctx context.Context) error {
	bin, err := FindJDK(ctx)
	if err != nil {
		return err
	}
	program := filepath.Join(c.Dir, "Application.java")
	if err := os.WriteFile(program, source, 0o644); err != nil {
		return fmt.Errorf("the Java client: %w", err)
	}
	cmd := exec.Command(filepath.Join(bin, "java"),
		// What netty of 4.x wants of JDK 17.
		"--add-opens=java.base/java.nio=ALL-UNNAMED", "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
		"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", // small, there are brokers beside it
		"-Duser.home="+c.Dir, // the client writes its log below it
		"-cp", filepath.Join(c.Jars, "*"), program,
		strings.Join(c.NameServers, ";"), c.Topic, c.ProducerGroup, c.ConsumerGroup, c.KeyPrefix, fmt.Sprint(c.Rate))
	trouble, err := os.Create(filepath.Join(c.Dir, "application.log"))
	if err != nil {
		return fmt.Errorf("the Java client: %w", err)
	}
	defer trouble.Close() // the program has its own
	cmd.Stderr = trouble
	if c.input, err = cmd.StdinPipe(); err != nil {
		return fmt.Errorf("the Java client: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("the Java client: %w", err)
	}
	c.started, c.stopped, c.ended = make(chan struct{}), make(chan struct{}), make(chan struct{})
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("the Java client: %w", err)
	}
	c.cmd = cmd
	go func() {
		defer close(c.ended)
		err := errors.Join(c.read(out), cmd.Wait())
		if err != nil {
			err = fmt.Errorf("the Java client: %w\n%s", err, lastLines(trouble.Name()))
		} else if !c.isEnding() {
			err = errors.New("the Java client has ended by itself")
		}
		c.err = err
	}()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	select {
	case <-c.started:
		return nil
	case <-c.ended:
		return c.err
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("waiting for the Java client to start: %w", ctx.Err()), c.Stop())
	}
}

// read takes all lines. It returns the first error, and reads on: the program must not wait for a reader.
func (c *Client) read(out io.Reader) (err error) {
	lines := bufio.NewReader(out)
	for {
		text, rerr := lines.ReadString('\n')
		if rerr == io.EOF {
			return err // what is left without a line end was torn
		}
		if rerr != nil {
			return errors.Join(err, rerr)
		}
		l, perr := parse(strings.TrimSuffix(text, "\n"))
		if perr == nil {
			c.take(l)
		} else if err == nil {
			err = perr
		}
	}
}

// take enters what a line tells.
func (c *Client) take(l line) {
	l.entry.Topic = c.Topic
	switch l.kind {
	case started:
		close(c.started)
	case stopped:
		close(c.stopped)
	case sent:
		c.Timeline.Add(probe.Attempt{Start: l.begin, End: l.end})
		c.Sent.Acknowledged(l.entry)
	case failed:
		c.Timeline.Add(probe.Attempt{Start: l.begin, End: l.end, Err: l.entry.Error})
		c.Sent.Unacknowledged(l.entry.Topic, l.entry.Key, errors.New(l.entry.Error))
	case given:
		c.Given(l.begin, probe.MessageKey{Topic: c.Topic, Key: l.entry.Key}, l.physical, l.retries)
	}
}

// StopSending ends the sends and returns when all that were under way are in the record; the application goes on
// consuming. It does nothing unless Start has succeeded. The error is also how the program ended too early.
func (c *Client) StopSending() error {
	if c.cmd == nil {
		return nil
	}
	_, err := io.WriteString(c.input, "stop\n")
	select {
	case <-c.stopped:
		return nil
	case <-c.ended:
		return c.err
	case <-time.After(endLimit):
		return errors.Join(errors.New("the Java client: sends are still under way"), err)
	}
}

// Stop ends the application and returns when it is gone. Stopping again does nothing and returns the same.
func (c *Client) Stop() error {
	if c.cmd == nil {
		return nil
	}
	c.mu.Lock()
	c.ending = true
	c.mu.Unlock()
	c.input.Close() // an error means that it is gone
	select {
	case <-c.ended:
	case <-time.After(endLimit):
		c.cmd.Process.Kill() // an error means that it is gone
		<-c.ended
	}
	return c.err
}

func (c *Client) isEnding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending
}

// lastLines is the end of a log, for an error.
func lastLines(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
