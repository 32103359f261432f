package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"mqlift/internal/diag"
	"mqlift/internal/grouplock"
	"mqlift/internal/lab"
)

// Whatever is refused is refused before anything is touched, and said with where it is and what to do
// about it.
func TestRefusedAndNothingChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, refuse := range map[string]func(*testing.T, *bench){
		"a topology with ten mistakes":             tenMistakes,
		"a host that is down":                      hostDown,
		"a host that does not answer":              hostSilent,
		"a client key that the hosts do not know":  wrongClientKey,
		"a host with another key":                  wrongHostKey,
		"a slave that was killed":                  slaveKilled,
		"a slave without a name":                   slaveNameless,
		"nothing runs":                             nothingRuns,
		"a slave that does not follow":             slaveBehind,
		"a store that no peer can take over":       strangeStore,
		"a broker.conf that was changed meanwhile": stalePlan,
		"a broker.conf changed before yes is said": changedBeforeYes,
		"a lock of another run":                    lockedByOther,
		"a plan that is not confirmed":             declined,
	} {
		t.Run(name, func(t *testing.T) { refuse(t, b) })
		b.run(t, call{}, "check").wants(t, 0, "0 failed") // else the next one would find more than its own
	}
}

// refuses expects a finding from check and from apply, and exit code 3.
func (b *bench) refuses(t *testing.T, c call, want diag.Finding) {
	t.Helper()
	b.refusesIn(t, c, want)
}

// refusesAll expects several at once.
func (b *bench) refusesAll(t *testing.T, want ...diag.Finding) {
	t.Helper()
	b.refusesIn(t, call{}, want...)
}

func (b *bench) refusesIn(t *testing.T, c call, want ...diag.Finding) {
	t.Helper()
	b.unchanged(t, func() {
		check := b.run(t, c, "check", "--json")
		check.wants(t, 3)
		var says []string
		for _, w := range want {
			f := matching(t, check.findings(t), w)
			says = append(says, f.Check, f.Host, f.Where, f.What, f.Do)
		}
		b.run(t, c, "apply", "--yes").wants(t, 3, says...)
	})
}

func tenMistakes(t *testing.T, b *bench) {
	file := "../internal/topology/testdata/ten-mistakes.yaml"
	data, err := os.ReadFile(file)
	must(t, err)
	var want []string
	for line := range strings.Lines(string(data)) { // such as: # fail field 4:23 "prot:"
		if rest, ok := strings.CutPrefix(line, "# fail "); ok {
			want = append(want, strings.Fields(rest)[1])
		}
	}
	b.unchanged(t, func() {
		for _, args := range [][]string{{"check"}, {"plan"}, {"apply", "--yes"}} {
			o := b.run(t, call{topology: file}, args...)
			o.wants(t, 2, "10 failed")
			for _, at := range want {
				if !strings.Contains(o.text, filepath.Base(file)+":"+at+")") {
					t.Errorf("no finding at %s:\n%s", at, o.text)
				}
			}
			if n := strings.Count(o.text, " → "); n != len(want) || n != 10 {
				t.Errorf("%d findings say what to do, want %d:\n%s", n, len(want), o.text)
			}
		}
	})
}

func hostDown(t *testing.T, b *bench) {
	must(t, b.Fault("host-b", lab.Cut))
	defer b.restore(t, "host-b")
	b.refuses(t, call{}, diag.Finding{Check: "ssh.connect", Host: "host-b", Where: b.host("host-b").SSHAddr(), What: "refused", Do: "host is up"})
}

func hostSilent(t *testing.T, b *bench) {
	must(t, b.Fault("host-b", lab.Stall))
	defer b.restore(t, "host-b")
	b.unchanged(t, func() {
		o := b.run(t, call{}, "apply", "--yes")
		o.wants(t, 3, "ssh.connect", "host-b", b.host("host-b").SSHAddr(), "no answer within", "→")
		if o.took > 30*time.Second {
			t.Errorf("it took %s to say so", o.took)
		}
	})
}

// restore makes a host reachable again.
func (b *bench) restore(t *testing.T, host string) {
	if err := b.Fault(host, lab.Restore); err != nil {
		t.Error(err)
	}
}

// noOtherKeys is an environment in which only the topology's keys are found.
func noOtherKeys(t *testing.T) []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "SSH_AUTH_SOCK=") || strings.HasPrefix(s, "HOME=")
	})
	return append(env, "HOME="+t.TempDir())
}

