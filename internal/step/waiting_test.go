package step

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTheReportSaysWhatWasUnderWay(t *testing.T) {
	s := State{FencedEnd: 7, CertifiedEnd: 7, OpeningAt: time.Unix(1, 0), Offsets: 12, OffsetsMoved: 3, Waiting: &Waiting{Transactions: 2, Delayed: []DelayLevel{
		{Level: 1, Delay: "1s", From: 5, To: 8, Delivered: 3}, {Level: 14, Delay: "10m", From: 0, To: 40, Delivered: 1},
	}}}
	want := []string{
		"Under way at the fence: 43 delayed messages (3 of level 1 (1s), 40 of level 14 (10m)); the new leader had delivered 4 when it was proven.",
		"Under way at the fence: up to 2 transactions neither committed nor rolled back; the new leader asks their producers about them.",
		"The fenced master wrote nothing by itself: its log ended at 7 when it was certified, and when writes were opened.",
		"Consumer offsets: 12 carried over, 3 committed after the copy; none set back.",
	}
	if diff := cmp.Diff(want, s.UnderWay()); diff != "" {
		t.Error(diff)
	}
	if l := (&State{}).UnderWay(); l != nil {
		t.Errorf("nothing was fenced, and it says %q", l)
	}
}
