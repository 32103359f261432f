package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mqlift/internal/hostinfo"
)

// poll is how often /proc is read while something is waited for: often enough not to be felt in an
// outage of seconds.
const poll = 25 * time.Millisecond

// StartRequest says how a broker is started.
type StartRequest struct {
	// Shell is the operator's line, run by sh. It may stay in the foreground or not.
	Shell string `json:"shell"`
	// Dir is where it is run, Env what is added to its environment.
	Dir string            `json:"dir,omitempty"`
	Env map[string]string `json:"env,omitempty"`
	// Login takes the environment of a login shell (the profile files) instead of a bare one.
	Login bool `json:"login,omitempty"`
	// User to run it as; empty for the agent's own. Another one needs the agent to be root.
	User string `json:"user,omitempty"`
	// Log is where the line's output is appended.
	Log string `json:"log"`
	// ExpectConf is the absolute path of the configuration file by which the new broker is known.
	ExpectConf string `json:"expectConf"`
	// Listen, if not 0, is a port: the start is over only when the new process listens on it.
	Listen int `json:"listen,omitempty"`
	// Logs are other files whose new lines are shown when the broker dies early.
	Logs []string `json:"logs,omitempty"`
	// Timeout is for all of it; 0 is one minute.
	Timeout time.Duration `json:"timeout,omitempty"`
	// HandOver is how long a line that ended well, with nothing left of it, is believed to have handed the
	// work to a service manager; 0 is 20 s. Without it a JVM that ends in its first milliseconds, over a
	// wrong option for instance, would be waited for until Timeout.
	HandOver time.Duration `json:"handOver,omitempty"`
}

// StartResult is a started broker.
type StartResult struct {
	Process RocketMQ      `json:"process"`
	Took    time.Duration `json:"took"`
}

// StartError says that a broker was started and did not come up. Whatever still runs was left alone.
type StartError struct {
	What string `json:"what"`
	// Died: nothing is left of it. Otherwise it was not seen in time, and may still come up.
	Died bool `json:"died"`
	// Process is the JVM, if one was seen.
	Process *RocketMQ `json:"process,omitempty"`
	// Tails are the last new lines of its logs.
	Tails []Tail `json:"tails,omitempty"`
}

func (e *StartError) Error() string {
	var b strings.Builder
	b.WriteString(e.What)
	for _, t := range e.Tails {
		if len(t.Lines) > 0 {
			fmt.Fprintf(&b, "\n%s:\n  %s", t.Path, strings.Join(t.Lines, "\n  "))
		}
	}
	return b.String()
}

// AlreadyRunningError says that a broker with the configuration file is running already.
type AlreadyRunningError struct {
	Process RocketMQ `json:"process"`
}

func (e *AlreadyRunningError) Error() string {
	return fmt.Sprintf("pid %d is running with %s already, since %s", e.Process.PID, e.Process.Conf,
		e.Process.Started.Format(time.RFC3339))
}

// StartBroker runs the operator's start line detached from this connection: in a session of its
// own, its input empty, its output appended to a log. It returns once the broker's JVM exists (with
// Listen: listens), told by its configuration file.
//
// Errors a caller may decide on: *StartError, *AlreadyRunningError. When the context ends, the
// broker keeps coming up.
func (a *Agent) StartBroker(ctx context.Context, r StartRequest) (StartResult, error) {
	return call[StartResult](ctx, a, "start", r, nil)
}

func startBroker(ctx context.Context, r StartRequest, _ *session) (StartResult, error) {
	switch {
	case strings.TrimSpace(r.Shell) == "":
		return StartResult{}, errors.New("no start line given")
	case !filepath.IsAbs(r.ExpectConf):
		return StartResult{}, fmt.Errorf("the configuration file %q is not an absolute path", r.ExpectConf)
	case !filepath.IsAbs(r.Log):
		return StartResult{}, fmt.Errorf("the log %q is not an absolute path", r.Log)
	}
	running, err := brokersWith(r.ExpectConf)
	if err != nil {
		return StartResult{}, err
	}
	if len(running) > 0 {
		return StartResult{}, &AlreadyRunningError{running[0]}
	}
	if r.Timeout <= 0 {
		r.Timeout = time.Minute
	}
	if r.HandOver <= 0 {
		r.HandOver = 20 * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Timeout, errTimeout)
	defer cancel()

	s := &start{request: r, began: time.Now(), logs: logEnds(append([]string{r.Log}, r.Logs...))}
	if err := s.launch(ctx); err != nil {
		return StartResult{}, err
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		done, err := s.look()
		if err != nil {
			return StartResult{}, err
		}
		if done {
			return StartResult{*s.found, time.Since(s.began)}, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if !errors.Is(context.Cause(ctx), errTimeout) {
				return StartResult{}, context.Cause(ctx)
			}
			what := fmt.Sprintf("no broker with %s was seen within %v", r.ExpectConf, r.Timeout)
			if s.found != nil {
				what = fmt.Sprintf("pid %d runs, but did not listen on port %d within %v", s.found.PID, r.Listen, r.Timeout)
			}
			return StartResult{}, s.failed(what, false)
		}
	}
}

