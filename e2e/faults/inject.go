package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"mqlift/e2e/sparse"
	"mqlift/internal/dledger"
	"mqlift/internal/lab"
	"mqlift/internal/run"
)

const (
	sigKILL = syscall.SIGKILL
	sigSTOP = syscall.SIGSTOP
	sigCONT = syscall.SIGCONT
)

// action is something that is done to a lab or to mqlift.
type action = func(context.Context, *trial) error

// then does one after the other.
func then(actions ...action) action {
	return func(ctx context.Context, t *trial) error {
		for _, do := range actions {
			if err := do(ctx, t); err != nil {
				return err
			}
		}
		return nil
	}
}

// later does it after some seconds, or when the row ends.
func later(seconds int, do action) action {
	return func(ctx context.Context, t *trial) error {
		done, stop := make(chan error, 1), make(chan struct{})
		go func() {
			select {
			case <-time.After(time.Duration(seconds) * time.Second):
			case <-stop:
			}
			done <- do(context.WithoutCancel(ctx), t)
		}()
		t.cleanup = append(t.cleanup, func() {
			close(stop)
			if err := <-done; err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		})
		return nil
	}
}

func await(kind run.RecordKind, step string) action {
	return func(ctx context.Context, t *trial) error { return t.await(ctx, kind, step) }
}

func sigkill(_ context.Context, t *trial) error   { return t.apply.signal(syscall.SIGKILL) }
func interrupt(_ context.Context, t *trial) error { return t.apply.signal(os.Interrupt) }

// again calls mqlift once more when it has ended, and waits for a record of a step.
func again(kind run.RecordKind, step string) action {
	return func(ctx context.Context, t *trial) error {
		<-t.apply.done
		if err := t.start(); err != nil {
			return err
		}
		return t.await(ctx, kind, step)
	}
}

// copying waits until some of the commit log has arrived on the new host, and not all.
func copying(_ context.Context, t *trial) error {
	file, err := incomingFile(empty)(t)
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if has := info.Sys().(*syscall.Stat_t).Blocks * 512; has < 4<<20 {
		return fmt.Errorf("%d bytes have arrived", has)
	}
	return nil
}

// ssh makes the SSH servers of hosts fail, or be well again.
func ssh(fault lab.Fault, hosts ...role) action {
	return func(_ context.Context, t *trial) error {
		var errs []error
		for _, h := range hosts {
			errs = append(errs, t.ssh(h, fault))
		}
		return errors.Join(errs...)
	}
}

// hostDies ends everything on a host at once.
func hostDies(host role) action {
	return func(ctx context.Context, t *trial) error { return t.kill(ctx, host) }
}

// hostReturns brings a host back as a reboot does: SSH and the name server run, and no broker.
func hostReturns(host role) action {
	return func(ctx context.Context, t *trial) error {
		return errors.Join(t.boot(ctx, host), t.nameServers(ctx))
	}
}

// hostServes brings it back with its broker, as the operator does where mqlift has touched nothing yet.
func hostServes(host role) action {
	return then(hostReturns(host), func(ctx context.Context, t *trial) error {
		if err := t.startBroker(ctx, host); err != nil {
			return err
		}
		return t.registered(ctx, host, int64(host))
	})
}

func nameServer(s syscall.Signal, host role) action {
	return func(ctx context.Context, t *trial) error { return t.signal(ctx, host, "name server", s) }
}

func nameServersReturn(ctx context.Context, t *trial) error { return t.nameServers(ctx) }

func broker(s syscall.Signal, host role) action {
	return func(ctx context.Context, t *trial) error {
		pids, err := t.pids(host, "broker")
		if s == sigCONT && len(pids) == 0 {
			return err // it is gone by now
		}
		return t.signal(ctx, host, "broker", s)
	}
}

// leaderDies kills the broker that the peers call their leader.
func leaderDies(ctx context.Context, t *trial) error {
	var peers []dledger.Peer
	for r := range roles {
		h := t.member(r)
		peers = append(peers, dledger.Peer{ID: h.Peer, Addr: h.RaftAddr, Name: h.Name})
	}
	leader := dledger.Look(ctx, t.client, group, peers).Leader
	for r := range roles {
		if t.member(r).Peer == leader.ID {
			return t.signal(ctx, r, "broker", sigKILL)
		}
	}
	return fmt.Errorf("no peer leads (%+v)", leader)
}

// file finds a file of a lab.
type file func(*trial) (string, error)

func newest(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("no file is like %s", pattern)
	}
	if err != nil {
		return "", err
	}
	return found[len(found)-1], nil
}

// incomingFile is the commit log file that a host is receiving.
func incomingFile(host role) file {
	return func(t *trial) (string, error) { return newest(t.commitLog(host) + ".mqlift-incoming/run-*/*") }
}

// logFile is the first file of a host's commit log.
func logFile(host role) file {
	return func(t *trial) (string, error) { return newest(t.commitLog(host) + "/00000000000000000000") }
}

