package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"syscall"
	"time"

	"mqlift/internal/bridge"
	"mqlift/internal/hostinfo"
	"mqlift/internal/link"
	"mqlift/internal/remote"
	"mqlift/internal/store"
	"mqlift/internal/transfer"
)

// The protocol: the request is one JSON line on stdin. The answer is JSON lines on stdout: any
// number of progress documents and heartbeats ({}), then one result or one error. Where data is
// moved, it follows the request on stdin (unpack), or has stdout for itself and the answer goes to
// stderr (pack). A verb that is to meet another host's (receive, send, reach) says in between by what that
// one will know it, and reads on stdin whom to meet. A copy's target says what it has already, which its source
// reads. A bridge says how it does, and reads on stdin where else it is to go to. Both ends are the same binary,
// so there are no versions to agree on.

// document is one line of an answer.
type document struct {
	Progress *Progress       `json:"progress,omitempty"`
	Meet     *introduction   `json:"meet,omitempty"`
	Bridge   *bridge.State   `json:"bridge,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *Error          `json:"error,omitempty"`
}

// introduction is what one agent has to know of another that it meets.
type introduction struct {
	Pin  string          `json:"pin,omitempty"`  // where they meet directly
	Held []transfer.Held `json:"held,omitempty"` // of a copy's target
}

// Progress is how far long work has come, in bytes.
type Progress struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total,omitempty"` // 0: not known
}

// heartbeat is how often a working agent writes at least. It is how the agent notices that nobody
// listens any more: the write fails, and the work ends.
const heartbeat = time.Second

// Error is a failure that the agent reports from a host. errors.Is and errors.As see through it to
// the cause, as if it had happened here; kinds() has the causes that cross the wire.
type Error struct {
	Host    string          `json:"-"`
	Verb    string          `json:"-"`
	Kind    string          `json:"kind,omitempty"`
	Message string          `json:"message"`
	Detail  json.RawMessage `json:"detail,omitempty"`
}

func (e *Error) Error() string {
	if e.Host == "" { // a cause within another one
		return e.Message
	}
	return e.Host + ": " + e.Verb + ": " + e.Message
}

// Unwrap returns the cause; nil when it is of no kind that a caller decides on.
func (e *Error) Unwrap() error {
	for _, k := range kinds() {
		if k.name == e.Kind {
			return k.decode(e.Detail)
		}
	}
	return nil
}

func encodeError(err error) *Error {
	e := &Error{Message: err.Error()}
	for _, k := range kinds() {
		if detail, ok := k.encode(err); ok {
			e.Kind = k.name
			e.Detail, _ = json.Marshal(detail)
			break
		}
	}
	return e
}

// kind is a cause that callers decide on, and how it crosses the wire.
type kind struct {
	name   string
	encode func(error) (detail any, ok bool)
	decode func(json.RawMessage) error // nil for nonsense
}

// kinds are tried in order: what wraps others comes first.
func kinds() []kind {
	return []kind{
		partial(),
		typed[StartError]("start"), typed[AlreadyRunningError]("already running"),
		typed[StillRunningError]("still running"),
		typed[store.RangeError]("range"),
		typed[transfer.MissingError]("missing log"), typed[transfer.ExtraError]("extra files"),
		sentinel("dismissed", errDismissed), sentinel("link", link.ErrBroken), sentinel("taken", link.ErrTaken),
		sentinel("stream source", transfer.ErrSource), sentinel("stream truncated", transfer.ErrTruncated),
		sentinel("stream corrupt", transfer.ErrCorrupt),
		sentinel("no space", syscall.ENOSPC), sentinel("not exist", fs.ErrNotExist),
		sentinel("exists", fs.ErrExist), sentinel("permission", fs.ErrPermission),
		sentinel("gone", hostinfo.ErrGone), sentinel("changed", ErrChanged),
	}
}

func sentinel(name string, err error) kind {
	return kind{
		name:   name,
		encode: func(e error) (any, bool) { return nil, errors.Is(e, err) },
		decode: func(json.RawMessage) error { return err },
	}
}

// typed is for error types whose fields are JSON.
func typed[E any, P interface {
	*E
	error
}](name string) kind {
	return kind{
		name: name,
		encode: func(err error) (any, bool) {
			var e P
			ok := errors.As(err, &e)
			return e, ok
		},
		decode: func(detail json.RawMessage) error {
			e := P(new(E))
			if json.Unmarshal(detail, e) != nil {
				return nil
			}
			return e
		},
	}
}

// partial carries a *transfer.PartialError with the cause inside it.
func partial() kind {
	type detail struct {
		Files    []string `json:"files"`
		Complete int64    `json:"complete"`
		Cause    *Error   `json:"cause"`
	}
	return kind{
		name: "partial",
		encode: func(err error) (any, bool) {
			var e *transfer.PartialError
			if !errors.As(err, &e) {
				return nil, false
			}
			return detail{e.Files, e.Complete, encodeError(e.Err)}, true
		},
		decode: func(raw json.RawMessage) error {
			var d detail
			if json.Unmarshal(raw, &d) != nil || d.Cause == nil {
				return nil
			}
			return &transfer.PartialError{Files: d.Files, Complete: d.Complete, Err: d.Cause}
		},
	}
}