// topologyWith is a copy of the lab's topology in which one file name stands for another.
func (b *bench) topologyWith(t *testing.T, old, new string) string {
	t.Helper()
	data, err := os.ReadFile(b.Topology())
	must(t, err)
	if bytes.Count(data, []byte(old)) != 1 {
		t.Fatalf("%s is not once in %s", old, data)
	}
	file := filepath.Join(t.TempDir(), "topology.yaml")
	must(t, os.WriteFile(file, bytes.Replace(data, []byte(old), []byte(new), 1), 0o644))
	return file
}

func wrongClientKey(t *testing.T, b *bench) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(private, "a key that the hosts do not know")
	must(t, err)
	file := filepath.Join(t.TempDir(), "other_key")
	must(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	c := call{topology: b.topologyWith(t, filepath.Join(b.Lab.Dir(), "id_ed25519"), file), env: noOtherKeys(t)}
	h := b.host("host-c")
	b.refuses(t, c, diag.Finding{Check: "ssh.auth", Host: h.Name, Where: h.SSHAddr(), What: file, Do: "authorized_keys"})
}

func wrongHostKey(t *testing.T, b *bench) {
	known := filepath.Join(b.Lab.Dir(), "known_hosts")
	data, err := os.ReadFile(known)
	must(t, err)
	public, _, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	key, err := ssh.NewPublicKey(public)
	must(t, err)
	h := b.host("host-b")
	var lines []string
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, knownhosts.Normalize(h.SSHAddr())+" ") {
			line = knownhosts.Line([]string{h.SSHAddr()}, key) + "\n"
		}
		lines = append(lines, line)
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	must(t, os.WriteFile(file, []byte(strings.Join(lines, "")), 0o644))
	c := call{topology: b.topologyWith(t, known, file), env: noOtherKeys(t)}
	b.refuses(t, c, diag.Finding{Check: "ssh.hostkey", Host: h.Name, Where: h.SSHAddr(), What: file, Do: "ssh-keygen"})
}

// A killed slave is taken as it is, and its abort file for what it means, unless its file does not say
// whose slave it is.
func slaveKilled(t *testing.T, b *bench) {
	must(t, syscall.Kill(b.pid(t, "host-b", "broker"), syscall.SIGKILL))
	eventually(t, 2*time.Minute, "the slave to be gone, also for the name servers", func(ctx context.Context) error {
		s, err := b.Status(ctx)
		for _, h := range s.Hosts {
			for _, p := range h.Processes {
				if h.Name == "host-b" && p.Kind == "broker" {
					err = errors.Join(err, fmt.Errorf("process %d is there", p.PID))
				}
			}
		}
		for _, ns := range s.NameServers {
			if _, known := ns.Brokers[b.host("host-b").BrokerAddr()]; known {
				err = errors.Join(err, fmt.Errorf("%s gives it", ns.Address))
			}
		}
		return err
	})
	defer b.awaitSlave(t)
	defer b.startBroker(t, "host-b")
	abort := filepath.Join(b.host("host-b").InstallDir, "store", "abort")
	b.run(t, call{}, "check").wants(t, 0, "this slave is stopped", "it did not stop cleanly ("+abort+" is there)")
	before, err := os.ReadFile(b.conf("host-b"))
	must(t, err)
	defer func() { must(t, os.WriteFile(b.conf("host-b"), before, 0o644)) }()
	must(t, os.WriteFile(b.conf("host-b"), bytes.Replace(before, []byte("brokerName="+group+"\n"), nil, 1), 0o644))
	b.refusesAll(t,
		diag.Finding{Check: "broker.running", Host: "host-b", Where: b.conf("host-b"), What: "no broker runs on it", Do: "start the broker"},
		diag.Finding{Check: "group.roles", What: "no member answers as slave", Do: "start one"},
		diag.Finding{Check: "store.abort", Host: "host-b", Where: abort, What: "did not stop cleanly", Do: "start it once more on its old broker.conf"})
}

// Without brokerName a broker takes its host's name (BrokerConfig.localHostName, 4.5.2): a slave is then
// one of a group of its own and copies nothing.
func slaveNameless(t *testing.T, b *bench) {
	b.stopBroker(t, "host-b")
	before, err := os.ReadFile(b.conf("host-b"))
	must(t, err)
	must(t, os.WriteFile(b.conf("host-b"), bytes.Replace(before, []byte("brokerName="+group+"\n"), nil, 1), 0o644))
	defer func() {
		b.stopBroker(t, "host-b")
		must(t, os.WriteFile(b.conf("host-b"), before, 0o644))
		b.startBroker(t, "host-b")
		b.awaitSlave(t)
	}()
	b.startBroker(t, "host-b")
	var name string
	eventually(t, 2*time.Minute, "the slave to answer under another name", func(ctx context.Context) error {
		live, err := b.broker("host-b").Config(ctx)
		if name = live["brokerName"]; err == nil && (name == "" || name == group) {
			err = fmt.Errorf("it calls itself %q", name)
		}
		return err
	})
	t.Logf("it calls itself %s", name)
	b.refusesAll(t, diag.Finding{Check: "broker.name", Host: "host-b", Where: b.conf("host-b"), What: "the broker calls itself " + name, Do: "write brokerName=" + group})
}

