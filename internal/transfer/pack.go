// Package transfer moves parts of a broker's store from one host to another as one stream: whole
// trees (consumequeue, index, config) and ranges of a commit log. Holes and zeros are not sent, every
// frame is checksummed, both ends take the same digest of the checksums, and no file appears under its
// name on the target before it is complete; commit log files that are there are written in place.
//
// A stream is made by Pack and taken by Unpack; whatever lies between them need only carry bytes.
package transfer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"mqlift/internal/store"
)

// Spec says what to send.
type Spec struct {
	// Root is the folder that all paths are relative to, and keep to on the target.
	Root string
	// Trees are folders or files below Root that the target is made to mirror. One that is missing
	// at the source is mirrored as missing.
	Trees []string
	// Logs are commit logs.
	Logs []LogRange
	// Held is what the target has already, by Holds; what is the same is not sent.
	Held []Held
	// BytesPerSecond limits the data sent; 0 means no limit.
	BytesPerSecond int64
	// Progress is told the sum of data bytes sent so far.
	Progress func(done int64)
}

// LogRange is a part of a commit log.
type LogRange struct {
	Dir      string // folder below Root
	FileSize int64  // of each file; 0 takes what most files have
	From, To int64  // physical offsets; From 0 is the first byte kept; To is where the log ends and must be given
}

// Stats is what was sent or received. Pack and Unpack of one stream agree on Files, Bytes, Apparent,
// Kept and Digest.
type Stats struct {
	Files    int           `json:"files"`
	Bytes    int64         `json:"bytes"`    // data in the stream
	Apparent int64         `json:"apparent"` // the files' lengths and the logs' ranges, holes included
	Kept     int64         `json:"kept"`     // of Apparent, what was not sent since the target has it
	Digest   string        `json:"digest"`   // of the whole stream
	Took     time.Duration `json:"took"`     // nanoseconds
	// Wire is what went over a direct connection, in bytes, set by whoever made it.
	Wire int64 `json:"wire,omitempty"`

	// By Unpack and CopyLocal only:
	Created    []string `json:"created,omitempty"`    // commit log files that were not there, below the root
	MovedAway  []string `json:"movedAway,omitempty"`  // what the source does not have, now in quarantine
	Zeroed     int64    `json:"zeroed,omitempty"`     // bytes of pages that had to become zeros
	Replicated int64    `json:"replicated,omitempty"` // bytes shared by reflink instead of copied
}

// Pack sends what spec names to w, which may gather it until it is told to Flush. The files may be written to meanwhile, as a running broker does,
// as long as commit log ranges end at To or before.
func Pack(ctx context.Context, w io.Writer, spec Spec) (Stats, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if d, ok := w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		defer context.AfterFunc(ctx, func() { d.SetWriteDeadline(time.Unix(1, 0)) })()
	}
	s := sender{
		Spec:  spec,
		ctx:   ctx,
		out:   newFrameWriter(w),
		buf:   make([]byte, maxData),
		start: time.Now(),
	}
	s.due = s.start
	err := s.sendAll()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		// The other end learns why, if it still can.
		if s.out.write(frameFailed, []byte(err.Error())) == nil {
			s.out.w.Flush()
		}
		return s.stats, fmt.Errorf("send from %s: %w", spec.Root, err)
	}
	s.stats.Took = time.Since(s.start)
	return s.stats, nil
}

type sender struct {
	Spec
	ctx   context.Context
	out   frameWriter
	buf   []byte
	stats Stats
	start time.Time
	due   time.Time // when what was sent is within the limit
}

func (s *sender) sendAll() error {
	if err := s.out.writeJSON(frameHello, hello{streamFormat}); err != nil {
		return err
	}
	for _, path := range s.Trees {
		if err := s.sendTree(path); err != nil {
			return err
		}
	}
	for _, l := range s.Logs {
		if err := s.sendLog(l); err != nil {
			return err
		}
	}
	s.stats.Digest = s.out.digest()
	if err := s.out.writeJSON(frameTrailer, trailer{s.stats.Bytes, s.stats.Digest}); err != nil {
		return err
	}
	return s.out.w.Flush()
}

