// Package agent is what mqlift does on a broker host itself: it reports facts, starts and stops
// brokers, walks commit logs at disk speed, and moves data. The agent is mqlift itself, the running binary
// or its build for the host's platform, pushed to the host for the length of a connection; its hidden
// command answers one request with JSON. The methods of Agent are the bastion's side of the same.
package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mqlift/internal/diag"
	"mqlift/internal/remote"
)

// Host is a host to run commands on; *remote.Host is one.
type Host interface {
	Name() string
	Run(context.Context, remote.Cmd) (remote.Result, error)
	// Lose ends the connection for that reason, as if it had been lost.
	Lose(cause error)
}

// Agent is the mqlift binary in place on a host. It is safe for concurrent use.
type Agent struct {
	host   Host
	dir    string
	binary string
	guard  *guard
}

// NoExecError says that nothing may be executed in the place that the agent was to go to.
type NoExecError struct {
	Host string
	Dir  string
}

// Finding is the error for check. Check "host.noexec".
func (e *NoExecError) Finding() diag.Finding {
	return diag.Finding{Check: "host.noexec", Severity: diag.Fail, Host: e.Host, Where: e.Dir,
		What: "no program can be executed here (mounted noexec?), and the helper program has to be",
		Do:   "mount it without noexec, or set TMPDIR for this user's SSH sessions to a folder where it can (SetEnv in sshd_config; with sudo also env_keep)"}
}

func (e *NoExecError) Error() string { return e.Finding().String() }

type pushOptions struct {
	builds    *Builds
	parent    string
	inPlaceOf *Agent
}

// PushOption changes how Push works.
type PushOption func(*pushOptions)

// From takes the program from there; without it, from builds of its own.
func From(b *Builds) PushOption { return func(o *pushOptions) { o.builds = b } }

// WithParent makes the agent's directory inside that one instead of ${TMPDIR:-/tmp}. It must exist
// and allow execution.
func WithParent(dir string) PushOption { return func(o *pushOptions) { o.parent = dir } }

// InPlaceOf removes the directory of an agent whose connection was lost. The host may not have noticed
// yet; what still works there ends within seconds.
func InPlaceOf(old *Agent) PushOption { return func(o *pushOptions) { o.inPlaceOf = old } }

// Push puts mqlift, as it is built for the host, into a fresh private directory of the host. The directory is
// gone after Close, and also when the connection or this process ends in any other way: a guard on
// the host removes it as soon as its input ends, and after five minutes in which nothing came in (a
// cable that was pulled ends nothing). The context bounds the pushing only.
//
// Errors a caller may decide on: *PlatformError, *NoExecError.
func Push(ctx context.Context, host Host, options ...PushOption) (*Agent, error) {
	o := pushOptions{builds: &Builds{}}
	for _, option := range options {
		option(&o)
	}
	a, err := push(ctx, host, o)
	if err != nil {
		return nil, fmt.Errorf("putting the agent in place: %w", err)
	}
	return a, nil
}

// Absent is the agent of a host that is not connected to: every request fails as the host's own do.
func Absent(host Host) *Agent {
	_, input := io.Pipe()
	ended := make(chan struct{})
	close(ended)
	return &Agent{host: host, binary: "mqlift", guard: &guard{input: input, ended: ended}}
}

func push(ctx context.Context, host Host, o pushOptions) (a *Agent, err error) {
	platform, hasGzip, err := uname(ctx, host)
	if err != nil {
		return nil, err
	}
	build, err := o.builds.find(platform)
	var none *PlatformError
	if errors.As(err, &none) {
		here := *none
		here.Host = host.Name()
		err = &here
	}
	if err != nil {
		return nil, err
	}
	if o.inPlaceOf != nil && o.inPlaceOf.dir != "" {
		_, err := host.Run(ctx, remote.Cmd{Argv: []string{"sh", "-c", removeScript, "sh", o.inPlaceOf.dir}})
		var exit *remote.ExitError // what is left there does no harm
		if err != nil && !errors.As(err, &exit) {
			return nil, err
		}
	}
	guard, err := setGuard(ctx, host, o.parent)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, guard.release())
		}
	}()
	if !guard.canExec {
		return nil, &NoExecError{Host: host.Name(), Dir: guard.parent()}
	}
	a = &Agent{host: host, dir: guard.dir, binary: guard.dir + "/mqlift", guard: guard}

	unpack := "cat"
	if hasGzip {
		unpack = "gzip -dc"
	}
	body, err := build.body(hasGzip)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	_, err = host.Run(ctx, remote.Cmd{
		Argv:  []string{"sh", "-c", unpack + ` >"$1" && chmod 700 "$1"`, "sh", a.binary},
		Stdin: body,
	})
	if err != nil {
		return nil, err
	}
	hello, err := call[Hello](ctx, a, "hello", struct{}{}, nil)
	if err != nil {
		return nil, err
	}
	if hello.SHA256 != build.sum {
		return nil, fmt.Errorf("%s: the pushed binary has SHA-256 %s instead of %s: it was damaged on the way", host.Name(), hello.SHA256, build.sum)
	}
	return a, nil
}

