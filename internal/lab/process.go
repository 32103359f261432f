package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Every process of a lab carries these in its environment, and whatever it starts inherits them.
const (
	markerVariable = "MQLIFT_LAB"      // the lab's id
	hostVariable   = "MQLIFT_LAB_HOST" // the name of the host it runs on
)

// Process is a live process of a lab.
type Process struct {
	PID  int    `json:"pid"`
	Host string `json:"host"`
	// Kind is "broker" or "name server", and otherwise the name of the program.
	Kind string `json:"kind"`
	// InstallDir is the installation that a broker or name server runs from.
	InstallDir string `json:"installDir,omitempty"`

	started uint64 // in clock ticks since boot: with the pid it names a process for good
}

// processes finds the live processes that carry a lab's marker. Processes of other users cannot be
// read and are passed over.
func processes(id string) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("looking for processes: %w", err)
	}
	var found []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := inspect(pid, id); ok {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b Process) int { return a.PID - b.PID })
	return found, nil
}

// inspect reads one process; false when it is gone, a zombie, unreadable or not of that lab.
func inspect(pid int, id string) (Process, bool) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	environ, err := os.ReadFile(dir + "environ")
	if err != nil {
		return Process{}, false
	}
	p := Process{PID: pid}
	ours := false
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		name, value, _ := strings.Cut(string(entry), "=")
		switch name {
		case markerVariable:
			ours = value == id
		case hostVariable:
			p.Host = value
		}
	}
	if !ours {
		return Process{}, false
	}
	stat, ok := readStat(pid)
	if !ok || stat.state == 'Z' || stat.state == 'X' {
		return Process{}, false
	}
	p.started, p.Kind = stat.started, stat.name
	cmdline, _ := os.ReadFile(dir + "cmdline")
	args := strings.Split(string(cmdline), "\x00")
	for _, arg := range args {
		if home, ok := strings.CutPrefix(arg, "-Drocketmq.home.dir="); ok {
			p.InstallDir = home
		}
	}
	if p.InstallDir != "" { // java itself, not the shells around it
		switch {
		case slices.Contains(args, "org.apache.rocketmq.broker.BrokerStartup"):
			p.Kind = kindBroker
		case slices.Contains(args, "org.apache.rocketmq.namesrv.NamesrvStartup"):
			p.Kind = kindNameServer
		}
	}
	return p, true
}

const (
	kindBroker     = "broker"
	kindNameServer = "name server"
)

// procStat is what of /proc/PID/stat is needed here (proc(5)).
type procStat struct {
	name    string
	state   byte
	parent  int
	session int
	started uint64
}

func readStat(pid int) (procStat, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, false
	}
	// The name is in parentheses and may hold anything, parentheses included.
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return procStat{}, false
	}
	s := procStat{name: string(data[open+1 : end])}
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) < 20 {
		return procStat{}, false
	}
	s.state = fields[0][0]
	s.parent, _ = strconv.Atoi(fields[1])
	s.session, _ = strconv.Atoi(fields[3])
	s.started, _ = strconv.ParseUint(fields[19], 10, 64)
	return s, true
}

// signal sends a signal to that very process: through a pidfd that was checked after it was opened,
// so that a pid which was used again is never hit. A process that is gone is no error.
func (p Process) signal(signal unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err == nil {
		defer unix.Close(fd)
		if stat, ok := readStat(p.PID); !ok || stat.started != p.started {
			return nil
		}
		err = unix.PidfdSendSignal(fd, signal, nil, 0)
	} else if errors.Is(err, unix.ENOSYS) { // before Linux 5.3
		if stat, ok := readStat(p.PID); !ok || stat.started != p.started {
			return nil
		}
		err = unix.Kill(p.PID, signal)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signalling process %d: %w", p.PID, err)
	}
	return nil
}

// end signals every process of a lab that is chosen, SIGTERM first and SIGKILL after the grace, until
// none is left; with choose nil, all. It gives up when ctx ends.
func end(ctx context.Context, id string, grace time.Duration, choose func(Process) bool) error {
	kill := time.Now().Add(grace)
	told := map[Process]bool{}
	empty := 0
	for {
		found, err := processes(id)
		if err != nil {
			return err
		}
		if choose != nil {
			found = slices.DeleteFunc(found, func(p Process) bool { return !choose(p) })
		}
		// Twice: a process between fork and exec still has its parent's environment.
		if empty++; len(found) > 0 {
			empty = 0
		} else if empty == 2 {
			return nil
		}
		var failed []error
		for _, p := range found {
			p.Kind = "" // changes at exec
			if time.Now().After(kill) {
				failed = append(failed, p.signal(unix.SIGKILL))
			} else if !told[p] {
				told[p] = true
				failed = append(failed, p.signal(unix.SIGTERM))
			}
		}
		if err := errors.Join(failed...); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if len(found) == 0 {
				return nil
			}
			return fmt.Errorf("%d processes of the lab are left, the first is %d: %w", len(found), found[0].PID, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
