package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"mqlift/internal/link"
	"mqlift/internal/remote"
	"mqlift/internal/transfer"
)

// CopySpec says what of a store is copied from one host to another.
type CopySpec struct {
	// FromRoot and ToRoot are the folders on the source and the target that all paths are below.
	FromRoot string `json:"fromRoot"`
	ToRoot   string `json:"toRoot"`
	// Trees are folders or files that the target is made to mirror, Logs ranges of commit logs.
	Trees []string            `json:"trees,omitempty"`
	Logs  []transfer.LogRange `json:"logs,omitempty"`
	// Quarantine and Incoming are the target's: see transfer.Options.
	Quarantine string `json:"quarantine,omitempty"`
	Incoming   string `json:"incoming,omitempty"`
	// BytesPerSecond limits the data sent; 0 means no limit.
	BytesPerSecond int64 `json:"bytesPerSecond,omitempty"`
	// Direct has the data go from host to host; nil: through this machine.
	Direct *Direct `json:"direct,omitempty"`
}

// CopyResult is a finished copy, as the target counted it and both ends agree on.
type CopyResult struct {
	transfer.Stats
}

// Rate is the data moved per second, in bytes.
func (r CopyResult) Rate() float64 {
	if r.Took <= 0 {
		return 0
	}
	return float64(r.Bytes) / r.Took.Seconds()
}

// CopyError says which end of a copy failed by itself, or, of a direct one, that the connection between
// them did. What only follows from that is left out; at least one of the three is set.
type CopyError struct {
	From, To       string // host names
	Source, Target error
	Between        error
}

func (e *CopyError) Error() string {
	text := fmt.Sprintf("copying from %s to %s", e.From, e.To)
	if e.Between != nil {
		text += ": " + e.Between.Error()
	}
	if e.Source != nil {
		text += ": the source failed: " + e.Source.Error()
	}
	if e.Target != nil {
		text += ": the target failed: " + e.Target.Error()
	}
	return text
}

// Unwrap returns the failures there are.
func (e *CopyError) Unwrap() []error {
	var l []error
	for _, err := range []error{e.Source, e.Target, e.Between} {
		if err != nil {
			l = append(l, err)
		}
	}
	return l
}

// How long an end of a copy may go on that has failed at the other: to say what it knows, then to tidy up.
const (
	lastWords = 2 * time.Second
	tidyWait  = 10 * time.Second
)

var (
	errTargetEnded = errors.New("the target has ended")
	errTargetStuck = errors.New("the target did not end after its input had")
)

// ends are the two ends of a copy. endTarget has the target tidy up and end.
type ends struct {
	source, target func(context.Context) (transfer.Stats, error)
	endTarget      func()
}

