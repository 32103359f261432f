package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"mqlift/internal/link"
	"mqlift/internal/transfer"
)

// Direct says how the data of a copy goes from host to host: the target's agent listens, for as long as it
// takes the source's to connect. Each makes a key for this one copy, and is told the other's hash over SSH.
type Direct struct {
	Address string    `json:"address"` // host:port that the source connects to
	Port    int       `json:"port"`    // that the target listens on
	Mode    link.Mode `json:"mode"`
}

// BetweenError says that the connection between two hosts failed, and neither of them by itself.
type BetweenError struct {
	Address        string
	Source, Target error // what each saw of it; nil: nothing
}

func (e *BetweenError) Error() string {
	var said []string
	for _, err := range []error{e.Source, e.Target} {
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, errDismissed) {
			said = append(said, err.Error())
		}
	}
	return fmt.Sprintf("the connection from host to host, to %s, failed: %s", e.Address, strings.Join(said, "; "))
}

// Unwrap makes it a link.ErrBroken, whatever the ends have seen, with what the target has of the data
// (*transfer.PartialError) if it has any.
func (e *BetweenError) Unwrap() []error {
	l := []error{link.ErrBroken}
	var partial *transfer.PartialError
	if errors.As(e.Target, &partial) {
		l = append(l, partial)
	}
	return l
}

// errDismissed is the end of an agent's work whose input has ended.
var errDismissed = errors.New("nobody asks for it any more")

// fruitless is how many times in a row a direct copy may break without having brought a commit log further,
// and pause what lies between two tries.
const (
	fruitless = 2
	pause     = time.Second
)

