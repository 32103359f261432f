package hostinfo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Filesystem is the file system that a path is on.
type Filesystem struct {
	Type       string `json:"type"`       // as mount shows it: ext4, xfs, nfs4, overlay …
	MountPoint string `json:"mountPoint"` //
	Device     string `json:"device"`     // what is mounted
	ReadOnly   bool   `json:"readOnly"`
	NoExec     bool   `json:"noExec"`
	// Bytes: all, and those that this user may still write.
	Total int64 `json:"total"`
	Free  int64 `json:"free"`
	// Inodes: 0 of 0 on file systems that have no fixed number of them.
	Inodes     int64 `json:"inodes"`
	InodesFree int64 `json:"inodesFree"`
}

// FilesystemOf returns the file system of an existing path; symbolic links are followed.
func FilesystemOf(path string) (Filesystem, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Filesystem{}, err
	}
	if real, err = filepath.Abs(real); err != nil {
		return Filesystem{}, err
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Filesystem{}, err
	}
	f, err := mountOf(data, real)
	if err != nil {
		return Filesystem{}, err
	}
	if err := f.statfs(real); err != nil {
		return Filesystem{}, &fs.PathError{Op: "statfs", Path: real, Err: err}
	}
	return f, nil
}

// mountOf finds the mount with the longest mount point that holds the path; of several on the same
// mount point the last one is the one to be seen (man 5 proc, mountinfo).
func mountOf(mountinfo []byte, path string) (Filesystem, error) {
	var best Filesystem
	for line := range bytes.Lines(mountinfo) {
		f := strings.Fields(string(line))
		sep := slices.Index(f, "-") // ends the optional fields
		if sep < 6 || len(f) < sep+3 {
			return Filesystem{}, fmt.Errorf("mountinfo line not as expected: %q", line)
		}
		point := unescapeMount(f[4])
		if !contains(point, path) || len(point) < len(best.MountPoint) {
			continue
		}
		options := strings.Split(f[5], ",")
		best = Filesystem{
			Type: f[sep+1], MountPoint: point, Device: unescapeMount(f[sep+2]),
			ReadOnly: slices.Contains(options, "ro"), NoExec: slices.Contains(options, "noexec"),
		}
	}
	if best.MountPoint == "" {
		return Filesystem{}, fmt.Errorf("no mount holds %s", path)
	}
	return best, nil
}

func contains(dir, path string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

// unescapeMount undoes the \040 for blank, tab, newline and backslash.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// TreeSize is what a directory tree takes up. A file with several names in it counts once.
type TreeSize struct {
	Files int64 `json:"files"`
	Dirs  int64 `json:"dirs"`
	// Apparent is the sum of the files' lengths, Allocated what is really on disk (st_blocks):
	// RocketMQ preallocates its files, so the two may be far apart.
	Apparent  int64 `json:"apparent"`
	Allocated int64 `json:"allocated"`
}

// SizeOf adds up a tree, or one file. Files that vanish meanwhile are left out: a live broker
// deletes old ones.
func SizeOf(ctx context.Context, path string) (TreeSize, error) {
	var size TreeSize
	type file struct{ dev, ino uint64 }
	seen := map[file]bool{}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if errors.Is(err, fs.ErrNotExist) && p != path {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if st.Nlink > 1 && !d.IsDir() {
			id := file{uint64(st.Dev), st.Ino} //nolint:unconvert // not 64 bits wide everywhere
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		size.Allocated += st.Blocks * 512
		switch {
		case d.IsDir():
			size.Dirs++
		case d.Type().IsRegular():
			size.Files++
			size.Apparent += st.Size
		default:
			size.Files++
		}
		return nil
	})
	return size, err
}

// LockHolder returns the process that holds a write lock (fcntl, as Java's FileLock takes it) on
// the file's first byte; 0 when nobody does or there is no such file.
func LockHolder(path string) (pid int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0, Start: 0, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, &fs.PathError{Op: "fcntl F_GETLK", Path: path, Err: err}
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// Memory is the host's memory in bytes.
type Memory struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available"` // could be given to a new process without swapping
	SwapTotal int64 `json:"swapTotal"`
}

// ReadMemory reads /proc/meminfo.
func ReadMemory() (Memory, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Memory{}, err
	}
	return parseMemory(data), nil
}

func parseMemory(meminfo []byte) Memory {
	var m Memory
	fields := map[string]*int64{"MemTotal": &m.Total, "MemAvailable": &m.Available, "SwapTotal": &m.SwapTotal}
	for line := range bytes.Lines(meminfo) {
		name, rest, _ := strings.Cut(string(line), ":")
		if field := fields[name]; field != nil {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			*field = kib * 1024
		}
	}
	return m
}
