package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// One name server that hangs, or is gone, is said and survived.
func TestOneNameServerFrozen(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"frozen": syscall.SIGSTOP, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			// The first of the two, which is the one that is asked first.
			pid := b.pid(t, "host-a", "name server")
			must(t, syscall.Kill(pid, signal))
			if signal == syscall.SIGSTOP {
				t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
			}
			b.run(t, call{}, "check").wants(t, 0, "warn  nameserver", b.host("host-a").NameServer, "does not answer", "0 failed")
			file := filepath.Join(t.TempDir(), "report.json")
			b.run(t, call{}, "apply", "--yes", "--no-failover", "--keys", oldKeys, "--report", file, "--transfer", "plain", "--limit-rate", "200M").wants(t, 0, "directly, plain, in ")
			b.verified(t)
			data, err := os.ReadFile(file)
			must(t, err)
			var report struct{ WriteOutageMS int64 }
			must(t, json.Unmarshal(data, &report))
			// Brokers themselves wait 6 s for it at each registration: 10 s without become 20 s with it.
			if report.WriteOutageMS <= 0 || report.WriteOutageMS > 60_000 {
				t.Errorf("sends were refused for %d ms", report.WriteOutageMS)
			}
		})
	}
}