var errTimeout = errors.New("not in time")

// start is one start that is being watched.
type start struct {
	request StartRequest
	began   time.Time
	logs    map[string]int64 // sizes before

	shell   int        // pid, also the number of its session
	exited  chan error // of the shell
	ended   bool
	nothing time.Time // since when nothing is left of a line that ended well
	exitErr error
	found   *RocketMQ
}

func (s *start) launch(ctx context.Context) error {
	env, err := environment(ctx, s.request.Env, s.request.Login)
	if err != nil {
		return err
	}
	attr := &syscall.SysProcAttr{Setsid: true}
	owner := Owner{UID: -1, GID: -1}
	if s.request.User != "" && s.request.User != hostinfo.UserName(os.Geteuid()) {
		var vars []string
		if attr.Credential, vars, err = credentialOf(s.request.User); err != nil {
			return err
		}
		env = append(env, vars...)
		owner.UID, owner.GID = int(attr.Credential.Uid), int(attr.Credential.Gid)
	}
	log, err := openLog(s.request.Log, owner)
	if err != nil {
		return err
	}
	defer log.Close()
	// Not exec.CommandContext: the broker is to outlive this agent.
	cmd := exec.Command("/bin/sh", "-c", s.request.Shell)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = s.request.Dir, env, attr
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running the start line in %s: %w", s.request.Dir, err)
	}
	s.shell, s.exited = cmd.Process.Pid, make(chan error, 1)
	go func() { s.exited <- cmd.Wait() }()
	return nil
}

// openLog opens for appending, and gives a file that it had to make to the broker's user.
func openLog(path string, owner Owner) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	}
	if err == nil && owner.UID >= 0 {
		if err = f.Chown(owner.UID, owner.GID); err != nil {
			f.Close()
		}
	}
	return f, err
}

func credentialOf(name string) (*syscall.Credential, []string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, nil, err
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, nil, fmt.Errorf("groups of %s: %w", name, err)
	}
	for _, id := range ids {
		g, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, nil, err
		}
		c.Groups = append(c.Groups, uint32(g))
	}
	return c, []string{"HOME=" + u.HomeDir, "USER=" + name, "LOGNAME=" + name}, nil
}

// look takes one look at how the start goes on.
func (s *start) look() (done bool, err error) {
	// The shell's end is asked for before the processes are listed: what it started is then listed
	// or has ended.
	if !s.ended {
		select {
		case s.exitErr = <-s.exited:
			s.ended = true
		default:
		}
	}
	if s.found != nil {
		alive, err := hostinfo.Alive(s.found.ProcessID)
		if err != nil {
			return false, err
		}
		if !alive {
			return false, s.failed(fmt.Sprintf("pid %d came up with %s and ended again", s.found.PID, s.request.ExpectConf), true)
		}
		return listens(s.found.PID, s.request.Listen)
	}
	processes, err := hostinfo.Processes()
	if err != nil {
		return false, err
	}
	for _, p := range rocketMQProcesses(processes) {
		if p.runs(s.request.ExpectConf) {
			p.Conf = s.request.ExpectConf
			s.found = &p
			if s.request.Listen == 0 {
				return true, nil
			}
			return listens(p.PID, s.request.Listen)
		}
	}
	left := slices.ContainsFunc(processes, func(p hostinfo.Process) bool { return p.Session == s.shell })
	if s.ended && s.exitErr != nil && !left {
		return false, s.failed(fmt.Sprintf("the start line ended (%v) and no broker with %s was seen", s.exitErr, s.request.ExpectConf), true)
	}
	// A line that ended well may have handed the work to a service manager: wait on for a while.
	switch {
	case !s.ended || left:
		s.nothing = time.Time{}
	case s.nothing.IsZero():
		s.nothing = time.Now()
	case time.Since(s.nothing) > s.request.HandOver:
		return false, s.failed(fmt.Sprintf("the start line ended, nothing is left of it, and no broker with %s came up", s.request.ExpectConf), true)
	}
	return false, nil
}

