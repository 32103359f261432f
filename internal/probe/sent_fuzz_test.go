package probe

import (
	"bytes"
	"testing"
)

func FuzzALedgerLosesNoWholeLine(f *testing.F) {
	f.Add([]byte("{\"topic\":\"t\",\"key\":\"k\",\"acked\":true}\n{\"topic\":\"t\",\"key\":\"l\"}\n{\"to"))
	f.Add([]byte("\n"))
	f.Add([]byte("null\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &Sent{}
		good, err := s.load(bytes.NewReader(data))
		if err != nil {
			return
		}
		if rest := data[good:]; bytes.Contains(rest, []byte("\n")) || good > 0 && data[good-1] != '\n' {
			t.Fatalf("whole up to %d of %q", good, data)
		}
		again := &Sent{}
		if n, err := again.load(bytes.NewReader(data[:good])); err != nil || n != good || len(again.Entries()) != len(s.Entries()) {
			t.Fatalf("read again: %d of %d, %v", n, good, err)
		}
		for _, e := range s.Entries() {
			if e.Topic == "" || e.Key == "" {
				t.Fatalf("%+v", e)
			}
		}
	})
}