// removeScript removes another agent's directory and waits until nothing works there any more: for leaveWait,
// and a moment before and after.
const removeScript = `rm -rf -- "$1"
i=0
while [ "$i" -lt 80 ] && ls -l /proc/[0-9]*/exe 2>/dev/null | grep -qF -- "$1/"; do
  sleep 0.1
  i=$((i + 1))
done
`

// uname asks for the host's platform, and whether it has gzip.
func uname(ctx context.Context, host Host) (is string, hasGzip bool, err error) {
	r, err := host.Run(ctx, remote.Cmd{Argv: []string{"sh", "-c", "uname -s; uname -m; command -v gzip || :"}})
	if err != nil {
		return "", false, err
	}
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	if len(lines) < 2 {
		return "", false, fmt.Errorf("%s: uname printed %q", host.Name(), r.Stdout)
	}
	return platform(strings.TrimSpace(lines[0]), strings.TrimSpace(lines[1])), len(lines) > 2, nil
}

// platform puts what uname says into Go's words.
func platform(system, machine string) string {
	switch machine {
	case "x86_64", "amd64":
		machine = "amd64"
	case "aarch64", "arm64":
		machine = "arm64"
	case "armv6l", "armv7l":
		machine = "arm"
	case "loongarch64":
		machine = "loong64"
	case "i386", "i486", "i586", "i686":
		machine = "386"
	}
	return strings.ToLower(system) + "/" + machine
}

// Host returns the host's name.
func (a *Agent) Host() string { return a.host.Name() }

// Dir is the agent's directory on the host.
func (a *Agent) Dir() string { return a.dir }

// Close removes the agent from the host and waits until that is done. When the connection is lost
// already, it has been removed there, or will be when the host notices.
func (a *Agent) Close() error {
	err := a.guard.release()
	var lost *remote.TransientError
	if err != nil && !errors.As(err, &lost) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("%s: removing the agent from %s: %w", a.Host(), a.dir, err)
	}
	return nil
}

// guard is a command held open on the host that owns the agent's directory: it makes it, and
// removes it when its input ends, which also happens when this process is killed, or when it has heard
// nothing for long. It does not listen to hang-ups, so that a closing session cannot end it before its work.
type guard struct {
	dir     string
	canExec bool

	input    *io.PipeWriter
	released atomic.Bool // the guard is told to end
	ended    chan struct{}
	err      error // of the command, once ended is closed
}

const (
	// pulse is how often a guard is told that somebody is there.
	pulse = 5 * time.Second
	// A guard that was told nothing for guardSeconds sends a byte: where the network took the connection away
	// and is back, only what is sent finds that out (sshd of OpenSSH asks by itself only with
	// ClientAliveInterval, off by default). After guardTimes of that it ends. Until then an mqlift that is
	// stopped by Ctrl-Z can go on.
	guardSeconds, guardTimes = "10", "30"
)

