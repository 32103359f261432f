package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	maxStdout  = 16 << 20
	keptStderr = 64 << 10

	// How long a command that is being given up may take to end by itself, so that what it wrote
	// last is not lost and nothing is written after Run has returned.
	grace = 250 * time.Millisecond
)

// Result is what a command left.
type Result struct {
	Stdout string // empty when Cmd.Stdout was given; as it came, secrets included
	Stderr string // the last 64 KiB, secrets blanked
	Took   time.Duration
}

// Run runs a command, through `sudo -n` if the Target says so. A command that fails is an
// *ExitError, a lost connection a *TransientError; the Result holds what there is in any case.
//
// When ctx ends, the command is sent KILL, its channel is closed, and Run returns ctx's error at
// once, also when the host answers nothing any more. OpenSSH (9.2, measured) delivers KILL to
// neither a command under sudo nor one of a user who logs in as root: such a command goes on, and
// only notices that its input ends and nobody takes its output. A Read of Cmd.Stdin that is under
// way is not interrupted.
func (h *Host) Run(ctx context.Context, c Cmd) (Result, error) {
	line, err := c.line(h.sudo)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %s: %w", h, c, err)
	}
	began := time.Now()
	sess, err := h.session(ctx, "run "+c.String())
	if err != nil {
		return Result{}, err
	}
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	giveUp := func(err error) { cancel(localError{err}) }

	var collected bytes.Buffer
	out := &sink{to: c.Stdout, failed: giveUp, turn: make(chan struct{}, 1)}
	if c.Stdout == nil {
		out.to, out.most = &collected, maxStdout
	}
	stderr := &tail{most: keptStderr + c.longestSecret()}
	sess.Stdout, sess.Stderr = out, stderr

	finished := make(chan error, 1)
	go func() {
		defer sess.release()
		err := sess.start(line, c.Stdin, giveUp)
		if err == nil {
			err = sess.Wait()
		}
		finished <- err
	}()
	// wait gives the command a last moment to report by itself.
	wait := func() (over bool) {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case err = <-finished:
			return true
		case <-timer.C:
			return false
		}
	}
	doing := "run " + c.String()
	over := false
	select {
	case err = <-finished:
		over = true
	case <-h.done:
		over = wait()
	case <-within.Done():
		go sess.kill() // may block on a connection that takes nothing any more
		wait()
		err = fmt.Errorf("%s: %s: %w", h, doing, ended(ctx))
	}
	out.close()
	res := Result{Stdout: collected.String(), Stderr: stderr.text(c), Took: time.Since(began)}

	var local localError
	var exit *ssh.ExitError
	switch {
	case errors.As(context.Cause(within), &local): // whatever the command made of half its input
		err = fmt.Errorf("%s: %s: %w", h, doing, local.error)
	case within.Err() != nil && !over:
	case !over:
		err = h.gone(doing)
	case errors.As(err, &exit):
		e := &ExitError{Host: h.at.Host, Addr: h.at.Addr, Cmd: c.String(), Status: exit.ExitStatus(), Stderr: res.Stderr}
		if e.Signal = exit.Signal(); e.Signal != "" {
			e.Status = -1
		}
		err = e
	case err != nil:
		err = h.interrupted(doing, err)
	}
	return res, err
}

// localError is a failure of the caller's reader or writer, as against one of the host.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// session is one channel in which a program runs, and the slot it takes.
type session struct {
	*ssh.Session
	release func() // closes it and gives the slot back; once
}

// slot waits for one of the places for sessions; give it back with h.leave.
func (h *Host) slot(ctx context.Context, doing string) error {
	select {
	case <-h.done:
		return h.gone(doing)
	default:
	}
	if ctx.Err() != nil { // select would choose by chance
		return fmt.Errorf("%s: %s: %w", h, doing, ended(ctx))
	}
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-h.done:
		return h.gone(doing)
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", h, doing, ended(ctx))
	}
}

func (h *Host) leave() { <-h.slots }

// session waits for a slot and opens a session in it.
func (h *Host) session(ctx context.Context, doing string) (*session, error) {
	if err := h.slot(ctx, doing); err != nil {
		return nil, err
	}
	return h.open(ctx, doing)
}

// open opens a session in a slot that the caller has taken, and gives the slot back if it fails.
func (h *Host) open(ctx context.Context, doing string) (*session, error) {
	const tries, pause = 20, 100 * time.Millisecond
	for try := 1; ; try++ {
		sess, err := h.tryOpen(ctx, doing)
		refused := (*ssh.OpenChannelError)(nil)
		if !errors.As(err, &refused) {
			return sess, err
		}
		// No room (MaxSessions). Sessions that just ended leave it a moment later, and the one
		// kept for files can be spared.
		h.dropIdle()
		if try < tries {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
				continue
			case <-ctx.Done():
				err = fmt.Errorf("%s: %s: %w", h, doing, ended(ctx))
			case <-h.done:
				err = h.gone(doing)
			}
			timer.Stop()
		} else {
			err = &TransientError{Place: h.at, Doing: doing, Err: fmt.Errorf(
				"the host opens no more sessions (%w): MaxSessions in its sshd_config, or commands that were given up and still run", refused)}
		}
		h.leave()
		return nil, err
	}
}

