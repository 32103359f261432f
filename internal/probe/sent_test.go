package probe

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func acked(key string) Entry {
	return Entry{Topic: "t", Key: key, Broker: "broker-a", MsgID: "id-" + key, Queue: 1, Offset: 7, At: epoch}
}

func TestLedgerIsReadBackAsItWas(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "sent.jsonl")
		os.Remove(path)
		memory, s := &Sent{}, open(t, path)
		for range rapid.IntRange(0, 20).Draw(t, "notes") {
			key := NumberedKey("m", rapid.IntRange(0, 5).Draw(t, "key"))
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				memory.Acknowledged(acked(key))
				s.Acknowledged(acked(key))
			case 1:
				memory.Unacknowledged("t", key, errors.New("request timeout"))
				s.Unacknowledged("t", key, errors.New("request timeout"))
			case 2:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, path)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		back, err := ReadSent(path)
		if err != nil {
			t.Fatal(err)
		}
		now := cmp.FilterValues(func(a, b time.Time) bool { return true }, cmp.Ignore())
		if d := cmp.Diff(memory.Entries(), back.Entries(), now); d != "" {
			t.Fatal(d)
		}
	})
}

func open(t interface{ Fatal(...any) }, path string) *Sent {
	s, err := OpenSent(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAcknowledgementIsNeverTakenBack(t *testing.T) {
	var s Sent
	s.Unacknowledged("t", "m1", errors.New("request timeout"))
	if got := s.Unacked(); len(got) != 1 || got[0].Error != "request timeout" || got[0].Tries != 1 {
		t.Errorf("after a failure: %+v", got)
	}
	s.Acknowledged(acked("m1"))
	s.Unacknowledged("t", "m1", errors.New("late"))
	want := acked("m1")
	want.Acked, want.Tries = true, 3
	if d := cmp.Diff([]Entry{want}, s.Acked()); d != "" {
		t.Error(d)
	}
	if got := s.Unacked(); got != nil {
		t.Errorf("still unacknowledged: %+v", got)
	}
}

func TestTornLastLineIsCutOffAndTheLedgerGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sent.jsonl")
	s := open(t, path)
	s.Acknowledged(acked("m1"))
	long := acked("m2")
	long.MsgID = strings.Repeat("0", 200) // so that a torn line may be longer than the next one
	s.Acknowledged(long)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := strings.IndexByte(string(whole), '\n') + 1
	for cut := first; cut < len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		if back, err := ReadSent(path); err != nil || len(back.Entries()) != 1 {
			t.Fatalf("cut at %d: %v, %v", cut, back, err)
		}
		s := open(t, path)
		s.Acknowledged(acked("m3"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		back, err := ReadSent(path)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if got := back.Acked(); len(got) != 2 || got[0].Key != "m1" || got[1].Key != "m3" {
			t.Fatalf("cut at %d: %+v", cut, got)
		}
	}
}

func TestBrokenLineInTheMiddleIsRefusedByNumber(t *testing.T) {
	for name, broken := range map[string]string{"no JSON": "{\"topic\n", "no key": "{\"topic\":\"t\"}\n", "empty": "\n"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sent.jsonl")
			text := `{"topic":"t","key":"m1","acked":true}` + "\n" + broken + `{"topic":"t","key":"m2","acked":true}` + "\n"
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenSent(path); err == nil || !strings.Contains(err.Error(), "line 2") {
				t.Errorf("opened: %v", err)
			}
			if now, _ := os.ReadFile(path); string(now) != text {
				t.Error("the refused file was changed")
			}
		})
	}
}

func TestLedgerReachesTheFileWithoutClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sent.jsonl")
	s := open(t, path)
	defer s.Close()
	s.Acknowledged(acked("m1"))
	for limit := time.Now().Add(10 * time.Second); ; {
		if back, err := ReadSent(path); err == nil && len(back.Acked()) == 1 {
			return
		}
		if time.Now().After(limit) {
			t.Fatal("not written within 10 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestFailureToWriteIsSaidAndCloseMayBeRepeated(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "sent.jsonl"))
	s.file.Close()
	s.Acknowledged(acked("m1"))
	first := s.Close()
	if !errors.Is(first, os.ErrClosed) {
		t.Errorf("close: %v", first)
	}
	if again := s.Close(); again != first {
		t.Errorf("close again: %v", again)
	}
	if len(s.Acked()) != 1 {
		t.Error("the ledger in memory is gone")
	}
}

func TestNextIsAboveAllNumbersUsed(t *testing.T) {
	var s Sent
	s.Acknowledged(acked("m600007"))
	s.Unacknowledged("t", "m600009", errors.New("x"))
	s.Unacknowledged("t", "mx", errors.New("x"))
	s.Unacknowledged("other", "m700000", errors.New("x"))
	for start, want := range map[int]int{0: 600010, 600000: 600010, 800000: 800000} {
		if got := s.Next("t", "m", start); got != want {
			t.Errorf("from %d: %d, want %d", start, got, want)
		}
	}
}