// $1 is the directory to make it in, empty for the host's own; $2 and $3 are guardSeconds and guardTimes. A
// script that exits with 7 tells whether files in it can be executed. A shell's read has no time limit
// everywhere; on hosts without timeout only the end of the input counts.
const guardScript = `umask 077
trap '' HUP INT TERM PIPE
parent=${1:-${TMPDIR:-/tmp}}
d=$(mktemp -d "$parent/mqlift.XXXXXXXXXX") || exit 1
printf '#!/bin/sh\nexit 7\n' >"$d/try" && chmod 700 "$d/try"
"$d/try" 2>/dev/null
printf 'guard %s %s\n' "$?" "$d"
if timeout -s KILL "$2" true; then
  silent=0
  while [ "$silent" -lt "$3" ]; do
    if heard=$(timeout -s KILL "$2" head -n 1); then
      [ -n "$heard" ] || break
      silent=0
    elif [ "$?" -ge 124 ]; then # 124, or 137 for KILL: the time was over
      silent=$((silent + 1))
      echo
    else
      cat >/dev/null
      break
    fi
  done
else
  cat >/dev/null
fi 2>/dev/null
rm -rf -- "$d"
`

func setGuard(ctx context.Context, host Host, parent string) (*guard, error) {
	stdin, input := io.Pipe()
	g := &guard{input: input, ended: make(chan struct{})}
	ready := make(chan string, 1)
	// The guard outlives the context of the push: ending it by force would leave the directory.
	held, drop := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(g.ended)
		defer drop()
		_, g.err = host.Run(held, remote.Cmd{
			Argv: []string{"sh", "-c", guardScript, "sh", parent, guardSeconds, guardTimes}, Stdin: stdin,
			Stdout: &firstLine{prefix: "guard ", found: ready},
		})
		stdin.CloseWithError(io.ErrClosedPipe)
	}()
	select {
	case line := <-ready:
		status, dir, ok := strings.Cut(line, " ")
		if !ok || !strings.HasPrefix(dir, "/") {
			input.Close()
			return nil, fmt.Errorf("%s: the guard printed %q", host.Name(), line)
		}
		g.dir, g.canExec = dir, status == "7"
		go g.keep(host)
		return g, nil
	case <-g.ended:
		var exit *remote.ExitError // whose text would show the whole script
		if errors.As(g.err, &exit) {
			return nil, fmt.Errorf("%s: no directory could be made for it: %s", host.Name(), strings.TrimSpace(exit.Stderr))
		}
		return nil, fmt.Errorf("making a directory for it: %w", cmp.Or(g.err, errNoGuard))
	case <-ctx.Done():
		input.Close()
		go func() { // a host that does not answer is not waited for
			select {
			case <-g.ended:
			case <-time.After(removeWait):
				drop()
			}
		}()
		return nil, ctx.Err()
	}
}

// keep tells the guard that somebody is there, until it ends. When it does so by itself, the agent is gone:
// to those who use it, that is a lost connection, after which another can be put in place.
func (g *guard) keep(host Host) {
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			io.WriteString(g.input, "here\n") // that it cannot be told means that it ends, seen below
		case <-g.ended:
			if g.released.Load() {
				return
			}
			cause := cmp.Or(g.err, errUnheard)
			var exit *remote.ExitError // whose text would show the whole script
			if errors.As(cause, &exit) {
				cause = fmt.Errorf("the agent's guard there ended with status %d", exit.Status)
			}
			host.Lose(cause)
			return
		}
	}
}

var (
	errNoGuard = errors.New("the guard ended at once")
	errUnheard = errors.New("the agent there ended by itself: it had heard nothing for minutes")
)

// removeWait is how long the guard may take to remove the directory before it is given up on.
const removeWait = 10 * time.Second

func (g *guard) parent() string { return g.dir[:max(1, strings.LastIndexByte(g.dir, '/'))] }

// release ends the guard's input and waits for the directory's removal.
func (g *guard) release() error {
	g.released.Store(true)
	g.input.Close()
	select {
	case <-g.ended:
		return g.err
	case <-time.After(removeWait): // it goes when the connection ends, on a busy host as well
		return nil
	}
}

// firstLine finds the first line with a prefix in what is written to it and drops the rest.
type firstLine struct {
	prefix string
	found  chan<- string
	once   sync.Once
	buf    []byte
}

func (w *firstLine) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	for {
		line, rest, ok := bytes.Cut(w.buf, []byte("\n"))
		if !ok {
			break
		}
		w.buf = rest
		if text, ok := strings.CutPrefix(string(line), w.prefix); ok {
			w.once.Do(func() { w.found <- text })
		}
	}
	if len(w.buf) > 64<<10 {
		w.buf = nil
	}
	return len(p), nil
}
