package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mqlift/internal/diag"
	"mqlift/internal/event"
	"mqlift/internal/lab"
	"mqlift/internal/plan"
	"mqlift/internal/rocketmq"
)

// limitOfStart is how long a broker may take to serve on a loaded machine.
const limitOfStart = 2 * time.Minute

// byHand is the operator who follows a write-up: the files that come out of it, by host.
type byHand map[string]string

// prepareByHand does what people do before they stop the old brokers, with the write-up's own mistakes:
// the installation copied to host-c as it runs, each file with DLedger's lines and a second
// storePathRootDir below the old one, brokerName lost on host-b and host-c, host-a's brokerIP1 kept on
// host-c, store/config copied into the new root. The ports are this machine's only: they must differ.
func (b *bench) prepareByHand(t *testing.T) byHand {
	t.Helper()
	a, c := b.host("host-a"), b.host("host-c")
	_, err := b.Shell(t.Context(), "host-a", "cp -a "+a.InstallDir+" "+c.InstallDir)
	must(t, err)
	var peers []string
	for _, h := range b.Hosts() {
		peers = append(peers, fmt.Sprintf("%s-%s:%d", h.Peer, h.Address, h.RaftPort))
	}
	files := byHand{}
	for _, h := range b.Hosts() {
		data, err := os.ReadFile(b.conf(h.Name))
		must(t, err)
		text := string(data)
		if h.Name == c.Name {
			text = strings.NewReplacer(a.InstallDir, c.InstallDir, fmt.Sprintf("listenPort=%d", a.ListenPort), fmt.Sprintf("listenPort=%d", c.ListenPort)).Replace(text)
		}
		if h.Name != a.Name {
			text = strings.Replace(text, "brokerName="+group+"\n", "", 1)
		}
		store := filepath.Join(h.InstallDir, "store")
		text += fmt.Sprintf("enableDLegerCommitLog=true\ndLegerGroup=%s\ndLegerPeers=%s\ndLegerSelfId=%s\nstorePathRootDir=%s/dledger_store\n", group, strings.Join(peers, ";"), h.Peer, store)
		must(t, os.WriteFile(b.conf(h.Name), []byte(text), 0o644))
		files[h.Name] = text
		_, err = b.Shell(t.Context(), h.Name, "mkdir "+store+"/dledger_store && cp -r "+a.InstallDir+"/store/config "+store+"/dledger_store/config")
		must(t, err)
	}
	return files
}

// as fails the test unless the hosts' broker.conf are the operator's.
func (files byHand) as(t *testing.T, b *bench) {
	t.Helper()
	for host, want := range files {
		if got, err := os.ReadFile(b.conf(host)); err != nil || string(got) != want {
			t.Errorf("%s: broker.conf is not as it was (%v):\n%s", host, err, got)
		}
	}
}

// awaitPeer waits for a broker that is a DLedger peer.
func (b *bench) awaitPeer(t *testing.T, host string) {
	t.Helper()
	eventually(t, limitOfStart, "the peer on "+host+" to answer", func(ctx context.Context) error {
		live, err := b.broker(host).Config(ctx)
		if err == nil && live["enableDLegerCommitLog"] != "true" {
			err = errors.New("it is no peer")
		}
		return err
	})
}

