package agent

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// ledgerWith makes a dledger folder as dledger 0.1 lays it out: index files of so many units, entries in
// the first of them and the data file that they point to.
func ledgerWith(t *testing.T, divided int64, unitsPerFile int, stored ...time.Time) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dledger-n0")
	for _, sub := range []string{"data", "index"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const entry = 200
	data := make([]byte, entry*(len(stored)+3))
	files := len(stored)/unitsPerFile + 1 // the last one is preallocated
	index := make([]byte, files*unitsPerFile*ledgerIndexUnit)
	for i, at := range stored {
		binary.BigEndian.PutUint64(data[i*entry+ledgerBodyOffset+storeTimestampOffset:], uint64(at.UnixMilli()))
		u := index[i*ledgerIndexUnit:]
		binary.BigEndian.PutUint32(u, 1)
		binary.BigEndian.PutUint64(u[4:], uint64(divided)+uint64(i*entry))
	}
	write := func(sub string, base int64, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, sub, fmt.Sprintf("%020d", base)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("data", divided, data)
	for i := range files {
		size := unitsPerFile * ledgerIndexUnit
		write("index", int64(i*size), index[i*size:(i+1)*size])
	}
	return dir
}

func TestALedgerSaysWhatWasWrittenToIt(t *testing.T) {
	at := time.UnixMilli(1700000000123).UTC()
	var many []time.Time
	for i := range 11 {
		many = append(many, at.Add(time.Duration(i)*time.Second))
	}
	for name, test := range map[string]struct {
		dir  string
		want Ledger
	}{
		"nothing written": {ledgerWith(t, 1<<30, 4), Ledger{Divided: 1 << 30}},
		"one":             {ledgerWith(t, 1<<30, 4, at), Ledger{Divided: 1 << 30, Entries: 1, First: at, Last: at}},
		"a file full":     {ledgerWith(t, 0, 4, many[:4]...), Ledger{Entries: 4, First: at, Last: many[3]}},
		"several files":   {ledgerWith(t, 1<<20, 4, many...), Ledger{Divided: 1 << 20, Entries: 11, First: at, Last: many[10]}},
		"only made":       {t.TempDir(), Ledger{Divided: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readLedger(test.dir)
			test.want.Path = test.dir
			if err != nil || got != test.want {
				t.Errorf("%+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

func TestALedgerThatMqliftMovedAsideIsNone(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"dledger-n0", "dledger-n0.mqlift-run-1", "old-dledger-n0"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s, err := storeOf(root)
	if err != nil || len(s.Ledgers) != 1 || s.Ledgers[0].Path != filepath.Join(root, "dledger-n0") {
		t.Errorf("%+v, %v", s.Ledgers, err)
	}
}
