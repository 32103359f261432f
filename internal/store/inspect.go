// Package store reads a broker's store as it lies on disk: it walks commit logs the way a broker's
// recovery does, finds where they end, takes digests of their valid bytes, and compares the copies
// of several hosts. Nothing in it writes.
package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mqlift/internal/diag"
	"mqlift/internal/message"
)

// ChunkSize is the distance of the fixed physical offsets at which digests are cut.
const ChunkSize = 8 << 20

// blankSize is what a broker reads of the mark that ends a file: four bytes of length and the magic.
// The rest of the file after it is left over from the broker's buffer and read by nobody.
const blankSize = 8

// recoveredFiles is how many files a broker walks at its start, counted from the last one
// (CommitLog.recoverNormally in 4.5.2 and 4.9.7; 5.x goes back by the consume queues). What they
// hold decides where the log ends.
const recoveredFiles = 3

// Options of an inspection. The zero value walks and digests everything, body CRCs included.
type Options struct {
	// FileSize is mappedFileSizeCommitLog in bytes; 0 takes the length that most files have.
	FileSize int64
	// Root is storePathRootDir, where the abort file is looked for; "" takes the folder that the
	// commit log's folder is in.
	Root string
	// From and To are physical offsets and must be message or file boundaries. From 0 is the first
	// message kept, To 0 the log's end. Digests begin at the chunk that From stands in.
	From, To int64
	// SkipBodyCRC leaves body CRCs unchecked, but for the last message.
	SkipBodyCRC bool
	// Samples is how many messages with a key to pick, spread evenly over the range.
	Samples int
	// Derived asks for consume queues and index to be compared with the log, which must then be walked
	// whole: From and To 0, body CRCs included.
	Derived bool
	// Workers is how many cores to use; 0 means up to two, the broker being alive beside.
	Workers int
	// Progress is told the sum of bytes digested so far, now and then, one call at a time.
	Progress func(done int64)
}

// Inspection is what was found in one copy of a commit log. Offsets are physical, lengths bytes.
type Inspection struct {
	Dir      string    `json:"dir"`
	FileSize int64     `json:"fileSize"`
	Files    []LogFile `json:"files"` // by name, empty ones included
	First    int64     `json:"first"` // first byte kept
	End      int64     `json:"end"`   // one past the last byte that a starting broker takes as valid; To when Bounded
	Divided  int64     `json:"divided"`

	From     int64     `json:"from"` // walked from here
	To       int64     `json:"to"`   // to here
	Bounded  bool      `json:"bounded"`
	Messages int64     `json:"messages"` // in From..To
	Last     time.Time `json:"last"`     // when the last of them was stored
	Chunks   []Chunk   `json:"chunks"`
	Samples  []Sample  `json:"samples,omitempty"`

	// Abort tells that the abort file is there: the broker runs, or did not stop cleanly.
	Abort bool `json:"abort"`
	// DividedBlank tells that the last file is closed by an end-of-file mark at End: a first start
	// as DLedger wrote it (the old mode writes over it), or a kill before the next file was made.
	DividedBlank bool `json:"dividedBlank"`
	// Trailing is what stands after End that is neither zeros nor a whole message, if anything.
	Trailing *Trailing `json:"trailing,omitempty"`
	// Derived is what was found of consume queues and index; nil when it was not asked for.
	Derived *Derived `json:"derived,omitempty"`
	// Findings say what is wrong with this copy; with a Fail in them it must not be certified.
	Findings diag.Findings `json:"findings,omitempty"`
}

