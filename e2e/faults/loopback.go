package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"mqlift/e2e/sparse"
	"mqlift/internal/lab"
)

// local is a lab on loopback.
type local struct {
	*lab.Lab
	kept    string
	mounted []string
}

func newLocal(ctx context.Context, dir string) (cluster, error) {
	l, err := lab.Up(ctx, lab.Options{Dir: filepath.Join(dir, "lab"), LogFileSize: logFileSize}, nil)
	return &local{Lab: l, kept: filepath.Join(dir, "kept")}, err
}

func (*local) place() place { return loopback }

func (l *local) host(r role) lab.Host { return l.Hosts()[r] }

func (l *local) member(r role) member {
	h := l.host(r)
	return member{Name: h.Name, Peer: h.Peer, Addr: h.BrokerAddr(), RaftAddr: fmt.Sprintf("%s:%d", h.Address, h.RaftPort), NameServer: h.NameServer,
		InstallDir: h.InstallDir, Logs: filepath.Join(h.Home(), "logs/rocketmqlogs"), Tmp: filepath.Join(h.Dir, "tmp")}
}

func (l *local) keep(ctx context.Context) error {
	for _, h := range l.Hosts() {
		if h.Role == "" {
			continue
		}
		if err := sparse.Copy(ctx, h.InstallDir, filepath.Join(l.kept, h.Name)); err != nil {
			return err
		}
	}
	return nil
}

func (l *local) reset(ctx context.Context) error {
	for _, dir := range l.mounted {
		unmount(dir)
	}
	l.mounted = nil
	for _, h := range l.Hosts() {
		if err := errors.Join(l.Fault(h.Name, lab.Restore), os.RemoveAll(h.InstallDir), os.RemoveAll(filepath.Join(h.Home(), "logs"))); err != nil {
			return err
		}
		if h.Role == "" {
			continue
		}
		if err := sparse.Copy(ctx, filepath.Join(l.kept, h.Name), h.InstallDir); err != nil {
			return err
		}
	}
	return nil
}

func (l *local) startBroker(ctx context.Context, r role) error {
	return l.java(ctx, r, "mqbroker -c conf/broker.conf >logs/broker_default.log")
}

func (l *local) startNameServer(ctx context.Context, r role) error {
	return l.java(ctx, r, "mqnamesrv -c conf/namesrv.conf >logs/namesrv_default.log")
}

// java starts what the guide starts with such a line.
func (l *local) java(ctx context.Context, r role, line string) error {
	h := l.host(r)
	_, err := l.Shell(ctx, h.Name, "cd "+h.InstallDir+" && nohup bin/"+line+" 2>&1 </dev/null &")
	return err
}

func (l *local) pids(r role, kind string) ([]int, error) {
	var found []int
	err := l.each(r, func(p lab.Process) {
		if p.Kind == kind {
			found = append(found, p.PID)
		}
	})
	return found, err
}

func (l *local) each(r role, f func(lab.Process)) error {
	s, err := l.Status(context.Background())
	for _, p := range s.Hosts[r].Processes {
		f(p)
	}
	return err
}

func (l *local) ssh(r role, fault lab.Fault) error { return l.Fault(l.host(r).Name, fault) }

func (l *local) kill(_ context.Context, r role) error {
	if err := l.ssh(r, lab.Cut); err != nil {
		return err
	}
	return l.each(r, func(p lab.Process) {
		syscall.Kill(p.PID, syscall.SIGKILL) // one that is gone already is none to kill
	})
}

func (l *local) boot(_ context.Context, r role) error {
	left, err := filepath.Glob(filepath.Join(l.member(r).Tmp, "*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return errors.Join(err, l.ssh(r, lab.Restore))
}

func (l *local) smallDisk(r role) error {
	dir := l.host(r).InstallDir
	l.mounted = append(l.mounted, dir)
	return mount(dir)
}

func (l *local) fillDisk(r role) error { return fill(l.host(r).InstallDir) }
func (l *local) freeDisk(r role) error { return resize(l.host(r).InstallDir, roomy) }

func (l *local) plain(line string) string {
	return strings.ReplaceAll(line, filepath.Join(l.Dir(), "hosts")+"/", "")
}

func (l *local) close(ctx context.Context) error {
	for _, dir := range l.mounted {
		unmount(dir)
	}
	return l.Down(ctx, false, nil)
}

// roomy is the size of a disk that is not full, in bytes: what a plan wants, which is its reserve of 1 GiB
// and the store. It is a tmpfs, which takes memory for what is in it only.
const roomy = 3 << 30

// mount puts a file system of its own at a folder.
func mount(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", roomy)); err != nil {
		return fmt.Errorf("mounting a disk at %s: %w", dir, err)
	}
	return nil
}

func unmount(dir string) {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil { // somebody may still have files open there
		fmt.Fprintf(os.Stderr, "unmounting %s: %v\n", dir, err)
	}
}

// fill leaves no room on a disk, at once.
func fill(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	return resize(dir, int64(st.Blocks-st.Bfree)*st.Bsize)
}

// resize makes a disk as large as that, or as what has been written to it meanwhile.
func resize(dir string, size int64) error {
	for {
		err := unix.Mount("", dir, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", size))
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		size += 1 << 20
	}
}
