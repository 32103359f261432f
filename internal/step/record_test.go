package step

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mqlift/internal/plan"
)

func aRecord(t testing.TB) []byte {
	data, err := json.Marshal(Record{
		Plan: &plan.Plan{Version: 1, Fingerprint: "0123456789abcdef", Group: "g",
			Members: []*plan.Member{{Host: "mq1", Kind: plan.Master, OldConf: plan.Text("a=\xe9\n")}}, Stages: []plan.Stage{{Name: "prepare"}}},
		State: &State{Run: "20261104-031500-ab12", Started: time.Unix(1e9, 0).UTC(), Fence: map[string]string{"brokerPermission": "6"}, OpeningAt: time.Unix(2e9, 0).UTC()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestWhatIsNoRecordOfARunIsRefused(t *testing.T) {
	whole := string(aRecord(t))
	if r, err := parseRecord([]byte(whole), "g"); err != nil || r.State.Run != "20261104-031500-ab12" || !r.State.Opening() {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, c := range []struct{ name, data, want string }{
		{"empty", "", "unexpected end of JSON input"},
		{"torn", whole[:len(whole)-2], "unexpected end of JSON input"},
		{"null", "null", "it wants a plan and a state"},
		{"without a state", `{"plan":{}}`, "it wants a plan and a state"},
		{"a plan of nothing", `{"plan":{},"state":{"run":"r"}}`, "its plan: it has no fingerprint or no group"},
		{"a member that is null", strings.Replace(whole, `"members":[`, `"members":[null,`, 1), "its plan: members[0] is null"},
		{"another group's", strings.Replace(whole, `"group":"g"`, `"group":"h"`, 1), `it is of the group "h"`},
		{"no run", strings.Replace(whole, `"run":"20261104-031500-ab12"`, `"run":""`, 1), `"" is not the name of a run`},
		{"a run out of its folder", strings.Replace(whole, `"run":"20261104-031500-ab12"`, `"run":"../../h"`, 1), `"../../h" is not the name of a run`},
	} {
		r, err := parseRecord([]byte(c.data), "g")
		if err == nil || r != nil || err.Error() != c.want {
			t.Errorf("%s: %+v, %v; want %s", c.name, r, err, c.want)
		}
	}
}

// The record is the way back where the journal is lost: it says the same however often it is read and
// written, and its run's folder lies below the group's.
func FuzzARecordIsWholeOrRefused(f *testing.F) {
	whole := aRecord(f)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(`{"plan":{"group":"g","fingerprint":"f","members":[null]},"state":{"run":"r"}}`))
	f.Add([]byte(`{"plan":{"group":"g","fingerprint":"f"},"state":{"run":"..","openingAt":"2026-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data, "g")
		if err != nil {
			if r != nil {
				t.Fatalf("%+v with %v", r, err)
			}
			return
		}
		for _, m := range r.Plan.Members {
			_ = m.Host
		}
		if dir := filepath.Join("/state/runs/g", r.State.Run); filepath.Dir(dir) != "/state/runs/g" {
			t.Fatalf("the run's folder is %s", dir)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		same, err := parseRecord(again, "g")
		if err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
		if twice, err := json.Marshal(same); err != nil || !bytes.Equal(again, twice) || same.State.Opening() != r.State.Opening() {
			t.Fatalf("%v\n%s\n%s", err, again, twice)
		}
	})
}
