package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"mqlift/e2e/refcase"
	"mqlift/internal/event"
	"mqlift/internal/probe"
	"mqlift/internal/rocketmq"
)

// An upgrade that is killed right after it has opened writes has a price already, and is gone back from
// under traffic, also when the way back is killed in the fence, while the old group is restored, and in its
// last step: what was acknowledged before, during and after is on the old master and its slave, and a
// consumer group sees all of it.
func TestReplayedWhenUnfinished(t *testing.T) {
	b := newBench(t)
	before := b.old(t)
	must(t, b.broker("host-a").CreateSubscriptionGroup(t.Context(), rocketmq.NewSubscriptionGroup(clerks)))
	eventually(t, time.Minute, "a route to the topic", func(ctx context.Context) error {
		_, err := b.client.NameServers(b.NameServers()).Route(ctx, topic)
		return err
	})
	consumer := &refcase.Consumer{NameServers: b.NameServers(), Group: clerks, Topics: []string{topic}}
	must(t, consumer.Start())
	t.Cleanup(func() {
		if err := consumer.Stop(); err != nil {
			t.Error(err)
		}
	})
	b.warmUp(t, consumer)

	var sent, stale probe.Sent
	var sends, staleSends probe.Timeline
	traffic := newBackground(t)
	traffic.run(func(ctx context.Context) error {
		return (&probe.ClientSender{NameServers: b.NameServers(), Topic: topic, Group: "application", KeyPrefix: "f", Timeline: &sends, Sent: &sent}).Run(ctx)
	})
	a := b.startApply(t)
	a.await(t, "writes to be open", func(e event.Event) bool { return e.Kind == event.StepEnd && e.Step == "open-writes" })
	a.signal(t, syscall.SIGKILL)
	a.ended(t)
	// Its route is the new group's for good.
	traffic.run(func(ctx context.Context) error {
		return (&probe.ClientSender{NameServers: b.NameServers(), Topic: topic, Group: "stale", KeyPrefix: "p", PinRoute: true, Timeline: &staleSends, Sent: &stale}).Run(ctx)
	})
	opened := time.Now()
	must(t, sends.WaitSteady(limited(t, 2*time.Minute), opened, 50))
	must(t, staleSends.WaitSteady(limited(t, 2*time.Minute), opened, 50))
	b.run(t, call{}, "status").wants(t, 0, "was cut short at", "which the old group would not see ("+topic+" ", "`mqlift rollback --replay` sends them again")
	b.run(t, call{}, "rollback").wants(t, 3, "which the old group would not see ("+topic+" ", "mqlift rollback --replay")

	// Given up while that is free, the new group takes sends as before.
	a = b.start(t, "rollback", "--replay", "--yes")
	a.await(t, "the rest to be read", began("take-rest"))
	a.signal(t, syscall.SIGINT)
	if code := a.ended(t); code != 130 {
		t.Errorf("exit code %d:\n%s", code, a.screen.String())
	}
	leaders := 0
	for _, h := range b.Hosts() {
		if h.Name == "host-a" {
			continue // not joined: mqlift was killed before
		}
		live, err := b.broker(h.Name).Config(t.Context())
		must(t, err)
		switch live["brokerRole"] {
		case "SYNC_MASTER":
			leaders++
		case "SLAVE":
		default:
			t.Errorf("%s is a %s", h.Name, live["brokerRole"])
		}
	}
	if leaders != 1 {
		t.Errorf("%d peers are masters", leaders)
	}
	givenUp := time.Now()
	must(t, sends.WaitSteady(limited(t, 2*time.Minute), givenUp, 50))

	for _, kill := range []struct {
		in   string
		when func() error
	}{
		{"fence-peers", func() error { return nil }},
		{"restore-old-group", func() error {
			aside, err := filepath.Glob(filepath.Join(b.host("host-b").InstallDir, "store", "dledger_store.mqlift-*"))
			if err == nil && len(aside) == 0 {
				err = errors.New("no store has been put aside")
			}
			return err
		}},
		{"end-replay", func() error {
			if _, err := os.Stat(filepath.Join(b.host("host-a").InstallDir, ".mqlift", group+".run.json")); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("the record is there (%v)", err)
			}
			return nil
		}},
	} {
		a := b.start(t, "rollback", "--replay", "--yes")
		a.await(t, kill.in+" to begin", began(kill.in))
		a.until(t, "the middle of "+kill.in, func(context.Context) error { return kill.when() })
		a.signal(t, syscall.SIGKILL)
		a.ended(t)
		b.run(t, call{}, "status").wants(t, 0, "was cut short on its way back, at", kill.in, "mqlift rollback --replay")
	}
	b.run(t, call{}, "rollback", "--replay", "--yes").wants(t, 0, "was cut short on its way back", "all are found by key", "is the old master/slave group again")

	after := time.Now()
	must(t, sends.WaitSteady(limited(t, 2*time.Minute), after, 50)) // its route is renewed every 30 s
	traffic.stop(t)
	if _, failed := staleSends.Count(); failed == 0 {
		t.Error("the producer with the new group's route was never refused")
	}
	b.serves(t, before)
	acked := append(sent.Acked(), stale.Acked()...)
	addrs := []string{b.host("host-a").BrokerAddr(), b.host("host-b").BrokerAddr()}
	found, err := probe.Lookup{Brokers: probe.BrokersOf(b.client)}.Find(t.Context(), unplaced(acked), addrs)
	must(t, err)
	for _, f := range found {
		if len(f.Found) != len(acked) {
			t.Errorf("%s: %d of %d acknowledged messages found; missing %v, unanswered %v %s", f.Addr, len(f.Found), len(acked), f.Missing, f.Unanswered, f.FirstError)
		}
		t.Logf("%s: %d messages found, %d of them stored more than once", f.Addr, len(f.Found), len(f.Copies))
	}
	got := consumer.Await(t.Context(), 2*time.Minute, acked)
	if t.Log(got); len(got.Unseen) > 0 {
		t.Errorf("not consumed: %v", got.Unseen)
	}
}

// limited is the test's context for so long.
func limited(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}