// CopyAgain is Copy that makes a connection between the hosts anew when it breaks, and goes on from where a
// commit log is not complete; broken is told each time. Other failures, and a connection that does not hold,
// are returned.
func CopyAgain(ctx context.Context, from, to *Agent, spec CopySpec, onProgress func(Progress), broken func(error)) (CopyResult, error) {
	spec.Logs = slices.Clone(spec.Logs)
	var reached int64
	for tries := 0; ; {
		r, err := Copy(ctx, from, to, spec, onProgress)
		if !errors.Is(err, link.ErrBroken) {
			return r, err
		}
		var partial *transfer.PartialError
		if errors.As(err, &partial) && partial.Complete > reached && len(spec.Logs) == 1 { // whose offset it is
			reached, tries = partial.Complete, 0
			spec.Logs[0].From = max(spec.Logs[0].From, reached)
		}
		if tries++; tries == fruitless {
			return r, err
		}
		broken(err)
		select {
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// direct are the ends of a copy from host to host.
func direct(from, to *Agent, request []byte, onProgress func(Progress)) ends {
	source, target := newGuest(request), newGuest(request)
	// The target says its pin, and what it has, when it listens: only then does the source connect.
	source.tell(target)
	target.tell(source)
	target.answer.onProgress = onProgress
	return ends{
		source: func(ctx context.Context) (transfer.Stats, error) {
			return visit[transfer.Stats](ctx, from, "send", source)
		},
		target: func(ctx context.Context) (transfer.Stats, error) {
			return visit[transfer.Stats](ctx, to, "receive", target)
		},
		endTarget: target.dismiss,
	}
}

// guest is this machine's side of a verb that meets another host's: its input stays open for as long as it
// is to work.
type guest struct {
	answer answer
	r      *io.PipeReader
	w      *io.PipeWriter
	stdin  io.Reader
}

func newGuest(request []byte) *guest {
	r, w := io.Pipe()
	return &guest{r: r, w: w, stdin: io.MultiReader(bytes.NewReader(request), r)}
}

// beat is how often a guest is told that this machine is there, and unheard for how long it goes on without
// that: a machine that is off or cut off ends no connection, and whoever takes the group over from it
// (grouplock.SilentAfter) must not find its copies at work, nor its bridges.
const (
	beat    = 2 * time.Second
	unheard = 20 * time.Second
)

// beats tells the guest, until its verb has ended.
func (g *guest) beats() {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for range tick.C {
		if _, err := g.w.Write([]byte{'\n'}); err != nil {
			return
		}
	}
}

// tell has a guest introduced to another.
func (g *guest) tell(other *guest) {
	g.answer.onMeet = func(who introduction) {
		go func() { // until it is read, or the other has ended
			line, _ := json.Marshal(who)
			other.w.Write(append(line, '\n'))
		}()
	}
}

func (g *guest) dismiss() { g.w.Close() }

// visit runs a verb for a guest and waits for its answer.
func visit[Result any](ctx context.Context, a *Agent, verb string, g *guest) (Result, error) {
	var result Result
	go g.beats()
	err := a.run(ctx, verb, g.stdin, &g.answer)
	g.r.CloseWithError(io.ErrClosedPipe)
	return result, g.answer.decide(a.Host(), verb, err, &result)
}

// meet is the agent's side: it says its pin, with what it has where that is asked for, and returns what it is
// told of the other's. The context returned is attend's.
func meet[Answer any](ctx context.Context, s *session, id *link.Identity, holds func(context.Context) ([]transfer.Held, error)) (context.Context, Answer, error) {
	var none Answer
	told := make(chan Answer, 1)
	ctx = attend(ctx, s, link.ErrBroken, func(_ context.Context, a Answer) error {
		select {
		case told <- a:
			return nil
		default:
			return errors.New("it was told twice whom to meet")
		}
	})
	who := introduction{Pin: id.Pin()}
	if holds != nil {
		var err error
		if who.Held, err = holds(ctx); err != nil {
			return ctx, none, cmp.Or(context.Cause(ctx), err)
		}
	}
	s.write(document{Meet: &who})
	select {
	case a := <-told:
		return ctx, a, nil
	case <-ctx.Done():
		return ctx, none, context.Cause(ctx)
	}
}

// attend has take called with what the verb is told after its request. The context returned ends when take fails,
// with the input (errDismissed), which is open for as long as somebody wants the work done, and, with the error
// alone, when nothing comes in.
func attend[Told any](ctx context.Context, s *session, alone error, take func(context.Context, Told) error) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(unheard, func() {
		cancel(fmt.Errorf("%w: nothing was heard for %s from the machine that mqlift runs on", alone, unheard))
	})
	go func() {
		defer silence.Stop()
		for {
			line, err := s.in.ReadBytes('\n')
			silence.Reset(unheard)
			var t Told
			switch {
			case errors.Is(err, io.EOF):
				err = errDismissed
			case err == nil && len(line) > 1: // not a beat
				if err = json.Unmarshal(line, &t); err == nil {
					err = take(ctx, t)
				}
			}
			if err != nil {
				cancel(err)
				return
			}
		}
	}()
	return ctx
}

func receive(ctx context.Context, r CopySpec, s *session) (transfer.Stats, error) {
	if r.Direct == nil {
		return transfer.Stats{}, errors.New("the request does not say how to listen")
	}
	id, err := link.NewIdentity()
	if err != nil {
		return transfer.Stats{}, err
	}
	l, err := link.Listen(ctx, r.Direct.Port, id, settle)
	if err != nil {
		return transfer.Stats{}, err
	}
	defer l.Close()
	ctx, source, err := meet[introduction](ctx, s, id, r.holds)
	if err != nil {
		return transfer.Stats{}, err
	}
	conn, err := l.Accept(ctx, source.Pin, r.Direct.Mode)
	if err != nil {
		return transfer.Stats{}, err
	}
	defer conn.Close()
	return r.unpack(ctx, conn, s.progress())
}

func send(ctx context.Context, r CopySpec, s *session) (transfer.Stats, error) {
	if r.Direct == nil {
		return transfer.Stats{}, errors.New("the request does not say where to connect")
	}
	id, err := link.NewIdentity()
	if err != nil {
		return transfer.Stats{}, err
	}
	ctx, target, err := meet[introduction](ctx, s, id, nil)
	if err != nil {
		return transfer.Stats{}, err
	}
	conn, err := link.Connect(ctx, r.Direct.Address, id, target.Pin, r.Direct.Mode, link.Streams())
	if err != nil {
		return transfer.Stats{}, err
	}
	stats, err := r.pack(ctx, conn, target.Held)
	if closed := conn.Close(ctx); err == nil {
		err = closed
	}
	stats.Wire = conn.Sent()
	return stats, err
}
