package grouplock

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

func FuzzALockIsOfARunThatHasToBeNamed(f *testing.F) {
	whole, err := Lock{Group: "g", Run: "20261104-031500-ab12", Operator: "alice", From: "bastion-2", Since: time.Unix(1e9, 0).UTC(), Process: Self(), Dir: "/s/runs/g/r"}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, int64(0))
	f.Add(whole, int64(2*SilentAfter))
	f.Add([]byte("{}"), int64(2*SilentAfter))
	f.Add([]byte("null\n"), int64(-1))
	f.Add([]byte(`{"group":"g","run":"r","from":"\u001b[2J","process":{"pid":4294967296}}`), int64(0))
	f.Fuzz(func(t *testing.T, raw []byte, quiet int64) {
		h, err := Read("host-a", "/w/g.lock", raw, time.Duration(quiet))
		if err != nil {
			if !strings.Contains(err.Error(), "host-a: /w/g.lock is not a lock that mqlift wrote: ") {
				t.Fatal(err)
			}
			return
		}
		if h.Breakable("") || h.Breakable(h.Run) == (h.Life == Alive) || h.Quiet < 0 {
			t.Fatalf("%s, breakable by no name %v, by its own %v: %+v", h.Life, h.Breakable(""), h.Breakable(h.Run), h)
		}
		text := (&Error{Held: h}).Error()
		who, do, two := strings.Cut(text, "\n→ ")
		if !two || strings.ContainsFunc(who+do, unicode.IsControl) || !strings.Contains(who, "run "+h.Run+" of ") {
			t.Fatalf("%q", text)
		}
		again, err := h.Lock.Encode()
		if err != nil {
			t.Fatal(err)
		}
		same, err := Read("host-a", "/w/g.lock", again, time.Duration(quiet))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(h.Lock, same.Lock); diff != "" {
			t.Fatal(diff)
		}
	})
}
