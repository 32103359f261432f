package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"mqlift/internal/bridge"
	"mqlift/internal/hostinfo"
)

func TestARequestThatWasCutIsRefused(t *testing.T) {
	whole := `{"process":{"pid":4242,"start":7}}` + "\n"
	if r, err := readRequest[KillRequest](bufio.NewReader(strings.NewReader(whole))); err != nil || r.Process.PID != 4242 {
		t.Fatal(r, err)
	}
	for n := range len(whole) {
		if r, err := readRequest[KillRequest](bufio.NewReader(strings.NewReader(whole[:n]))); err == nil {
			t.Errorf("%q is read as %+v", whole[:n], r)
		}
	}
}

// A request is the line, whole, and takes nothing of the data behind it.
func FuzzARequestIsItsLine(f *testing.F) {
	for _, r := range []any{
		KillRequest{Process: hostinfo.ProcessID{PID: 4242, Start: 7, Boot: "b"}}, LockRequest{Action: LockTake, Path: "/w/g.lock", Content: []byte("x"), Quiet: time.Second},
		CopySpec{ToRoot: "/new", Trees: []string{"config"}}, bridge.Request{Listen: []string{":10911"}, Targets: []string{"10.0.0.2:10911"}}, "/opt/broker.conf", nil,
	} {
		line, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line, []byte("data that follows\n"))
	}
	f.Add([]byte("{}\n{}"), []byte{})
	f.Fuzz(func(t *testing.T, line, data []byte) {
		isOneRequest[KillRequest](t, line, data)
		isOneRequest[StartRequest](t, line, data)
		isOneRequest[LockRequest](t, line, data)
		isOneRequest[CopySpec](t, line, data)
		isOneRequest[bridge.Request](t, line, data)
		isOneRequest[string](t, line, data)
	})
}

func isOneRequest[Request any](t *testing.T, line, data []byte) {
	t.Helper()
	line, after, _ := bytes.Cut(line, []byte("\n"))
	data = append(bytes.Clone(after), data...)
	if _, err := readRequest[Request](bufio.NewReader(bytes.NewReader(line))); err == nil {
		t.Fatalf("%q is taken without its end", line)
	}
	in := bufio.NewReader(bytes.NewReader(append(append(bytes.Clone(line), '\n'), data...)))
	r, err := readRequest[Request](in)
	if rest, _ := io.ReadAll(in); !bytes.Equal(rest, data) {
		t.Fatalf("%q and %q: %q is left", line, data, rest)
	}
	if err != nil {
		return
	}
	again, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	same, err := readRequest[Request](bufio.NewReader(bytes.NewReader(append(again, '\n'))))
	if err != nil {
		t.Fatalf("%q: %v", again, err)
	}
	if twice, err := json.Marshal(same); err != nil || !bytes.Equal(again, twice) {
		t.Fatalf("%q is read as %q, %v", again, twice, err)
	}
}