// With nothing running, files alone tell which member was master and how the old group comes back.
func nothingRuns(t *testing.T, b *bench) {
	original := appendTo(t, b.conf("host-a"), "enableDLegerCommitLog=true\nstorePathRootDir="+b.host("host-a").InstallDir+"/store/dledger_store")
	b.stopBroker(t, "host-b")
	b.stopBroker(t, "host-a")
	defer func() {
		original()
		b.startBroker(t, "host-a")
		b.startBroker(t, "host-b")
		b.awaitSlave(t)
	}()
	b.refusesAll(t, diag.Finding{Check: "group.roles", What: "host-a was master",
		Do: "start the old group again, the master first, and let the slave catch up: on host-a: in " + b.conf("host-a") + " take out enableDLegerCommitLog (line 17), write storePathRootDir=" + b.host("host-a").InstallDir + "/store (line 18)"})
	b.run(t, call{}, "status").wants(t, 0, "no broker of the group runs; host-a was master")
}

// A slave that has an haMasterAddress of its own does not follow the master that the name servers give
// (BrokerController.initialize, 4.5.2).
func slaveBehind(t *testing.T, b *bench) {
	b.stopBroker(t, "host-b")
	original := appendTo(t, b.conf("host-b"), "haMasterAddress=127.0.0.1:1")
	defer func() {
		b.stopBroker(t, "host-b")
		original()
		b.startBroker(t, "host-b")
		b.awaitSlave(t)
	}()
	b.startBroker(t, "host-b")
	b.awaitRegistered(t)
	b.send(t, "lag", 100, 64<<10)
	b.refuses(t, call{}, diag.Finding{Check: "slave.caughtUp", Host: "host-b", Where: b.host("host-b").BrokerAddr(), What: "bytes behind the master", Do: "catch up"})
}

func strangeStore(t *testing.T, b *bench) {
	store := filepath.Join(b.host("host-b").InstallDir, "store")
	log, ledger := filepath.Join(store, "commitlog"), filepath.Join(store, "dledger_store", "dledger-n1")
	defer os.RemoveAll(filepath.Join(store, "dledger_store"))
	must(t, os.MkdirAll(filepath.Join(ledger, "index"), 0o755))
	entry := append([]byte{0, 0, 0, 1}, make([]byte, 2*32-4)...) // an index of one entry, and room
	must(t, os.WriteFile(filepath.Join(ledger, "index", "00000000000000000000"), entry, 0o644))
	want := []diag.Finding{{Check: "store.dledger", Host: "host-b", Where: ledger, What: "holds 1 message(s)", Do: "mv " + ledger}}
	for _, junk := range []string{"00000000000000000000.bak", ".00000000000000000000.swp", ".nfs00000000005a81b500000001"} {
		file := filepath.Join(log, junk)
		must(t, os.WriteFile(file, []byte("something that somebody kept\n"), 0o644))
		defer os.Remove(file)
		want = append(want, diag.Finding{Check: "store.junk", Host: "host-b", Where: file, What: "does not start", Do: "move it away"})
	}
	lost := filepath.Join(log, "lost+found")
	must(t, os.Mkdir(lost, 0o700))
	defer os.Remove(lost)
	want = append(want, diag.Finding{Check: "store.junk", Host: "host-b", Where: lost, What: "a folder inside", Do: "move it away"})
	defer appendTo(t, b.conf("host-b"), "mappedFileSizeCommitLog=1048576")()
	b.refusesAll(t, append(want,
		diag.Finding{Check: "store.fileSize", Host: "host-b", Where: b.conf("host-b") + ":17", What: "mappedFileSizeCommitLog is 1048576, and all", Do: "which the files were made with"},
		diag.Finding{Check: "store.fileSize", Host: "host-b", Where: b.conf("host-b") + ":17", What: "on the master", Do: "the same file length"},
		diag.Finding{Check: "broker.drift", Host: "host-b", Where: b.conf("host-b"), What: "mappedFileSizeCommitLog=1048576", Do: "make them agree"})...)
}

