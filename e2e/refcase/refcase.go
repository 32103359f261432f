// Package refcase runs the reference case on real brokers: it sends what the case sends, keeps
// traffic going, calls mqlift as its user would, and holds every promise against what was measured.
package refcase

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"mqlift/e2e/javaclient"
	"mqlift/e2e/wait"
	"mqlift/internal/lab"
	"mqlift/internal/probe"
	"mqlift/internal/rocketmq"
)

// The case's own names.
const (
	Topic    = "topic_dw_test_by_order_01"
	Group    = "broker-a"
	OldFirst = 600000
	OldCount = 100
	// ReaderGroup is the consumer group of the application that consumes, JavaReaderGroup that of the one in Java.
	ReaderGroup     = "readers"
	JavaReaderGroup = "java-readers"
)

// KeySpec is how mqlift's --keys names the old messages.
const KeySpec = Topic + ":m600000..m600099"

// Options of a run.
type Options struct {
	Binary  string // the mqlift to use
	Dir     string // where all files go
	Release string // of a lab made by Loopback, and of the client in Java
	// LogFileSize is mappedFileSizeCommitLog as mqlift lab takes it, for Loopback; empty for the lab's
	// own. Small files make the log roll over during the upgrade.
	LogFileSize string
	BodySize    int     // bytes of the application's messages; 0: as short as their keys
	Rate        float64 // messages per second kept up by an application; 0 takes 250
	Java        bool    // an application in Java sends and consumes beside the one in Go
	Keep        bool    // leave the ground up
	Out         io.Writer
}

// Case is a ground with the reference case's messages and traffic on it.
type Case struct {
	Options
	Ground
	client *rocketmq.Client

	Sent   *probe.Sent    // everything sent but the old messages
	Old    []probe.Entry  // m600000 … m600099
	Client probe.Timeline // an application's sends
	Write  probe.Timeline // sends with a fresh route each
	Read   probe.Timeline // look-ups of old keys with a fresh route each
	Reader Consumer       // an application that consumes everything

	JavaClient probe.Timeline // sends of an application in Java, where that was wanted
	JavaReader Received       // and what it was given

	java        javaclient.Client
	stopTraffic context.CancelFunc
	traffic     sync.WaitGroup
	mu          sync.Mutex
	trafficErr  error
}

// Up begins the case on a ground: it creates the topic and sends the old messages. The ground is the
// case's from then on: it is ended with it, also when the beginning fails.
func Up(ctx context.Context, on Ground, o Options) (_ *Case, err error) {
	if o.Rate == 0 {
		o.Rate = 250
	}
	c := &Case{Options: o, Ground: on, Sent: &probe.Sent{}, client: rocketmq.NewClient(rocketmq.Options{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Down())
		}
	}()
	if err := c.client.Broker(c.Master().Broker).CreateTopic(ctx, rocketmq.NewTopic(Topic, 4)); err != nil {
		return nil, err
	}
	if err := c.client.Broker(c.Master().Broker).CreateSubscriptionGroup(ctx, rocketmq.NewSubscriptionGroup(ReaderGroup)); err != nil {
		return nil, err
	}
	if err := c.routed(ctx); err != nil {
		return nil, err
	}
	old := &probe.Sent{}
	seed := probe.ClientSender{NameServers: c.NameServers, Topic: Topic, Group: "seed", KeyPrefix: "m", Start: OldFirst, Count: OldCount,
		Rate: 200, Timeline: &probe.Timeline{}, Sent: old}
	if err := seed.Run(ctx); err != nil {
		return nil, err
	}
	c.Old = old.Acked()
	if len(c.Old) != OldCount {
		return nil, fmt.Errorf("%d of %d old messages were acknowledged", len(c.Old), OldCount)
	}
	if err := c.replicated(ctx); err != nil {
		return nil, err
	}
	c.say("sent m%d … m%d to %s", OldFirst, OldFirst+OldCount-1, Topic)
	return c, nil
}

