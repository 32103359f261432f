package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fillFile is what takes up room on a disk that is filled.
const fillFile = "lost+found/fill"

// format makes a host's disk: a small file system in a file of which only what is written takes room.
// It is mounted on the bastion, and in parts on the host: that way a host can go and come back while the
// disk stays.
func (h *host) format(size int64) error {
	image, err := os.OpenFile(h.image, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(image.Truncate(size), image.Close()); err != nil {
		return err
	}
	// No journal: the machine under it does not crash. No share for root: full is full for everyone.
	if err := tool("mkfs.ext4", "-q", "-F", "-m", "0", "-N", "16384", "-O", "^has_journal", "-E", "lazy_itable_init=0", h.image); err != nil {
		return err
	}
	if err := os.Mkdir(h.Disk, 0o755); err != nil {
		return err
	}
	return h.mount()
}

// mount takes a free loop device, which the kernel gives back with the mount.
func (h *host) mount() error { return tool("mount", "-o", "loop,discard", h.image, h.Disk) }

// unmount takes the disk away from the bastion.
func (h *host) unmount() error {
	err := unix.Unmount(h.Disk, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not mounted
		return fmt.Errorf("unmounting the disk of %s: %w", h.Name, err)
	}
	return nil
}

// Fill leaves just so many bytes free on a host's disk, rounded down to blocks; it is called again to
// change that, and undone by Free.
func (l *Lab) Fill(name string, free int64) error {
	h, err := l.host(name)
	if err != nil {
		return err
	}
	if err := l.Free(name); err != nil {
		return err
	}
	has, err := l.FreeBytes(name)
	if err != nil {
		return err
	}
	if has <= free {
		return fmt.Errorf("filling the disk of %s: only %d bytes are free already", name, has)
	}
	file, err := os.OpenFile(filepath.Join(h.Disk, fillFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("filling the disk of %s: %w", name, err)
	}
	defer file.Close()
	// The file's own block map takes blocks, too.
	for want := has - free; want > 0; want -= 64 << 10 {
		err := unix.Fallocate(int(file.Fd()), 0, 0, want)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("filling the disk of %s: %w", name, err)
		}
	}
	return nil
}

// Free undoes Fill.
func (l *Lab) Free(name string) error {
	h, err := l.host(name)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(h.Disk, fillFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("freeing the disk of %s: %w", name, err)
	}
	return nil
}

// FreeBytes is how many bytes a host's disk has left.
func (l *Lab) FreeBytes(name string) (int64, error) {
	h, err := l.host(name)
	if err != nil {
		return 0, err
	}
	var s unix.Statfs_t
	if err := unix.Statfs(h.Disk, &s); err != nil {
		return 0, fmt.Errorf("looking at the disk of %s: %w", name, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// Snapshot is what all disks of a lab held at one moment.
type Snapshot struct {
	dir string
}

// Snapshot keeps a copy of all disks as they are. Brokers that run are taken as by a loss of power; for
// a clean start afterwards they are stopped before: see StopGroup. The copy takes as much memory as the
// disks' contents, until the lab's end.
func (l *Lab) Snapshot(ctx context.Context) (_ Snapshot, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	dir, err := os.MkdirTemp(l.dir, "snapshot-")
	if err != nil {
		return Snapshot{}, fmt.Errorf("making a snapshot: %w", err)
	}
	for _, h := range l.hosts {
		if err := h.copyTo(filepath.Join(dir, h.Name+".img")); err != nil {
			return Snapshot{}, fmt.Errorf("making a snapshot of %s: %w", h.Name, errors.Join(err, os.RemoveAll(dir)))
		}
	}
	return Snapshot{dir: dir}, nil
}

func (h *host) copyTo(image string) (err error) {
	if err := tool("fsfreeze", "--freeze", h.Disk); err != nil { // also writes out what is to be written
		return err
	}
	defer func() { err = errors.Join(err, tool("fsfreeze", "--unfreeze", h.Disk)) }()
	return tool("cp", "--sparse=always", h.image, image)
}

// Reset ends everything on all hosts, puts their disks back to a snapshot, makes all links whole, and
// boots all hosts. Name servers and brokers are the caller's to start: see StartGroup.
func (l *Lab) Reset(ctx context.Context, s Snapshot) error {
	for _, h := range l.hosts {
		if err := l.reset(h, s); err != nil {
			return fmt.Errorf("resetting %s: %w", h.Name, err)
		}
	}
	for _, h := range l.hosts {
		if err := l.Boot(ctx, h.Name); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) reset(h *host, s Snapshot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(h.kill(), h.unmount()); err != nil {
		return err
	}
	h.link = Link{}
	// A file of a new name: the kernel may be about to let go of the old one.
	if err := os.Remove(h.image); err != nil {
		return err
	}
	if err := tool("cp", "--sparse=always", filepath.Join(s.dir, h.Name+".img"), h.image); err != nil {
		return err
	}
	return h.mount()
}