func listens(pid, port int) (bool, error) {
	if port == 0 {
		return true, nil
	}
	list, err := hostinfo.Listeners(port)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list, func(l hostinfo.Listener) bool { return l.PID == pid }), nil
}

func (s *start) failed(what string, died bool) error {
	e := &StartError{What: what, Died: died, Process: s.found}
	for _, path := range append([]string{s.request.Log}, s.request.Logs...) {
		if t, err := tailFile(TailRequest{Path: path, Lines: 30, Grep: NoFrames, From: s.logs[path]}); err == nil {
			e.Tails = append(e.Tails, t)
		}
	}
	return e
}

func logEnds(paths []string) map[string]int64 {
	ends := map[string]int64{}
	for _, path := range paths {
		if st, err := os.Stat(path); err == nil {
			ends[path] = st.Size()
		}
	}
	return ends
}

// StopRequest says which process is to end.
type StopRequest struct {
	Process hostinfo.ProcessID `json:"process"`
	// Shell, if not empty, is the operator's line that stops it; otherwise it gets SIGTERM.
	Shell string            `json:"shell,omitempty"`
	Dir   string            `json:"dir,omitempty"`
	Env   map[string]string `json:"env,omitempty"`
	Login bool              `json:"login,omitempty"`
	// Abort is the path of the store's abort file, which a clean stop removes.
	Abort string `json:"abort,omitempty"`
	// Timeout is how long it may take; 0 is two minutes.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// StopResult is how a process ended.
type StopResult struct {
	Took time.Duration `json:"took"`
	// AlreadyGone: it had ended before; nothing was done.
	AlreadyGone bool `json:"alreadyGone"`
	// Unclean: the abort file is still there.
	Unclean bool `json:"unclean"`
	// Successor is a broker with the same configuration file that runs now: something, a service
	// manager for instance, has started it again.
	Successor *RocketMQ `json:"successor,omitempty"`
}

// StillRunningError says that a process did not end in time. It was left alone since.
type StillRunningError struct {
	Process hostinfo.ProcessID `json:"process"`
	Waited  time.Duration      `json:"waited"`
	// StopLine is the end of what the stop line printed and how it ended, if there was one.
	StopLine string `json:"stopLine,omitempty"`
}

func (e *StillRunningError) Error() string {
	text := fmt.Sprintf("%v still runs after %v", e.Process, e.Waited.Round(time.Millisecond))
	if e.StopLine != "" {
		text += "; the stop line: " + e.StopLine
	}
	return text
}

// StopBroker ends exactly that process with SIGTERM, or with the operator's line, and waits until it
// is really gone: its files flushed and closed, its ports free. It never uses SIGKILL.
//
// Errors a caller may decide on: *StillRunningError.
func (a *Agent) StopBroker(ctx context.Context, r StopRequest) (StopResult, error) {
	return call[StopResult](ctx, a, "stop", r, nil)
}

func stopBroker(ctx context.Context, r StopRequest, _ *session) (StopResult, error) {
	if r.Timeout <= 0 {
		r.Timeout = 2 * time.Minute
	}
	began := time.Now()
	var result StopResult
	conf := ""
	if p, err := hostinfo.ReadProcess(r.Process.PID); err == nil && p.Start == r.Process.Start {
		if found := rocketMQProcesses([]hostinfo.Process{p}); len(found) == 1 {
			conf = found[0].Conf
		}
	}
	h, err := hostinfo.Open(r.Process)
	switch {
	case errors.Is(err, hostinfo.ErrGone):
		result.AlreadyGone = true
	case err != nil:
		return result, err
	default:
		defer h.Close()
		if err := endAndWait(ctx, h, r, began); err != nil {
			return result, err
		}
	}
	result.Took = time.Since(began)
	if r.Abort != "" {
		_, err := os.Lstat(r.Abort)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return result, err
		}
		result.Unclean = err == nil
	}
	if conf != "" {
		again, err := brokersWith(conf)
		if err != nil {
			return result, err
		}
		if len(again) > 0 {
			result.Successor = &again[0]
		}
	}
	return result, nil
}

func endAndWait(ctx context.Context, h *hostinfo.Handle, r StopRequest, began time.Time) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.Timeout, errTimeout)
	defer cancel()
	said := ""
	if r.Shell == "" {
		if err := h.Signal(unix.SIGTERM); err != nil && !errors.Is(err, hostinfo.ErrGone) {
			return err
		}
	} else {
		var err error
		if said, err = runLine(ctx, r); err != nil && ctx.Err() == nil {
			// A line that failed has perhaps done nothing: no use in waiting for long.
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if h.Wait(short) == nil {
				return nil
			}
			return &StillRunningError{r.Process, time.Since(began), said}
		}
	}
	err := h.Wait(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errTimeout) {
		return &StillRunningError{r.Process, time.Since(began), said}
	}
	return err
}

