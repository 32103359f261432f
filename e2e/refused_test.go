package e2e

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	b := newBench(t)
	for name, refuse := range map[string]func(*testing.T, *bench){
		"a topology with ten mistakes":             tenMistakes,
		"a host that is down":                      hostDown,
		"a host that does not answer":              hostSilent,
		"a client key that the hosts do not know":  wrongClientKey,
		"a host with another key":                  wrongHostKey,
		"a slave that is stopped":                  slaveStopped,
		"a slave that does not follow":             slaveBehind,
		"DLedger turned on by hand in a file":      halfConfigured,
		"a dledger folder of an earlier try":       leftLedger,
		"a strange file in the commit log":         junkInLog,
		"a broker.conf that was changed meanwhile": stalePlan,
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
	b.unchanged(t, func() {
		check := b.run(t, c, "check", "--json")
		check.wants(t, 3)
		f := matching(t, check.findings(t), want)
		b.run(t, c, "apply", "--yes").wants(t, 3, f.Check, f.Host, f.Where, f.What, f.Do)
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

func slaveStopped(t *testing.T, b *bench) {
	b.stopBroker(t, "host-b")
	defer b.awaitSlave(t)
	defer b.startBroker(t, "host-b")
	b.refuses(t, call{}, diag.Finding{Check: "broker.running", Host: "host-b", Where: b.conf("host-b"), What: "no broker runs on it", Do: "start the broker"})
	b.refuses(t, call{}, diag.Finding{Check: "group.roles", What: "no member answers as slave", Do: "start one"})
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

func halfConfigured(t *testing.T, b *bench) {
	defer appendTo(t, b.conf("host-b"), "enableDLegerCommitLog=true")()
	b.refuses(t, call{}, diag.Finding{Check: "broker.half", Host: "host-b", Where: b.conf("host-b") + ":", What: "running broker is in the old mode", Do: "take enableDLegerCommitLog out"})
}

func leftLedger(t *testing.T, b *bench) {
	root := filepath.Join(b.host("host-b").InstallDir, "store", "dledger_store")
	ledger := filepath.Join(root, "dledger-n1")
	must(t, os.MkdirAll(ledger, 0o755))
	defer os.RemoveAll(root)
	b.refuses(t, call{}, diag.Finding{Check: "store.dledger", Host: "host-b", Where: ledger, What: "of an earlier try", Do: "mv " + ledger})
}

func junkInLog(t *testing.T, b *bench) {
	junk := filepath.Join(b.host("host-b").InstallDir, "store", "commitlog", "00000000000000000000.bak")
	must(t, os.WriteFile(junk, []byte("a copy that somebody kept\n"), 0o644))
	defer os.Remove(junk)
	b.refuses(t, call{}, diag.Finding{Check: "store.junk", Host: "host-b", Where: junk, What: "does not start", Do: "move it away"})
}

func stalePlan(t *testing.T, b *bench) {
	file := filepath.Join(t.TempDir(), "plan.json")
	b.run(t, call{}, "plan", "-o", file).wants(t, 0, file)
	defer appendTo(t, b.conf("host-b"), "# looked at by the night shift")()
	b.unchanged(t, func() {
		b.run(t, call{}, "apply", "--yes", file).wants(t, 7, "host-b", b.conf("host-b"), "mqlift plan")
	})
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
