package transfer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/store"
)

// Options of the target's end.
type Options struct {
	// Quarantine is the folder to which what the source does not have is moved, keeping its path
	// below the root. It must be outside of all that is transferred; to another file system files are
	// copied. When it is empty and something would have to go there, nothing is put in place: *ExtraError.
	Quarantine string
	// Incoming is the folder for files that are not complete yet. Where it is empty, or on another file
	// system than the place they go to, it is IncomingName beside the tree or commit log, and inside of
	// one that is a mount point.
	// It is emptied first, of what a killed run left, and removed at the end.
	Incoming string
	// Progress is told the sum of data bytes received so far.
	Progress func(done int64)
}

// ExtraError says that the target has files that the source has not, and no quarantine was given.
type ExtraError struct{ Paths []string }

func (e *ExtraError) Error() string {
	return fmt.Sprintf("the source does not have %s, and there is no quarantine to move it to", strings.Join(e.Paths, ", "))
}

// MissingError says that the target lacks commit log data before the range that is sent. A transfer
// from Offset on would do.
type MissingError struct {
	Dir    string
	Files  []string
	Offset int64
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("commit log %s: %s not there, or of another length: send from offset %d on", e.Dir, strings.Join(e.Files, ", "), e.Offset)
}

// PartialError says what a transfer that failed has left of a commit log.
type PartialError struct {
	// Files were there before, have been written to, and are not complete: the transfer must be done again
	// before they are used.
	Files []string
	// Complete is the physical offset up to which the log is as the source's, and on disk; 0 when nothing
	// of it came that far. A transfer from there on would do.
	Complete int64
	Err      error
}

func (e *PartialError) Error() string {
	text := e.Err.Error()
	if e.Complete > 0 {
		text += fmt.Sprintf("; the log is complete up to offset %d", e.Complete)
	}
	if len(e.Files) > 0 {
		text += "; written in part: " + strings.Join(e.Files, ", ")
	}
	return text
}

func (e *PartialError) Unwrap() error { return e.Err }

// Unpack takes a stream made by Pack into root, and not a byte of r beyond it. Trees are put in place when the whole stream has
// arrived and its digest is right; commit log files one by one, as each is complete. What is new
// belongs to the owner of the folder that it is put into, where the process may decide that.
//
// Errors: ErrTruncated, ErrCorrupt and ErrSource about the stream, *MissingError, *ExtraError, and
// *PartialError around any of them when something of a commit log was written.
func Unpack(ctx context.Context, r io.Reader, root string, o Options) (Stats, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if d, ok := r.(interface{ SetReadDeadline(time.Time) error }); ok {
		defer context.AfterFunc(ctx, func() { d.SetReadDeadline(time.Unix(1, 0)) })()
	}
	start := time.Now()
	u := receiver{
		ctx:    ctx,
		in:     frameReader{r: r, sums: newSums()},
		place:  newPlacement(root, o),
		blocks: newBlocks(),
	}
	u.in.place = u.room
	u.alive, u.fail = context.WithCancelCause(ctx)
	defer u.fail(nil)
	u.behind.SetLimit(1)
	err := u.receiveAll()
	u.writing.Wait()
	u.behind.Wait() // what has come whole is kept
	if behind := context.Cause(u.alive); behind != nil {
		err = behind
	}
	// Before the temporary files go, and with them what they have taken.
	err = withSpace(err, root, u.left())
	if u.file != nil {
		u.file.close()
	}
	err = errors.Join(err, u.place.cleanUp())
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("receive into %s: %w", root, err)
		if len(u.partial) > 0 || u.complete > 0 {
			err = &PartialError{u.partial, u.complete, err}
		}
		return u.stats, err
	}
	u.stats.Took = time.Since(start)
	return u.stats, nil
}

type receiver struct {
	ctx   context.Context
	in    frameReader
	buf   []byte // scratch for zeroing; nil before the first
	stats Stats
	place *placement

	blocks // of the open file
	// Files that have come whole are brought to disk and get their names while the next one comes, one
	// after the other: a log must not have a gap, whenever its host dies.
	behind   errgroup.Group
	alive    context.Context         // ends when that, or a write, fails
	fail     context.CancelCauseFunc // ends it
	mu       sync.Mutex
	partial  []string // files written in place and not complete
	created  []string
	complete int64 // physical offset up to which a commit log is on disk; 0: no file of it

	file  *output // open for data
	size  int64
	at    int64 // up to here the file is as it should be
	to    int64 // data may come up to here
	clear int64 // from here on it must be zero
	then  func() error
	fresh bool // the file is new: what is not written is a hole

	log   logList // whose parts follow
	logOn bool
	part  string // name of the commit log file that is open
}