func (s *sender) sendTree(path string) error {
	if !filepath.IsLocal(path) || filepath.Clean(path) == "." {
		return fmt.Errorf("%q is no path below the root", path)
	}
	top, err := os.Stat(filepath.Join(s.Root, path))
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	if err := s.out.writeJSON(frameTree, tree{Path: path, Missing: missing}); err != nil || missing {
		return err
	}
	return s.sendEntry(path, top)
}

func (s *sender) sendEntry(path string, info fs.FileInfo) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	full := filepath.Join(s.Root, path)
	e := entry{Path: path, Mode: info.Mode().Perm(), Modified: info.ModTime()}
	switch {
	case info.Mode().IsRegular():
		return s.sendFile(full, e)
	case !info.IsDir():
		return fmt.Errorf("%s is neither a file nor a folder (%s)", full, info.Mode().Type())
	}
	if err := s.out.writeJSON(frameDir, e); err != nil {
		return err
	}
	entries, err := os.ReadDir(full)
	if err != nil {
		return err
	}
	for _, child := range entries {
		info, err := child.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if err := s.sendEntry(filepath.Join(path, child.Name()), info); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) sendFile(full string, e entry) error {
	f, err := os.Open(full)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	e.Size = info.Size()
	if h := s.held(e.Path, e.Size, 0, e.Size); h != nil {
		if e.Keep, err = s.whole(f, e.Size, h); err != nil {
			return fmt.Errorf("%s: %w", full, err)
		}
	}
	if err := s.out.writeJSON(frameFile, e); err != nil {
		return err
	}
	if e.Keep {
		s.stats.Files++
		s.stats.Apparent += e.Size
		s.stats.Kept += e.Size
		return nil
	}
	return s.sendData(f, 0, e.Size, nil)
}

func (s *sender) sendLog(l LogRange) error {
	if !filepath.IsLocal(l.Dir) {
		return fmt.Errorf("%q is no path below the root", l.Dir)
	}
	dir := filepath.Join(s.Root, l.Dir)
	files, fileSize, findings, err := store.List(dir, l.FileSize)
	if err != nil {
		return err
	}
	if err := findings.Err(); err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("commit log %s: there are no files", dir)
	}
	from := max(l.From, files[0].Base)
	last := files[len(files)-1]
	if l.To < from || l.To > last.Base+fileSize {
		return fmt.Errorf("commit log %s: the range %d..%d is not in %d..%d", dir, from, l.To, files[0].Base, last.Base+fileSize)
	}
	list := logList{Path: l.Dir, FileSize: fileSize, From: from, To: l.To}
	var opened []*os.File
	defer func() {
		for _, f := range opened {
			f.Close()
		}
	}()
	var parts []part
	for _, lf := range files {
		f, err := os.Open(filepath.Join(dir, lf.Name))
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return err
		}
		if lf.Base >= l.To {
			// Prepared for later: the target gets one like it. If the log has gone on into it
			// since, it is not part of what was asked for, and neither is what follows.
			empty, err := allZero(s.ctx, f, lf.Size)
			if err != nil || !empty {
				f.Close()
				if err != nil {
					return err
				}
				break
			}
		}
		list.Files = append(list.Files, entry{Path: lf.Name, Size: lf.Size, Mode: info.Mode().Perm(), Modified: info.ModTime()})
		if lf.Base+fileSize <= from && lf.Base+fileSize != l.To {
			f.Close()
			continue
		}
		p := part{Name: lf.Name, From: min(max(from-lf.Base, 0), fileSize), To: min(max(l.To-lf.Base, 0), fileSize)}
		p.From = min(p.From, p.To)
		p.Clear = p.To
		parts = append(parts, p)
		opened = append(opened, f) // held open: retention may delete it before its turn
	}
	if err := s.out.writeJSON(frameLog, list); err != nil {
		return err
	}
	for i, p := range parts {
		if err := s.out.writeJSON(framePart, p); err != nil {
			return err
		}
		if err := s.sendData(opened[i], p.From, p.To, s.held(filepath.Join(l.Dir, p.Name), fileSize, p.From, p.To)); err != nil {
			return err
		}
	}
	return nil
}

