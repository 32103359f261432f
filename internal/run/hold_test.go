package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestJournalsAreHeldByOneProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "runs", "broker-a")
	if h, err := Alive(dir); h != nil || err != nil {
		t.Errorf("%v, %v before there is anything", h, err)
	}
	first, err := Hold(t.Context(), dir, Holder{Command: "apply", Operator: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	h, err := Alive(dir)
	if err != nil || h == nil || h.PID != os.Getpid() || h.Operator != "alice" {
		t.Errorf("%+v, %v", h, err)
	}
	_, err = Hold(t.Context(), dir, Holder{Command: "apply", Operator: "bob"})
	var busy *BusyError
	if !errors.As(err, &busy) || busy.Holder.Operator != "alice" || !strings.Contains(err.Error(), "`mqlift apply` of alice, process ") || !strings.Contains(err.Error(), " holds broker-a") {
		t.Errorf("%v", err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	if h, err := Alive(dir); h != nil || err != nil {
		t.Errorf("%v, %v after the release", h, err)
	}
	second, err := Hold(t.Context(), dir, Holder{Command: "apply", Operator: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Release(); err != nil {
		t.Fatal(err)
	}
	if cut, err := Unfinished(filepath.Dir(dir)); cut != nil || err != nil { // the lock's own files are no runs
		t.Errorf("%v, %v", cut, err)
	}
}
