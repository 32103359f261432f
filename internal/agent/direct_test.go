package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mqlift/internal/link"
	"mqlift/internal/remote"
	"mqlift/internal/transfer"
)

func local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// directly makes a copy go from host to host.
func directly(t *testing.T, spec CopySpec, mode link.Mode) CopySpec {
	t.Helper()
	port := freePort(t)
	spec.Direct = &Direct{Address: local(port), Port: port, Mode: mode}
	return spec
}

// released checks that nothing listens any more.
func released(t *testing.T, port int) {
	t.Helper()
	eventually(t, "the port to be free", func() bool {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return false
		}
		l.Close()
		return true
	})
}

func TestADirectCopyMovesAStore(t *testing.T) {
	for _, mode := range []link.Mode{link.Encrypted, link.Plain} {
		t.Run(string(mode), func(t *testing.T) {
			a, b, fromHost, toHost := twoHosts(t)
			none := func(c *remote.Cmd) {
				if isVerb(c, "pack") || isVerb(c, "unpack") {
					t.Error("data went through this machine")
				}
			}
			fromHost.rewrite, toHost.rewrite = none, none
			from, to := t.TempDir(), t.TempDir()
			end := newStore(t, from)
			spec := directly(t, storeSpec(from, to, end), mode)
			spec.BytesPerSecond = 4 << 20 // long enough for progress to be told
			var arrived int64
			r, err := Copy(t.Context(), a, b, spec, func(p Progress) { arrived = p.Done })
			if err != nil {
				t.Fatal(err)
			}
			same(t, from, to)
			if r.Bytes < end || r.Wire < r.Bytes || r.Wire > r.Bytes*102/100 || arrived <= 0 || arrived > r.Bytes {
				t.Errorf("result %+v, progress %d", r, arrived)
			}
			released(t, spec.Direct.Port)
		})
	}
}

// gate lies between two hosts.
type gate struct {
	listener net.Listener
	cutAt    atomic.Int64 // bytes towards the target, of each connection; 0: never
	flipAt   atomic.Int64
	count    atomic.Int64 // connections
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			g.count.Add(1)
			go g.pass(in, to)
		}
	}()
	return g
}