func (u *receiver) receiveAll() error {
	first, err := u.in.read()
	if err != nil {
		return err
	}
	h, err := decode[hello](first.payload)
	if err != nil {
		return err
	}
	if first.kind != frameHello || h.Format != streamFormat {
		return fmt.Errorf("this is no transfer stream of format %d: %w", streamFormat, ErrCorrupt)
	}
	for {
		if err := u.alive.Err(); err != nil {
			return err
		}
		f, err := u.in.read()
		if err != nil {
			return err
		}
		kind, payload := f.kind, f.payload
		if u.file != nil && kind != frameData && kind != frameKeep && kind != frameEnd && kind != frameFailed {
			return fmt.Errorf("a frame of kind %q inside a file: %w", kind, ErrCorrupt)
		}
		switch kind {
		case frameTree:
			err = handle(payload, u.beginTree)
		case frameDir:
			err = handle(payload, u.place.dir)
		case frameFile:
			err = handle(payload, u.beginFile)
		case frameLog:
			err = handle(payload, u.beginLog)
		case framePart:
			err = handle(payload, u.beginPart)
		case frameData:
			err = u.data(f)
		case frameKeep:
			err = u.keep(payload)
		case frameEnd:
			err = u.end()
		case frameFailed:
			err = fmt.Errorf("%w: %s", ErrSource, payload)
		case frameTrailer:
			return handle(payload, u.finish)
		default:
			err = fmt.Errorf("a frame of unknown kind %q: %w", kind, ErrCorrupt)
		}
		if err != nil {
			return err
		}
	}
}

func handle[T any](payload []byte, do func(T) error) error {
	v, err := decode[T](payload)
	if err != nil {
		return err
	}
	return do(v)
}

func (u *receiver) beginTree(t tree) error { return u.place.tree(t.Path) }

func (u *receiver) beginFile(e entry) error {
	if e.Keep {
		u.stats.Files++
		u.stats.Apparent += e.Size
		u.stats.Kept += e.Size
		return u.place.keep(e)
	}
	f, err := u.place.file(e)
	if err != nil {
		return err
	}
	u.file, u.fresh, u.size, u.at, u.to, u.clear = newOutput(f, e.Size), true, e.Size, 0, e.Size, e.Size
	u.stats.Apparent += e.Size
	u.then = func() error { return f.Close() } // synced and named with its tree
	return nil
}

func (u *receiver) beginLog(l logList) error {
	if l.FileSize <= 0 || l.From < 0 || l.To < l.From || len(l.Files) == 0 {
		return fmt.Errorf("commit log %q of files of %d bytes, range %d..%d: %w", l.Path, l.FileSize, l.From, l.To, ErrCorrupt)
	}
	for _, f := range l.Files {
		if _, ok := store.ParseFileName(f.Path); !ok || f.Size != l.FileSize {
			return fmt.Errorf("commit log file %q of %d bytes: %w", f.Path, f.Size, ErrCorrupt)
		}
	}
	if err := u.place.log(l); err != nil {
		return err
	}
	// What is not sent must be there already.
	missing := &MissingError{Dir: u.place.path(l.Path), Offset: l.From}
	for _, f := range l.Files {
		base, _ := store.ParseFileName(f.Path)
		if base >= l.From {
			break
		}
		if !u.place.hasLogFile(l, f.Path) {
			missing.Offset = min(missing.Offset, base)
			missing.Files = append(missing.Files, f.Path)
		}
	}
	if missing.Files != nil {
		return missing
	}
	u.log, u.logOn = l, true
	return nil
}

