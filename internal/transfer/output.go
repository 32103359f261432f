package transfer

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Data is gathered in blocks, and written behind the receiver's back while the next block fills. What is long
// goes to disk past the page cache: 4 GiB took 2.5 s and a tenth of a core with O_DIRECT, in pieces of 4 MiB,
// against 8 s to 14 s and one and a half cores through the cache and fsync (ext4 on Linux 6.18); and it leaves
// the host's cache to what works there. What is short is read again at once, by whoever compares logs while
// sends are refused or by a broker that starts, and stays in the cache.
const (
	blockSize  = 4 << 20
	blockCount = 3
	directFrom = 32 << 20  // bytes that are to come into a file
	directRun  = 256 << 10 // bytes in a row; a disk is slow with shorter ones
)

// output is a file that is being written.
type output struct {
	*os.File
	direct *os.File       // the same one past the page cache; nil: not wanted, or its file system cannot
	writes sync.WaitGroup // that are under way
	mu     sync.Mutex
	err    error // the first of them
}

// newOutput takes an open file that expect bytes will be written to.
func newOutput(f *os.File, expect int64) *output {
	o := &output{File: f}
	if expect >= directFrom {
		if d, err := os.OpenFile(f.Name(), os.O_WRONLY|pastCache, 0); err == nil {
			o.direct = d
		}
	}
	return o
}

// written waits until nothing is under way any more.
func (o *output) written() error {
	o.writes.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// close may be called more than once.
func (o *output) close() {
	o.writes.Wait()
	if o.direct != nil {
		o.direct.Close()
	}
	o.Close()
}

// block is a stretch of a file: mem[low:high] belongs at base+low. Its base is that of a page, and its memory
// begins like one, as O_DIRECT wants it.
type block struct {
	mem       []byte
	base      int64
	low, high int
}

func newBlock() *block {
	mem := make([]byte, blockSize+page)
	skip := -int(uintptr(unsafe.Pointer(&mem[0]))) & (page - 1)
	return &block{mem: mem[skip : skip+blockSize]}
}

func (b *block) begin(at int64) {
	b.base = at &^ (page - 1)
	b.low = int(at - b.base)
	b.high = b.low
}

func (o *output) write(b *block) error {
	from, to := (b.low+page-1)&^(page-1), b.high&^(page-1)
	if o.direct == nil || to-from < directRun {
		return o.writeCached(b, b.low, b.high)
	}
	_, err := o.direct.WriteAt(b.mem[from:to], b.base+int64(from))
	if errors.Is(err, unix.EINVAL) { // a file system that says so only now, or wants more than whole pages
		return o.writeCached(b, b.low, b.high)
	}
	if err == nil {
		err = o.writeCached(b, b.low, from)
	}
	if err == nil {
		err = o.writeCached(b, to, b.high)
	}
	return err
}

// writeCached has the disk begin at once where there is much: the fsync at the end finds little left to do.
func (o *output) writeCached(b *block, from, to int) error {
	if from == to {
		return nil
	}
	if _, err := o.WriteAt(b.mem[from:to], b.base+int64(from)); err != nil {
		return err
	}
	if to-from >= directRun {
		beginWriting(o.File, b.base+int64(from), int64(to-from))
	}
	return nil
}

// blocks are those of a receiver.
type blocks struct {
	free    chan *block
	made    int
	filling *block
	writing sync.WaitGroup
	pending atomic.Int64 // bytes that have come and are not written
}

func newBlocks() blocks { return blocks{free: make(chan *block, blockCount)} }

// room is memory for what belongs at that place of the file, and comes next; taken says that it has come.
func (s *blocks) room(ctx context.Context, o *output, at int64, length int, failed func(error)) ([]byte, error) {
	if b := s.filling; b != nil && (b.base+int64(b.high) != at || b.high+length > len(b.mem)) {
		s.flush(o, failed)
	}
	if s.filling == nil {
		b, err := s.next(ctx)
		if err != nil {
			return nil, err
		}
		b.begin(at)
		s.filling = b
	}
	b := s.filling
	return b.mem[b.high : b.high+length], nil
}

func (s *blocks) taken(length int) {
	s.filling.high += length
	s.pending.Add(int64(length))
}

func (s *blocks) next(ctx context.Context) (*block, error) {
	select {
	case b := <-s.free:
		return b, nil
	default:
	}
	if s.made < blockCount {
		s.made++
		return newBlock(), nil
	}
	select {
	case b := <-s.free:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// flush has what came so far written.
func (s *blocks) flush(o *output, failed func(error)) {
	b := s.filling
	if b == nil {
		return
	}
	s.filling = nil
	o.writes.Add(1)
	s.writing.Go(func() {
		defer o.writes.Done()
		err := o.write(b)
		if err == nil {
			s.pending.Add(-int64(b.high - b.low))
		} else {
			o.mu.Lock()
			if o.err == nil {
				o.err = err
			}
			o.mu.Unlock()
			failed(err)
		}
		s.free <- b
	})
}
