package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"mqlift/internal/plan"
	"mqlift/internal/step"
)

// madeAnew is the text of the first record of a journal that Rebuild made.
const madeAnew = "made anew from what the run kept on the hosts"

// Rebuild makes a journal in dir, the folder of a run that this machine has no journal of, from what that
// run kept on the hosts. How far it got is not known, only whether it may have opened writes: every step
// up to there counts as begun, and the undoing of each looks at what is there to be undone.
func Rebuild(dir string, p *plan.Plan, state *step.State) (_ *Cut, err error) {
	file := filepath.Join(dir, "journal.jsonl")
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("%s is there: it is to be gone on with, not made anew", file), err)
	}
	j, _, err := OpenJournal(file, state.Run)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	if err := j.Append(RunBegin, "", "", madeAnew, state); err != nil {
		return nil, err
	}
	for _, stage := range p.Stages {
		if stage.PointOfNoReturn && !state.Opening() {
			break
		}
		for _, s := range stage.Steps {
			if err := j.Append(StepBegin, stage.Name, s.Name, "may have been begun", nil); err != nil {
				return nil, err
			}
		}
		if stage.PointOfNoReturn {
			break
		}
	}
	return cutOf(dir)
}