// Copy moves data from one host's agent to the other's: directly where the spec says so, and otherwise in a
// stream through this machine. What the target has already is not sent. Nothing is under its name on the target before it is complete
// (transfer.Unpack), and a copy that was cut short can be done again. onProgress, which may be nil, is told
// the bytes that have arrived. When the context ends, both ends are ended, and its error is returned.
//
// Errors a caller may decide on, inside a *CopyError: syscall.ENOSPC, *transfer.MissingError,
// *transfer.ExtraError, *transfer.PartialError, transfer.ErrCorrupt, link.ErrBroken, *remote.TransientError.
func Copy(ctx context.Context, from, to *Agent, spec CopySpec, onProgress func(Progress)) (CopyResult, error) {
	began := time.Now()
	request, err := json.Marshal(spec)
	if err != nil {
		return CopyResult{}, err
	}
	request = append(request, '\n')
	both := streamed(from, to, request, onProgress)
	if spec.Direct != nil {
		both = direct(from, to, request, onProgress)
	}
	// The target is not ended by force together with the context: its input ends, and it gets time
	// to remove what is half done.
	held, drop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer drop(nil)
	sending, stopSource := context.WithCancel(ctx)
	defer stopSource()

	type end struct {
		stats transfer.Stats
		err   error
	}
	source, target := make(chan end, 1), make(chan end, 1)
	go func() {
		stats, err := both.source(sending)
		source <- end{stats, err}
	}()
	go func() {
		stats, err := both.target(held)
		target <- end{stats, err}
	}()

	var s, t end
	targetFirst := false
	select {
	case t = <-target:
		targetFirst = true
		switch {
		case t.err == nil:
		case follows(t.err):
			defer time.AfterFunc(lastWords, stopSource).Stop()
		default:
			stopSource()
		}
		s = <-source
	case s = <-source:
		// After a failure, and when all is given up, the target has only to tidy up. Otherwise what
		// was sent may still be under way, for as long as that takes.
		hurry := ctx.Done()
		if s.err != nil {
			closed := make(chan struct{})
			close(closed)
			hurry = closed
		}
		select {
		case t = <-target:
		case <-hurry:
			defer time.AfterFunc(lastWords, both.endTarget).Stop()
			defer time.AfterFunc(lastWords+tidyWait, func() { drop(errTargetStuck) }).Stop()
			t = <-target
		}
	}
	switch {
	case s.err == nil && t.err == nil:
	case ctx.Err() != nil:
		return CopyResult{}, fmt.Errorf("copying from %s to %s: %w", from.Host(), to.Host(), context.Cause(ctx))
	default:
		return CopyResult{}, blame(&CopyError{From: from.Host(), To: to.Host(), Source: s.err, Target: t.err}, targetFirst, spec.Direct)
	}
	if s.stats.Digest != t.stats.Digest || s.stats.Bytes != t.stats.Bytes {
		return CopyResult{}, &CopyError{From: from.Host(), To: to.Host(), Target: fmt.Errorf("%d bytes with digest %s arrived, %d with %s were sent: %w",
			t.stats.Bytes, t.stats.Digest, s.stats.Bytes, s.stats.Digest, transfer.ErrCorrupt)}
	}
	t.stats.Took = time.Since(began)
	t.stats.Wire = s.stats.Wire
	return CopyResult{t.stats}, nil
}

// blame leaves of what both ends said what did not follow from the other, or the connection between them.
func blame(e *CopyError, targetFirst bool, way *Direct) *CopyError {
	source, target := e.Source, e.Target
	if follows(target) {
		e.Target = nil
	}
	// It was stopped here, when the target had failed.
	if errors.Is(source, link.ErrBroken) || errors.Is(source, context.Canceled) || targetFirst && e.Target != nil {
		e.Source = nil
	}
	switch {
	case e.Source != nil || e.Target != nil:
	case way != nil:
		e.Between = &BetweenError{Address: way.Address, Source: source, Target: target}
	default:
		e.Target = target
	}
	if e.Target == nil && e.Between == nil {
		e.Target = partOnly(target)
	}
	return e
}

// follows tells that the target failed because its stream did.
func follows(err error) bool {
	return errors.Is(err, transfer.ErrSource) || errors.Is(err, transfer.ErrTruncated) ||
		errors.Is(err, link.ErrBroken) || errors.Is(err, errDismissed)
}

// partOnly keeps of a failure that follows from another one only that files were left half written.
func partOnly(err error) error {
	var partial *transfer.PartialError
	if errors.As(err, &partial) && len(partial.Files) > 0 {
		return err
	}
	return nil
}

// streamed are the ends of a copy through this machine. The target says first what it has.
func streamed(from, to *Agent, request []byte, onProgress func(Progress)) ends {
	r, w := io.Pipe()
	held, tell := io.Pipe()
	onMeet := func(who introduction) {
		go func() { // until it is read, or the source has ended
			line, _ := json.Marshal(who)
			tell.Write(append(line, '\n'))
		}()
	}
	return ends{
		source: func(ctx context.Context) (transfer.Stats, error) {
			stats, err := packInto(ctx, from, io.MultiReader(bytes.NewReader(request), held), w)
			// An end without a trailer is known for a failure by the target, and one that is reported as
			// an error would have it killed.
			w.Close()
			held.Close()
			return stats, err
		},
		target: func(ctx context.Context) (transfer.Stats, error) {
			stats, err := unpackFrom(ctx, to, io.MultiReader(bytes.NewReader(request), r), onMeet, onProgress)
			r.CloseWithError(errTargetEnded)
			tell.Close()
			return stats, err
		},
		endTarget: func() {}, // its input has ended with the source
	}
}

