// Package hostinfo reads what a Linux host says about itself: processes, sockets and file systems,
// from /proc and from system calls, without running other programs and without changing anything.
package hostinfo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userHZ is the unit of times in /proc/PID/stat: 100 per second towards user space on every
// architecture that Go and a JVM both run on (man 5 proc, sysconf(_SC_CLK_TCK)).
const userHZ = 100

// ErrGone says that the process asked for is not there any more: it has ended, or its number now
// belongs to another process.
var ErrGone = errors.New("process is gone")

// ProcessID names one process for good. A bare number is given again to another process after a
// while; number, start time and boot together are not.
type ProcessID struct {
	PID int `json:"pid"`
	// Start is the process's start in clock ticks (1/100 s) since boot, field 22 of /proc/PID/stat.
	Start uint64 `json:"start"`
	// Boot is the host's boot ID. Empty: not compared.
	Boot string `json:"boot,omitempty"`
}

// String is the process's number, as a message names it.
func (id ProcessID) String() string { return "pid " + strconv.Itoa(id.PID) }

// Process is one process as /proc shows it.
type Process struct {
	ProcessID
	Parent  int `json:"parent"`
	Session int `json:"session"`
	// UID is the effective user; User its name, or the number when it has none.
	UID  int    `json:"uid"`
	User string `json:"user"`
	// Started is Start as a time of day: good to 10 ms and moved by changes of the clock. Compare
	// ProcessIDs, not this.
	Started time.Time `json:"started"`
	Argv    []string  `json:"argv"`
	// Dir is the working directory and Exe the program; empty when this user may not read them.
	Dir string `json:"dir,omitempty"`
	Exe string `json:"exe,omitempty"`
}

// Processes returns all processes but zombies and kernel threads. Those that end meanwhile are left
// out.
func Processes() ([]Process, error) {
	boot, err := bootOf()
	if err != nil {
		return nil, err
	}
	pids, err := pids()
	if err != nil {
		return nil, err
	}
	users := map[int]string{}
	var all []Process
	for _, pid := range pids {
		p, err := readProcess(pid, boot, users)
		if err != nil || len(p.Argv) == 0 {
			continue // ended while being looked at, a zombie, or a kernel thread
		}
		all = append(all, p)
	}
	return all, nil
}

// ReadProcess returns one process; ErrGone when there is none with that number.
func ReadProcess(pid int) (Process, error) {
	boot, err := bootOf()
	if err != nil {
		return Process{}, err
	}
	return readProcess(pid, boot, map[int]string{})
}

// boot is what all processes of one boot share.
type boot struct {
	id string
	at time.Time
}

func bootOf() (boot, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return boot{}, fmt.Errorf("reading the boot ID: %w", err)
	}
	// The btime of /proc/stat has whole seconds only; two clocks give it to the microsecond.
	up, err := sinceBoot()
	if err != nil {
		return boot{}, fmt.Errorf("reading the time since boot: %w", err)
	}
	return boot{strings.TrimSpace(string(id)), time.Now().Add(-up)}, nil
}

func pids() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func readProcess(pid int, b boot, users map[int]string) (Process, error) {
	dir := procDir(pid)
	st, err := readStat(pid)
	if err != nil {
		return Process{}, err
	}
	p := Process{
		ProcessID: ProcessID{PID: pid, Start: st.start, Boot: b.id},
		Parent:    st.parent, Session: st.session,
		Started: b.at.Add(time.Duration(st.start) * time.Second / userHZ),
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return Process{}, gone(pid, err)
	}
	if cmdline = bytes.TrimSuffix(cmdline, []byte{0}); len(cmdline) > 0 {
		p.Argv = strings.Split(string(cmdline), "\x00")
	}
	// /proc/PID belongs to the effective user unless the process is not dumpable; then to root.
	// The status file tells the truth in both cases.
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return Process{}, gone(pid, err)
	}
	if p.UID, err = effectiveUID(status); err != nil {
		return Process{}, fmt.Errorf("pid %d: %w", pid, err)
	}
	name, known := users[p.UID]
	if !known {
		name = UserName(p.UID)
		users[p.UID] = name
	}
	p.User = name
	p.Dir, _ = os.Readlink(filepath.Join(dir, "cwd"))
	p.Exe, _ = os.Readlink(filepath.Join(dir, "exe"))
	return p, nil
}

// Environment returns a variable that the process was started with; false when it has none of that
// name, or this user may not see it.
func Environment(pid int, name string) (string, bool) {
	data, err := os.ReadFile(filepath.Join(procDir(pid), "environ"))
	if err != nil {
		return "", false
	}
	for _, e := range strings.Split(string(data), "\x00") {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// UserName returns the name of a user, or its number when the host knows no name.
func UserName(uid int) string {
	number := strconv.Itoa(uid)
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return number
}

// GroupName returns the name of a group, or its number when the host knows no name.
func GroupName(gid int) string {
	number := strconv.Itoa(gid)
	if g, err := user.LookupGroupId(number); err == nil {
		return g.Name
	}
	return number
}

func effectiveUID(status []byte) (int, error) {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			if f := bytes.Fields(rest); len(f) >= 2 {
				uid, err := strconv.ParseUint(string(f[1]), 10, 32)
				return int(uid), err
			}
		}
	}
	return 0, errors.New("no Uid line in its status")
}