func (u *receiver) beginPart(p part) error {
	i := slices.IndexFunc(u.log.Files, func(e entry) bool { return e.Path == p.Name })
	if !u.logOn || i < 0 || p.From < 0 || p.From > p.To || p.To > p.Clear || p.Clear > u.log.FileSize {
		return fmt.Errorf("commit log part %+v: %w", p, ErrCorrupt)
	}
	e := u.log.Files[i]
	path := filepath.Join(u.log.Path, p.Name)
	u.part = p.Name
	u.stats.Apparent += p.To - p.From
	base, _ := store.ParseFileName(p.Name)
	u.size, u.at, u.to, u.clear = u.log.FileSize, p.From, p.To, p.Clear
	if u.place.hasLogFile(u.log, p.Name) {
		f, err := os.OpenFile(u.place.path(path), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		u.mu.Lock()
		u.partial = append(u.partial, f.Name())
		u.mu.Unlock()
		u.file, u.fresh = newOutput(f, p.To-p.From), false
		u.then = func() error {
			if err := finishFile(f, e); err != nil {
				return err
			}
			u.mu.Lock()
			defer u.mu.Unlock()
			u.partial = slices.DeleteFunc(u.partial, func(name string) bool { return name == f.Name() })
			u.completeTo(base, p.To)
			return nil
		}
		return nil
	}
	f, done, err := u.place.logFile(u.ctx, path, e)
	if err != nil {
		return err
	}
	u.file, u.fresh = newOutput(f, p.To-p.From), true
	u.then = func() error {
		if err := finishFile(f, e); err != nil {
			return err
		}
		if err := done(); err != nil {
			return err
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.created = append(u.created, path)
		u.completeTo(base, p.To)
		return nil
	}
	return nil
}

// completeTo notes how far the log is complete; a file that only waits for what comes after its end has none
// of it.
func (u *receiver) completeTo(base, to int64) {
	if to > 0 {
		u.complete = base + to
	}
}

// room is where the data of a frame is read to.
func (u *receiver) room(at int64, length int) ([]byte, error) {
	if u.file == nil || length > maxData {
		return nil, fmt.Errorf("data outside of a file, or %d bytes of it at once: %w", length, ErrCorrupt)
	}
	if at < u.at || int64(length) > u.to-at {
		return nil, fmt.Errorf("data for %d..%d of %s, which is at %d..%d: %w", at, at+int64(length), u.file.Name(), u.at, u.to, ErrCorrupt)
	}
	return u.blocks.room(u.alive, u.file, at, length, u.fail)
}

func (u *receiver) data(f frame) error {
	if err := u.zero(u.at, f.at); err != nil {
		return err
	}
	u.taken(len(f.payload))
	u.at = f.at + int64(len(f.payload))
	u.stats.Bytes += int64(len(f.payload))
	if u.place.Progress != nil {
		u.place.Progress(u.stats.Bytes)
	}
	return nil
}

// keep leaves what stands in a part of a file that was there before.
func (u *receiver) keep(payload []byte) error {
	if u.file == nil || u.fresh || len(payload) != 16 {
		return fmt.Errorf("something is to be kept of a file that is new, or of none: %w", ErrCorrupt)
	}
	from, to := int64(binary.BigEndian.Uint64(payload)), int64(binary.BigEndian.Uint64(payload[8:]))
	if from < u.at || to < from || to > u.to {
		return fmt.Errorf("%d..%d of %s, which is at %d..%d, is to be kept: %w", from, to, u.file.Name(), u.at, u.to, ErrCorrupt)
	}
	if err := u.zero(u.at, from); err != nil {
		return err
	}
	u.at = to
	u.stats.Kept += to - from
	return nil
}

// zero makes from..to of the open file read as zeros; what does so already is not written.
func (u *receiver) zero(from, to int64) error {
	if u.fresh || from >= to {
		return nil
	}
	if u.buf == nil {
		u.buf = make([]byte, maxData)
	}
	return eachData(u.ctx, u.file.File, from, to, u.buf, func(at int64, b []byte) error {
		clear(b)
		u.stats.Zeroed += int64(len(b))
		_, err := u.file.WriteAt(b, at)
		return err
	})
}

func (u *receiver) end() error {
	if u.file == nil {
		return fmt.Errorf("an end outside of a file: %w", ErrCorrupt)
	}
	if err := errors.Join(u.zero(u.at, u.to), u.zero(u.clear, u.size)); err != nil {
		return err
	}
	u.flush(u.file, u.fail)
	u.stats.Files++
	f, then := u.file, u.then
	u.file, u.then = nil, nil
	u.behind.Go(func() error {
		defer f.close()
		err := f.written()
		if err == nil {
			err = u.alive.Err()
		}
		if err == nil {
			err = then()
		}
		if err != nil {
			u.fail(err)
		}
		return err
	})
	return nil
}

func (u *receiver) finish(t trailer) error {
	u.stats.Digest = u.in.before
	if t.Bytes != u.stats.Bytes || t.Digest != u.stats.Digest {
		return fmt.Errorf("%d bytes with digest %s arrived, %d with %s were sent: %w",
			u.stats.Bytes, u.stats.Digest, t.Bytes, t.Digest, ErrCorrupt)
	}
	if err := u.behind.Wait(); err != nil {
		return err
	}
	u.stats.Created = u.created
	var err error
	u.stats.MovedAway, err = u.place.commit(u.ctx)
	return err
}

// finishFile gives an open file its mode and time, writes it to disk and closes it.
func finishFile(f *os.File, e entry) error {
	if err := f.Chmod(e.Mode.Perm()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// After the sync: a write that is still under way would set it again.
	if err := os.Chtimes(f.Name(), time.Time{}, e.Modified); err != nil {
		return err
	}
	return f.Close()
}
