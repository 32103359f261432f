package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

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
	// filler is how many messages of 1 MiB make copies and hashes take long enough to be met in them.
	filler = 48
)

// The hosts of a lab and what they begin as.
const (
	master = "host-a"
	slave  = "host-b"
	empty  = "host-c"
)

// ground is a lab that every row begins on anew: the same master and slave with the same old messages.
type ground struct {
	*lab.Lab
	dir    string
	binary string
	client *rocketmq.Client
	old    []probe.Entry
	took   map[string]time.Duration // how long each step took when it was last done whole
	rows   int
}

// newGround starts a lab below dir and prepares what every row begins with.
func newGround(ctx context.Context, dir, binary string) (_ *ground, err error) {
	l, err := lab.Up(ctx, lab.Options{Dir: filepath.Join(dir, "lab"), LogFileSize: 32 << 20}, nil)
	if err != nil {
		return nil, err
	}
	g := &ground{Lab: l, dir: dir, binary: binary, client: rocketmq.NewClient(rocketmq.Options{}), took: map[string]time.Duration{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if err := g.broker(master).CreateTopic(ctx, rocketmq.NewTopic(topic, 4)); err != nil {
		return nil, err
	}
	// A slave that connects later takes the log's last file only (HAService, 4.5.2), and would differ from
	// its master from the start.
	if err := g.first(ctx); err != nil {
		return nil, err
	}
	if err := g.seed(ctx); err != nil {
		return nil, err
	}
	if err := g.slaveFollows(ctx); err != nil {
		return nil, err
	}
	if err := g.stopCleanly(ctx); err != nil {
		return nil, err
	}
	for _, h := range g.Hosts() {
		if h.Role == "" {
			continue
		}
		if err := copyTree(ctx, h.InstallDir, g.kept(h)); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// first sends one message and waits until the slave has it.
func (g *ground) first(ctx context.Context) error {
	if _, err := g.broker(master).Send(ctx, rocketmq.SendRequest{Group: "application", Topic: topic, Body: []byte("first")}); err != nil {
		return err
	}
	return g.slaveFollows(ctx)
}

// seed sends what gives the log its weight, without keys, and the old messages.
func (g *ground) seed(ctx context.Context) error {
	random := rand.NewChaCha8(sha256.Sum256([]byte(topic)))
	for i := range filler + seeded {
		m := rocketmq.SendRequest{Group: "application", Topic: topic, QueueID: i % 4, Body: []byte("old")}
		if i < filler {
			m.Body = make([]byte, 1<<20)
			random.Read(m.Body)
		} else {
			key := probe.NumberedKey("m", i-filler)
			m.Properties = map[string]string{message.PropertyKeys: key}
			g.old = append(g.old, probe.Entry{Topic: topic, Key: key})
		}
		if _, err := g.broker(master).Send(ctx, m); err != nil {
			return fmt.Errorf("sending the old messages: %w", err)
		}
	}
	return nil
}

// close ends the lab. Nobody needs its stores: the brokers are killed.
func (g *ground) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(g.killAll(ctx), g.client.Close(), g.Down(ctx, false, nil))
}

// reset makes the lab what it was when it had been prepared, and returns when it serves.
func (g *ground) reset(ctx context.Context) error {
	for _, h := range g.Hosts() {
		if err := g.Fault(h.Name, lab.Restore); err != nil {
			return err
		}
	}
	if err := g.killAll(ctx); err != nil {
		return err
	}
	if err := g.nameServers(ctx); err != nil {
		return err
	}
	for _, h := range g.Hosts() {
		if err := errors.Join(os.RemoveAll(h.InstallDir), os.RemoveAll(filepath.Join(h.Home(), "logs"))); err != nil {
			return err
		}
		if h.Role == "" {
			continue
		}
		if err := copyTree(ctx, g.kept(h), h.InstallDir); err != nil {
			return err
		}
	}
	for id, h := range g.Hosts()[:2] {
		if err := g.startBroker(ctx, h.Name); err != nil {
			return err
		}
		if err := g.registered(ctx, h.Name, int64(id)); err != nil {
			return err
		}
	}
	return nil
}

// kept is where a host's installation is kept as every row begins with it.
func (g *ground) kept(h lab.Host) string { return filepath.Join(g.dir, "kept", h.Name) }

// copyTree copies a folder to one that is not there, holes as holes.
func copyTree(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "cp", "-a", "--sparse=always", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copying %s: %w: %s", from, err, bytes.TrimSpace(out))
	}
	return nil
}

func (g *ground) host(name string) lab.Host {
	for _, h := range g.Hosts() {
		if h.Name == name {
			return h
		}
	}
	panic("the lab has no " + name)
}

func (g *ground) broker(host string) *rocketmq.Broker {
	return g.client.Broker(g.host(host).BrokerAddr())
}

// conf is a host's broker.conf.
func (g *ground) conf(host string) string {
	return filepath.Join(g.host(host).InstallDir, "conf", "broker.conf")
}

// commitLog is a host's folder of commit log files.
func (g *ground) commitLog(host string) string {
	return filepath.Join(g.host(host).InstallDir, "store", "commitlog")
}

// pids are the processes of a kind ("broker", "name server") on a host; of all hosts with an empty name.
func (g *ground) pids(ctx context.Context, host, kind string) ([]int, error) {
	s, err := g.Status(ctx)
	var found []int
	for _, h := range s.Hosts {
		for _, p := range h.Processes {
			if (host == "" || h.Name == host) && p.Kind == kind {
				found = append(found, p.PID)
			}
		}
	}
	return found, err
}

// signal sends a signal to the processes of a kind on a host, and fails where there are none.
func (g *ground) signal(ctx context.Context, host, kind string, s syscall.Signal) error {
	pids, err := g.pids(ctx, host, kind)
	if err == nil && len(pids) == 0 {
		err = fmt.Errorf("no %s runs on %s", kind, host)
	}
	for _, pid := range pids {
		err = errors.Join(err, syscall.Kill(pid, s))
	}
	return err
}

// gone waits until no process of a kind is left on a host.
func (g *ground) gone(ctx context.Context, host, kind string) error {
	return until(ctx, time.Minute, "the "+kind+" to be gone", func(ctx context.Context) error {
		pids, err := g.pids(ctx, host, kind)
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("%v run", pids)
		}
		return err
	})
}

// killAll ends every broker at once.
func (g *ground) killAll(ctx context.Context) error {
	pids, err := g.pids(ctx, "", "broker")
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return g.gone(ctx, "", "broker")
}

// stopCleanly stops the slave and then the master as an operator does.
func (g *ground) stopCleanly(ctx context.Context) error {
	for _, host := range []string{slave, master} {
		if err := g.signal(ctx, host, "broker", syscall.SIGTERM); err != nil {
			return err
		}
		if err := g.gone(ctx, host, "broker"); err != nil {
			return err
		}
	}
	return nil
}

// startBroker starts a host's broker with the line that the guide gives.
func (g *ground) startBroker(ctx context.Context, host string) error {
	return g.startJava(ctx, host, "mqbroker -c conf/broker.conf >logs/broker_default.log")
}

func (g *ground) startNameServer(ctx context.Context, host string) error {
	return g.startJava(ctx, host, "mqnamesrv -c conf/namesrv.conf >logs/namesrv_default.log")
}

func (g *ground) startJava(ctx context.Context, host, line string) error {
	_, err := g.Shell(ctx, host, "cd "+g.host(host).InstallDir+" && nohup bin/"+line+" 2>&1 </dev/null &")
	return err
}

// nameServers makes all name servers answer, whatever a row has done to them.
func (g *ground) nameServers(ctx context.Context) error {
	for _, h := range g.Hosts() {
		if h.NameServer == "" {
			continue
		}
		answers := func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			_, err := g.client.NameServers([]string{h.NameServer}).ClusterInfoAt(ctx, h.NameServer)
			return err
		}
		if answers(ctx) == nil {
			continue
		}
		if err := g.signal(ctx, h.Name, "name server", syscall.SIGKILL); err == nil {
			if err := g.gone(ctx, h.Name, "name server"); err != nil {
				return err
			}
		}
		if err := g.startNameServer(ctx, h.Name); err != nil {
			return err
		}
		if err := until(ctx, time.Minute, "the name server on "+h.Name+" to answer", answers); err != nil {
			return err
		}
	}
	return nil
}

