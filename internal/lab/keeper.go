package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// thisProgram names the running program, also when its file has been replaced or removed since.
func thisProgram() string {
	const self = "/proc/self/exe"
	if name, err := os.Executable(); err == nil {
		named, nameErr := os.Stat(name)
		running, err := os.Stat(self)
		if err == nil && nameErr == nil && os.SameFile(named, running) {
			return name
		}
	}
	return self
}

// keeperArgs are what the keeper's command line has after the program, before the lab's id and dir.
func keeperArgs() []string { return []string{"lab", "keep"} }

// keeperVariable is set for a keeper, so that a program which is none does not start labs.
const keeperVariable = "MQLIFT_LAB_KEEPER"

// KeeperMain makes this process the keeper of a lab if it was started as one, and then never
// returns. A test binary that calls Up calls it first thing in TestMain.
func KeeperMain() {
	if len(os.Args) == 5 && slices.Equal(os.Args[1:3], keeperArgs()) {
		if err := Keep(os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// Keep is the keeper: it waits until the lab with that id, which holds the other end of the pipe on
// file descriptor 3, is gone in whatever way, and ends every process that the lab has left.
func Keep(id, dir string) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	lab, ready := os.NewFile(3, "lab"), os.NewFile(4, "ready")
	if os.Getenv(keeperVariable) == "" {
		return errors.New("a lab starts its keeper itself: use mqlift lab up")
	}
	if _, err := ready.Write([]byte{'k'}); err != nil {
		return fmt.Errorf("telling the lab that the keeper is there: %w", err)
	}
	ready.Close()
	if _, err := io.Copy(io.Discard, lab); err != nil {
		return fmt.Errorf("waiting for the lab's end: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := end(ctx, id, 3*time.Second, nil); err != nil {
		return err
	}
	// Another lab may have the directory by now.
	if s, err := readState(dir); err == nil && s.ID == id {
		os.Remove(filepath.Join(dir, socketFile))
	}
	return nil
}

// keeper is the lab's side of it: a keeper that ends is replaced by another.
type keeper struct {
	family  *family
	id, dir string
	far     *os.File      // the keeper's end of the pipe
	near    *os.File      // closed when the lab ends, by itself or by the kernel
	done    chan struct{} // closed when no keeper runs and none will

	mu      sync.Mutex
	process *os.Process
	closed  bool
}

// startKeeper returns when the keeper is on guard.
func startKeeper(ctx context.Context, f *family, id, dir string) (*keeper, error) {
	fail := func(err error) error { return fmt.Errorf("starting the lab's keeper: %w", err) }
	if os.Getenv(keeperVariable) != "" {
		return nil, fail(errors.New("this process was started as one: its main has to call lab.KeeperMain first"))
	}
	// Pipes are close-on-exec: no process of the lab can hold the near end open.
	far, near, err := os.Pipe()
	if err != nil {
		return nil, fail(err)
	}
	ready, told, err := os.Pipe()
	if err != nil {
		return nil, fail(errors.Join(err, far.Close(), near.Close()))
	}
	defer ready.Close()
	k := &keeper{family: f, id: id, dir: dir, far: far, near: near, done: make(chan struct{})}
	cmd, err := k.start(told)
	told.Close()
	if err != nil {
		return nil, fail(errors.Join(err, far.Close(), near.Close()))
	}
	go k.watch(cmd)

	ready.SetReadDeadline(time.Now().Add(10 * time.Second))
	stop := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Now()) })
	defer stop()
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		cmd.Process.Kill()
		k.close(closing)
		if ctx.Err() != nil {
			return nil, fail(ctx.Err())
		}
		return nil, fail(errors.New("this program does not act as one: its main has to call lab.KeeperMain first"))
	}
	return k, nil
}

// start starts a keeper; nil when the lab has let go of it.
func (k *keeper) start(told *os.File) (*exec.Cmd, error) {
	cmd := exec.Command(thisProgram(), append(keeperArgs(), k.id, k.dir)...)
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), keeperVariable+"=1")
	cmd.ExtraFiles = []*os.File{k.far, told}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C in a terminal is for the lab
	if log, err := os.OpenFile(filepath.Join(k.dir, logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		defer log.Close()
		cmd.Stderr = log
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, nil
	}
	if err := k.family.start(cmd); err != nil {
		return nil, err
	}
	k.process = cmd.Process
	return cmd, nil
}

// watch replaces a keeper that ended while the lab lives.
func (k *keeper) watch(cmd *exec.Cmd) {
	defer close(k.done)
	defer k.far.Close()
	for pause := time.Duration(0); ; pause = min(pause+100*time.Millisecond, time.Second) {
		if cmd != nil {
			k.family.wait(cmd)
		}
		time.Sleep(pause) // at once the first time; a keeper that cannot stay is no busy loop
		k.mu.Lock()
		closed := k.closed
		k.mu.Unlock()
		if closed {
			return
		}
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			cmd = nil
			continue
		}
		if cmd, err = k.start(null); err != nil {
			cmd = nil
		}
		null.Close()
	}
}

// close lets the keeper go, which first ends what may be left of the lab, and waits for it.
func (k *keeper) close(ctx context.Context) error {
	k.mu.Lock()
	if !k.closed {
		k.closed = true
		k.near.Close()
	}
	k.mu.Unlock()
	select {
	case <-k.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the lab's keeper: %w", ctx.Err())
	}
}

func (k *keeper) pid() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.process.Pid
}
