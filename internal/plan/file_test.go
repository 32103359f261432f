package plan

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mqlift/internal/corpus"
)

// What is said about the files of testdata/saved. $SEAL stands for the seal that fits the rest.
func TestEachFaultySavedPlanIsRefused(t *testing.T) {
	corpus.Run(t, "testdata/saved/*.json", func(t *testing.T, input []byte) string {
		p, err := Decode("plan.json", sealed(corpus.Expand(t, input)))
		if err == nil || p != nil {
			t.Fatalf("read as %+v, %v", p, err)
		}
		if !strings.Contains(err.Error(), "plan.json") || !strings.Contains(err.Error(), "; put it back from a copy, or make a new one with") {
			t.Errorf("neither where nor what to do: %v", err)
		}
		return err.Error()
	})
}

func sealed(data []byte) []byte {
	if !bytes.Contains(data, []byte("$SEAL")) {
		return data
	}
	data = bytes.Replace(data, []byte("$SEAL"), []byte(noSeal), 1)
	return bytes.Replace(data, []byte(noSeal), sealOf(data), 1)
}

func savedPlan(t testing.TB) (*Plan, []byte) {
	p := &Plan{Version: 1, Created: time.Date(2026, 11, 4, 3, 15, 0, 0, time.UTC), Fingerprint: "0123456789abcdef", Group: "broker-a",
		Members: []*Member{{Host: "mq1", Kind: Master, OldConf: Text("a=1\nb=\xe9\n"), NewConf: Text("a=\"<&>\u2028\"")}},
		Stages:  []Stage{{Name: "prepare"}}}
	data, err := Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return p, data
}

func TestASavedPlanIsReadBackAsItWas(t *testing.T) {
	p, data := savedPlan(t)
	got, err := Decode("plan.json", data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestASavedPlanWithAnyByteChangedIsRefused(t *testing.T) {
	_, data := savedPlan(t)
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if _, err := Decode("plan.json", bad); err == nil {
			t.Errorf("byte %d (%q) can be changed", i, data[i])
		}
		if _, err := Decode("plan.json", data[:i]); err == nil {
			t.Errorf("cut at byte %d it is read", i)
		}
	}
}

func FuzzDecodeKeepsWhatItTakes(f *testing.F) {
	_, data := savedPlan(f)
	f.Add(data)
	for _, file := range corpus.Files(f, "testdata/saved/*.json") {
		f.Add(corpus.Input(f, file))
	}
	f.Add([]byte("{\n  \"seal\": \"$SEAL\",\n  \"version\": 1, \"fingerprint\": \"f\", \"group\": \"g\", \"members\": [{\"oldConf\": {\"base64\": \"/w==\"}}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Decode("p", sealed(data)) // a seal that fits, so that what lies behind it is reached
		if err != nil {
			return
		}
		again, err := Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := Decode("p", again)
		if err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
		twice, err := Encode(q)
		if err != nil || !bytes.Equal(again, twice) {
			t.Fatalf("saved again it is another plan: %v\n%s\n%s", err, again, twice)
		}
	})
}