type stat struct {
	state           byte
	parent, session int
	start           uint64
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(filepath.Join(procDir(pid), "stat"))
	if err != nil {
		return stat{}, gone(pid, err)
	}
	st, err := parseStat(data)
	if err != nil {
		return stat{}, fmt.Errorf("pid %d: %w", pid, err)
	}
	return st, nil
}

// parseStat reads /proc/PID/stat. Its second field is the program's name in parentheses, which may
// itself hold blanks and parentheses: the fields are counted from the last one.
func parseStat(data []byte) (stat, error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("stat has no program name: %q", data)
	}
	f := strings.Fields(string(data[end+1:])) // f[0] is field 3
	if len(f) < 20 {
		return stat{}, fmt.Errorf("stat has %d fields after the name, want at least 20", len(f))
	}
	if len(f[0]) != 1 || f[0][0] < 'A' || f[0][0] > 'z' {
		return stat{}, fmt.Errorf("stat, state: %q is no letter", f[0])
	}
	st := stat{state: f[0][0]}
	var err error
	if st.parent, err = strconv.Atoi(f[1]); err != nil {
		return stat{}, fmt.Errorf("stat, parent: %w", err)
	}
	if st.session, err = strconv.Atoi(f[3]); err != nil {
		return stat{}, fmt.Errorf("stat, session: %w", err)
	}
	if st.start, err = strconv.ParseUint(f[19], 10, 64); err != nil {
		return stat{}, fmt.Errorf("stat, start time: %w", err)
	}
	return st, nil
}

func procDir(pid int) string { return "/proc/" + strconv.Itoa(pid) }

// gone turns the two errors that an ended process gives into ErrGone.
func gone(pid int, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("pid %d: %w", pid, ErrGone)
	}
	return err
}

// Handle is a hold on one process: what is done through it is done to that process or not at all.
type Handle struct {
	id ProcessID
	// fd is a pidfd, or -1 on kernels before 5.3, where number and start time are compared before
	// each use; there a number taken over within microseconds would not be seen.
	fd int
}

// Open takes hold of exactly that process; ErrGone when it has ended. Close the handle after use.
func Open(id ProcessID) (*Handle, error) {
	if id.PID <= 1 || id.Start == 0 {
		return nil, fmt.Errorf("pid %d started at %d is no process to act on", id.PID, id.Start)
	}
	h := &Handle{id: id, fd: -1}
	fd, err := pidfdOpen(id.PID)
	switch {
	case err == nil:
		h.fd = fd
	case errors.Is(err, unix.ESRCH):
		return nil, fmt.Errorf("%v: %w", id, ErrGone)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL):
		// No pidfd: kernels before 5.3, seccomp filters that refuse what they do not know (EPERM),
		// and a number that is a thread's (EINVAL), which the comparison below finds out.
	default:
		return nil, fmt.Errorf("taking hold of %v: %w", id, err)
	}
	// Compared only after the pidfd is held: it now cannot come to mean another process.
	alive, err := h.alive()
	if err == nil && !alive {
		err = fmt.Errorf("%v: %w", id, ErrGone)
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// Close lets go of the process.
func (h *Handle) Close() error {
	if h.fd < 0 {
		return nil
	}
	fd := h.fd
	h.fd = -1
	return unix.Close(fd)
}

// Signal sends a signal to the process; ErrGone when it has ended.
func (h *Handle) Signal(sig unix.Signal) error {
	var err error
	if h.fd >= 0 {
		err = pidfdSignal(h.fd, sig)
	} else {
		alive, aliveErr := h.alive()
		if aliveErr != nil {
			return aliveErr
		}
		if !alive {
			return fmt.Errorf("%v: %w", h.id, ErrGone)
		}
		err = unix.Kill(h.id.PID, sig)
	}
	if err != nil {
		return fmt.Errorf("sending %s to %v: %w", unix.SignalName(sig), h.id, gone(h.id.PID, err))
	}
	return nil
}

// Wait returns nil once the process has ended with all its threads, so that its files, locks,
// memory maps and ports are released; or the context's error.
func (h *Handle) Wait(ctx context.Context) error {
	const poll = 20 * time.Millisecond
	for {
		if h.fd >= 0 {
			fds := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, int(poll.Milliseconds()))
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("waiting for %v: %w", h.id, err)
			}
			if n > 0 {
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		alive, err := h.alive()
		if err != nil || !alive {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

// Alive tells whether exactly that process is there and has not ended.
func Alive(id ProcessID) (bool, error) { return (&Handle{id: id, fd: -1}).alive() }

func (h *Handle) alive() (bool, error) {
	if h.id.Boot != "" {
		b, err := bootOf()
		if err != nil {
			return false, err
		}
		if b.id != h.id.Boot {
			return false, nil
		}
	}
	st, err := readStat(h.id.PID)
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if st.start != h.id.Start {
		return false, nil
	}
	if st.state == 'Z' || st.state == 'X' {
		// The first thread has ended. Others may still be flushing: the process is over when it is
		// the only one left.
		tasks, err := os.ReadDir(filepath.Join(procDir(h.id.PID), "task"))
		return err == nil && len(tasks) > 1, nil
	}
	return true, nil
}
