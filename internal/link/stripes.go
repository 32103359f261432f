package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"
)

// One stream of bytes goes over several connections: one is the work of one core at each end, and on a long way
// each has a window of its own. The stream is cut into blocks, each goes over whichever connection is
// free, and the target puts them in order again by their numbers. A block is its number 8, the length of its
// data 4, and the data; one without data is a connection's last word, so that a cut is told from an end.
// Whoever changes, drops or moves a block within a connection is seen by what protects that (TLS, or the codes
// of Plain), and between connections by the number.
const (
	blockHead = 12
	blockData = 256 << 10
	maxStripe = 4
)

// Streams is how many connections a host gives to one copy: one for each core, and 4 at most.
func Streams() int { return min(runtime.GOMAXPROCS(0), maxStripe) }

// stripes is what both ends have.
type stripes struct {
	conns  []*Conn
	free   chan *block // room for all
	made   int         // blocks so far
	most   int
	lanes  sync.WaitGroup
	once   sync.Once
	failed chan struct{} // closed after err is set
	err    error
}

type block struct {
	number uint64
	length int
	head   [blockHead]byte
	mem    [blockData]byte
}

func (b *block) data() []byte { return b.mem[:b.length] }

func newStripes(conns []*Conn, most int) stripes {
	return stripes{conns: conns, free: make(chan *block, most), most: most, failed: make(chan struct{})}
}

// fail ends all connections at once, for that reason. Only the first counts.
func (s *stripes) fail(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.failed)
		for _, c := range s.conns {
			c.Close()
		}
	})
}

func (s *stripes) deadline(set func(*Conn)) {
	for _, c := range s.conns {
		set(c)
	}
}

// Sender is the source's end of a stream. It is for one goroutine.
type Sender struct {
	stripes
	out    chan *block
	fill   *block // not full yet; nil: none
	number uint64 // of the next block
}

// Connect connects to the target, with as many connections as both ends want, which for this one are most. It
// returns when all of them have been taken.
func Connect(ctx context.Context, address string, id *Identity, pin string, mode Mode, most int) (_ *Sender, err error) {
	first, err := Dial(ctx, address, id, pin, mode)
	if err != nil {
		return nil, err
	}
	conns := make([]*Conn, max(1, min(most, first.offer)))
	conns[0] = first
	defer func() {
		if err != nil {
			for _, c := range conns {
				if c != nil {
					c.Close()
				}
			}
		}
	}()
	errs := make([]error, len(conns))
	var dials sync.WaitGroup
	for i := range conns {
		dials.Go(func() {
			if i > 0 {
				conns[i], errs[i] = Dial(ctx, address, id, pin, mode)
			}
			if errs[i] == nil {
				_, errs[i] = conns[i].Write([]byte{byte(i), byte(len(conns))})
			}
		})
	}
	dials.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return newSender(conns), nil
}

func newSender(conns []*Conn) *Sender {
	s := &Sender{stripes: newStripes(conns, 2*len(conns)+1), out: make(chan *block)}
	for _, c := range conns {
		s.lanes.Go(func() { s.lane(c) })
	}
	return s
}

func (s *Sender) lane(c *Conn) {
	for {
		select {
		case <-s.failed:
			return
		case b, more := <-s.out:
			var err error
			if more {
				if _, err = c.Write(b.head[:]); err == nil {
					_, err = c.Write(b.data())
				}
				s.free <- b
			} else {
				_, err = c.Write(make([]byte, blockHead))
			}
			if err != nil {
				s.fail(err)
			}
			if err != nil || !more {
				return
			}
		}
	}
}

