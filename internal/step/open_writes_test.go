package step

import (
	"strings"
	"testing"
	"time"

	"mqlift/internal/store"
)

// Whatever else is true: without a certificate that holds, to the logs' ends, nothing is opened.
func TestWritesStayClosedWithoutACertificate(t *testing.T) {
	for name, c := range map[string]*store.Certificate{
		"none":                       nil,
		"logs that differ":           {Whole: true, Differences: []store.Difference{{Kind: store.DiffBytes}}},
		"logs compared up to a part": {Whole: false},
	} {
		t.Run(name, func(t *testing.T) {
			e := &Env{State: &State{Certificate: c, OpeningAt: time.Now()}} // nothing to touch: it would crash
			defer func() {
				if r := recover(); r != nil {
					t.Errorf("it went on: %v", r)
				}
			}()
			if err := (openWrites{}).Do(t.Context(), e); err == nil || !strings.Contains(err.Error(), "writes stay closed") {
				t.Errorf("got %v", err)
			}
		})
	}
}
