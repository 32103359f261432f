package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMediansAreOfEachProcedureOnEachStore(t *testing.T) {
	r := result{Samples: []sample{
		{Store: "1", Procedure: "by hand", Start: 4, Write: 40, Missing: 2},
		{Store: "1", Procedure: "by hand", Start: 8, Write: 20},
		{Store: "1", Procedure: "by hand", Start: 5, Write: 30, Problem: "no leader"},
		{Store: "1", Procedure: "mqlift", Start: 5, Write: 6, Application: 7.5, Election: 1, Stages: map[string]float64{"form": 5}, stages: []string{"form"}},
		{Store: "1", Procedure: "mqlift", Start: 5, Write: 9, Application: 7.5, Election: 1, Stages: map[string]float64{"form": 7}, stages: []string{"form"}},
		{Store: "4", Procedure: "mqlift", Start: 5, Write: 9, Stages: map[string]float64{"form": 7}, stages: []string{"form"}},
	}}
	r.summarise()
	if err := r.err(); err != nil {
		t.Errorf("what went wrong by hand is no failure of mqlift: %v", err)
	}
	var b bytes.Buffer
	r.print(&b)
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"1 GiB by hand 30.00 s", "2 0 1 of 3",
		"writes away, 7.50 s by hand, 30.00 s 0.25 at most 0.20",
		"a broker's start, 5.00 s, and an election, 1.00 s, 6.00 s 1.25 at most 1.60",
		"writes away for an application, 7.50 s writes away, 7.50 s 1.00 at most 1.30",
		"4 GiB writes away, 9.00 s that at 1 GiB, 7.50 s 1.20 at most 1.15",
		"mqlift at 1 GiB, stage by stage: form 6.00 s",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	if strings.Contains(text, "rsync twice") || strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Errorf("what was not measured is compared with:\n%s", b.String())
	}
	r.Samples[3].Missing = 1
	if r.err() == nil {
		t.Error("a message that mqlift lost is no failure")
	}
}

func TestSizesAreInRisingOrder(t *testing.T) {
	if sizes, err := parseSizes("0.25, 1,4"); err != nil || len(sizes) != 3 || sizes[0] != 0.25 {
		t.Errorf("%v %v", sizes, err)
	}
	for _, text := range []string{"", "1,", "0", "4,1", "1,1", "-1", "x"} {
		if sizes, err := parseSizes(text); err == nil {
			t.Errorf("%q is taken for %v", text, sizes)
		}
	}
}

func TestACopyIsComparedAndHolesAreHoles(t *testing.T) {
	for _, kind := range []string{"dense", "sparse"} {
		dir := t.TempDir()
		s, err := writeFiles(filepath.Join(dir, "store"), kind, 16<<20)
		if err != nil {
			t.Fatal(err)
		}
		if dense := s.allocated > s.apparent*9/10; dense != (kind == "dense") {
			t.Errorf("%s: %d of %d bytes are allocated", kind, s.allocated, s.apparent)
		}
		to := filepath.Join(dir, "copy")
		if err := copyOverTCP(t.Context(), s.dir, to); err != nil {
			t.Fatal(err)
		}
		if err := s.compare(t.Context(), to); err != nil {
			t.Error(err)
		}
		first := filepath.Join(to, commitLog, "00000000000000000000")
		if err := os.Truncate(first, s.logFileSize-1); err != nil {
			t.Fatal(err)
		}
		if s.compare(t.Context(), to) == nil {
			t.Errorf("%s: a copy that lacks a byte passes", kind)
		}
		if err := os.Remove(first); err != nil {
			t.Fatal(err)
		}
		if s.compare(t.Context(), to) == nil {
			t.Errorf("%s: a copy that lacks a file passes", kind)
		}
	}
}
