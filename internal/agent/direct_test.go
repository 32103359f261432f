package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mqlift/internal/link"
	"mqlift/internal/remote"
	"mqlift/internal/store"
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
			// The limit holds for all connections together.
			if least := time.Duration(float64(r.Bytes)/float64(spec.BytesPerSecond)*float64(time.Second)) - 100*time.Millisecond; r.Took < least {
				t.Errorf("%d bytes in %s", r.Bytes, r.Took)
			}
			released(t, spec.Direct.Port)
		})
	}
}

// gate lies between two hosts.
type gate struct {
	listener net.Listener
	cutAt    atomic.Int64 // bytes towards the target, of all connections of a copy together; 0: never
	flipAt   atomic.Int64
	count    atomic.Int64 // copies

	mu   sync.Mutex
	ins  []net.Conn
	seen int64 // bytes of this copy
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
			g.mu.Lock()
			if len(g.ins) == 0 {
				g.seen = 0
				g.count.Add(1)
			}
			g.ins = append(g.ins, in)
			g.mu.Unlock()
			go g.pass(in, to)
		}
	}()
	return g
}

func (g *gate) pass(in net.Conn, to string) {
	defer func() {
		in.Close()
		g.mu.Lock()
		g.ins = slices.DeleteFunc(g.ins, func(c net.Conn) bool { return c == in })
		g.mu.Unlock()
	}()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	go func() { io.Copy(in, out); in.Close() }()
	buf := make([]byte, 8<<10)
	for {
		n, err := in.Read(buf)
		g.mu.Lock()
		at := g.seen
		g.seen += int64(n)
		g.mu.Unlock()
		if cut := g.cutAt.Load(); cut > 0 && cut <= at+int64(n) {
			return // the other ones are cut as they come by
		}
		if flip := g.flipAt.Load() - at; flip > 0 && flip < int64(n) {
			buf[flip] ^= 1
		}
		if _, werr := out.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// bigFile is so long that what is under way on all connections is little of it.
const bigFile = 8 << 20

// newLog makes a commit log of two full files, and says what it takes to copy it.
func newLog(t *testing.T, from, to string) CopySpec {
	t.Helper()
	random := rand.NewChaCha8(sha256.Sum256([]byte(t.Name())))
	b := make([]byte, bigFile)
	if err := os.MkdirAll(filepath.Join(from, "commitlog"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range int64(2) {
		random.Read(b)
		if err := os.WriteFile(filepath.Join(from, "commitlog", store.FileName(i*bigFile)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return CopySpec{FromRoot: from, ToRoot: to, Logs: []transfer.LogRange{{Dir: "commitlog", FileSize: bigFile, To: 2 * bigFile}}}
}

// sameLog compares a copy of that log.
func sameLog(t *testing.T, from, to string) {
	t.Helper()
	for i := range int64(2) {
		name := filepath.Join("commitlog", store.FileName(i*bigFile))
		want, _ := os.ReadFile(filepath.Join(from, name))
		got, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not the source's: %v", name, err)
		}
	}
}

// A copy onto a copy moves next to nothing, whichever way it goes.
func TestASecondPassMovesNothing(t *testing.T) {
	for _, mode := range []link.Mode{link.Encrypted, link.Plain, ""} {
		t.Run(string(mode), func(t *testing.T) {
			a, b, _, _ := twoHosts(t)
			from, to := t.TempDir(), t.TempDir()
			spec := storeSpec(from, to, newStore(t, from))
			if mode != "" {
				spec = directly(t, spec, mode)
			}
			for pass := range 2 {
				r, err := Copy(t.Context(), a, b, spec, nil)
				if err != nil {
					t.Fatal(err)
				}
				if again := pass == 1; (r.Bytes == 0) != again || (r.Kept == r.Apparent) != again || again && r.Wire > 20<<10 {
					t.Errorf("pass %d: %+v", pass+1, r)
				}
				same(t, from, to)
			}
		})
	}
}

// A cut says that it was the connection, leaves nothing half done, and the next copy brings the rest.
func TestADirectCopyThatIsCutCanBeDoneAgain(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	from, to := t.TempDir(), t.TempDir()
	spec := directly(t, newLog(t, from, to), link.Encrypted)
	g := newGate(t, spec.Direct.Address)
	spec.Direct.Address = g.listener.Addr().String()
	g.cutAt.Store(bigFile * 7 / 4) // in the second file
	_, err := Copy(t.Context(), a, b, spec, nil)
	var failed *CopyError
	if !errors.As(err, &failed) || failed.Between == nil || failed.Source != nil || failed.Target != nil ||
		!errors.Is(err, link.ErrBroken) || !strings.Contains(err.Error(), spec.Direct.Address) {
		t.Fatalf("got %v", err)
	}
	var partial *transfer.PartialError
	if !errors.As(err, &partial) || partial.Complete != bigFile || partial.Files != nil {
		t.Errorf("what is complete: %+v", partial)
	}
	tidy(t, to)
	released(t, spec.Direct.Port)
	first := filepath.Join(to, "commitlog", "00000000000000000000")
	if info, err := os.Stat(first); err != nil || info.Size() != bigFile {
		t.Fatalf("the file that was complete: %v", err)
	}
	g.cutAt.Store(0)
	spec.Logs[0].From = partial.Complete
	r, err := Copy(t.Context(), a, b, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Bytes > bigFile {
		t.Errorf("%d bytes were sent again", r.Bytes)
	}
	sameLog(t, from, to)
}

func TestAConnectionThatBreaksIsMadeAnewAsLongAsItBringsSomething(t *testing.T) {
	a, b, _, _ := twoHosts(t)
	for name, test := range map[string]struct {
		cutAt int64 // of each copy
		count int64
		ok    bool
	}{
		"a file each time": {bigFile * 7 / 4, 2, true},
		"nothing":          {bigFile / 2, fruitless, false},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := t.TempDir(), t.TempDir()
			spec := directly(t, newLog(t, from, to), link.Encrypted)
			g := newGate(t, spec.Direct.Address)
			spec.Direct.Address = g.listener.Addr().String()
			g.cutAt.Store(test.cutAt)
			told := 0
			_, err := CopyAgain(t.Context(), a, b, spec, nil, func(err error) { told++ })
			if (err == nil) != test.ok || !test.ok && !errors.Is(err, link.ErrBroken) {
				t.Errorf("got %v", err)
			}
			if got := g.count.Load(); got != test.count || told != 1 {
				t.Errorf("%d copies, %d times told", got, told)
			}
			if spec.Logs[0].From != 0 {
				t.Error("the caller's spec was changed")
			}
			if test.ok {
				sameLog(t, from, to)
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
	g.answer.onMeet = func(introduction) { g.dismiss() } // it listens; its input ends, as when the connection is lost
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
		ctx, pin, err := meet[string](ctx, s, id, nil)
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
		ctx, _, err = meet[string](ctx, s, id, nil)
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