// routed waits until the name servers give the topic, which follows the broker's registration.
func (c *Case) routed(ctx context.Context) error {
	return wait.Until(ctx, 30*time.Second, "a route to "+Topic, func(ctx context.Context) error {
		_, err := c.client.NameServers(c.NameServers).Route(ctx, Topic)
		return err
	})
}

// replicated waits until the slave has what the master has: a slave that has just started connects to
// its master's HA port only some seconds later.
func (c *Case) replicated(ctx context.Context) error {
	return wait.Until(ctx, 60*time.Second, "the slave to follow the master", func(ctx context.Context) error {
		var end [2]int64
		for i, broker := range []string{c.Master().Broker, c.Slave().Broker} {
			info, err := c.client.Broker(broker).RuntimeInfo(ctx)
			if err != nil {
				return err
			}
			if end[i], err = info.CommitLogMaxOffset(); err != nil {
				return err
			}
		}
		if end[1] < end[0] {
			return fmt.Errorf("it has %d of %d bytes", end[1], end[0])
		}
		return nil
	})
}

// StateDir is where mqlift keeps its journals in this case.
func (c *Case) StateDir() string { return filepath.Join(c.Dir, "state") }

// javaRate is how many messages the application in Java sends a second: enough to see when they do not go.
const javaRate = 50

// Start begins the traffic: an application that sends c.Rate keyed messages a second, one that consumes
// them, where wanted one in Java that does both, a sender and a reader of old keys with fresh routes. It
// returns when all go steadily.
func (c *Case) Start(ctx context.Context) error {
	if c.Java {
		if err := c.startJava(ctx); err != nil {
			return err
		}
	}
	c.Reader.NameServers, c.Reader.Group, c.Reader.Topics = c.NameServers, ReaderGroup, []string{Topic}
	if err := c.Reader.Start(); err != nil {
		return err
	}
	ctx, c.stopTraffic = context.WithCancel(ctx)
	router, brokers := c.client.NameServers(c.NameServers), probe.BrokersOf(c.client)
	var keys []probe.MessageKey
	for _, e := range c.Old {
		keys = append(keys, probe.MessageKey{Topic: e.Topic, Key: e.Key})
	}
	c.keep(func() error {
		return (&probe.ClientSender{NameServers: c.NameServers, Topic: Topic, Group: "application", KeyPrefix: "a", Start: 1, Rate: c.Rate, Body: c.body(), Timeline: &c.Client, Sent: c.Sent}).Run(ctx)
	})
	c.keep(func() error {
		return (&probe.FreshSender{Router: router, Brokers: brokers, Broker: Group, Topic: Topic, Group: "probe", KeyPrefix: "w", Start: 1, Timeline: &c.Write, Sent: c.Sent}).Run(ctx)
	})
	c.keep(func() error {
		return (&probe.FreshReader{Router: router, Brokers: brokers, Broker: Group, Keys: keys, Timeline: &c.Read}).Run(ctx)
	})
	return c.Steady(ctx)
}

func (c *Case) startJava(ctx context.Context) error {
	if err := c.client.Broker(c.Master().Broker).CreateSubscriptionGroup(ctx, rocketmq.NewSubscriptionGroup(JavaReaderGroup)); err != nil {
		return err
	}
	jars, err := lab.FetchRelease(ctx, "", c.Release, func(line string) { c.say("%s", line) })
	if err != nil {
		return err
	}
	dir := filepath.Join(c.Dir, "java")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	c.java = javaclient.Client{Jars: jars, Dir: dir, NameServers: c.NameServers, Topic: Topic, ProducerGroup: "java-application", ConsumerGroup: JavaReaderGroup,
		KeyPrefix: "j", Rate: javaRate, Timeline: &c.JavaClient, Sent: c.Sent, Given: c.JavaReader.Add}
	return c.java.Start(ctx)
}

// body makes bodies of BodySize that do not compress, since clients compress large ones.
func (c *Case) body() func(string) []byte {
	if c.BodySize == 0 {
		return nil
	}
	return func(key string) []byte {
		b := make([]byte, c.BodySize)
		rand.NewChaCha8(sha256.Sum256([]byte(key))).Read(b)
		return b
	}
}