// sendData sends the pages of f between from and to that are not zero and that the target, where it has
// something of the file, has not alike, and the end of the file.
func (s *sender) sendData(f *os.File, from, to int64, h *Held) error {
	s.stats.Files++
	s.stats.Apparent += to - from
	var err error
	if h != nil {
		err = s.sendDiffering(f, from, to, h)
	} else {
		err = s.sendRuns(f, from, to)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return s.out.write(frameEnd, nil)
}

func (s *sender) sendRuns(f *os.File, from, to int64) error {
	return eachData(s.ctx, f, from, to, s.buf, func(at int64, b []byte) error {
		if err := s.out.write(frameData, binary.BigEndian.AppendUint64(nil, uint64(at)), b); err != nil {
			return err
		}
		s.stats.Bytes += int64(len(b))
		if s.Progress != nil {
			s.Progress(s.stats.Bytes)
		}
		return s.pace(len(b))
	})
}

// lateBy is how much of a delay, by the disk or the wire, is made up for: more would come as a burst.
const lateBy = 50 * time.Millisecond

// pace waits until n more bytes of data are within the limit.
func (s *sender) pace(n int) error {
	if s.BytesPerSecond <= 0 {
		return s.ctx.Err()
	}
	if late := time.Now().Add(-lateBy); s.due.Before(late) {
		s.due = late
	}
	s.due = s.due.Add(time.Duration(float64(n) / float64(s.BytesPerSecond) * float64(time.Second)))
	wait := time.Until(s.due)
	if wait < time.Millisecond {
		return s.ctx.Err()
	}
	if err := s.out.w.Flush(); err != nil {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// ErrChanged says that a file became shorter while it was read.
var ErrChanged = errors.New("the file became shorter while it was read")

const page = 4096

// eachData calls do for each run of pages between from and to that are not all zero, with at most
// len(buf) bytes at a time. Holes are not read.
func eachData(ctx context.Context, f *os.File, from, to int64, buf []byte, do func(at int64, b []byte) error) error {
	for pos := from; pos < to; {
		data, hole, err := extent(f, pos, to)
		if err != nil {
			return err
		}
		for pos = data; pos < hole; {
			if err := ctx.Err(); err != nil {
				return err
			}
			// Reads end at page bounds, so that runs are whole pages wherever the range begins.
			b := buf[:min(int64(len(buf))-pos%page, hole-pos)]
			if n, err := f.ReadAt(b, pos); n < len(b) {
				if errors.Is(err, io.EOF) {
					return ErrChanged
				}
				return err
			}
			if err := eachRun(b, pos, do); err != nil {
				return err
			}
			pos += int64(len(b))
		}
	}
	return nil
}

var zeros [page]byte

// eachRun calls do for each run of pages in b that are not zero; b begins at pos of its file.
func eachRun(b []byte, pos int64, do func(at int64, b []byte) error) error {
	run := -1 // where the run that is open begins
	for at := 0; at < len(b); {
		next := min(at+page-int((pos+int64(at))%page), len(b))
		zero := bytes.Equal(b[at:next], zeros[:next-at])
		if zero && run >= 0 {
			if err := do(pos+int64(run), b[run:at]); err != nil {
				return err
			}
			run = -1
		}
		if !zero && run < 0 {
			run = at
		}
		at = next
	}
	if run >= 0 {
		return do(pos+int64(run), b[run:])
	}
	return nil
}

// extent is the next stretch of data in pos..to: start and end, both to when there is none.
func extent(f *os.File, pos, to int64) (data, hole int64, err error) {
	data, err = unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return to, to, nil
	case errors.Is(err, unix.EINVAL): // this file system knows of no holes
		return pos, to, nil
	case err != nil:
		return 0, 0, &fs.PathError{Op: "seek data", Path: f.Name(), Err: err}
	}
	if data >= to {
		return to, to, nil
	}
	if hole, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil {
		return 0, 0, &fs.PathError{Op: "seek hole", Path: f.Name(), Err: err}
	}
	return data, min(hole, to), nil
}

func allZero(ctx context.Context, f *os.File, size int64) (bool, error) {
	found := errors.New("found")
	err := eachData(ctx, f, 0, size, make([]byte, maxData), func(int64, []byte) error { return found })
	if errors.Is(err, found) {
		return false, nil
	}
	return err == nil, err
}