// runLine runs the stop line and returns how it ended and the end of what it printed. It is run in
// a session of its own, so that it is carried through even when this agent is ended.
func runLine(ctx context.Context, r StopRequest) (said string, err error) {
	env, err := environment(ctx, r.Env, r.Login)
	if err != nil {
		return err.Error(), err
	}
	out, err := os.CreateTemp("", "mqlift-stop-*")
	if err != nil {
		return err.Error(), err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.Command("/bin/sh", "-c", r.Shell)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = r.Dir, env, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err.Error(), err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = errors.New("not finished")
	}
	said = "ended well"
	if err != nil {
		said = err.Error()
	}
	if t, tailErr := tailFile(TailRequest{Path: out.Name(), Lines: 10}); tailErr == nil && len(t.Lines) > 0 {
		said += ": " + strings.Join(t.Lines, " | ")
	}
	return said, err
}

// KillRequest says which process is to be killed.
type KillRequest struct {
	Process hostinfo.ProcessID `json:"process"`
	Timeout time.Duration      `json:"timeout,omitempty"` // until it is gone; 0 is half a minute
}

// KillResult is when, by the host's clock, SIGKILL was sent, and how long the end took.
type KillResult struct {
	At   time.Time     `json:"at"`
	Took time.Duration `json:"took"`
}

// KillBroker sends SIGKILL to exactly that process and waits until it is gone. It is for failover
// tests. hostinfo.ErrGone when the process had ended before.
func (a *Agent) KillBroker(ctx context.Context, r KillRequest) (KillResult, error) {
	return call[KillResult](ctx, a, "kill", r, nil)
}

func killBroker(ctx context.Context, r KillRequest, _ *session) (KillResult, error) {
	if r.Timeout <= 0 {
		r.Timeout = 30 * time.Second
	}
	h, err := hostinfo.Open(r.Process)
	if err != nil {
		return KillResult{}, err
	}
	defer h.Close()
	result := KillResult{At: time.Now()}
	if err := h.Signal(unix.SIGKILL); err != nil {
		return result, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Timeout, errTimeout)
	defer cancel()
	err = h.Wait(ctx)
	result.Took = time.Since(result.At)
	if err != nil && errors.Is(context.Cause(ctx), errTimeout) {
		err = &StillRunningError{Process: r.Process, Waited: result.Took}
	}
	return result, err
}

// WaitPortRequest says what to wait for.
type WaitPortRequest struct {
	Address string        `json:"address"`           // host:port, as seen from the host
	Timeout time.Duration `json:"timeout,omitempty"` // 0 is one minute
	// Process, if its PID is not 0, is expected to be the one that opens the port: its end ends the
	// waiting with hostinfo.ErrGone.
	Process hostinfo.ProcessID `json:"process,omitzero"`
}

// WaitPort waits until a TCP connection to the address succeeds and returns how long that took.
func (a *Agent) WaitPort(ctx context.Context, r WaitPortRequest) (time.Duration, error) {
	return call[time.Duration](ctx, a, "wait-port", r, nil)
}

func waitPort(ctx context.Context, r WaitPortRequest, _ *session) (time.Duration, error) {
	if r.Timeout <= 0 {
		r.Timeout = time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Timeout, errTimeout)
	defer cancel()
	began := time.Now()
	dialer := net.Dialer{Timeout: time.Second}
	var last error
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		conn, err := dialer.DialContext(ctx, "tcp", r.Address)
		if err == nil {
			conn.Close()
			return time.Since(began), nil
		}
		var timeout net.Error
		if last == nil || !errors.As(err, &timeout) || !timeout.Timeout() {
			last = err // the last try's being cut short says less than what came before
		}
		if r.Process.PID != 0 {
			alive, aliveErr := hostinfo.Alive(r.Process)
			if aliveErr != nil {
				return 0, aliveErr
			}
			if !alive {
				return 0, fmt.Errorf("%v, which was to listen on %s: %w", r.Process, r.Address, hostinfo.ErrGone)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if cause := context.Cause(ctx); cause != errTimeout {
				return 0, cause
			}
			return 0, fmt.Errorf("%s did not answer within %v: %w", r.Address, time.Since(began).Round(time.Millisecond), last)
		}
	}
}