func (g *gate) pass(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	go func() { io.Copy(in, out); in.Close() }()
	buf := make([]byte, 8<<10)
	for at := int64(0); ; {
		n, err := in.Read(buf)
		if cut := g.cutAt.Load() - at; cut > 0 && cut <= int64(n) {
			return
		}
		if flip := g.flipAt.Load() - at; flip > 0 && flip < int64(n) {
			buf[flip] ^= 1
		}
		at += int64(n)
		if _, werr := out.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// A cut says that it was the connection, leaves nothing half done, and the next copy brings the rest.
func TestADirectCopyThatIsCutCanBeDoneAgain(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	from, to := t.TempDir(), t.TempDir()
	end := newStore(t, from)
	spec := directly(t, CopySpec{FromRoot: from, ToRoot: to, Logs: storeSpec(from, to, end).Logs}, link.Encrypted)
	g := newGate(t, spec.Direct.Address)
	spec.Direct.Address = g.listener.Addr().String()
	g.cutAt.Store(logFileSize + logFileSize/4) // in the second file
	_, err := Copy(t.Context(), a, b, spec, nil)
	var failed *CopyError
	if !errors.As(err, &failed) || failed.Between == nil || failed.Source != nil || failed.Target != nil ||
		!errors.Is(err, link.ErrBroken) || !strings.Contains(err.Error(), spec.Direct.Address) {
		t.Fatalf("got %v", err)
	}
	var partial *transfer.PartialError
	if !errors.As(err, &partial) || partial.Complete != logFileSize || partial.Files != nil {
		t.Errorf("what is complete: %+v", partial)
	}
	tidy(t, to)
	released(t, spec.Direct.Port)
	first := filepath.Join(to, "commitlog", "00000000000000000000")
	if info, err := os.Stat(first); err != nil || info.Size() != logFileSize {
		t.Fatalf("the file that was complete: %v", err)
	}
	g.cutAt.Store(0)
	spec.Logs[0].From = partial.Complete
	r, err := Copy(t.Context(), a, b, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Bytes > logFileSize/2 {
		t.Errorf("%d bytes were sent again", r.Bytes)
	}
	for _, name := range []string{"00000000000000000000", "00000000000001048576"} {
		want, _ := os.ReadFile(filepath.Join(from, "commitlog", name))
		got, err := os.ReadFile(filepath.Join(to, "commitlog", name))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s is not the source's: %v", name, err)
		}
	}
}

func TestAConnectionThatBreaksIsMadeAnewAsLongAsItBringsSomething(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	from := t.TempDir()
	end := newStore(t, from)
	for name, test := range map[string]struct {
		cutAt int64 // of each connection
		count int64
		ok    bool
	}{
		"a file each time": {logFileSize + logFileSize/4, 2, true},
		"nothing":          {logFileSize / 2, fruitless, false},
	} {
		t.Run(name, func(t *testing.T) {
			to := t.TempDir()
			spec := directly(t, CopySpec{FromRoot: from, ToRoot: to, Logs: storeSpec(from, to, end).Logs}, link.Encrypted)
			g := newGate(t, spec.Direct.Address)
			spec.Direct.Address = g.listener.Addr().String()
			g.cutAt.Store(test.cutAt)
			told := 0
			_, err := CopyAgain(t.Context(), a, b, spec, nil, func(err error) { told++ })
			if (err == nil) != test.ok || !test.ok && !errors.Is(err, link.ErrBroken) {
				t.Errorf("got %v", err)
			}
			if got := g.count.Load(); got != test.count || told != 1 {
				t.Errorf("%d connections, %d times told", got, told)
			}
			if spec.Logs[0].From != 0 {
				t.Error("the caller's spec was changed")
			}
			if test.ok {
				for _, name := range []string{"00000000000000000000", "00000000000001048576"} {
					want, _ := os.ReadFile(filepath.Join(from, "commitlog", name))
					got, err := os.ReadFile(filepath.Join(to, "commitlog", name))
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s is not the source's: %v", name, err)
					}
				}
			}
			tidy(t, to)
		})
	}
}

func TestAFlippedByteOnAPlainWireIsTheConnectionsFault(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	from, to := t.TempDir(), t.TempDir()
	spec := directly(t, storeSpec(from, to, newStore(t, from)), link.Plain)
	g := newGate(t, spec.Direct.Address)
	spec.Direct.Address = g.listener.Addr().String()
	g.flipAt.Store(700 << 10)
	_, err := Copy(t.Context(), a, b, spec, nil)
	var failed *CopyError
	if !errors.As(err, &failed) || failed.Between == nil || !strings.Contains(err.Error(), "changes the data") {
		t.Errorf("got %v", err)
	}
	tidy(t, to)
}

func TestADirectCopyToNowhereSaysSo(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	from, to := t.TempDir(), t.TempDir()
	spec := directly(t, storeSpec(from, to, newStore(t, from)), link.Encrypted)
	port := spec.Direct.Port
	spec.Direct.Address = local(freePort(t)) // as behind a firewall that refuses
	began := time.Now()
	_, err := Copy(t.Context(), a, b, spec, nil)
	var failed *CopyError
	if !errors.As(err, &failed) || failed.Between == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	tidy(t, to)
	released(t, port)
}

func TestADirectCopyNeedsItsPort(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	from, to := t.TempDir(), t.TempDir()
	spec := directly(t, storeSpec(from, to, newStore(t, from)), link.Encrypted)
	l, err := net.Listen("tcp", ":"+strconv.Itoa(spec.Direct.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Copy(t.Context(), a, b, spec, nil)
	var failed *CopyError
	if !errors.As(err, &failed) || failed.Source != nil || failed.Between != nil || failed.Target == nil ||
		!strings.Contains(err.Error(), strconv.Itoa(spec.Direct.Port)+", over which the data is to come, is taken") {
		t.Errorf("got %v", err)
	}
}

func TestADirectCopyBlamesTheEndThatFailed(t *testing.T) {
	t.Run("the source cannot read", func(t *testing.T) {
		a, b, _, _ := twoHosts(t)
		from, to := t.TempDir(), t.TempDir()
		end := newStore(t, from)
		_, err := Copy(t.Context(), a, b, directly(t, storeSpec(from, to, end+10*logFileSize), link.Plain), nil)
		var failed *CopyError
		if !errors.As(err, &failed) || failed.Source == nil || failed.Target != nil || failed.Between != nil {
			t.Errorf("got %v", err)
		}
		tidy(t, to)
	})
	t.Run("the target has no room", func(t *testing.T) {
		a, b, _, _ := twoHosts(t)
		from, to := t.TempDir(), t.TempDir()
		if err := syscall.Mount("none", to, "tmpfs", 0, "size=512k"); err != nil {
			t.Skipf("a small file system cannot be mounted: %v", err)
		}
		defer syscall.Unmount(to, 0)
		_, err := Copy(t.Context(), a, b, directly(t, storeSpec(from, to, newStore(t, from)), link.Encrypted), nil)
		var failed *CopyError
		if !errors.As(err, &failed) || failed.Source != nil || failed.Between != nil || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the source is killed", func(t *testing.T) {
		a, b, fromHost, _ := twoHosts(t)
		from, to := t.TempDir(), t.TempDir()
		started := filepath.Join(t.TempDir(), "started")
		fromHost.rewrite = func(c *remote.Cmd) {
			if isVerb(c, "send") {
				script := `exec 3<&0; "$0" agent send <&3 & p=$!; until [ -e "$1" ]; do sleep 0.02; done; kill -9 $p; wait $p`
				c.Argv = []string{"sh", "-c", script, c.Argv[0], started}
			}
		}
		spec := directly(t, storeSpec(from, to, newStore(t, from)), link.Encrypted)
		spec.BytesPerSecond = 300 << 10
		_, err := Copy(t.Context(), a, b, spec, func(Progress) { os.WriteFile(started, nil, 0o644) })
		var failed *CopyError
		var exit *remote.ExitError
		if !errors.As(err, &failed) || failed.Source == nil || failed.Target != nil || failed.Between != nil || !errors.As(err, &exit) {
			t.Errorf("got %v", err)
		}
		tidy(t, to)
	})
}

func TestACancelledDirectCopyEndsBothEndsAndGivesThePortBack(t *testing.T) {
	for _, when := range []string{"at once", "in the middle"} {
		t.Run(when, func(t *testing.T) {
			a, b, _, _ := twoHosts(t)
			from, to := t.TempDir(), t.TempDir()
			spec := directly(t, storeSpec(from, to, newStore(t, from)), link.Encrypted)
			spec.BytesPerSecond = 200 << 10
			why := errors.New("the operator said stop")
			ctx, cancel := context.WithCancelCause(t.Context())
			if when == "at once" {
				go func() {
					for c, err := net.Dial("tcp", spec.Direct.Address); ; c, err = net.Dial("tcp", spec.Direct.Address) {
						if err == nil {
							c.Close()
							break
						}
						time.Sleep(5 * time.Millisecond)
					}
					cancel(why)
				}()
			}
			_, err := Copy(ctx, a, b, spec, func(Progress) { cancel(why) })
			if !errors.Is(err, why) {
				t.Errorf("got %v", err)
			}
			tidy(t, to)
			released(t, spec.Direct.Port)
		})
	}
}

func TestAListenerEndsWithItsBastion(t *testing.T) {
	_, b, _, _ := twoHosts(t)
	spec := directly(t, storeSpec(t.TempDir(), t.TempDir(), 0), link.Encrypted)
	g := newGuest([]byte(`{"direct":{"port":` + strconv.Itoa(spec.Direct.Port) + `}}` + "\n"))
	g.answer.onPin = func(string) { g.dismiss() } // it listens; its input ends, as when the connection is lost
	if _, err := visit[transfer.Stats](t.Context(), b, "receive", g); !errors.Is(err, errDismissed) {
		t.Errorf("got %v", err)
	}
	released(t, spec.Direct.Port)
}

func TestReachTellsWhoReachesWhom(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	c := &Agent{host: &localHost{name: "b3"}, binary: a.binary}
	d := &Agent{host: &localHost{name: "b4"}, binary: a.binary}
	ports := []int{freePort(t), freePort(t), freePort(t), freePort(t)}
	// b3 is behind a wall, and b4's port is taken.
	stations := []Station{{a, local(ports[0]), ports[0]}, {b, local(ports[1]), ports[1]}, {c, local(freePort(t)), ports[2]}, {d, local(ports[3]), ports[3]}}
	l, err := net.Listen("tcp", ":"+strconv.Itoa(ports[3]))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	all, err := Reach(t.Context(), stations)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range all {
		got[r.From+" "+r.To] = "reached"
		if r.Err != nil {
			got[r.From+" "+r.To] = r.Err.Error()
		}
	}
	for pair, want := range map[string]string{
		"b1 b2": "reached", "b2 b1": "reached", "b3 b1": "reached", "b3 b2": "reached",
		"b1 b3": "refused", "b2 b3": "refused", "b1 b4": "taken", "b2 b4": "taken", "b3 b4": "taken",
		"b4 b1": "taken", "b4 b2": "taken", "b4 b3": "taken",
	} {
		if !strings.Contains(got[pair], want) {
			t.Errorf("%s: %q, want %s", pair, got[pair], want)
		}
	}
	if len(all) != 12 {
		t.Errorf("%d pairs", len(all))
	}
	for _, port := range ports[:3] {
		released(t, port)
	}
}

// A machine that is cut off ends no connection: an agent that meets another one's goes on for as long as it
// is spoken to.
func TestAnAgentThatIsNotSpokenToEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest([]byte("{}\n"))
		in := bufio.NewReader(g.stdin)
		if _, err := in.ReadBytes('\n'); err != nil { // the request
			t.Fatal(err)
		}
		id, err := link.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		ctx, s := openSession(t.Context(), io.Discard)
		s.in = in
		go g.beats()
		go g.w.Write([]byte("\"pin\"\n"))
		ctx, pin, err := meet[string](ctx, s, id)
		if err != nil || pin != "pin" {
			t.Fatalf("told %q, %v", pin, err)
		}
		time.Sleep(10 * unheard)
		if err := context.Cause(ctx); err != nil {
			t.Fatalf("spoken to, it ends: %v", err)
		}
		g.dismiss()
		<-ctx.Done()
		if err := context.Cause(ctx); !errors.Is(err, errDismissed) {
			t.Errorf("its input ended, and it with %v", err)
		}
		s.finish(nil, nil)
		time.Sleep(2 * beat) // the beats see that it has ended
	})
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		id, err := link.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		ctx, s := openSession(t.Context(), io.Discard)
		s.in = bufio.NewReader(r)
		go w.Write([]byte("\"pin\"\n"))
		ctx, _, err = meet[string](ctx, s, id)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		<-ctx.Done()
		if err := context.Cause(ctx); !errors.Is(err, link.ErrBroken) || time.Since(began) > unheard {
			t.Errorf("silent, it ended after %s with %v", time.Since(began), err)
		}
		w.Close()
		s.finish(nil, nil)
	})
}
