package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"mqlift/e2e/wait"
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
	// logFileSize makes the log one of two files, in bytes.
	logFileSize = 32 << 20
)

// ground is a lab that every row begins on anew: the same master and slave with the same old messages.
type ground struct {
	cluster
	dir    string // for what is the operator's
	binary string
	rate   int // of each producer, in messages per second
	client *rocketmq.Client
	old    []probe.Entry
	took   map[string]time.Duration // how long each step took when it was last done whole
	rows   int
}

// newGround prepares on a lab what every row begins with.
func newGround(ctx context.Context, c cluster, dir, binary string, rate int) (_ *ground, err error) {
	g := &ground{cluster: c, dir: dir, binary: binary, rate: rate, client: rocketmq.NewClient(rocketmq.Options{}), took: map[string]time.Duration{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.end())
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
	return g, g.keep(ctx)
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

// end ends the lab. Nobody needs its stores: the brokers are killed.
func (g *ground) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(g.killAll(ctx), g.client.Close(), g.close(ctx))
}

// begin makes the lab what it was when it had been prepared, and returns when it serves.
func (g *ground) begin(ctx context.Context) error {
	if err := g.killAll(ctx); err != nil {
		return err
	}
	if err := g.reset(ctx); err != nil {
		return err
	}
	if err := g.nameServers(ctx); err != nil {
		return err
	}
	for id, r := range []role{master, slave} {
		if err := g.startBroker(ctx, r); err != nil {
			return err
		}
		if err := g.registered(ctx, r, int64(id)); err != nil {
			return err
		}
	}
	return nil
}

func (g *ground) broker(r role) *rocketmq.Broker { return g.client.Broker(g.member(r).Addr) }

// conf is a host's broker.conf.
func (g *ground) conf(r role) string {
	return filepath.Join(g.member(r).InstallDir, "conf", "broker.conf")
}

// commitLog is a host's folder of commit log files.
func (g *ground) commitLog(r role) string {
	return filepath.Join(g.member(r).InstallDir, "store", "commitlog")
}

// signal sends a signal to the processes of a kind on a host, and fails where there are none.
func (g *ground) signal(ctx context.Context, r role, kind string, s syscall.Signal) error {
	pids, err := g.pids(r, kind)
	if err == nil && len(pids) == 0 {
		err = fmt.Errorf("no %s runs on %s", kind, g.member(r).Name)
	}
	for _, pid := range pids {
		err = errors.Join(err, syscall.Kill(pid, s))
	}
	return err
}

// gone waits until no process of a kind is left on a host.
func (g *ground) gone(ctx context.Context, r role, kind string) error {
	return wait.Until(ctx, time.Minute, "the "+kind+" to be gone", func(ctx context.Context) error {
		pids, err := g.pids(r, kind)
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("%v run", pids)
		}
		return err
	})
}

// killAll ends every broker at once.
func (g *ground) killAll(ctx context.Context) error {
	for r := range roles {
		pids, err := g.pids(r, "broker")
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		if err := g.gone(ctx, r, "broker"); err != nil {
			return err
		}
	}
	return nil
}

// stopCleanly stops the slave and then the master as an operator does.
func (g *ground) stopCleanly(ctx context.Context) error {
	for _, host := range []role{slave, master} {
		if err := g.signal(ctx, host, "broker", syscall.SIGTERM); err != nil {
			return err
		}
		if err := g.gone(ctx, host, "broker"); err != nil {
			return err
		}
	}
	return nil
}

// nameServers makes all name servers answer, whatever a row has done to them.
func (g *ground) nameServers(ctx context.Context) error {
	for r := range roles {
		h := g.member(r)
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
		if err := g.signal(ctx, r, "name server", syscall.SIGKILL); err == nil {
			if err := g.gone(ctx, r, "name server"); err != nil {
				return err
			}
		}
		if err := g.startNameServer(ctx, r); err != nil {
			return err
		}
		if err := wait.Until(ctx, time.Minute, "the name server on "+h.Name+" to answer", answers); err != nil {
			return err
		}
	}
	return nil
}

// registered waits until all name servers give a host's broker with an id.
func (g *ground) registered(ctx context.Context, r role, id int64) error {
	addr := g.member(r).Addr
	return wait.Until(ctx, 2*time.Minute, "the broker on "+g.member(r).Name+" to be registered", func(ctx context.Context) error {
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
	end := func(ctx context.Context, r role) (int64, error) {
		info, err := g.broker(r).RuntimeInfo(ctx)
		if err != nil {
			return 0, err
		}
		return info.CommitLogMaxOffset()
	}
	want := int64(-1)
	return wait.Until(ctx, 2*time.Minute, "the slave to follow the master", func(ctx context.Context) (err error) {
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
	for r := range roles {
		h := g.member(r)
		logs, err := filepath.Glob(filepath.Join(h.Logs, "*.log"))
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
