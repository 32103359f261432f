package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"mqlift/internal/lab"
)

func TestMain(m *testing.M) {
	lab.KeeperMain()
	os.Exit(m.Run())
}

// The chosen part of the matrix: every row ends verified or cleanly back, and nothing acknowledged is
// missing.
func TestMatrix(t *testing.T) {
	all, err := choose("", loopback)
	if err != nil {
		t.Fatal(err)
	}
	binary := os.Getenv("MQLIFT_BINARY")
	if binary == "" {
		binary = filepath.Join(t.TempDir(), "mqlift")
		build := exec.Command("go", "build", "-o", binary, "mqlift/cmd/mqlift")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	o := options{place: loopback, binary: binary, labs: 2, rate: 40, seed: 1}
	if err := o.matrix(t.Context(), inTest(all), t.Output()); err != nil {
		t.Error(err)
	}
}

// A row is good only when nothing is missing, something was acknowledged, and its end is a good one.
func TestRedRows(t *testing.T) {
	good := result{End: back, count: count{Acknowledged: 5, Found: 5}}
	for name, r := range map[string]result{
		"a missing message":    {End: verified, count: count{Acknowledged: 5, Found: 4, Missing: 1}},
		"no traffic":           {End: verified},
		"another end":          {End: red, count: good.count},
		"an end of the zeroth": {count: good.count},
	} {
		if r.good() {
			t.Errorf("%s: the row counts as good", name)
		}
	}
	if !good.good() {
		t.Error("a row that went well counts as red")
	}
	if bad := table(t.Output(), []*result{&good, nil}); bad != 1 {
		t.Error(errors.New("a row that was not run counts as good"), bad)
	}
}