func stalePlan(t *testing.T, b *bench) {
	file := filepath.Join(t.TempDir(), "plan.json")
	b.run(t, call{}, "plan", "-o", file).wants(t, 0, file)
	defer appendTo(t, b.conf("host-b"), "# looked at by the night shift")()
	b.unchanged(t, func() {
		b.run(t, call{}, "apply", "--yes", file).wants(t, 7, "host-b", b.conf("host-b"), "mqlift plan")
	})
}

// While one operator reads the plan, another one may do anything, a whole upgrade included.
func changedBeforeYes(t *testing.T, b *bench) {
	answer, say, err := os.Pipe()
	must(t, err)
	defer answer.Close()
	defer say.Close()
	var said screen
	cmd := b.command(call{}, "apply")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = answer, &said, &said
	b.unchanged(t, func() {
		must(t, cmd.Start())
		defer cmd.Process.Kill()
		eventually(t, time.Minute, "the question", func(context.Context) error {
			if !strings.Contains(said.String(), "Type yes") {
				return errors.New(said.String())
			}
			return nil
		})
		defer appendTo(t, b.conf("host-b"), "# looked at by the night shift")()
		fmt.Fprintln(say, "yes")
		cmd.Wait() // its exit code is what counts
		for _, h := range b.Hosts() {
			made := filepath.Dir(b.lockFile(h.Name)) // for the lock, and empty; on the new host with its parent
			os.Remove(made)
			os.Remove(filepath.Dir(made))
		}
	})
	if code := cmd.ProcessState.ExitCode(); code != 7 || !strings.Contains(said.String(), b.conf("host-b")+" was changed") || !strings.Contains(said.String(), "nothing was changed") {
		t.Errorf("exit code %d:\n%s", code, said.String())
	}
}

func lockedByOther(t *testing.T, b *bench) {
	dir := filepath.Join(b.host("host-b").InstallDir, ".mqlift")
	must(t, os.MkdirAll(dir, 0o700))
	defer os.RemoveAll(dir)
	held := grouplock.Lock{Group: group, Run: "run-20260101-013000", Operator: "alice", From: "bastion-2", Since: time.Date(2026, 1, 1, 1, 30, 0, 0, time.UTC)}
	data, err := held.Encode()
	must(t, err)
	file := grouplock.Path(dir, group)
	must(t, os.WriteFile(file, data, 0o600))
	b.unchanged(t, func() { // it has just been written: whoever wrote it lives
		b.run(t, call{}, "apply", "--yes").wants(t, 8, "it lives", "cannot be broken")
		b.run(t, call{}, "apply", "--yes", "--break-lock", held.Run).wants(t, 8, "it lives", "cannot be broken")
	})
	old := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(file, old, old))
	b.unchanged(t, func() {
		b.run(t, call{}, "apply", "--yes").wants(t, 8, "host-b", file, "alice", "bastion-2", "2026-01-01T01:30:00Z", "no sign of life since", "--break-lock "+held.Run)
		b.run(t, call{}, "apply", "--yes", "--break-lock", "run-20260101-013001").wants(t, 8, "--break-lock names another run")
		b.run(t, call{}, "apply", "--dry-run").wants(t, 0, "nothing was changed")
		b.run(t, call{}, "check").wants(t, 0, "group.lock", "alice", "bastion-2")
		o := b.run(t, call{}, "status")
		o.wants(t, 0, "alice", "bastion-2", "no sign of life since")
		if strings.Contains(o.text, "cut short") {
			t.Errorf("a run that was refused counts as an unfinished one:\n%s", o.text)
		}
	})
}

func declined(t *testing.T, b *bench) {
	runs := func() []fs.DirEntry {
		entries, err := os.ReadDir(filepath.Join(b.stateDir(), "runs", group))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return entries
	}
	before := len(runs())
	b.unchanged(t, func() {
		for _, answer := range []string{"no\n", "", "yes, please\n"} {
			b.run(t, call{stdin: answer}, "apply").wants(t, 3, "Type yes", "not confirmed")
		}
	})
	if after := runs(); len(after) != before {
		t.Errorf("it began a run: %v", after)
	}
}

// matching finds the failed finding that a wanted one describes: same check and host, and the wanted
// words in each of its three parts.
func matching(t *testing.T, found diag.Findings, want diag.Finding) diag.Finding {
	t.Helper()
	for _, f := range found {
		if f.Severity == diag.Fail && f.Check == want.Check && f.Host == want.Host &&
			strings.Contains(f.Where, want.Where) && strings.Contains(f.What, want.What) && strings.Contains(f.Do, want.Do) {
			return f
		}
	}
	t.Fatalf("nothing like %+v is found:\n%+v", want, found)
	return diag.Finding{}
}
