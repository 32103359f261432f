package link_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mqlift/internal/link"
)

// A stream comes out as it went in, over however many connections, and however it is cut into writes and reads.
func TestAStreamOverSeveralConnectionsIsPutTogetherAgain(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		mode := rapid.SampledFrom([]link.Mode{link.Encrypted, link.Plain}).Draw(r, "mode")
		source, sink := streams(t, mode, rapid.IntRange(1, 4).Draw(r, "source's"), rapid.IntRange(1, 4).Draw(r, "target's"), nil)
		defer sink.Close()
		data := make([]byte, rapid.IntRange(0, 3<<20).Draw(r, "length"))
		rand.NewChaCha8(sha256.Sum256([]byte(fmt.Sprint(len(data))))).Read(data)
		pieces := rapid.SliceOfN(rapid.IntRange(1, 600_000), 1, 8).Draw(r, "writes")
		reads := rapid.SliceOfN(rapid.IntRange(1, 600_000), 1, 8).Draw(r, "reads")
		flushed := rapid.Bool().Draw(r, "flushed")
		sent := make(chan error, 1)
		go func() {
			rest := data
			for i := 0; len(rest) > 0; i++ {
				n := min(pieces[i%len(pieces)], len(rest))
				if _, err := source.Write(rest[:n]); err != nil {
					break // Close says why
				}
				if flushed {
					source.Flush()
				}
				rest = rest[n:]
			}
			sent <- source.Close(t.Context())
		}()
		var got bytes.Buffer
		buf := make([]byte, 600_000)
		var err error
		for i := 0; err == nil; i++ {
			var n int
			n, err = sink.Read(buf[:reads[i%len(reads)]])
			got.Write(buf[:n])
		}
		if err != io.EOF || !bytes.Equal(got.Bytes(), data) {
			r.Fatalf("%d of %d bytes, other ones or %v", got.Len(), len(data), err)
		}
		if err := <-sent; err != nil {
			r.Fatal(err)
		}
	})
}

// streams is pair with as many connections as each end wants.
func streams(t testing.TB, mode link.Mode, sources, targets int, through func(string) string) (*link.Sender, *link.Receiver) {
	t.Helper()
	a, b := identity(t), identity(t)
	l, address := target(t, b)
	l.Most = targets
	if through != nil {
		address = through(address)
	}
	accepted := accept(t.Context(), t, l, a.Pin(), mode)
	source, err := link.Connect(t.Context(), address, a, b.Pin(), mode, sources)
	if err != nil {
		t.Fatal(err)
	}
	got := <-accepted
	if got.err != nil {
		t.Fatal(got.err)
	}
	return source, got.conn
}

func TestBothEndsDecideHowManyConnections(t *testing.T) {
	for _, c := range []struct{ source, target, want int }{{1, 4, 1}, {4, 1, 1}, {3, 2, 2}, {4, 4, 4}} {
		count := &counter{}
		source, sink := streams(t, link.Encrypted, c.source, c.target, count.listen(t))
		if got := int(count.made.Load()); got != c.want {
			t.Errorf("%d connections of %d that the source wants and %d that the target does", got, c.source, c.target)
		}
		source.Close(t.Context())
		sink.Close()
	}
}

// counter forwards connections and counts them.
type counter struct{ made atomic.Int64 }

func (c *counter) listen(t testing.TB) func(string) string {
	return func(to string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				in, err := l.Accept()
				if err != nil {
					return
				}
				c.made.Add(1)
				out, err := net.Dial("tcp", to)
				if err != nil {
					in.Close()
					continue
				}
				go func() { io.Copy(in, out); in.Close() }()
				go func() { io.Copy(out, in); out.Close() }()
			}
		}()
		return l.Addr().String()
	}
}

