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
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"mqlift/e2e/refcase"
	"mqlift/e2e/sparse"
	"mqlift/e2e/wait"
	"mqlift/internal/lab"
	"mqlift/internal/message"
	"mqlift/internal/probe"
	"mqlift/internal/rocketmq"
)

// The hosts by what they begin as.
const (
	master = iota
	slave
	empty
)

const (
	fillTopic  = "filler"
	fillPrefix = "f"
)

// ground is a lab whose hosts have OpenSSH's server, and stores of several sizes that every measurement
// begins on anew.
type ground struct {
	*lab.Lab
	operator    *operator
	dir         string
	topology    string
	messageSize int
	client      *rocketmq.Client
	filled      int // messages so far, which are fillPrefix and a number
}

func newGround(ctx context.Context, o options, dir string) (_ *ground, err error) {
	l, err := lab.Up(ctx, lab.Options{Dir: filepath.Join(dir, "lab"), Release: o.release, LogFileSize: o.logFileSize}, o.say)
	if err != nil {
		return nil, err
	}
	g := &ground{Lab: l, dir: dir, messageSize: o.messageSize, topology: filepath.Join(dir, "topology.yaml"), client: rocketmq.NewClient(rocketmq.Options{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.end())
		}
	}()
	env, ports := map[string][]string{}, map[string]int{}
	for _, h := range l.Hosts() {
		// What commands on the host find in the lab: by it the lab knows its processes.
		text, err := l.Shell(ctx, h.Name, "env | grep -E '^(HOME|PATH|TMPDIR|MQLIFT_LAB|MQLIFT_LAB_HOST)='")
		if err != nil {
			return nil, err
		}
		env[h.Name], ports[h.Name] = strings.Fields(text), h.SSHPort
	}
	if g.operator, err = newOperator(ctx, filepath.Join(dir, "operator"), env); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(l.Topology())
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(g.topology, []byte(g.operator.retarget(string(text), l.Dir(), ports)), 0o600); err != nil {
		return nil, err
	}
	if err := g.broker(master).CreateTopic(ctx, rocketmq.NewTopic(fillTopic, 8)); err != nil {
		return nil, err
	}
	// A slave that connects later takes the log's last file only (HAService, 4.5.2).
	if err := g.send(ctx, g.filled); err != nil {
		return nil, err
	}
	g.filled++
	return g, g.slaveFollows(ctx)
}

// end ends everything; nobody needs the stores.
func (g *ground) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := errors.Join(g.killAll(ctx), g.client.Close())
	if g.operator != nil {
		err = errors.Join(err, g.operator.close())
	}
	return errors.Join(err, g.Down(ctx, false, nil))
}

func (g *ground) host(role int) lab.Host           { return g.Hosts()[role] }
func (g *ground) broker(role int) *rocketmq.Broker { return g.client.Broker(g.host(role).BrokerAddr()) }

// send sends one message of the filling. Its body does not compress and its key is in the index, as those
// of an application are.
func (g *ground) send(ctx context.Context, n int) error {
	key := probe.NumberedKey(fillPrefix, n)
	body := make([]byte, g.messageSize)
	rand.NewChaCha8(sha256.Sum256([]byte(key))).Read(body)
	_, err := g.broker(master).Send(ctx, rocketmq.SendRequest{Group: "filler", Topic: fillTopic, QueueID: n % 8, Body: body,
		Properties: map[string]string{message.PropertyKeys: key}})
	return err
}

