package e2e

import (
	"syscall"
	"testing"
)

// One name server that hangs, or is gone, is said and survived.
func TestOneNameServerFrozen(t *testing.T) {
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
			b.run(t, call{}, "apply", "--yes", "--no-failover", "--keys", oldKeys).wants(t, 0)
			b.verified(t)
		})
	}
}
