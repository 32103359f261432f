package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"mqlift/internal/event"
)

// An apply that is killed is gone on with by the next one, from what is true on the hosts. Each of
// these is killed in the run that goes on with the one before; the last one gets through.
func TestKilledAndResumed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	begun := func(name string) func(*testing.T, *applying) {
		return func(t *testing.T, a *applying) {
			a.await(t, name+" to begin", func(e event.Event) bool { return e.Kind == event.StepBegin && e.Step == name })
		}
	}
	for _, kill := range []struct {
		in    string
		wait  func(*testing.T, *applying)
		nodes []string         // that must find the old messages meanwhile
		then  func(*testing.T) // happens before the next run
	}{
		{"fence", func(t *testing.T, a *applying) {
			begun("fence-master")(t, a)
			a.until(t, "the master to refuse sends", func(ctx context.Context) error {
				conf, err := b.broker("host-a").Config(ctx)
				if err == nil && conf["brokerRole"] != "SLAVE" {
					err = fmt.Errorf("brokerRole is %s", conf["brokerRole"])
				}
				return err
			})
		}, []string{"host-a"}, nil},
		{"form", func(t *testing.T, a *applying) {
			begun("start-peers")(t, a)
			a.until(t, "a new peer to run", func(context.Context) error {
				if b.pid(t, "host-c", "broker") == 0 {
					return errors.New("no broker on host-c")
				}
				return nil
			})
		}, []string{"host-a"}, nil},
		{"hand over", begun("carry-offsets"), []string{"host-a", "host-b", "host-c"}, nil},
		// The old master's host dies, and what it had not flushed is gone from its log's end.
		{"retire, writes open and the old master closed", begun("stop-master"), []string{"host-a", "host-b", "host-c"}, func(t *testing.T) {
			b.killBroker(t, "host-a")
			file := filepath.Join(b.host("host-a").InstallDir, "store", "commitlog", "00000000000000000000")
			data, err := os.ReadFile(file)
			must(t, err)
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt(make([]byte, 500), int64(len(bytes.TrimRight(data, "\x00"))-500))
			must(t, errors.Join(err, f.Close()))
		}},
		{"join", func(t *testing.T, a *applying) {
			begun("join-old-master")(t, a)
			a.until(t, "the old master to run as a peer", func(context.Context) error {
				if b.pid(t, "host-a", "broker") == 0 {
					return errors.New("no broker on host-a")
				}
				return nil
			})
		}, []string{"host-b", "host-c"}, nil},
	} {
		ok := t.Run("killed in "+kill.in, func(t *testing.T) {
			a := b.startApply(t)
			kill.wait(t, a)
			a.signal(t, syscall.SIGKILL)
			a.ended(t)
			b.find(t, kill.nodes...)
			if kill.then != nil {
				kill.then(t)
			}
			b.run(t, call{}, "status").wants(t, 0, "was cut short at", "goes on with it")
		})
		if !ok {
			return // the next one would not get any further
		}
	}
	b.run(t, call{}, "apply", "--yes", "--no-failover", "--keys", oldKeys).wants(t, 0, "going on")
	b.verified(t)
}