// queueFile is the first consume queue file that was carried to a host.
func queueFile(host role) file {
	return func(t *trial) (string, error) {
		return newest(filepath.Join(t.member(host).InstallDir, "store/dledger_store/consumequeue", topic, "0/00000000000000000000"))
	}
}

// flip changes one bit of a file.
func flip(which file, at int64) action {
	return func(_ context.Context, t *trial) error {
		name, err := which(t)
		if err != nil {
			return err
		}
		return flipByte(name, at)
	}
}

func flipByte(name string, at int64) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err = f.WriteAt(b, at)
	return err
}

// flipTail changes one bit near the end of a host's log.
func flipTail(host role) action {
	return func(_ context.Context, t *trial) error {
		name, err := newest(t.commitLog(host) + "/*")
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		end := len(bytes.TrimRight(data, "\x00"))
		if end < 100 {
			return fmt.Errorf("%s is empty", name)
		}
		return flipByte(name, int64(end-20))
	}
}

// diverge makes the slave's log differ where no checksum covers it: in a key.
func diverge(ctx context.Context, t *trial) error {
	if err := t.signal(ctx, slave, "broker", syscall.SIGTERM); err != nil {
		return err
	}
	if err := t.gone(ctx, slave, "broker"); err != nil {
		return err
	}
	files, err := filepath.Glob(t.commitLog(slave) + "/*")
	if err != nil {
		return err
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if at := bytes.Index(data, []byte("KEYS\x01m000050")); at >= 0 {
			if err := flipByte(name, int64(at+len("KEYS\x01m"))); err != nil {
				return err
			}
			if err := t.startBroker(ctx, slave); err != nil {
				return err
			}
			if err := t.registered(ctx, slave, 1); err != nil {
				return err
			}
			return t.slaveFollows(ctx)
		}
	}
	return errors.New("m000050 is not in the slave's log")
}

// port chooses one of a host's addresses.
type port func(member) string

func raft(m member) string   { return m.RaftAddr }
func listen(m member) string { return m.Addr }

// takePort listens on a host's port until freePort, or the end of the row.
func takePort(host role, which port) action {
	return func(_ context.Context, t *trial) error {
		_, number, err := net.SplitHostPort(which(t.member(host)))
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", ":"+number)
		if err != nil {
			return err
		}
		t.taken = l
		t.cleanup = append(t.cleanup, func() { l.Close() })
		return nil
	}
}

func freePort(role) action {
	return func(_ context.Context, t *trial) error { return t.taken.Close() }
}

// javaOption gives a host's brokers a further JVM option.
func javaOption(host role, option string) action {
	return func(_ context.Context, t *trial) error {
		script := filepath.Join(t.member(host).InstallDir, "bin", "runbroker.sh")
		data, err := os.ReadFile(script)
		if err != nil {
			return err
		}
		text := strings.Replace(string(data), `"$JAVA" $JAVA_OPT `, `"$JAVA" $JAVA_OPT `+option+" ", 1)
		return os.WriteFile(script, []byte(text), 0o755)
	}
}

func smallDisk(host role) action {
	return func(_ context.Context, t *trial) error { return t.smallDisk(host) }
}

func fillDisk(host role) action {
	return func(_ context.Context, t *trial) error { return t.fillDisk(host) }
}

func freeDisk(host role) action {
	return func(_ context.Context, t *trial) error { return t.freeDisk(host) }
}

// ownDisks gives hosts' commit logs a file system each, mounted at the folder.
func ownDisks(hosts ...role) action {
	return func(ctx context.Context, t *trial) error {
		for _, h := range hosts {
			log, was := t.commitLog(h), t.commitLog(h)+".was"
			there := h != empty
			if there {
				if err := errors.Join(t.signal(ctx, h, "broker", syscall.SIGTERM), t.gone(ctx, h, "broker"), os.Rename(log, was)); err != nil {
					return err
				}
			}
			t.cleanup = append(t.cleanup, func() { unmount(log) })
			if err := mount(log); err != nil {
				return err
			}
			if !there {
				continue
			}
			if err := errors.Join(sparse.Copy(ctx, was+"/.", log), os.RemoveAll(was), t.startBroker(ctx, h)); err != nil {
				return err
			}
			if err := t.registered(ctx, h, int64(h)); err != nil {
				return err
			}
		}
		return t.slaveFollows(ctx)
	}
}

func smallStateDir(_ context.Context, t *trial) error {
	t.cleanup = append(t.cleanup, func() { unmount(t.state) })
	return mount(t.state)
}
func fillStateDir(_ context.Context, t *trial) error { return fill(t.state) }
func freeStateDir(_ context.Context, t *trial) error { return resize(t.state, roomy) }

// tearJournal cuts the end of the journal's last record off, as a crash of the machine can.
func tearJournal(_ context.Context, t *trial) error {
	name, err := newest(filepath.Join(t.state, "runs", group, "*", "journal.jsonl"))
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	return os.Truncate(name, info.Size()-20)
}
