package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mqlift/internal/playbook"
	"mqlift/internal/step"
)

// The commands that only look leave nothing behind on any host, and a dry run names every step of the
// order of work and every host.
func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.unchanged(t, func() {
		order, err := playbook.Load("dledger", step.Requirements())
		must(t, err)
		o := b.run(t, call{}, "apply", "--dry-run", "--keys", oldKeys)
		o.wants(t, 0, "nothing was changed", "host-a", "host-b", "host-c")
		for _, stage := range order.Stages {
			for _, name := range stage.Steps {
				if !strings.Contains(o.text, "\n  "+name+" ") {
					t.Errorf("step %s of stage %s is not named:\n%s", name, stage.Name, o.text)
				}
			}
		}
		file := filepath.Join(t.TempDir(), "plan.json")
		b.run(t, call{}, "plan", "-o", file).wants(t, 0, "host-a", "host-b", "host-c", file)
		b.run(t, call{}, "apply", "--dry-run", file).wants(t, 0, "nothing was changed")
		b.run(t, call{}, "diff").wants(t, 0, "+enableDLegerCommitLog=true", b.conf("host-a"), b.conf("host-b"), b.conf("host-c"))
		b.run(t, call{}, "check").wants(t, 0, "0 failed")
		b.run(t, call{}, "status").wants(t, 0, "master", "slave", "is not needed")
	})
	if _, err := os.Stat(b.stateDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a run was begun in %s (%v)", b.stateDir(), err)
	}
}