// An upgrade by hand that stopped before the old brokers were stopped is recognised, with what its files
// have wrong, and mqlift goes on from there to the end; when it is taken back, the operator's files are
// as they were.
func TestGoesOnFromWhatWasBegunByHand(t *testing.T) {
	t.Parallel()
	b := newBenchIn(t, lab.Options{OwnAddresses: true})
	files := b.prepareByHand(t)
	b.send(t, "late", 50, 100) // what the copy has not got
	const junk = ".00000000000000000000.swp"

	warned := func(t *testing.T, found diag.Findings, check, host string, says ...string) {
		t.Helper()
		for _, f := range found {
			if f.Check != check || f.Host != host || f.Severity != diag.Warn {
				continue
			}
			for _, s := range says {
				if !strings.Contains(f.Where+": "+f.What+"; "+f.Do, s) {
					t.Errorf("%s of %s does not say %q: %s", check, host, s, f)
				}
			}
			return
		}
		t.Errorf("no %s of %s in %v", check, host, found)
	}
	t.Run("recognised", func(t *testing.T) {
		b.unchanged(t, func() {
			check := b.run(t, call{}, "check", "--json")
			check.wants(t, 0)
			found := check.findings(t)
			warned(t, found, "adopt.copied", "host-c", b.conf("host-c")+":", "brokerIP1=127.0.0.1 is host-a's address")
			warned(t, found, "adopt.edited", "host-a", b.conf("host-a")+":17", "storePathRootDir stands on lines", "the running broker has "+b.host("host-a").InstallDir+"/store")
			warned(t, found, "adopt.edited", "host-b", "brokerName is missing: the running broker has "+group)
			for _, host := range []string{"host-a", "host-b", "host-c"} {
				warned(t, found, "adopt.root", host, "dledger_store")
			}
			b.run(t, call{}, "plan").wants(t, 0, "made from the master's broker.conf; the file found here is a copy", "brokerName is missing: the running broker has "+group)
			b.run(t, call{}, "status").wants(t, 0, "an upgrade was begun by hand and the old brokers still serve", "host-b's broker.conf is edited")
		})
	})

	t.Run("a peer was started too early", func(t *testing.T) {
		b.startBroker(t, "host-c")
		b.awaitPeer(t, "host-c")
		check := b.run(t, call{}, "check", "--json")
		check.wants(t, 3)
		matching(t, check.findings(t), diag.Finding{Check: "group.roles", What: "1 of 3 members run as DLedger and the others do not: host-a serves as master in the old mode", Do: fmt.Sprintf("on host-c: kill %d, then leave it stopped", b.pid(t, "host-c", "broker"))})
		b.stopBroker(t, "host-c")
		must(t, os.WriteFile(filepath.Join(b.host("host-c").InstallDir, "store", "commitlog", junk), []byte("an editor's\n"), 0o644))
		check = b.run(t, call{}, "check", "--json")
		check.wants(t, 0)
		warned(t, check.findings(t), "store.junk", "host-c", junk, "moves this folder aside")
		warned(t, check.findings(t), "store.dledger", "host-c", "dledger-n2", "to which nothing was written")
	})

	t.Run("taken back", func(t *testing.T) {
		live := b.old(t)
		a := b.startApply(t)
		a.await(t, "prove-peers to begin", func(e event.Event) bool { return e.Kind == event.StepBegin && e.Step == "prove-peers" })
		a.signal(t, syscall.SIGINT)
		if code := a.ended(t); code != 130 {
			t.Fatalf("exit code %d, want 130:\n%s", code, a.screen.String())
		}
		b.serves(t, live)
		files.as(t, b)
	})
	if t.Failed() {
		return
	}

	b.run(t, call{}, "apply", "--yes", "--no-failover", "--keys", oldKeys, "--keys", topic+":late000000..late000049").wants(t, 0)
	b.verified(t)
	for host, was := range files {
		kept, err := filepath.Glob(b.conf(host) + ".found-*")
		must(t, err)
		if len(kept) != 1 {
			t.Fatalf("%s: the files kept are %v", host, kept)
		}
		if data, err := os.ReadFile(kept[0]); err != nil || string(data) != was {
			t.Errorf("%s is not what was found: %v", kept[0], err)
		}
		now, err := os.ReadFile(b.conf(host))
		must(t, err)
		for _, line := range []string{"brokerName=" + group, "brokerIP1=" + b.host(host).Address, "storePathRootDir=" + b.host(host).InstallDir + "/store/dledger_store"} {
			if n := bytes.Count(append([]byte("\n"), now...), []byte("\n"+line+"\n")); n != 1 {
				t.Errorf("%s: %q stands there %d times:\n%s", host, line, n, now)
			}
		}
	}
	aside, err := filepath.Glob(filepath.Join(b.host("host-c").InstallDir, "store", "commitlog.mqlift-*", junk))
	must(t, err)
	if len(aside) != 1 {
		t.Errorf("the copy with a strange file in it is not moved aside once: %v", aside)
	}
	b.run(t, call{}, "check").wants(t, 3, "every member runs as DLedger already", "mqlift verify")

	t.Run("a peer with another's address", func(t *testing.T) {
		now, err := os.ReadFile(b.conf("host-c"))
		must(t, err)
		must(t, os.WriteFile(b.conf("host-c"), bytes.Replace(now, []byte("brokerIP1=127.0.0.3"), []byte("brokerIP1=127.0.0.1"), 1), 0o644))
		b.stopBroker(t, "host-c")
		b.run(t, call{}, "check").wants(t, 3, "2 of 3 members run as DLedger", "no broker runs here, and the others are a DLedger group already")
		b.startBroker(t, "host-c")
		b.awaitPeer(t, "host-c")
		check := b.run(t, call{}, "check", "--json")
		check.wants(t, 3)
		matching(t, check.findings(t), diag.Finding{Check: "broker.address", Host: "host-c", Where: b.conf("host-c") + ":", What: "two members register at one place", Do: "brokerIP1=127.0.0.3"})
		b.run(t, call{}, "status").wants(t, 0, "every member runs as DLedger, and", "not in order")
	})
}

