package e2e

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"mqlift/internal/event"
	"mqlift/internal/rocketmq"
)

// Ctrl-C before writes are opened takes everything back, wherever it comes, and so does the loss of the
// terminal. The next apply begins anew and succeeds.
func TestUndoneOnCtrlC(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	before := b.old(t)
	for name, stop := range map[string]func(*testing.T, *applying){
		"align-logs": func(t *testing.T, a *applying) { a.signal(t, syscall.SIGTERM) },
		"fence-master": func(t *testing.T, a *applying) {
			a.terminal.Close()
			a.signal(t, syscall.SIGHUP)
		},
		"prove-peers": func(t *testing.T, a *applying) { a.signal(t, syscall.SIGINT) },
	} {
		t.Run("in "+name, func(t *testing.T) {
			a := b.startApply(t)
			a.await(t, name+" to begin", func(e event.Event) bool { return e.Kind == event.StepBegin && e.Step == name })
			stop(t, a)
			if code := a.ended(t); code != 130 {
				t.Fatalf("exit code %d, want 130:\n%s", code, a.screen.String())
			}
			b.serves(t, before)
		})
	}
	t.Run("not confirmed before opening", func(t *testing.T) {
		b.run(t, call{stdin: "no\n"}, "apply", "--yes", "--ask-before-open", "--no-failover", "--keys", oldKeys).wants(t, 4, "Go on and open writes", "not confirmed", "everything was undone")
		b.serves(t, before)
	})
	if t.Failed() {
		return
	}
	b.run(t, call{}, "apply", "--yes", "--no-failover", "--keys", oldKeys).wants(t, 0)
	b.verified(t)
}

// old is what the old group must be again after everything was undone: files, settings, roles.
func (b *bench) old(t *testing.T) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, h := range []string{"host-a", "host-b"} {
		data, err := os.ReadFile(b.conf(h))
		must(t, err)
		info, err := os.Stat(b.conf(h))
		must(t, err)
		m[b.conf(h)] = info.Mode().String() + "\n" + string(data)
		m[h+" configuration"] = said(b.broker(h).Config(t.Context()))
	}
	for _, ns := range b.NameServers() {
		m["name server "+ns] = said(b.client.NameServers([]string{ns}).ClusterInfoAt(t.Context(), ns))
	}
	return m
}

// serves expects the old group as it was: it takes sends, gives them to the slave, finds old keys, and
// nobody holds it.
func (b *bench) serves(t *testing.T, before map[string]string) {
	t.Helper()
	// A broker that was started registers at once, and a name server believes it a moment later.
	eventually(t, 30*time.Second, "files, settings and roles to be as before", func(context.Context) error {
		now := b.old(t)
		for name, was := range before {
			if now[name] != was {
				return fmt.Errorf("%s was\n%s\nand is\n%s", name, was, now[name])
			}
		}
		return nil
	})
	eventually(t, 10*time.Second, "the route to allow sends", func(ctx context.Context) error {
		for _, ns := range b.NameServers() {
			route, err := b.client.NameServers([]string{ns}).RouteAt(ctx, ns, topic)
			if err != nil {
				return err
			}
			for _, q := range route.Queues {
				if q.Perm&rocketmq.PermWrite == 0 {
					return fmt.Errorf("name server %s gives %+v", ns, q)
				}
			}
		}
		return nil
	})
	b.send(t, "n", 1, 100)
	b.awaitSlave(t)
	b.find(t, "host-a", "host-b")
	b.unlocked(t)
	if pid := b.pid(t, "host-c", "broker"); pid != 0 {
		t.Errorf("a broker runs on host-c: process %d", pid)
	}
}