// Write takes p, and fails with ErrBroken when a connection has.
func (s *Sender) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if s.fill == nil {
			b, err := s.block()
			if err != nil {
				return done, err
			}
			s.fill = b
		}
		n := copy(s.fill.mem[s.fill.length:], p[done:])
		s.fill.length += n
		done += n
		if s.fill.length == blockData {
			if err := s.Flush(); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// block waits for one that is free.
func (s *Sender) block() (*block, error) {
	select {
	case b := <-s.free:
		b.length = 0
		return b, nil
	default:
	}
	if s.made < s.most {
		s.made++
		return &block{}, nil
	}
	select {
	case b := <-s.free:
		b.length = 0
		return b, nil
	case <-s.failed:
		return nil, s.err
	}
}

// Flush sends what has been written, without waiting until it is on its way.
func (s *Sender) Flush() error {
	b := s.fill
	if b == nil {
		return nil
	}
	s.fill = nil
	binary.BigEndian.PutUint64(b.head[:], s.number)
	binary.BigEndian.PutUint32(b.head[8:], uint32(b.length))
	s.number++
	select {
	case s.out <- b:
		return nil
	case <-s.failed:
		return s.err
	}
}

// SetWriteDeadline is that of net.Conn, for all connections.
func (s *Sender) SetWriteDeadline(t time.Time) error {
	s.deadline(func(c *Conn) { c.SetWriteDeadline(t) })
	return nil
}

// Close sends the rest and that it was all, and ends the connections; at once when ctx ends. What it returns
// nil for arrives, while both hosts live.
func (s *Sender) Close(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
	defer stop()
	err := s.Flush()
	close(s.out)
	s.lanes.Wait()
	select {
	case <-s.failed:
		return s.err
	default:
	}
	s.fail(net.ErrClosed)
	return err
}

// Sent is how many bytes went over the wire from this end so far, handshakes and all.
func (s *Sender) Sent() (n int64) {
	for _, c := range s.conns {
		n += c.Sent()
	}
	return n
}

// Receiver is the target's end of a stream. It is for one goroutine.
type Receiver struct {
	stripes
	turn *block // whose data is read
	rest []byte // of it

	mu      sync.Mutex
	changed sync.Cond
	next    uint64   // number of the next block
	came    []*block // those from next on, each in the place of its number; no others are taken yet
	waiting []uint64 // numbers of blocks that have come too early
	living  int      // connections that have neither said their last word nor failed
	lost    error    // of the first that has failed
}

// drain is how long a stream goes on of which a connection has failed: what the others have brought is read, up
// to the first block that is missing.
const drain = 5 * time.Second

func newReceiver(conns []*Conn) *Receiver {
	window := 2 * len(conns)
	r := &Receiver{stripes: newStripes(conns, window+len(conns)+1), came: make([]*block, window), living: len(conns)}
	r.changed.L = &r.mu
	for range r.most {
		r.free <- nil // made when it is wanted
	}
	for _, c := range conns {
		r.lanes.Go(func() {
			err := r.lane(c)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.living--
			if err != nil && r.lost == nil {
				r.lost = failure(err)
				time.AfterFunc(drain, func() { r.end(r.lost) })
			}
			if err != nil {
				c.Close() // which tells the source
			}
			r.changed.Broadcast()
		})
	}
	return r
}

// lane returns nil after the last word of its connection, and when all have been ended.
func (r *Receiver) lane(c *Conn) error {
	var head [blockHead]byte
	for least := uint64(0); ; {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return cut(err)
		}
		number, length := binary.BigEndian.Uint64(head[:]), binary.BigEndian.Uint32(head[8:])
		if length == 0 {
			return nil
		}
		if length > blockData || number < least {
			return fmt.Errorf("block %d of %d bytes came where block %d was due, or a later one", number, length, least)
		}
		least = number + 1
		var b *block
		select {
		case b = <-r.free:
		case <-r.failed:
			return nil
		}
		if b == nil {
			b = &block{}
		}
		b.number, b.length = number, int(length)
		if _, err := io.ReadFull(c, b.data()); err != nil {
			return cut(err)
		}
		if err := r.put(b); err != nil {
			return err
		}
	}
}

// put waits until a block is among the next ones. The very next one never waits for others: what is before it
// on its connection has lower numbers, and has been read.
func (r *Receiver) put(b *block) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.early(b.number) {
		r.waiting = append(r.waiting, b.number)
		r.changed.Broadcast()
		for r.early(b.number) && !r.over() {
			r.changed.Wait()
		}
		r.waiting = slices.DeleteFunc(r.waiting, func(n uint64) bool { return n == b.number })
	}
	place := &r.came[b.number%uint64(len(r.came))]
	switch {
	case r.over():
		return nil
	case b.number < r.next || *place != nil:
		return fmt.Errorf("block %d came twice", b.number)
	}
	*place = b
	r.changed.Broadcast()
	return nil
}

// early tells that a block has no place yet.
func (r *Receiver) early(number uint64) bool { return number >= r.next+uint64(len(r.came)) }

// stuck tells that nothing more can come of a stream of which a connection has failed.
func (r *Receiver) stuck() bool {
	early := 0
	for _, number := range r.waiting {
		if r.early(number) {
			early++
		}
	}
	return early == r.living && (r.living == 0 || r.lost != nil)
}

func (s *stripes) over() bool {
	select {
	case <-s.failed:
		return true
	default:
		return false
	}
}

// cut makes an end without a last word one that is seen.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Read fails with ErrBroken, or with io.EOF when the source has closed. What it returns has been sent by the
// source, in this order.
func (r *Receiver) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.turn != nil {
			r.free <- r.turn
			r.turn = nil
		}
		if err := r.take(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// take waits for the next block.
func (r *Receiver) take() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	place := &r.came[r.next%uint64(len(r.came))]
	for *place == nil && !r.stuck() && !r.over() {
		r.changed.Wait()
	}
	switch {
	case *place != nil:
	case r.lost != nil:
		return r.lost
	case r.over():
		return r.err
	default:
		return io.EOF
	}
	r.turn, *place = *place, nil
	r.rest = r.turn.data()
	r.next++
	r.changed.Broadcast()
	return nil
}

// end is fail, told to those who wait.
func (r *Receiver) end(err error) {
	r.fail(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed.Broadcast()
}

// SetReadDeadline is that of net.Conn, for all connections.
func (r *Receiver) SetReadDeadline(t time.Time) error {
	r.deadline(func(c *Conn) { c.SetReadDeadline(t) })
	return nil
}

// Close ends the connections, whatever may still come.
func (r *Receiver) Close() error {
	r.end(net.ErrClosed)
	r.lanes.Wait()
	return nil
}