// registered waits until all name servers give a host's broker with an id.
func (g *ground) registered(ctx context.Context, host string, id int64) error {
	addr := g.host(host).BrokerAddr()
	return until(ctx, 2*time.Minute, "the broker on "+host+" to be registered", func(ctx context.Context) error {
		for _, ns := range g.NameServers() {
			info, err := g.client.NameServers([]string{ns}).ClusterInfoAt(ctx, ns)
			if err != nil {
				return err
			}
			if has := info.Brokers[group].Addrs[id]; has != addr {
				return fmt.Errorf("name server %s gives %q as brokerId %d", ns, has, id)
			}
		}
		return nil
	})
}

// slaveFollows waits until the slave holds what the master held when it was asked.
func (g *ground) slaveFollows(ctx context.Context) error {
	end := func(ctx context.Context, host string) (int64, error) {
		info, err := g.broker(host).RuntimeInfo(ctx)
		if err != nil {
			return 0, err
		}
		return info.CommitLogMaxOffset()
	}
	want := int64(-1)
	return until(ctx, 2*time.Minute, "the slave to follow the master", func(ctx context.Context) (err error) {
		if want < 0 {
			if want, err = end(ctx, master); err != nil {
				want = -1
				return err
			}
		}
		has, err := end(ctx, slave)
		if err == nil && has < want {
			err = fmt.Errorf("it holds %d of %d bytes", has, want)
		}
		return err
	})
}

// bugs are the lines with [BUG] in the brokers' logs since the reset.
func (g *ground) bugs() ([]string, error) {
	var found []string
	for _, h := range g.Hosts() {
		logs, err := filepath.Glob(filepath.Join(h.Home(), "logs/rocketmqlogs/*.log"))
		if err != nil {
			return nil, err
		}
		for _, file := range logs {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			for line := range strings.Lines(string(data)) {
				if strings.Contains(line, "[BUG]") {
					found = append(found, h.Name+": "+strings.TrimSpace(line))
				}
			}
		}
	}
	return found, nil
}

// until asks f again and again until it has no more to object, and gives up after limit with what it
// said last.
func until(ctx context.Context, limit time.Duration, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", limit, what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
