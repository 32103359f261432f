package brokerconf

import (
	"bytes"
	"testing"

	"mqlift/internal/corpus"
	"mqlift/internal/diag"
)

// Whatever the file is and whatever is set: what is not named stays in value and in bytes, what is set is
// read back, and the same edit again changes nothing.
func FuzzEditTouchesNothingElse(f *testing.F) {
	for _, file := range corpus.Files(f, "testdata/faulty/*.conf") {
		f.Add(corpus.Input(f, file), "brokerName", "broker-ä")
	}
	f.Add([]byte("a=1\\\n\r  2\rb=\xe9"), "a", " \\=")
	f.Fuzz(func(t *testing.T, data []byte, key, value string) {
		file, err := Parse("broker.conf", data)
		if err != nil {
			return
		}
		if !bytes.Equal(file.Bytes(), data) {
			t.Fatal("the bytes are others")
		}
		for _, release := range []string{"4.5.2", "5.3.3"} {
			for _, found := range file.Findings(Site{Host: "h", Release: release, Home: "/root", Addresses: []string{"10.0.0.1"}}) {
				if found.Where == "" || found.What == "" || found.Do == "" || found.Severity == diag.Pass {
					t.Fatalf("not three parts: %+v", found)
				}
			}
		}
		e := Edit{Set: []KV{{key, value}}}
		edited, err := file.Apply(e)
		if err != nil {
			return
		}
		if got, ok := edited.Get(key); !ok || got != value {
			t.Fatalf("%q=%q is read back as %q of\n%q", key, value, got, edited.Bytes())
		}
		want := file.Map()
		want[key] = value
		got := edited.Map()
		for k, v := range want {
			if got[k] != v {
				t.Fatalf("%q was %q and is %q", k, v, got[k])
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d keys, want %d", len(got), len(want))
		}
		again, err := edited.Apply(e)
		if err != nil || !bytes.Equal(again.Bytes(), edited.Bytes()) {
			t.Fatalf("the same edit again: %v\n%q\n%q", err, edited.Bytes(), again.Bytes())
		}
	})
}