// call runs one verb on the agent's host and waits for its answer.
func call[Result any](ctx context.Context, a *Agent, verb string, request any, onProgress func(Progress)) (Result, error) {
	var result Result
	line, err := json.Marshal(request)
	if err != nil {
		return result, fmt.Errorf("%s: %s: %w", a.Host(), verb, err)
	}
	answer := &answer{onProgress: onProgress}
	err = a.run(ctx, verb, bytes.NewReader(append(line, '\n')), answer)
	if err := answer.decide(a.Host(), verb, err, &result); err != nil {
		return result, err
	}
	return result, nil
}

func (a *Agent) run(ctx context.Context, verb string, stdin io.Reader, stdout io.Writer) error {
	_, err := a.host.Run(ctx, remote.Cmd{Argv: []string{a.binary, "agent", verb}, Stdin: stdin, Stdout: stdout})
	return err
}

// answer takes an answer's lines as they come in.
type answer struct {
	onProgress func(Progress)
	onMeet     func(introduction)
	onBridge   func(bridge.State)

	line   []byte
	result json.RawMessage
	err    *Error
	// noise is what else was printed, by a shell's start-up files for instance; shown when there is
	// no answer.
	noise []byte
}

// maxAnswer is the most that one line may have: a listing of some hundred thousand files.
const maxAnswer = 256 << 20

func (a *answer) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			if len(a.line)+len(rest) > maxAnswer {
				return 0, fmt.Errorf("the answer's line is longer than %d bytes", maxAnswer)
			}
			a.line = append(a.line, rest...)
			break
		}
		a.take(append(a.line, rest[:i]...))
		a.line, rest = a.line[:0], rest[i+1:]
	}
	return len(p), nil
}

func (a *answer) take(line []byte) {
	var d document
	if err := json.Unmarshal(line, &d); err != nil {
		if room := 2048 - len(a.noise); room > 0 {
			a.noise = append(append(a.noise, line[:min(len(line), room)]...), '\n')
		}
		return
	}
	switch {
	case d.Error != nil:
		a.err = d.Error
	case d.Result != nil:
		a.result = d.Result
	case d.Meet != nil && a.onMeet != nil:
		a.onMeet(*d.Meet)
	case d.Bridge != nil && a.onBridge != nil:
		a.onBridge(*d.Bridge)
	case d.Progress != nil && a.onProgress != nil:
		a.onProgress(*d.Progress)
	}
}

// decide tells what an answer and the command's own end come to.
func (a *answer) decide(host, verb string, runErr error, result any) error {
	switch {
	case a.err != nil:
		a.err.Host, a.err.Verb = host, verb
		return a.err
	case runErr != nil:
		return fmt.Errorf("agent %s: %w%s", verb, runErr, a.printed()) // remote's errors name the host
	case a.result == nil:
		return fmt.Errorf("%s: %s: the agent ended without an answer%s", host, verb, a.printed())
	}
	if err := json.Unmarshal(a.result, result); err != nil {
		return fmt.Errorf("%s: %s: the answer: %w", host, verb, err)
	}
	return nil
}

func (a *answer) printed() string {
	if noise := bytes.TrimSpace(a.noise); len(noise) > 0 {
		return fmt.Sprintf("; it printed %q", noise)
	}
	return ""
}

// session is the agent's end of one call.
type session struct {
	in   *bufio.Reader // what follows the request
	data io.Writer     // stdout, for verbs whose answer is on stderr

	mu     sync.Mutex
	out    io.Writer
	cancel context.CancelCauseFunc
	stop   chan struct{}
	done   sync.WaitGroup
}

// openSession starts the heartbeat. The returned context ends when a write fails.
func openSession(ctx context.Context, out io.Writer) (context.Context, *session) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &session{out: out, cancel: cancel, stop: make(chan struct{})}
	s.done.Go(func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
				s.write(document{})
			}
		}
	})
	return ctx, s
}

func (s *session) write(d document) {
	line, err := json.Marshal(d)
	if err != nil {
		line, _ = json.Marshal(document{Error: &Error{Message: "the answer cannot be written: " + err.Error()}})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.out.Write(append(line, '\n')); err != nil {
		s.cancel(fmt.Errorf("nobody listens any more: %w", err))
	}
}

// progress returns a callback that writes at most five documents a second.
func (s *session) progress() func(done, total int64) {
	var mu sync.Mutex
	var last time.Time
	return func(done, total int64) {
		mu.Lock()
		now := time.Now()
		due := now.Sub(last) >= 200*time.Millisecond
		if due {
			last = now
		}
		mu.Unlock()
		if due {
			s.write(document{Progress: &Progress{done, total}})
		}
	}
}

// finish writes the result or the error and ends the session.
func (s *session) finish(result any, err error) {
	close(s.stop)
	s.done.Wait()
	if err == nil {
		var raw json.RawMessage
		if raw, err = json.Marshal(result); err == nil {
			s.write(document{Result: raw})
		}
	}
	if err != nil {
		s.write(document{Error: encodeError(err)})
	}
	s.cancel(nil)
}