// Chunk is the digest of the valid bytes between two cuts. Zeros and left-overs are not in it.
type Chunk struct {
	Offset int64  `json:"offset"` // a multiple of ChunkSize, or a file's first byte
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

// Sample is a message to look up later.
type Sample struct {
	Topic       string    `json:"topic"`
	Key         string    `json:"key"`
	Offset      int64     `json:"offset"`
	QueueID     int32     `json:"queueId"`
	QueueOffset int64     `json:"queueOffset"`
	Stored      time.Time `json:"stored"`
}

// Trailing is data past the end of a log.
type Trailing struct {
	Offset int64  `json:"offset"` // of the first byte that is not zero
	End    int64  `json:"end"`    // one past the last byte that is not zero
	Why    string `json:"why"`    // why the log ends before it
}

// RangeError says that From or To is no place at which a message begins.
type RangeError struct {
	Dir    string
	Offset int64
	Reason string
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("commit log %s: offset %d: %s", e.Dir, e.Offset, e.Reason)
}

// Inspect walks the commit log in dir. It may be appended to meanwhile: the walk ends cleanly at
// what it sees. Damage is no error but a finding; an error is what keeps from reading, a *RangeError,
// or ctx's end. A folder without files gives an inspection without files.
func Inspect(ctx context.Context, dir string, o Options) (*Inspection, error) {
	if o.Workers <= 0 {
		o.Workers = min(2, runtime.NumCPU())
	}
	if o.Root == "" {
		o.Root = filepath.Dir(filepath.Clean(dir))
	}
	files, fileSize, findings, err := List(dir, o.FileSize)
	if err != nil {
		return nil, err
	}
	in := &Inspection{Dir: dir, FileSize: fileSize, Files: files, Findings: findings, Bounded: o.To > 0}
	if _, err := os.Stat(filepath.Join(o.Root, "abort")); err == nil {
		in.Abort = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(files) == 0 {
		if o.From > 0 || o.To > 0 {
			return nil, &RangeError{dir, max(o.From, o.To), "there are no commit log files"}
		}
		if o.Derived {
			err = in.queuesWithoutLog(ctx, o.Root)
		}
		return in, err
	}
	w := walker{Options: o, dir: dir, fileSize: fileSize, hashing: &errgroup.Group{}}
	w.hashing.SetLimit(o.Workers)
	var scan *derivedScan
	if o.Derived {
		if o.From > 0 || o.To > 0 || o.SkipBodyCRC {
			return nil, &RangeError{dir, max(o.From, o.To), "queues and index are compared with a whole log only"}
		}
		if scan, err = readDerived(ctx, o.Root, files[0].Base, o.Workers); err != nil {
			return nil, err
		}
		w.bounds = scan.bounds
	}
	walks, err := w.walkAll(ctx, files)
	if err != nil {
		return nil, err
	}
	total := newTally(nil)
	if err := in.assemble(o, walks, total); err != nil || scan == nil {
		return in, err
	}
	in.Derived, err = scan.compare(ctx, in, total)
	return in, err
}

// queuesWithoutLog adds a finding when consume queues refer to a log that is not there, unless DLedger has
// one of its own below the root.
func (in *Inspection) queuesWithoutLog(ctx context.Context, root string) error {
	reach, err := MaxConsumeQueueOffset(ctx, root)
	if err != nil || reach < 0 {
		return err
	}
	ledgers, err := filepath.Glob(filepath.Join(root, "dledger-*"))
	if err != nil || len(ledgers) > 0 {
		return err
	}
	in.Findings.Add(diag.Finding{Check: "store.ahead", Severity: diag.Fail, Where: in.Dir,
		What: fmt.Sprintf("there is no commit log, and consume queues refer to messages up to offset %d", reach),
		Do:   "bring the commit log from another copy, and do not start the broker before: it would delete what the queues hold"})
	return nil
}

type walker struct {
	Options
	dir      string
	fileSize int64
	first    int64 // From, or the first byte kept
	stride   int64 // distance of samples
	hashing  *errgroup.Group
	bounds   *tallyBounds // of what queues and index hold; nil: not asked for

	progress sync.Mutex
	done     int64
}

// fileWalk is what was found in one file; positions count from the file's first byte.
type fileWalk struct {
	gone     bool // deleted by retention before it was opened
	skipped  bool // outside From..To
	empty    bool
	sealed   bool  // closed by an end-of-file mark at stop
	stop     int64 // where the walk ended
	why      string
	cut      int64 // where a starting broker stops because of a wrong CRC, or -1
	afterCut int64 // whole messages that follow the cut
	damaged  []int64
	moved    []int64 // messages that stand elsewhere than they say
	messages int64
	stored   int64
	chunks   []Chunk
	samples  []Sample
	tally    *tally   // nil: not asked for
	trailing [2]int64 // first and one past the last byte that is not zero, after stop; equal when there is none
	// following are whole messages after stop, which no walk reaches: how many, and where the first is.
	following      int64
	firstFollowing int64
}

func (w *walker) walkAll(ctx context.Context, files []LogFile) ([]fileWalk, error) {
	last := files[len(files)-1]
	from := max(w.From, files[0].Base)
	if from > last.Base+w.fileSize {
		return nil, &RangeError{w.dir, from, "the log does not reach it"}
	}
	if w.To > 0 && (w.To < from || w.To > last.Base+w.fileSize) {
		return nil, &RangeError{w.dir, w.To, "it is outside the log"}
	}
	if w.Samples > 0 {
		end := w.To
		if end == 0 {
			var err error
			if end, err = w.dataEnd(files); err != nil {
				return nil, err
			}
		}
		w.first, w.stride = from, max(1, (end-from)/int64(w.Samples))
	}
	walks := make([]fileWalk, len(files))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(w.Workers)
	for i, f := range files {
		walks[i].skipped = f.Base+w.fileSize <= from && f.Base+w.fileSize < last.Base+w.fileSize ||
			w.To > 0 && f.Base >= w.To && i > 0
		if walks[i].skipped {
			continue
		}
		group.Go(func() error {
			var err error
			walks[i], err = w.walk(ctx, f, i >= len(files)-recoveredFiles)
			if errors.Is(err, fs.ErrNotExist) {
				walks[i].gone, err = true, nil
			}
			return err
		})
	}
	err := group.Wait()
	due := from
	for i := range walks { // a file knows nothing of the one before: of a stretch in both, the first sample counts
		walks[i].samples = slices.DeleteFunc(walks[i].samples, func(s Sample) bool {
			if s.Offset < due {
				return true
			}
			due = w.sampleAfter(s.Offset)
			return false
		})
	}
	return walks, err
}

// dataEnd is about where the log ends, going by the holes of its files.
func (w *walker) dataEnd(files []LogFile) (int64, error) {
	for _, f := range slices.Backward(files) {
		if f.Allocated == 0 {
			continue
		}
		file, err := os.Open(filepath.Join(w.dir, f.Name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		defer file.Close()
		end := f.Base
		for pos := int64(0); pos < f.Size; {
			data, err := dataFrom(file, pos, f.Size)
			if err != nil {
				return 0, err
			}
			if data == f.Size {
				break
			}
			if pos, err = holeFrom(file, data, f.Size); err != nil {
				return 0, err
			}
			end = f.Base + pos
		}
		if end > f.Base {
			return end, nil
		}
	}
	return files[0].Base, nil
}

// walk reads one file from its first byte, since only from there on boundaries are certain, and
// counts, checks and digests what is in From..To of it.
func (w *walker) walk(ctx context.Context, f LogFile, recovered bool) (r fileWalk, err error) {
	r.cut = -1
	file, err := os.Open(filepath.Join(w.dir, f.Name))
	if err != nil {
		return r, err
	}
	defer file.Close()
	data, err := dataFrom(file, 0, f.Size)
	if err != nil {
		return r, err
	}
	r.empty = data == f.Size
	if r.empty {
		r.why = "zeros"
		return r, w.checkRange(f, &r)
	}
	b, err := unix.Mmap(int(file.Fd()), 0, int(f.Size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return r, fmt.Errorf("map %s: %w", file.Name(), err)
	}
	unix.Madvise(b, unix.MADV_SEQUENTIAL)
	d := digester{w: w, base: f.Base, b: b, path: file.Name()}
	defer func() {
		d.pending.Wait()
		unix.Munmap(b)
		err = errors.Join(err, d.err)
		r.chunks = d.chunks
	}()
	err = guard(file.Name(), func() error { return w.walkMapped(ctx, f, file, b, recovered, &r, &d) })
	return r, err
}

func (w *walker) walkMapped(ctx context.Context, f LogFile, file *os.File, b []byte, recovered bool, r *fileWalk, d *digester) error {
	from := max(0, w.From-f.Base)
	to := int64(len(b))
	if w.To > 0 {
		to = min(to, w.To-f.Base)
	}
	// Digests begin at the chunk that From stands in, so that they can be put behind earlier ones.
	d.start = max(0, (f.Base+from)/ChunkSize*ChunkSize-f.Base)
	if w.bounds != nil {
		r.tally = newTally(w.bounds)
	}
	nextSample := f.Base + from

	var pos, before int64 // before: start of the last whole message
	before = -1
	for steps := 0; pos < to; steps++ {
		if steps%512 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l, err := message.LayoutOf(b[pos:])
		if errors.Is(err, message.ErrBlank) {
			r.sealed = true
			break
		}
		if err != nil {
			r.why = stopReason(b[pos:], err)
			break
		}
		next := pos + int64(l.Size)
		if pos < from && next > from {
			return &RangeError{w.dir, f.Base + from, fmt.Sprintf("it is inside the message at %d", f.Base+pos)}
		}
		if next > to {
			return &RangeError{w.dir, f.Base + to, fmt.Sprintf("it is inside the message at %d", f.Base+pos)}
		}
		m := b[pos:next]
		if pos >= from {
			switch {
			case r.cut >= 0:
				r.afterCut++
			case !w.SkipBodyCRC && !l.BodyIntact(m) && recovered:
				r.cut = pos
			default:
				if !w.SkipBodyCRC && !l.BodyIntact(m) {
					r.damaged = append(r.damaged, f.Base+pos)
				}
				if l.PhysicalOffset(m) != f.Base+pos {
					r.moved = append(r.moved, f.Base+pos)
				}
				r.messages++
				r.stored = l.Stored(m)
				if r.tally != nil {
					r.tally.see(m, l, f.Base+pos)
				}
				if w.Samples > 0 && f.Base+pos >= nextSample {
					if s, ok := sampleOf(m, l, f.Base+pos); ok {
						r.samples = append(r.samples, s)
						nextSample = w.sampleAfter(f.Base + pos)
					}
				}
			}
		}
		if r.cut < 0 {
			d.upTo(pos) // one message behind: the last one may turn out to be half written
		}
		before, pos = pos, next
	}

	// A message can be complete in its lengths and not yet in its body while it is being written.
	if !r.sealed && pos < to && w.SkipBodyCRC && before >= from {
		m := b[before:pos]
		if l, err := message.LayoutOf(m); err == nil && !l.BodyIntact(m) {
			pos, r.why = before, "the body's CRC is wrong"
			r.messages--
		}
	}
	r.stop = pos
	if r.cut >= 0 {
		r.stop, r.sealed, r.why = r.cut, false, "the body's CRC is wrong"
	}
	valid := r.stop
	if r.sealed && to >= valid+blankSize {
		valid += blankSize
	}
	d.finish(valid)
	if err := w.checkRange(f, r); err != nil {
		return err
	}
	if to == int64(len(b)) && r.stop < to {
		return r.lookBehind(ctx, file, b, f.Base)
	}
	return nil
}

// checkRange makes sure that From and To, if they stand in this file, can be reached in it.
func (w *walker) checkRange(f LogFile, r *fileWalk) error {
	end := f.Base + r.stop
	full := f.Base + f.Size
	if w.From > end && w.From < full {
		return &RangeError{w.dir, w.From, fmt.Sprintf("the log, or the readable part of this file, ends at %d", end)}
	}
	if w.To > end && w.To <= full && !(r.sealed && w.To == full) {
		return &RangeError{w.dir, w.To, fmt.Sprintf("the log, or the readable part of this file, ends at %d", end)}
	}
	return nil
}

// sampleAfter is where the next sample is due after one at offset: where the next stretch begins.
func (w *walker) sampleAfter(offset int64) int64 {
	return w.first + ((offset-w.first)/w.stride+1)*w.stride
}

// sampleOf makes a sample of a message that an operator's key look-up can find: not one of the
// broker's own topics, not one that was rolled back (IndexService.buildIndex leaves those out).
func sampleOf(m []byte, l message.Layout, offset int64) (Sample, bool) {
	if !bytes.Contains(m[l.Props:l.PropsEnd], []byte(message.PropertyKeys+"\x01")) {
		return Sample{}, false
	}
	msg, err := message.Decode(m)
	if err != nil {
		return Sample{}, false
	}
	keys := msg.Keys()
	if len(keys) == 0 || msg.SysFlag&message.FlagTransaction == message.FlagRolledBack || isBrokerTopic(msg.Topic) {
		return Sample{}, false
	}
	return Sample{Topic: msg.Topic, Key: keys[0], Offset: offset, QueueID: msg.QueueID,
		QueueOffset: msg.QueueOffset, Stored: msg.Stored}, true
}

func isBrokerTopic(topic string) bool {
	return topic == "SCHEDULE_TOPIC_XXXX" || strings.HasPrefix(topic, "RMQ_SYS_") ||
		strings.HasPrefix(topic, "%RETRY%") || strings.HasPrefix(topic, "rmq_sys_")
}

func stopReason(b []byte, err error) string {
	if len(b) >= blankSize && !slices.ContainsFunc(b[:blankSize], func(c byte) bool { return c != 0 }) {
		return "zeros"
	}
	return err.Error()
}

// lookBehind looks for anything but zeros after the walk's stop, and for whole messages there: a walk
// ends at the first byte that is no message, and a starting broker cuts off what is behind it. Behind an
// end-of-file mark only messages count, the rest is left over from the broker's buffer.
func (r *fileWalk) lookBehind(ctx context.Context, file *os.File, b []byte, base int64) error {
	size := int64(len(b))
	const step = 1 << 20
	from := r.stop
	if r.sealed {
		from += blankSize
	}
	for pos := from; pos < size; {
		data, err := dataFrom(file, pos, size)
		if err != nil {
			return err
		}
		hole, err := size, error(nil)
		if data < size {
			if hole, err = holeFrom(file, data, size); err != nil {
				return err
			}
		}
		for at := data; at < hole; at += step {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			part := b[at:min(at+step, hole)]
			first := firstNonZero(part)
			if first < 0 {
				continue
			}
			if !r.sealed {
				if r.trailing[1] == 0 {
					r.trailing[0] = at + int64(first)
				}
				r.trailing[1] = at + int64(lastNonZero(part)) + 1
			}
			if r.cut < 0 { // else they were counted on the way
				r.findMessages(b, max(from, at-magicAt), min(at+step, hole), base)
			}
		}
		pos = hole
	}
	if _, err := message.LayoutOf(b[r.stop:]); err == nil && r.cut < 0 {
		r.following = 0 // written meanwhile: the log went on
	}
	return nil
}

// magicAt is where a message's magic stands in it.
const magicAt = 4

// findMessages counts whole messages of which the magic begins in b[from:to], each at the offset that it
// says, so that a message within a body is not taken for one, and none older than the last one before
// the stop: a broker that cut its log and went on leaves such ones behind its end.
func (r *fileWalk) findMessages(b []byte, from, to, base int64) {
	var magics [2][4]byte
	binary.BigEndian.PutUint32(magics[0][:], message.Magic)
	binary.BigEndian.PutUint32(magics[1][:], message.MagicV2)
	window := b[from:min(to+magicAt-1, int64(len(b)))]
	for _, magic := range magics {
		for at := 0; ; at++ {
			i := bytes.Index(window[at:], magic[:])
			if i < 0 {
				break
			}
			at += i
			start := from + int64(at) - magicAt
			if start < r.stop {
				continue
			}
			m := b[start:]
			l, err := message.LayoutOf(m)
			if err != nil || l.PhysicalOffset(m) != base+start || !l.BodyIntact(m) || l.Stored(m) < r.stored {
				continue
			}
			if r.following == 0 || base+start < r.firstFollowing {
				r.firstFollowing = base + start
			}
			r.following++
		}
	}
}

var zeroPage [4096]byte

func firstNonZero(b []byte) int {
	for at := 0; at < len(b); at += len(zeroPage) {
		part := b[at:min(at+len(zeroPage), len(b))]
		if !bytes.Equal(part, zeroPage[:len(part)]) {
			return at + slices.IndexFunc(part, func(c byte) bool { return c != 0 })
		}
	}
	return -1
}

func lastNonZero(b []byte) int {
	for i, c := range slices.Backward(b) {
		if c != 0 {
			return i
		}
	}
	return -1
}

// digester takes digests of a mapped file's chunks while the walk goes on.
type digester struct {
	w       *walker
	path    string
	base    int64
	b       []byte
	start   int64 // of the chunk that is open, in the file
	pending sync.WaitGroup
	mu      sync.Mutex
	chunks  []Chunk
	err     error
}

// upTo says that the file is valid up to pos: chunks that are complete are digested.
func (d *digester) upTo(pos int64) {
	for {
		cut := (d.base+d.start)/ChunkSize*ChunkSize + ChunkSize - d.base
		if cut > pos {
			return
		}
		d.digest(d.start, cut)
		d.start = cut
	}
}

// finish digests the last, incomplete chunk.
func (d *digester) finish(pos int64) {
	d.upTo(pos)
	if pos > d.start {
		d.digest(d.start, pos)
		d.start = pos
	}
}

func (d *digester) digest(from, to int64) {
	d.mu.Lock()
	i := len(d.chunks)
	d.chunks = append(d.chunks, Chunk{Offset: d.base + from, Length: to - from})
	d.mu.Unlock()
	d.pending.Add(1)
	d.w.hashing.Go(func() error {
		defer d.pending.Done()
		var sum [sha256.Size]byte
		err := guard(d.path, func() error { sum = sha256.Sum256(d.b[from:to]); return nil })
		d.mu.Lock()
		d.chunks[i].SHA256 = hex.EncodeToString(sum[:])
		d.err = errors.Join(d.err, err)
		d.mu.Unlock()
		d.w.report(to - from)
		return nil
	})
}

func (w *walker) report(n int64) {
	if w.Progress == nil {
		return
	}
	w.progress.Lock()
	defer w.progress.Unlock()
	w.done += n
	w.Progress(w.done)
}

// guard turns a page that cannot be read (a bad disk, a file cut short under the map) into an error.
func guard(path string, read func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			fault, ok := p.(interface {
				error
				Addr() uintptr
			})
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("read %s: the file was cut short meanwhile, or the disk cannot read it: %w", path, fault)
		}
	}()
	return read()
}

// assemble puts the files' walks together the way CommitLog.recoverNormally does.
// The tallies of files up to the end are added to total.
func (in *Inspection) assemble(o Options, walks []fileWalk, total *tally) error {
	for len(walks) > 0 && walks[0].gone {
		walks, in.Files = walks[1:], in.Files[1:]
	}
	for i, w := range walks {
		if w.gone {
			return fmt.Errorf("commit log %s: %s vanished while it was read: %w", in.Dir, in.Files[i].Name, fs.ErrNotExist)
		}
	}
	if len(in.Files) == 0 {
		return nil
	}
	in.First = in.Files[0].Base
	in.From = max(o.From, in.First)

	endFile := -1
	first := 0 // the first file that was walked
	for first < len(walks)-1 && walks[first].skipped {
		first++
	}
	stops := max(first, len(walks)-recoveredFiles) // a broker's start looks at these
	for i := first; i < len(walks) && endFile < 0; i++ {
		f, w := &in.Files[i], &walks[i]
		if w.skipped {
			endFile = i - 1
			break
		}
		f.Empty, f.Messages = w.empty, w.messages
		in.Messages += w.messages
		if w.messages > 0 {
			in.Last = time.UnixMilli(w.stored)
		}
		in.Chunks = append(in.Chunks, w.chunks...)
		in.Samples = append(in.Samples, w.samples...)
		if w.tally != nil {
			total.add(w.tally)
		}
		in.damage(*f, w)
		if o.To > 0 && o.To <= f.Base+f.Size {
			endFile = i
			break
		}
		if w.sealed {
			continue
		}
		if i < stops {
			in.Findings.Add(diag.Finding{Check: "store.unreadable", Severity: diag.Fail, Where: filepath.Join(in.Dir, f.Name),
				What: fmt.Sprintf("from offset %d to the file's end nothing can be read (%s), and files follow", f.Base+w.stop, w.why),
				Do:   "bring this file from another copy, and inspect again"})
			continue
		}
		endFile = i
	}
	in.Samples = in.Samples[:min(len(in.Samples), max(o.Samples, 0))]
	if o.To > 0 {
		in.End, in.To = o.To, o.To
		in.Divided = (max(o.To, 1)-1)/in.FileSize*in.FileSize + in.FileSize
		return nil
	}
	if endFile < 0 {
		endFile = len(walks) - 1
		in.DividedBlank = walks[endFile].sealed
	}
	f, w := in.Files[endFile], walks[endFile]
	in.End = f.Base + w.stop
	in.To = in.End
	in.Divided = f.Base + f.Size
	if w.trailing[0] < w.trailing[1] {
		in.Trailing = &Trailing{Offset: f.Base + w.trailing[0], End: f.Base + w.trailing[1], Why: w.why}
	}
	if in.From > in.End {
		return &RangeError{in.Dir, in.From, fmt.Sprintf("the log ends at %d", in.End)}
	}
	in.trailing(endFile, walks)
	return nil
}

// damage adds findings about messages of one file.
func (in *Inspection) damage(f LogFile, w *fileWalk) {
	where := filepath.Join(in.Dir, f.Name)
	if n := len(w.damaged); n > 0 {
		in.Findings.Add(diag.Finding{Check: "store.crc", Severity: diag.Fail, Where: where,
			What: fmt.Sprintf("%s a body that does not match its CRC, the first one at offset %d", count(int64(n), "message has", "messages have"), w.damaged[0]),
			Do:   "bring this file from another copy, and inspect again"})
	}
	if n := len(w.moved); n > 0 {
		in.Findings.Add(diag.Finding{Check: "store.offset", Severity: diag.Fail, Where: where,
			What: fmt.Sprintf("%s elsewhere, the first one at offset %d", count(int64(n), "message says that it stands", "messages say that they stand"), w.moved[0]),
			Do:   "a byte of it is damaged, or this file was renamed or put together wrongly: bring it from another copy"})
	}
	if w.following > 0 {
		why := w.why
		if w.sealed {
			why = "an end-of-file mark"
		}
		in.Findings.Add(diag.Finding{Check: "store.unreadable", Severity: diag.Fail, Where: where,
			What: fmt.Sprintf("the log breaks off at offset %d (%s) and %s in this file, the first at offset %d: a starting broker does not see them",
				f.Base+w.stop, why, count(w.following, "whole message follows", "whole messages follow"), w.firstFollowing),
			Do: "bring this file from another copy, and inspect again; until then do not restart the broker"})
	}
	if w.cut >= 0 && w.afterCut > 0 {
		in.Findings.Add(diag.Finding{Check: "store.crc", Severity: diag.Fail, Where: where,
			What: fmt.Sprintf("the message at offset %d has a body that does not match its CRC: a starting broker cuts the log there and loses the %s in this file", f.Base+w.cut, count(w.afterCut, "message that follows", "messages that follow")),
			Do:   "bring this file from another copy, and inspect again"})
	}
}

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// trailing adds findings about what stands after End.
func (in *Inspection) trailing(endFile int, walks []fileWalk) {
	if t := in.Trailing; t != nil && walks[endFile].following == 0 { // which damage has said of more than these bytes
		in.Findings.Add(diag.Finding{Check: "store.trailing", Severity: diag.Warn, Where: filepath.Join(in.Dir, in.Files[endFile].Name),
			What: fmt.Sprintf("%d bytes after the log's end at %d are no message (%s): torn by a kill, or still being written", t.End-in.End, in.End, t.Why),
			Do:   "nothing if the broker was killed or runs; a starting broker ignores them"})
	}
	for i := endFile + 1; i < len(walks); i++ {
		f, w := &in.Files[i], walks[i]
		f.Empty = w.empty || w.stop == 0 && !w.sealed && w.trailing[1] == 0
		if f.Empty {
			continue
		}
		finding := diag.Finding{Check: "store.trailing", Severity: diag.Warn, Where: filepath.Join(in.Dir, f.Name),
			What: fmt.Sprintf("the log ends at %d, before this file, and the file is not empty", in.End),
			Do:   "a starting broker deletes it; move it away if it is not wanted"}
		if w.messages > 0 {
			finding.Severity = diag.Fail
			finding.What = fmt.Sprintf("the log ends at %d (%s), before this file, which holds %s that a starting broker deletes", in.End, walks[endFile].why, count(w.messages, "message", "messages"))
			finding.Do = "bring the file in which the log ends from another copy, and inspect again"
		}
		in.Findings.Add(finding)
	}
}