// tryOpen opens a session once. On any error but *ssh.OpenChannelError the slot is given back, if
// need be when the host finally answers.
func (h *Host) tryOpen(ctx context.Context, doing string) (*session, error) {
	type outcome struct {
		sess *ssh.Session
		err  error
	}
	result := make(chan outcome, 1)
	go func() {
		sess, err := h.client.NewSession()
		result <- outcome{sess, err}
	}()
	abandon := func() {
		if got := <-result; got.err == nil {
			got.sess.Close()
		}
		h.leave()
	}
	select {
	case got := <-result:
		if refused := (*ssh.OpenChannelError)(nil); errors.As(got.err, &refused) {
			return nil, got.err
		}
		if got.err != nil {
			h.leave()
			return nil, h.interrupted(doing, got.err)
		}
		var once sync.Once
		return &session{got.sess, func() { once.Do(func() { got.sess.Close(); h.leave() }) }}, nil
	case <-ctx.Done():
		go abandon()
		return nil, fmt.Errorf("%s: %s: %w", h, doing, ended(ctx))
	case <-h.done:
		go abandon()
		return nil, h.gone(doing)
	}
}

// interrupted is the error for err that is no word of the host's, but the end of a session or of
// the connection.
func (h *Host) interrupted(doing string, err error) error {
	if errors.Is(err, errRefused) {
		return fmt.Errorf("%s: %s: %w", h, doing, err)
	}
	timer := time.NewTimer(grace) // the end of a session is often the first sign of a lost connection
	defer timer.Stop()
	select {
	case <-h.done:
		return h.gone(doing)
	case <-timer.C:
	}
	if missing := (*ssh.ExitMissingError)(nil); errors.As(err, &missing) || errors.Is(err, io.EOF) {
		err = errors.New("the host ended the session without an exit status")
	}
	return &TransientError{Place: h.at, Doing: doing, Err: err}
}

var errRefused = errors.New("the host refuses to run commands")

// start runs the line and feeds it. Input that fails halfway must not look like its end to the
// command, so then the session is not told of an end but given up.
func (s *session) start(line string, stdin io.Reader, giveUp func(error)) error {
	pipe, err := s.StdinPipe()
	if err != nil {
		return err
	}
	if err := s.Start(line); err != nil {
		if strings.HasPrefix(err.Error(), "ssh: command ") { // and then the whole line, secrets and all
			return errRefused
		}
		return err
	}
	if stdin == nil {
		pipe.Close()
		return nil
	}
	go func() {
		in := &source{from: stdin}
		io.Copy(pipe, in) // it failing to write only says that the command reads no more
		if in.err != nil {
			giveUp(fmt.Errorf("read its input: %w", in.err))
			return
		}
		pipe.Close()
	}()
	return nil
}

// kill ends the program as far as the host lets it, and the channel.
func (s *session) kill() {
	s.Signal(ssh.SIGKILL)
	s.Close()
}

// source remembers that reading failed.
type source struct {
	from io.Reader
	err  error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.from.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// sink passes a command's output on, until it is closed.
type sink struct {
	to     io.Writer
	most   int // bytes; 0: any number
	failed func(error)

	turn   chan struct{} // held while writing, and for good when closed
	closed atomic.Bool
	n      int
}

func (s *sink) Write(b []byte) (int, error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.closed.Load() {
		return 0, io.ErrClosedPipe
	}
	if s.most > 0 && s.n+len(b) > s.most {
		err := fmt.Errorf("its output is larger than %d MiB: give Stdout to take it", s.most>>20)
		s.failed(err)
		return 0, err
	}
	n, err := s.to.Write(b)
	s.n += n
	if err != nil {
		s.failed(fmt.Errorf("pass on its output: %w", err))
	}
	return n, err
}

// close makes sure that nothing is written any more, short of a Write that is stuck in the
// caller's writer.
func (s *sink) close() {
	s.closed.Store(true)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case s.turn <- struct{}{}:
		<-s.turn
	case <-timer.C:
	}
}

// tail keeps the last bytes written to it.
type tail struct {
	most int

	mu  sync.Mutex
	b   []byte
	cut bool
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if extra := len(t.b) - t.most; extra > 0 {
		t.b, t.cut = append(t.b[:0], t.b[extra:]...), true
	}
	return len(b), nil
}

// text is what was kept, secrets blanked. Where the beginning is gone, so may be half of a secret:
// that much more was kept, and goes too.
func (t *tail) text(c Cmd) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := c.blank(string(t.b))
	if t.cut {
		s = s[min(len(s), c.longestSecret()):]
	}
	return s
}