// steadyLimit bounds how long it may take until all traffic goes: clients learn of a new route within 30 s.
const steadyLimit = 90 * time.Second

// Steady waits until all traffic has gone without a failure for a while, and those who consume are given messages.
func (c *Case) Steady(ctx context.Context) error {
	now := time.Now()
	sends := map[string]*probe.Timeline{"the application's sends": &c.Client, "sends with a fresh route": &c.Write, "look-ups of old keys": &c.Read}
	readers := map[string]*Received{"the application that consumes": &c.Reader.Received}
	if c.Java {
		sends["the sends of the application in Java"], readers["the application in Java that consumes"] = &c.JavaClient, &c.JavaReader
	}
	limited, cancel := context.WithTimeout(ctx, steadyLimit)
	defer cancel()
	for name, t := range sends {
		if err := t.WaitSteady(limited, now, 50); err != nil {
			return fmt.Errorf("waiting for %s to go steadily (%s): %w", name, t.LastError(now), err)
		}
	}
	for name, r := range readers {
		if err := r.WaitAfter(ctx, steadyLimit, now); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (c *Case) keep(f func() error) {
	c.traffic.Add(1)
	go func() {
		defer c.traffic.Done()
		if err := f(); err != nil {
			c.mu.Lock()
			c.trafficErr = errors.Join(c.trafficErr, err)
			c.mu.Unlock()
		}
	}()
}

// Stop ends the traffic and waits for what is under way.
func (c *Case) Stop() error {
	if c.stopTraffic == nil {
		return nil
	}
	c.stopTraffic()
	err := c.java.StopSending()
	c.traffic.Wait()
	return errors.Join(c.trafficErr, err)
}

// StopConsuming ends the applications that consume, with their connections. Nothing is given to them after it.
func (c *Case) StopConsuming() error { return errors.Join(c.Reader.Stop(), c.java.Stop()) }

// Run calls mqlift, showing its output.
func (o Options) Run(ctx context.Context, args ...string) error {
	o.say("$ mqlift %s", strings.Join(args, " "))
	cmd := o.command(ctx, args)
	cmd.Stdout, cmd.Stderr = o.Out, o.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("mqlift %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// output calls mqlift, showing its progress, and returns what it prints.
func (o Options) output(ctx context.Context, args ...string) ([]byte, error) {
	cmd := o.command(ctx, args)
	cmd.Stderr = o.Out
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("mqlift %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

func (o Options) command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, o.Binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	return cmd
}

func (o Options) say(format string, args ...any) {
	fmt.Fprintf(o.Out, "\n"+format+"\n", args...)
}

// Find looks messages up on every host's broker by address.
func (c *Case) Find(ctx context.Context, entries []probe.Entry) ([]probe.NodeKeys, error) {
	return probe.Lookup{Brokers: probe.BrokersOf(c.client), Parallel: 8}.Find(ctx, entries, c.Addrs())
}

// Bugs returns the lines with [BUG] in the brokers' logs, by host.
func (c *Case) Bugs() (map[string][]string, error) {
	found := map[string][]string{}
	for _, h := range c.Hosts {
		logs, err := filepath.Glob(filepath.Join(h.Logs, "*.log"))
		if err != nil {
			return nil, err
		}
		if len(logs) == 0 {
			return nil, fmt.Errorf("%s: no broker logs to look at", h.Name)
		}
		for _, file := range logs {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			for line := range strings.Lines(string(data)) {
				if strings.Contains(line, "[BUG]") {
					found[h.Name] = append(found[h.Name], strings.TrimSpace(line))
				}
			}
		}
	}
	return found, nil
}

// Down ends the ground, unless it is to be kept, and all connections.
func (c *Case) Down() error {
	err := errors.Join(c.Stop(), c.StopConsuming(), c.client.Close())
	if c.Keep {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return errors.Join(err, c.Ground.Down(ctx))
}
