package lab

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// family makes this process the parent of what its hosts detach, and buries the dead among them.
//
// On a real host init does that. Here the first process may be no init at all (containers), and then
// a stopped broker would stay a zombie: `kill -0` finds it for ever and nobody sees that it stopped.
type family struct {
	id string

	// sessions are those that were begun here and have processes still, by the pid of their first process.
	// Guarded by waited.
	sessions map[int]bool
}

// waited are the children that os/exec waits for, of all families in this process; only it may.
var waited = struct {
	sync.Mutex
	pids map[int]bool
}{pids: map[int]bool{}}

// newFamily makes the process a subreaper, which stays on, and buries orphans until ctx ends.
func newFamily(ctx context.Context, id string) *family {
	f := &family{id: id, sessions: map[int]bool{}}
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		defer signal.Stop(died)
		// The tick finds adopted children while they live: those that left their session are known
		// by nothing else once they are dead.
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		adopted := map[Process]time.Time{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-died:
			case <-tick.C:
			}
			adopted = f.bury(adopted)
		}
	}()
	return f
}

// start starts a command that os/exec waits for: the caller must call Wait through f.wait.
func (f *family) start(cmd *exec.Cmd) error {
	// Held over both: a child that ends at once must not be taken for an orphan.
	waited.Lock()
	defer waited.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	waited.pids[cmd.Process.Pid] = true
	if cmd.SysProcAttr != nil && cmd.SysProcAttr.Setsid {
		f.sessions[cmd.Process.Pid] = true
	}
	return nil
}

// wait is cmd.Wait for a command that start has started.
func (f *family) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	waited.Lock()
	delete(waited.pids, cmd.Process.Pid)
	waited.Unlock()
	return err
}

// grace is how long a dead child may be left to whoever else in this process started it, which on a
// loaded machine takes seconds to wait for it (seen), and would find nothing.
const grace = 10 * time.Second

// bury waits for adopted children that are dead. adopted, and what it returns for the next time, are
// those seen alive (with a zero time), and the dead of unknown origin with the time they were first seen:
// an orphan may leave its session and end between two looks.
func (f *family) bury(adopted map[Process]time.Time) map[Process]time.Time {
	waited.Lock()
	defer waited.Unlock()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return adopted
	}
	next := map[Process]time.Time{}
	alive := map[int]bool{} // sessions
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, ok := readStat(pid)
		if !ok {
			continue
		}
		alive[stat.session] = true
		if waited.pids[pid] || stat.parent != os.Getpid() {
			continue
		}
		child := Process{PID: pid, started: stat.started}
		if stat.state != 'Z' {
			if _, ours := inspect(pid, f.id); ours {
				next[child] = time.Time{}
			}
			continue
		}
		switch since, known := adopted[child]; {
		case f.sessions[stat.session], known && time.Since(since) > grace:
			unix.Wait4(pid, nil, unix.WNOHANG, nil)
		case known:
			next[child] = since
		default:
			next[child] = time.Now()
		}
	}
	// Its number may be given to a process that is none of this family's.
	maps.DeleteFunc(f.sessions, func(session int, _ bool) bool { return !alive[session] })
	return next
}
