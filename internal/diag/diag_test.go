package diag_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/diag"
)

func TestAFindingIsOneLineOfPlaceWhatAndWhatToDo(t *testing.T) {
	for want, f := range map[string]diag.Finding{
		"host-a: /opt/x: is a folder; move it away": {Host: "host-a", Where: "/opt/x", What: "is a folder", Do: "move it away"},
		"t.yaml:3:7: no such field; mend it":        {Where: "t.yaml:3:7", What: "no such field", Do: "mend it"},
		"host-a: no Java":                           {Host: "host-a", What: "no Java"},
		"fine":                                      {What: "fine"},
	} {
		if got := f.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestOnlyWhatFailedIsAnErrorAndAllOfIt(t *testing.T) {
	var l diag.Findings
	l.Add(diag.Finding{Check: "a", Severity: diag.Pass, What: "fine"})
	l.Add(diag.Finding{Check: "b", Severity: diag.Warn, What: "odd", Do: "read"})
	if err := l.Err(); err != nil {
		t.Errorf("nothing failed, and it is an error: %v", err)
	}
	l.Add(diag.Finding{Check: "c", Severity: diag.Fail, Host: "host-c", What: "broken", Do: "mend"})
	l.Add(diag.Finding{Check: "d", Severity: diag.Pass, What: "fine"})
	l.Add(diag.Finding{Check: "e", Severity: diag.Fail, What: "gone", Do: "find"})
	err := fmt.Errorf("checking: %w", l.Err())
	var found *diag.Error
	if !errors.As(err, &found) {
		t.Fatalf("%T", err)
	}
	if diff := cmp.Diff(diag.Findings{l[2], l[4]}, found.Findings); diff != "" {
		t.Error(diff)
	}
	if got := found.Error(); got != "host-c: broken; mend\ngone; find" {
		t.Errorf("%q", got)
	}
	if p, w, f := l.Count(diag.Pass), l.Count(diag.Warn), l.Count(diag.Fail); p != 2 || w != 1 || f != 2 {
		t.Errorf("%d passed, %d to read, %d failed", p, w, f)
	}
}

func TestJSONCarriesTheSeverityAsItsWord(t *testing.T) {
	want := diag.Findings{
		{Check: "a", Severity: diag.Pass, What: "fine"},
		{Check: "b", Severity: diag.Warn, Host: "h", Where: "w", What: "odd", Do: "read"},
		{Check: "c", Severity: diag.Fail, What: "broken", Do: "mend"},
	}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{`"severity":"pass"`, `"severity":"warn"`, `"severity":"fail"`} {
		if !strings.Contains(string(data), word) {
			t.Errorf("%s is without %s", data, word)
		}
	}
	var got diag.Findings
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{`"severe"`, `""`, `2`} {
		var s diag.Severity
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("%s is read as %v", bad, s)
		}
	}
	if got := diag.Severity(7).String(); got != "severity 7" {
		t.Errorf("%q", got)
	}
}
