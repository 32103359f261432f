package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"mqlift/e2e/wait"
)

// Kind is what a process of RocketMQ is.
type Kind string

// The kinds, by the classes that they run.
const (
	Broker     Kind = "org.apache.rocketmq.broker.BrokerStartup"
	NameServer Kind = "org.apache.rocketmq.namesrv.NamesrvStartup"
)

func (k Kind) String() string {
	if k == Broker {
		return "broker"
	}
	return "name server"
}

// StartGroup starts the name servers and the case's brokers where none runs, and returns when both name
// servers know them all.
func (l *Lab) StartGroup(ctx context.Context, say func(string)) error {
	if say == nil {
		say = func(string) {}
	}
	say("starting two name servers")
	var starts errgroup.Group
	for _, h := range l.Hosts() {
		if h.NameServer != "" {
			starts.Go(func() error { return l.StartNameServer(ctx, h.Name) })
		}
	}
	if err := starts.Wait(); err != nil {
		return err
	}
	// One after the other: a broker that finds no name server registers only ten seconds later, and a
	// slave that registers before its master learns only then where to replicate from
	// (BrokerController.start, 4.5.2).
	for _, h := range l.Hosts() {
		if h.Role != "" {
			say(fmt.Sprintf("starting the %s on %s", h.Role, h.Name))
			if err := l.StartBroker(ctx, h.Name); err != nil {
				return err
			}
			if err := l.AwaitRegistered(ctx, h.Name, h.BrokerID); err != nil {
				return err
			}
		}
	}
	return nil
}

// StopGroup stops all brokers and name servers of the lab as an operator does, slaves first, and returns
// when they have ended.
func (l *Lab) StopGroup(ctx context.Context) error {
	hosts := l.Hosts()
	for _, kind := range []Kind{Broker, NameServer} {
		for i := range hosts {
			if name := hosts[len(hosts)-1-i].Name; l.IsUp(name) {
				if err := l.Stop(ctx, name, kind); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// StartNameServer starts a host's name server and returns when it answers.
func (l *Lab) StartNameServer(ctx context.Context, name string) error {
	h, err := l.Host(name)
	if err != nil {
		return err
	}
	if _, err := l.Shell(ctx, name, "cd "+InstallDir+" || exit; nohup bin/mqnamesrv >logs/namesrv_default.log 2>&1 </dev/null &"); err != nil {
		return err
	}
	return l.awaitProcess(ctx, h, NameServer, "the name server on "+name, func(ctx context.Context) error {
		_, err := l.registered(ctx, h.NameServer)
		return err
	})
}

// StartBroker starts a host's broker as the case does; see AwaitRegistered.
func (l *Lab) StartBroker(ctx context.Context, name string) error {
	_, err := l.Shell(ctx, name, "cd "+InstallDir+" || exit; nohup bin/mqbroker -c conf/broker.conf >logs/broker_default.log 2>&1 </dev/null &")
	return err
}

// AwaitRegistered waits until all name servers give a host's broker with this brokerId. It gives up, with
// the log's end, when the broker has ended instead.
func (l *Lab) AwaitRegistered(ctx context.Context, name string, brokerID int) error {
	h, err := l.Host(name)
	if err != nil {
		return err
	}
	return l.awaitProcess(ctx, h, Broker, "the broker on "+name+" to be known to the name servers", func(ctx context.Context) error {
		for _, ns := range l.NameServers() {
			brokers, err := l.registered(ctx, ns)
			if err != nil {
				return err
			}
			if id, ok := brokers[h.BrokerAddr()]; !ok || id != int64(brokerID) {
				return fmt.Errorf("name server %s gives it as %d among %v", ns, id, brokers)
			}
		}
		return nil
	})
}

// registered is the group as a name server sees it: brokerId by address.
func (l *Lab) registered(ctx context.Context, nameServer string) (map[string]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	info, err := l.client.NameServers([]string{nameServer}).ClusterInfoAt(ctx, nameServer)
	if err != nil {
		return nil, err
	}
	ids := map[string]int64{}
	for id, addr := range info.Brokers[Group].Addrs {
		ids[addr] = id
	}
	return ids, nil
}

// awaitProcess waits for f, and not in vain for a process that has ended.
func (l *Lab) awaitProcess(ctx context.Context, h Host, kind Kind, what string, f func(context.Context) error) error {
	seen, since := false, time.Now()
	var ended error
	err := wait.Until(ctx, 2*time.Minute, what, func(ctx context.Context) error {
		err := f(ctx)
		if err == nil {
			return nil
		}
		pids, findErr := l.PIDs(h.Name, kind)
		if findErr != nil {
			ended = findErr
			return nil
		}
		seen = seen || len(pids) > 0
		if len(pids) == 0 && (seen || time.Since(since) > 10*time.Second) {
			ended = fmt.Errorf("waiting for %s: it ended", what)
			return nil
		}
		return err
	})
	if err = errors.Join(err, ended); err != nil {
		return fmt.Errorf("%w\n%s", err, lastLines(h.Path(InstallDir+"/logs/"+map[Kind]string{Broker: "broker_default.log", NameServer: "namesrv_default.log"}[kind])))
	}
	return nil
}

// lastLines is the end of a log, with its name, for an error.
func lastLines(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return name + ":\n" + strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// PIDs are the processes of a kind on a host, by the numbers that they have on the bastion.
func (l *Lab) PIDs(name string, kind Kind) ([]int, error) {
	first, err := l.initPID(name)
	if err != nil {
		return nil, err
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
	if err != nil {
		return nil, fmt.Errorf("%s: looking for its processes: %w", name, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("%s: looking for its processes: %w", name, err)
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // gone
		}
		// Shells around java have the class among their arguments, too.
		args := strings.Split(string(cmdline), "\x00")
		if filepath.Base(args[0]) != "java" || !slices.Contains(args, string(kind)) {
			continue
		}
		if in, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/pid")); err == nil && in == namespace {
			found = append(found, pid)
		}
	}
	return found, nil
}

// Signal sends a signal to all processes of a kind on a host; SIGSTOP makes one hang. It is an error when
// there is none.
func (l *Lab) Signal(name string, kind Kind, signal syscall.Signal) error {
	pids, err := l.PIDs(name, kind)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("no %s runs on %s", kind, name)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, signal); err != nil {
			return fmt.Errorf("%s: signalling the %s: %w", name, kind, err)
		}
	}
	return nil
}

// Stop ends the processes of a kind on a host, if there are any, as an operator does, and returns when
// they have ended.
func (l *Lab) Stop(ctx context.Context, name string, kind Kind) error {
	return l.end(ctx, name, kind, syscall.SIGTERM)
}

// KillProcess ends the processes of a kind on a host, if there are any, with SIGKILL.
func (l *Lab) KillProcess(ctx context.Context, name string, kind Kind) error {
	return l.end(ctx, name, kind, syscall.SIGKILL)
}

func (l *Lab) end(ctx context.Context, name string, kind Kind, signal syscall.Signal) error {
	pids, err := l.PIDs(name, kind)
	if err != nil || len(pids) == 0 {
		return err
	}
	if err := l.Signal(name, kind, signal); err != nil {
		return err
	}
	return wait.Until(ctx, time.Minute, fmt.Sprintf("the %s on %s to end", kind, name), func(context.Context) error {
		pids, err := l.PIDs(name, kind)
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("process %v is there", pids)
		}
		return err
	})
}