func packInto(ctx context.Context, a *Agent, stdin io.Reader, w io.Writer) (transfer.Stats, error) {
	const verb = "pack"
	var stats transfer.Stats
	r, err := a.host.Run(ctx, remote.Cmd{Argv: []string{a.binary, "agent", verb}, Stdin: stdin, Stdout: w})
	answer := &answer{}
	io.WriteString(answer, r.Stderr)
	return stats, answer.decide(a.Host(), verb, err, &stats)
}

func unpackFrom(ctx context.Context, a *Agent, stdin io.Reader, onMeet func(introduction), onProgress func(Progress)) (transfer.Stats, error) {
	const verb = "unpack"
	var stats transfer.Stats
	answer := &answer{onMeet: onMeet, onProgress: onProgress}
	err := a.run(ctx, verb, stdin, answer)
	return stats, answer.decide(a.Host(), verb, err, &stats)
}

func pack(ctx context.Context, r CopySpec, s *session) (transfer.Stats, error) {
	target, err := introduced(ctx, s)
	if err != nil {
		return transfer.Stats{}, err
	}
	return r.pack(ctx, s.data, target.Held)
}

// introduced waits for what comes in of the other end.
func introduced(ctx context.Context, s *session) (introduction, error) {
	type told struct {
		who introduction
		err error
	}
	read := make(chan told, 1)
	go func() {
		var t told
		line, err := s.in.ReadBytes('\n')
		switch {
		case err == nil:
			err = json.Unmarshal(line, &t.who)
		case errors.Is(err, io.EOF):
			err = errDismissed
		}
		t.err = err
		read <- t
	}()
	select {
	case t := <-read:
		return t.who, t.err
	case <-ctx.Done():
		return introduction{}, context.Cause(ctx)
	}
}

func (r CopySpec) holds(ctx context.Context) ([]transfer.Held, error) {
	return transfer.Holds(ctx, r.ToRoot, r.Trees, r.Logs)
}

func (r CopySpec) pack(ctx context.Context, w io.Writer, held []transfer.Held) (transfer.Stats, error) {
	return transfer.Pack(ctx, w, transfer.Spec{
		Root: r.FromRoot, Trees: r.Trees, Logs: r.Logs, Held: held, BytesPerSecond: r.BytesPerSecond,
	})
}

func unpack(ctx context.Context, r CopySpec, s *session) (transfer.Stats, error) {
	held, err := r.holds(ctx)
	if err != nil {
		return transfer.Stats{}, err
	}
	s.write(document{Meet: &introduction{Held: held}})
	return r.unpack(ctx, s.in, s.progress())
}

func (r CopySpec) unpack(ctx context.Context, in io.Reader, progress func(done, total int64)) (transfer.Stats, error) {
	return transfer.Unpack(ctx, in, r.ToRoot, transfer.Options{
		Quarantine: r.Quarantine, Incoming: r.Incoming,
		Progress: func(done int64) { progress(done, 0) },
	})
}

// CopyLocalSpec says which trees are copied on one host.
type CopyLocalSpec struct {
	FromRoot   string   `json:"fromRoot"`
	ToRoot     string   `json:"toRoot"`
	Trees      []string `json:"trees"`
	Quarantine string   `json:"quarantine,omitempty"`
	Incoming   string   `json:"incoming,omitempty"`
}

// CopyLocal mirrors trees on one host, sharing data where the file system can: transfer.CopyLocal.
func (a *Agent) CopyLocal(ctx context.Context, spec CopyLocalSpec, onProgress func(Progress)) (transfer.Stats, error) {
	return call[transfer.Stats](ctx, a, "copy-local", spec, onProgress)
}

func copyLocal(ctx context.Context, r CopyLocalSpec, s *session) (transfer.Stats, error) {
	progress := s.progress()
	return transfer.CopyLocal(ctx, r.FromRoot, r.ToRoot, transfer.Options{
		Quarantine: r.Quarantine, Incoming: r.Incoming,
		Progress: func(done int64) { progress(done, 0) },
	}, r.Trees...)
}
