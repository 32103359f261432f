package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// A slave whose log differs from the master's where no checksum covers it (in the properties, behind the
// body) would keep the difference for ever under DLedger. It gets the master's bytes, and its index and
// consume queues are built from them.
func TestADivergedSlaveIsRealigned(t *testing.T) {
	b := newBench(t)
	b.stopBroker(t, "host-b")
	log := filepath.Join(b.host("host-b").InstallDir, "store", "commitlog", "00000000000000000000")
	f, err := os.OpenFile(log, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	data := make([]byte, 4<<20)
	_, err = f.ReadAt(data, 0)
	must(t, err)
	at := bytes.Index(data, []byte("KEYS\x01m000050"))
	if at < 0 {
		t.Fatal("the seeded key is not in the slave's log")
	}
	_, err = f.WriteAt([]byte("x"), int64(at+len("KEYS\x01")))
	must(t, err)
	b.startBroker(t, "host-b")
	b.awaitSlave(t)
	b.run(t, call{}, "apply", "--yes", "--no-failover", "--keys", oldKeys).wants(t, 0, "host-b: its log differs from the master's", "all copies agree")
	b.verified(t)
}
