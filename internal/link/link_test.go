package link_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mqlift/internal/link"
)

func identity(t testing.TB) *link.Identity {
	t.Helper()
	id, err := link.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// target listens and has an address to connect to.
func target(t testing.TB, id *link.Identity) (*link.Listener, string) {
	t.Helper()
	l, err := link.Listen(t.Context(), 0, id, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return l, "127.0.0.1:" + port
}

type end struct {
	conn *link.Receiver
	err  error
}

func accept(ctx context.Context, t testing.TB, l *link.Listener, pin string, mode link.Mode) <-chan end {
	result := make(chan end, 1)
	go func() {
		c, err := l.Accept(ctx, pin, mode)
		if c != nil {
			t.Cleanup(func() { c.Close() })
		}
		result <- end{c, err}
	}()
	return result
}

// pair is a connection's two ends, and what lies between them if through is given.
func pair(t testing.TB, mode link.Mode, through func(address string) string) (source *link.Sender, sink *link.Receiver) {
	t.Helper()
	a, b := identity(t), identity(t)
	l, address := target(t, b)
	l.Most = 3
	if through != nil {
		address = through(address)
	}
	accepted := accept(t.Context(), t, l, a.Pin(), mode)
	source, err := link.Connect(t.Context(), address, a, b.Pin(), mode, 4)
	if err != nil {
		t.Fatal(err)
	}
	got := <-accepted
	if got.err != nil {
		t.Fatal(got.err)
	}
	return source, got.conn
}

func forEach(t *testing.T, f func(*testing.T, link.Mode)) {
	for _, mode := range []link.Mode{link.Encrypted, link.Plain} {
		t.Run(string(mode), func(t *testing.T) { f(t, mode) })
	}
}

func TestWhatIsSentArrives(t *testing.T) {
	forEach(t, func(t *testing.T, mode link.Mode) {
		source, sink := pair(t, mode, nil)
		data := make([]byte, 5<<20+7)
		rand.Read(data)
		go func() {
			rest := data
			for _, n := range []int{1, 16<<10 + 1, 0, 3 << 20} {
				source.Write(rest[:n])
				rest = rest[n:]
			}
			source.Write(rest)
			source.Close(t.Context())
		}()
		got := make([]byte, len(data))
		if _, err := io.ReadFull(sink, got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("something else arrived: %v", err)
		}
		if n, err := sink.Read(got); n > 0 || err == nil {
			t.Errorf("read %d bytes more, %v", n, err)
		}
		// Records, codes and the handshake together: under 2 %.
		if sent := source.Sent(); sent < int64(len(data)) || sent > int64(len(data))*102/100 {
			t.Errorf("%d bytes on the wire for %d", sent, len(data))
		}
	})
}

func TestWhatIsFlushedIsNotKeptBack(t *testing.T) {
	forEach(t, func(t *testing.T, mode link.Mode) {
		source, sink := pair(t, mode, nil)
		for range 3 {
			if _, err := source.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := source.Flush(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(sink, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestOnlyThePinnedPeerIsTaken(t *testing.T) {
	forEach(t, func(t *testing.T, mode link.Mode) {
		a, b, stranger := identity(t), identity(t), identity(t)
		l, address := target(t, b)
		accepted := accept(t.Context(), t, l, a.Pin(), mode)
		// Somebody with another key, somebody who speaks TLS without any, somebody who says nothing.
		if _, err := link.Dial(t.Context(), address, stranger, b.Pin(), mode); !errors.Is(err, link.ErrBroken) {
			t.Errorf("a stranger: %v", err)
		}
		if c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}); err == nil {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("taken without a certificate")
			}
			c.Close()
		}
		silent, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		// None of them keeps the peer off.
		source, err := link.Connect(t.Context(), address, a, b.Pin(), mode, 4)
		if err != nil {
			t.Fatal(err)
		}
		if got := <-accepted; got.err != nil {
			t.Error(got.err)
		}
		source.Close(t.Context())
		// The port is free again, and nobody else is let in behind the peer.
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			c.Close()
			t.Error("it still listens")
		}
	})
}

func TestTheSourceTakesOnlyThePinnedTarget(t *testing.T) {
	forEach(t, func(t *testing.T, mode link.Mode) {
		a, b, impostor := identity(t), identity(t), identity(t)
		l, address := target(t, impostor)
		ctx, cancel := context.WithCancel(t.Context())
		accepted := accept(ctx, t, l, a.Pin(), mode)
		if _, err := link.Dial(t.Context(), address, a, b.Pin(), mode); !errors.Is(err, link.ErrBroken) || !strings.Contains(err.Error(), "not the one announced") {
			t.Errorf("got %v", err)
		}
		cancel()
		if got := <-accepted; !errors.Is(got.err, context.Canceled) {
			t.Errorf("the impostor: %v", got.err)
		}
	})
}

func TestAStrangerIsNamedWhenNobodyElseCame(t *testing.T) {
	a, b := identity(t), identity(t)
	l, address := target(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan link.Turned)
	go func() {
		turned, _ := l.Serve(ctx, []string{a.Pin()}, link.Encrypted, func(int, *link.Conn) { t.Error("taken") })
		done <- turned
	}()
	if _, err := link.Dial(t.Context(), address, identity(t), b.Pin(), link.Encrypted); err == nil {
		t.Error("a stranger was taken")
	}
	cancel()
	turned := <-done
	if turned.Count < 1 || !strings.Contains(turned.String(), "not the one announced") {
		t.Errorf("got %v", turned)
	}
}

func TestAPeerThatNeverComesIsNotWaitedForForEver(t *testing.T) {
	l, address := target(t, identity(t))
	l.Wait = 200 * time.Millisecond
	_, err := l.Accept(t.Context(), identity(t).Pin(), link.Encrypted)
	if !errors.Is(err, link.ErrBroken) || !strings.Contains(err.Error(), "did not connect") {
		t.Errorf("got %v", err)
	}
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}

func TestAPortThatIsTakenIsNamed(t *testing.T) {
	l, address := target(t, identity(t))
	_, text, _ := net.SplitHostPort(address)
	port, _ := strconv.Atoi(text)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := link.Listen(ctx, port, identity(t), time.Second)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "port "+text) {
		t.Errorf("got %v", err)
	}
	l.Close()
	again, err := link.Listen(t.Context(), port, identity(t), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestNobodyListens(t *testing.T) {
	l, address := target(t, identity(t))
	l.Close()
	if _, err := link.Dial(t.Context(), address, identity(t), identity(t).Pin(), link.Encrypted); !errors.Is(err, link.ErrBroken) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

// between forwards connections and lets a test spoil what goes from the source to the target.
type between struct {
	to   string
	flip atomic.Int64 // the byte at that position of one connection is changed, 0: none
	cut  atomic.Int64 // one connection is cut there, 0: not
	lost atomic.Bool  // that one is chosen
}

func (b *between) listen(t testing.TB) string {
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
			out, err := net.Dial("tcp", b.to)
			if err != nil {
				in.Close()
				continue
			}
			go func() { io.Copy(in, out); in.Close() }()
			go func() {
				defer out.Close()
				defer in.Close()
				var at int64
				buf := make([]byte, 4096)
				for {
					n, err := in.Read(buf)
					if flip := b.flip.Load() - at; flip > 0 && flip < int64(n) && b.lost.CompareAndSwap(false, true) {
						buf[flip] ^= 1
					}
					if cut := b.cut.Load() - at; cut > 0 && cut < int64(n) && b.lost.CompareAndSwap(false, true) {
						return
					}
					at += int64(n)
					if _, werr := out.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// stream sends zeros until it fails, and reads until that fails; what arrived must be zeros.
func stream(t *testing.T, source *link.Sender, sink *link.Receiver) (sent, received error, arrived int64) {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		for range 8 {
			if _, err := source.Write(make([]byte, 1<<20)); err != nil {
				source.Close(t.Context())
				result <- err
				return
			}
		}
		result <- source.Close(t.Context())
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := sink.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			t.Fatal("changed data was let through")
		}
		arrived += int64(n)
		if err != nil {
			sink.Close()
			return <-result, err, arrived
		}
	}
}

func TestAFlippedByteIsSeenAndNothingAfterItIsLetThrough(t *testing.T) {
	forEach(t, func(t *testing.T, mode link.Mode) {
		b := &between{}
		source, sink := pair(t, mode, func(to string) string { b.to = to; return b.listen(t) })
		b.flip.Store(1<<20 + 12345)
		_, err, arrived := stream(t, source, sink)
		if !errors.Is(err, link.ErrBroken) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
		if arrived == 8<<20 {
			t.Error("all of it arrived")
		}
	})
}

func TestACutIsSeen(t *testing.T) {
	forEach(t, func(t *testing.T, mode link.Mode) {
		b := &between{}
		source, sink := pair(t, mode, func(to string) string { b.to = to; return b.listen(t) })
		b.cut.Store(1<<20 + 12345)
		sent, err, arrived := stream(t, source, sink)
		if !errors.Is(err, link.ErrBroken) || arrived == 8<<20 {
			t.Errorf("%v after %d bytes", err, arrived)
		}
		if sent != nil && !errors.Is(sent, link.ErrBroken) {
			t.Errorf("the source: %v", sent)
		}
	})
}

func TestADeadlineEndsBothEnds(t *testing.T) {
	forEach(t, func(t *testing.T, mode link.Mode) {
		source, sink := pair(t, mode, nil)
		sink.SetReadDeadline(time.Unix(1, 0))
		if _, err := sink.Read(make([]byte, 1)); !errors.Is(err, link.ErrBroken) {
			t.Errorf("the target: %v", err)
		}
		source.SetWriteDeadline(time.Unix(1, 0))
		if _, err := source.Write(make([]byte, 16<<20)); !errors.Is(err, link.ErrBroken) {
			t.Errorf("the source: %v", err)
		}
		source.Close(t.Context())
	})
}
