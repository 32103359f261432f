package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNone says that there is no lab in the directory.
var ErrNone = errors.New("there is no lab")

// Serve runs a lab in this process until ctx ends or somebody asks it to end with Down. ready is
// called when everything answers.
func Serve(ctx context.Context, o Options, say func(string), ready func(Status) error) error {
	l, err := Up(ctx, o, say)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var (
		once  sync.Once
		ended = make(chan error, 1)
	)
	down := func(ctx context.Context, keepFiles bool, say func(string)) error {
		err := errors.New("the lab is being ended already")
		once.Do(func() {
			err = l.Down(ctx, keepFiles, say)
			ended <- err
		})
		return err
	}
	control := make(chan error, 1)
	go func() { control <- l.serveControl(serving, down) }()

	status, err := l.Status(ctx)
	if err == nil {
		err = ready(status)
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-ended:
			stop()
			return errors.Join(err, <-control)
		case err = <-control:
		}
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	once.Do(func() { ended <- l.Down(ending, false, say) })
	return errors.Join(err, <-ended)
}

// What ends the lines from a lab in the background: no line of progress begins like that. The error
// is quoted, being several lines at times; what its program prints after it is not read.
const (
	readyLine = "\x00ready"
	errorLine = "\x00error "
)

// serveArgs are what the command line of a lab in the background has after the program.
func serveArgs() []string { return []string{"lab", "serve"} }

// Start starts a lab in a process of its own, which runs `mqlift lab serve`, and returns when
// everything answers. When ctx ends before, the lab is ended.
func Start(ctx context.Context, o Options, say func(string)) (Status, error) {
	if err := o.complete(); err != nil {
		return Status{}, err
	}
	args := append(serveArgs(), "--dir", o.Dir, "--release", o.Release, "--cache", o.Cache,
		"--log-file-size", strconv.FormatInt(o.LogFileSize, 10), "--base-port", strconv.Itoa(o.BasePort))
	cmd := exec.Command(thisProgram(), args...) // no CommandContext: the lab outlives ctx
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Status{}, fmt.Errorf("starting the lab: %w", err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return Status{}, fmt.Errorf("starting the lab: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) }) // it cleans up itself
	defer stop()
	up := false
	var failed error
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		switch quoted, isError := strings.CutPrefix(line, errorLine); {
		case line == readyLine:
			up = true
		case isError:
			text, err := strconv.Unquote(quoted)
			if err != nil {
				text = quoted
			}
			failed = errors.New(text)
		case failed == nil:
			say(line)
		}
	}
	if up { // it let go of the pipe and lives on
		cmd.Process.Release()
		return Query(ctx, o.Dir)
	}
	err = cmd.Wait()
	switch {
	case failed != nil:
		return Status{}, failed
	case ctx.Err() != nil:
		return Status{}, fmt.Errorf("starting the lab: %w", ctx.Err())
	}
	return Status{}, fmt.Errorf("starting the lab: it ended: %w", err)
}

// ServeBackground is the body of `mqlift lab serve`: Serve for Start, which reads its output. Without
// a reader it ends, for nobody would know of the lab.
func ServeBackground(ctx context.Context, o Options) error {
	err := Serve(ctx, o, func(line string) { fmt.Println(line) }, func(s Status) error {
		log, err := os.OpenFile(filepath.Join(s.Dir, logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("opening the lab's log: %w", err)
		}
		defer log.Close()
		if _, err := fmt.Println(readyLine); err != nil {
			return err
		}
		for _, fd := range []int{1, 2} {
			if err := unix.Dup3(int(log.Fd()), fd, 0); err != nil {
				return fmt.Errorf("switching to the lab's log: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		fmt.Println(errorLine + strconv.Quote(err.Error()))
	}
	return err
}

// Query looks at the lab in a directory, dead or alive; ErrNone when there is none.
func Query(ctx context.Context, dir string) (Status, error) {
	s, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Status{}, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return Status{}, err
	}
	response, err := ask(ctx, dir, http.MethodGet, "/status", nil)
	if notServing(err) {
		return s.status(dir)
	}
	if err != nil {
		return Status{}, err
	}
	defer response.Body.Close()
	var status Status
	if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
		return status, fmt.Errorf("reading the lab's status: %w", err)
	}
	return status, nil
}

// notServing tells that nobody listens on the lab's socket: the lab is dead, or just starting.
func notServing(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

// Down ends the lab in a directory, or what is left of it, and returns when nothing runs any more.
// Without keepFiles its files go. Where there is no lab, nothing happens and the error is nil.
func Down(ctx context.Context, dir string, keepFiles bool, say func(string)) error {
	form := url.Values{}
	if keepFiles {
		form.Set("keep", "yes")
	}
	limit := time.Now().Add(30 * time.Second)
	for said := false; ; said = true {
		s, err := readState(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		err = askStream(ctx, dir, "/down", form, say)
		if err == nil {
			return awaitExit(ctx, s.PID)
		}
		if !notServing(err) {
			return err
		}
		unlock, err := lock(filepath.Join(dir, lockFile))
		if err == nil {
			defer unlock()
			return clear(ctx, dir, s, keepFiles, say)
		}
		if !errors.Is(err, errLocked) {
			return fmt.Errorf("locking the lab's directory: %w", err)
		}
		if time.Now().After(limit) {
			return fmt.Errorf("process %d holds the lab in %s and does not listen: it runs inside another program, or hangs; end that process, and its lab ends with it", s.PID, dir)
		}
		if !said {
			say(fmt.Sprintf("waiting for the lab, which is starting or ending (process %d)", s.PID))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// clear ends what a dead lab has left.
func clear(ctx context.Context, dir string, s state, keepFiles bool, say func(string)) error {
	found, err := processes(s.ID)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		say(fmt.Sprintf("the lab's process is gone; ending the %d processes that it left", len(found)))
	}
	if err := end(ctx, s.ID, 10*time.Second, nil); err != nil {
		return err
	}
	if keepFiles {
		s.Kept = true
		return s.write(dir)
	}
	return removeFiles(dir)
}

// awaitExit waits until a process is gone, or a zombie that its parent has not looked at.
func awaitExit(ctx context.Context, pid int) error {
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); {
		if stat, ok := readStat(pid); !ok || stat.state == 'Z' {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("the lab's process %d does not end", pid)
}

// InjectFault does what Lab.Fault does to the lab that runs in a directory.
func InjectFault(ctx context.Context, dir, host string, fault Fault) error {
	response, err := ask(ctx, dir, http.MethodPost, "/fault", url.Values{"host": {host}, "fault": {string(fault)}})
	if notServing(err) {
		return fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// InstallRelease does what Lab.Install does to the lab that runs in a directory; the last line that it
// says is the new installation's directory.
func InstallRelease(ctx context.Context, dir, host, release string, say func(string)) error {
	err := askStream(ctx, dir, "/install", url.Values{"host": {host}, "release": {release}}, say)
	if notServing(err) {
		return fmt.Errorf("%s: %w", dir, ErrNone)
	}
	return err
}