// Peers that were started by hand beside the old master and have taken messages are two histories: that is
// refused with who holds what. Brought back as it is said, the group is upgraded.
func TestPeersWithMessagesBesideTheOldMaster(t *testing.T) {
	t.Parallel()
	b := newBenchIn(t, lab.Options{OwnAddresses: true})
	originals := byHand{}
	for _, host := range []string{"host-a", "host-b"} {
		data, err := os.ReadFile(b.conf(host))
		must(t, err)
		originals[host] = string(data)
	}
	b.prepareByHand(t)
	b.stopBroker(t, "host-b")
	b.startBroker(t, "host-b")
	b.startBroker(t, "host-c")
	b.awaitPeer(t, "host-b")
	b.awaitPeer(t, "host-c")
	eventually(t, limitOfStart, "a leader that takes messages", func(ctx context.Context) error {
		var errs []error
		for _, host := range []string{"host-b", "host-c"} {
			_, err := b.broker(host).Send(ctx, rocketmq.SendRequest{Group: "application", Topic: topic, Body: []byte("taken by the new group")})
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	check := b.run(t, call{}, "check", "--json")
	check.wants(t, 3)
	f := matching(t, check.findings(t), diag.Finding{Check: "group.roles", What: "are in no old broker's log", Do: "stop the producers"})
	for _, s := range []string{"host-a serves as master in the old mode", "message(s) stored from 20"} {
		if !strings.Contains(f.What, s) {
			t.Errorf("%q is not said: %s", s, f)
		}
	}
	b.run(t, call{}, "apply", "--yes").wants(t, 3, "neither side may be copied over the other")
	b.run(t, call{}, "status", "--json").wants(t, 0, string(plan.Mixed))

	// As it says: stop the peers, put the old lines back, and see that the ledgers are in the way.
	b.stopBroker(t, "host-c")
	b.stopBroker(t, "host-b")
	must(t, os.WriteFile(b.conf("host-b"), []byte(originals["host-b"]), 0o644))
	b.startBroker(t, "host-b")
	b.awaitSlave(t)
	check = b.run(t, call{}, "check", "--json")
	check.wants(t, 3)
	ledger := filepath.Join(b.host("host-b").InstallDir, "store", "dledger_store", "dledger-n1")
	f = matching(t, check.findings(t), diag.Finding{Check: "store.dledger", Host: "host-b", Where: ledger, What: "message(s) stored from 20", Do: "mv " + ledger})
	for _, host := range []string{"host-b", "host-c"} {
		ledgers, err := filepath.Glob(filepath.Join(b.host(host).InstallDir, "store", "dledger_store", "dledger-n*"))
		must(t, err)
		for _, l := range ledgers {
			must(t, os.Rename(l, filepath.Join(filepath.Dir(l), "old-"+filepath.Base(l))))
		}
	}
	b.run(t, call{}, "apply", "--yes", "--no-failover", "--keys", oldKeys, "--transfer", "bastion").wants(t, 0)
	b.verified(t)
}