// One connection that ends by itself, as others than the source can have it end, ends the stream at once: the
// other ones would be waited for without end.
func TestAnEndThatTheSourceDidNotSayIsACut(t *testing.T) {
	forEach(t, func(t *testing.T, mode link.Mode) {
		b := &between{}
		source, sink := streams(t, mode, 2, 2, func(to string) string { b.to = to; return b.listen(t) })
		b.cut.Store(300 << 10) // of one of both, in the middle of blocks, while the source goes on to live
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			source.Write(make([]byte, 1<<20))
			source.Flush()
		}()
		if _, err := io.Copy(io.Discard, sink); !errors.Is(err, link.ErrBroken) {
			t.Errorf("got %v", err)
		}
		sink.Close()
		<-wrote
		source.Close(t.Context())
	})
}

func TestACancelledStreamLeavesNothing(t *testing.T) {
	forEach(t, func(t *testing.T, mode link.Mode) {
		before := open(t)
		goroutines := runtime.NumGoroutine()
		source, sink := streams(t, mode, 4, 4, nil)
		// The target reads nothing: all is full, and the source hangs.
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the operator said stop")
		wrote := make(chan error, 1)
		go func() {
			_, err := source.Write(make([]byte, 128<<20))
			wrote <- err
		}()
		select {
		case err := <-wrote:
			t.Fatalf("nothing was read, and all was written: %v", err)
		case <-sink.Filled():
		}
		cancel(why)
		source.SetWriteDeadline(time.Unix(1, 0))
		if err := <-wrote; !errors.Is(err, link.ErrBroken) {
			t.Errorf("the write: %v", err)
		}
		if err := source.Close(ctx); err == nil {
			t.Error("closed as if all had been sent")
		}
		sink.Close()
		deadline := time.Now().Add(10 * time.Second)
		for runtime.NumGoroutine() > goroutines || open(t) > before {
			if time.Now().After(deadline) {
				t.Fatalf("%d goroutines instead of %d, %d open files instead of %d", runtime.NumGoroutine(), goroutines, open(t), before)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

// open is how many files and sockets this process has.
func open(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(all)
}

// Strangers who connect and say nothing do not keep the source off, however many.
func TestSilentStrangersDoNotLockTheSourceOut(t *testing.T) {
	a, b := identity(t), identity(t)
	l, address := target(t, b)
	accepted := accept(t.Context(), t, l, a.Pin(), link.Encrypted)
	for range 100 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	source, err := link.Connect(t.Context(), address, a, b.Pin(), link.Encrypted, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got := <-accepted; got.err != nil {
		t.Error(got.err)
	}
	source.Close(t.Context())
}

func TestASourceOfWhichOnlySomeConnectionsComeIsNotTaken(t *testing.T) {
	a, b := identity(t), identity(t)
	l, address := target(t, b)
	l.Wait = 500 * time.Millisecond
	accepted := accept(t.Context(), t, l, a.Pin(), link.Encrypted)
	c, err := link.Dial(t.Context(), address, a, b.Pin(), link.Encrypted)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{0, 2}); err != nil {
		t.Fatal(err)
	}
	got := <-accepted
	if l.Most < 2 {
		t.Skip("this machine takes one connection only")
	}
	if !errors.Is(got.err, link.ErrBroken) || !strings.Contains(got.err.Error(), "1 of 2 connections") {
		t.Errorf("got %v", got.err)
	}
}

// A byte that is changed on one connection of several is seen, and nothing of it or after it is let through.
func TestAFlippedByteOnOneConnectionIsSeen(t *testing.T) {
	forEach(t, func(t *testing.T, mode link.Mode) {
		b := &between{}
		source, sink := streams(t, mode, 4, 4, func(to string) string { b.to = to; return b.listen(t) })
		b.flip.Store(700 << 10)
		_, err, arrived := stream(t, source, sink)
		if !errors.Is(err, link.ErrBroken) || errors.Is(err, io.ErrUnexpectedEOF) || arrived == 8<<20 {
			t.Errorf("%v after %d bytes", err, arrived)
		}
	})
}
