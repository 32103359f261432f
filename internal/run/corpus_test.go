package run

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mqlift/internal/corpus"
)

// What an apply says that finds such a journal in the group's folder.
func TestEachFaultyJournalIsSaidOrTakenUp(t *testing.T) {
	corpus.Run(t, "testdata/journals/*.jsonl", func(t *testing.T, input []byte) string {
		runs := t.TempDir()
		dir := filepath.Join(runs, "20261104-031500-7c1e")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "journal.jsonl")
		if err := os.WriteFile(path, corpus.Expand(t, input), 0o600); err != nil {
			t.Fatal(err)
		}
		said := func(s string) string { return strings.ReplaceAll(s, runs, "RUNS") }
		cut, err := Unfinished(runs)
		if err != nil {
			if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "; ") {
				t.Errorf("neither where nor what to do: %v", err)
			}
			return said(err.Error())
		}
		if cut == nil {
			return "nothing was begun: a new run may begin"
		}
		w := &Walk{}
		for _, b := range cut.begun {
			if _, ok := w.byName(b.step); !ok { // refused before anything is touched
				return said(w.UndoCut(t.Context(), cut).Error())
			}
		}
		if cut.Opened() {
			return fmt.Sprintf("cut short at %s after writes were opened: it is finished", cut.At)
		}
		return fmt.Sprintf("cut short at %s before writes were opened: %d steps are undone", cut.At, len(cut.begun))
	})
}