// fill sends until the master's log is that long, in bytes, stops master and slave cleanly, and keeps what
// they have under a name.
func (g *ground) fill(ctx context.Context, name string, size int64) error {
	const senders = 16
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var next atomic.Int64
	next.Store(int64(g.filled))
	var all errgroup.Group
	for range senders {
		all.Go(func() error {
			for sending.Err() == nil {
				n := next.Add(1) - 1
				// A broker that is short of memory pages refuses for a moment.
				if err := wait.Until(ctx, time.Minute, "the broker to take messages", func(ctx context.Context) error { return g.send(ctx, int(n)) }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := wait.Until(ctx, time.Hour, "the store to be filled", func(ctx context.Context) error {
		info, err := g.broker(master).RuntimeInfo(ctx)
		if err != nil {
			return err
		}
		end, err := info.CommitLogMaxOffset()
		if err == nil && end < size {
			err = fmt.Errorf("it has %d of %d bytes", end, size)
		}
		return err
	})
	stop()
	if err := errors.Join(err, all.Wait()); err != nil {
		return err
	}
	g.filled = int(next.Load())
	if err := g.slaveFollows(ctx); err != nil {
		return err
	}
	for _, role := range []int{slave, master} {
		if err := g.stop(ctx, role); err != nil {
			return err
		}
	}
	for _, role := range []int{master, slave} {
		if err := sparse.Copy(ctx, g.host(role).InstallDir, g.kept(name, role)); err != nil {
			return err
		}
	}
	return nil
}

func (g *ground) kept(name string, role int) string {
	return filepath.Join(g.dir, "kept", name, g.host(role).Name)
}

// begin makes the lab what it was when a store had been filled, and returns when it serves. start is how
// long the master took from its start until it answered a look-up.
func (g *ground) begin(ctx context.Context, name string) (start time.Duration, err error) {
	if err := g.killAll(ctx); err != nil {
		return 0, err
	}
	for role, h := range g.Hosts() {
		if err := errors.Join(os.RemoveAll(h.InstallDir), os.RemoveAll(filepath.Join(h.Home(), "logs"))); err != nil {
			return 0, err
		}
		if role != empty {
			if err := sparse.Copy(ctx, g.kept(name, role), h.InstallDir); err != nil {
				return 0, err
			}
		}
	}
	syscall.Sync() // else the copies are written out while something is measured
	for _, role := range []int{master, slave} {
		began := time.Now()
		if err := g.start(ctx, role); err != nil {
			return 0, err
		}
		if err := g.serves(ctx, role); err != nil {
			return 0, err
		}
		if role == master {
			start = time.Since(began)
		}
		if err := g.registered(ctx, role); err != nil {
			return 0, err
		}
	}
	return start, g.slaveFollows(ctx)
}

// start starts what a host's broker.conf says.
func (g *ground) start(ctx context.Context, role int) error {
	h := g.host(role)
	_, err := g.Shell(ctx, h.Name, "cd "+h.InstallDir+" && mkdir -p logs && nohup bin/mqbroker -c conf/broker.conf >logs/broker_default.log 2>&1 </dev/null &")
	return err
}

// serves waits until a host's broker answers a look-up of the oldest message.
func (g *ground) serves(ctx context.Context, role int) error {
	return wait.Until(ctx, 10*time.Minute, "the broker on "+g.host(role).Name+" to serve", func(ctx context.Context) error {
		found, err := g.broker(role).QueryByKey(ctx, fillTopic, probe.NumberedKey(fillPrefix, 0), 1, time.Time{}, time.Time{})
		if err == nil && len(found) == 0 {
			err = errors.New("the first message is not found")
		}
		return err
	})
}

func (g *ground) registered(ctx context.Context, role int) error {
	h := g.host(role)
	return wait.Until(ctx, 2*time.Minute, "the broker on "+h.Name+" to be registered", func(ctx context.Context) error {
		for _, ns := range g.NameServers() {
			info, err := g.client.NameServers([]string{ns}).ClusterInfoAt(ctx, ns)
			if err != nil {
				return err
			}
			if has := info.Brokers[refcase.Group].Addrs[int64(h.BrokerID)]; has != h.BrokerAddr() {
				return fmt.Errorf("name server %s gives %q", ns, has)
			}
		}
		return nil
	})
}

// slaveFollows waits until the slave holds what the master held when it was asked.
func (g *ground) slaveFollows(ctx context.Context) error {
	want := int64(-1)
	return wait.Until(ctx, 10*time.Minute, "the slave to follow the master", func(ctx context.Context) error {
		for _, role := range []int{master, slave} {
			if role == master && want >= 0 {
				continue
			}
			info, err := g.broker(role).RuntimeInfo(ctx)
			if err != nil {
				return err
			}
			end, err := info.CommitLogMaxOffset()
			if err != nil {
				return err
			}
			if role == master {
				want = end
			} else if end < want {
				return fmt.Errorf("it holds %d of %d bytes", end, want)
			}
		}
		return nil
	})
}

// brokers are a host's brokers by their pids.
func (g *ground) brokers(ctx context.Context, role int) (pids []int, err error) {
	s, err := g.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range s.Hosts[role].Processes {
		if p.Kind == "broker" {
			pids = append(pids, p.PID)
		}
	}
	return pids, nil
}

// stop stops a host's broker as an operator does.
func (g *ground) stop(ctx context.Context, role int) error {
	return g.signal(ctx, role, syscall.SIGTERM)
}

func (g *ground) killAll(ctx context.Context) error {
	var all errgroup.Group
	for role := range g.Hosts() {
		all.Go(func() error { return g.signal(ctx, role, syscall.SIGKILL) })
	}
	return all.Wait()
}

// signal signals a host's brokers and waits until they are gone.
func (g *ground) signal(ctx context.Context, role int, s syscall.Signal) error {
	pids, err := g.brokers(ctx, role)
	for _, pid := range pids {
		if kerr := syscall.Kill(pid, s); !errors.Is(kerr, syscall.ESRCH) {
			err = errors.Join(err, kerr)
		}
	}
	if err != nil || len(pids) == 0 {
		return err
	}
	return wait.Until(ctx, 2*time.Minute, "the broker on "+g.host(role).Name+" to end", func(ctx context.Context) error {
		pids, err := g.brokers(ctx, role)
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("process %d runs", pids[0])
		}
		return err
	})
}
