package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/event"
	"mqlift/internal/lab"
)

// A run that was killed anywhere before writes were opened is taken back by `rollback`, from its journal
// or, where that is lost, from what it left on the hosts: the old group is exactly what it was.
func TestRolledBackBeforeOpen(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.run(t, call{}, "rollback").wants(t, 0, "There is nothing to go back from")
	before, files, log := b.old(t), b.oldFiles(t), b.logs(t)
	begun := func(name string) func(*testing.T, *applying) {
		return func(t *testing.T, a *applying) {
			a.await(t, name+" to begin", func(e event.Event) bool { return e.Kind == event.StepBegin && e.Step == name })
		}
	}
	for _, kill := range []struct {
		in   string
		wait func(*testing.T, *applying)
		lost bool             // the journal is
		then func(*testing.T) // happens before the way back
	}{
		{"prepare", begun("copy-log-live"), true, nil},
		{"fence", func(t *testing.T, a *applying) {
			begun("fence-master")(t, a)
			a.until(t, "the master to refuse sends", func(ctx context.Context) error {
				conf, err := b.broker("host-a").Config(ctx)
				if err == nil && conf["brokerRole"] != "SLAVE" {
					err = fmt.Errorf("brokerRole is %s", conf["brokerRole"])
				}
				return err
			})
		}, false, nil},
		{"form", func(t *testing.T, a *applying) {
			begun("start-peers")(t, a)
			a.until(t, "a new peer to run", func(context.Context) error {
				if b.pid(t, "host-c", "broker") == 0 {
					return errors.New("no broker on host-c")
				}
				return nil
			})
		}, true, nil},
		{"hand over", begun("carry-offsets"), true, nil},
		// Started again on the file that keeps it closed, the old master is a slave from its start.
		{"hand over, the old master dies and is started again", begun("carry-offsets"), true, func(t *testing.T) {
			b.killBroker(t, "host-a")
			b.startBroker(t, "host-a")
			eventually(t, 30*time.Second, "the retired master to answer", func(ctx context.Context) error {
				conf, err := b.broker("host-a").Config(ctx)
				if err == nil && conf["brokerId"] != "1000" {
					err = fmt.Errorf("it runs as brokerId %s", conf["brokerId"])
				}
				return err
			})
		}},
	} {
		ok := t.Run("killed in "+kill.in, func(t *testing.T) {
			a := b.startApply(t)
			kill.wait(t, a)
			a.signal(t, syscall.SIGKILL)
			a.ended(t)
			if kill.then != nil {
				kill.then(t)
			}
			how := []string{"rollback"}
			if kill.lost {
				run := b.newestRun(t)
				must(t, os.RemoveAll(b.stateDir()))
				b.run(t, call{}, "rollback").wants(t, 8, run)
				how = append(how, "--break-lock", run)
			} else {
				b.run(t, call{}, "status").wants(t, 0, "was cut short at", "mqlift rollback", "is free")
			}
			b.run(t, call{}, how...).wants(t, 0, "is the old master/slave group again")
			b.serves(t, before)
			if diff := cmp.Diff(files, b.oldFiles(t)); diff != "" {
				t.Errorf("files are not as before (-before +after):\n%s", diff)
			}
			now := b.logs(t)
			for name, was := range log {
				if !bytes.HasPrefix(now[name], was) {
					t.Errorf("%s: what was in the log before is not there as it was", name)
				}
			}
			b.run(t, call{}, "rollback").wants(t, 0, "There is nothing to go back from")
		})
		if !ok {
			return
		}
	}
	cut := func(t *testing.T, in string) {
		t.Helper()
		a := b.startApply(t)
		begun(in)(t, a)
		a.signal(t, syscall.SIGKILL)
		a.ended(t)
		must(t, b.Fault("host-c", lab.Cut))
	}
	takesSends := func(t *testing.T) {
		t.Helper()
		b.send(t, "n", 1, 100)
		b.awaitSlave(t)
	}
	ok := t.Run("a host cannot be reached", func(t *testing.T) {
		cut(t, "copy-tail")
		defer b.restore(t, "host-c")
		b.run(t, call{}, "status").wants(t, 3, "ssh.connect", "was cut short here", "`mqlift rollback --without host-c`")
		b.run(t, call{}, "apply", "--yes").wants(t, 3, "`mqlift rollback --without host-c`")
		b.run(t, call{}, "rollback", "--without", "host-a", "--without", "host-c").wants(t, 3, "it is the old master")
		b.run(t, call{}, "rollback", "--without", "host-b", "--without", "host-c").wants(t, 3, "most of the group's hosts")
		b.run(t, call{}, "rollback", "--without", "host-x").wants(t, 3, "ssh.connect", "`mqlift rollback --without host-c`")
		b.run(t, call{}, "rollback", "--without", "host-c").wants(t, 5, "the old group serves without host-c")
		takesSends(t)
		b.restore(t, "host-c")
		b.run(t, call{}, "rollback").wants(t, 0, "is the old master/slave group again")
		b.serves(t, before)
	})
	if !ok {
		return
	}
	t.Run("a host is gone for good", func(t *testing.T) {
		cut(t, "prove-peers")
		defer b.restore(t, "host-c")
		b.stopBroker(t, "host-c")
		b.run(t, call{}, "rollback", "--without", "host-c").wants(t, 5, "the old group serves without host-c")
		takesSends(t)
		b.restore(t, "host-c")
		another := call{topology: b.topologyWith(t, "host: host-c #", "host: host-d #")}
		b.run(t, another, "rollback").wants(t, 2, "`mqlift rollback --without host-c` goes back without it")
		b.run(t, another, "rollback", "--without", "host-x").wants(t, 2, "has no such host")
		b.run(t, another, "rollback", "--without", "host-c").wants(t, 0, "is the old master/slave group again")
		takesSends(t)
		b.run(t, call{}, "rollback").wants(t, 3, "was undone without host-c", "`mqlift apply --break-lock run-")
		// That is no dead end: the host has its traces of a run that nobody knows any more, and is upgraded with the others.
		b.run(t, call{}, "apply", "--yes", "--no-failover", "--break-lock", b.newestRun(t)).wants(t, 0)
		b.verified(t)
	})
}

// newestRun is the name of the newest run that this machine knows.
func (b *bench) newestRun(t *testing.T) string {
	t.Helper()
	runs, err := filepath.Glob(filepath.Join(b.stateDir(), "runs", group, "run-*"))
	must(t, err)
	if len(runs) == 0 {
		t.Fatal("there is no run")
	}
	return filepath.Base(runs[len(runs)-1])
}

// oldFiles is every file of the old group's hosts that running brokers do not write to, and that mqlift
// does not keep under a name that says so.
func (b *bench) oldFiles(t *testing.T) snapshot {
	t.Helper()
	s := snapshot{}
	for _, h := range []string{"host-a", "host-b"} {
		must(t, s.files(h, b.host(h).Dir))
	}
	maps.DeleteFunc(s, func(name, _ string) bool {
		return strings.Contains(name, "mqlift") || strings.HasSuffix(name, " tmp")
	})
	return s
}

// logs are the old group's commit logs as far as they hold messages, by host and file.
func (b *bench) logs(t *testing.T) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	for _, h := range []string{"host-a", "host-b"} {
		names, err := filepath.Glob(filepath.Join(b.host(h).InstallDir, "store", "commitlog", "*"))
		must(t, err)
		if len(names) == 0 {
			t.Fatalf("%s has no commit log", h)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			must(t, err)
			m[h+" "+filepath.Base(name)] = bytes.TrimRight(data, "\x00")
		}
	}
	return m
}
