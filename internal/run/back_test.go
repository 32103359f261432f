package run

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"mqlift/internal/step"
)

// The way back from an opened group is undone while that group is still the one that serves, and is gone
// on with once it has been given up.
func TestAWayBackThatFailsIsUndoneUntilTheNewGroupIsGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		state  step.Replay
		said   []string
		past   bool
		says   string
		isLeft bool // for the same command to go on with
	}{
		"serving":  {step.Replay{FencedAt: time.Now()}, []string{"do a", "do b", "undo b", "undo a"}, false, "takes sends again", false},
		"given up": {step.Replay{StoppingAt: time.Now()}, []string{"do a", "do b"}, true, "`mqlift rollback --replay` again goes on", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := rehearse(t)
			r.Env.State.OpeningAt = time.Now()
			r.steps["b"].do = func(_ context.Context, e *step.Env) error {
				*e.State.Replay = c.state
				return errBroken
			}
			r.Env.State.Replay = &step.Replay{}
			err := r.Run(t.Context())
			f := wantFailure(t, err, "prepare", "b")
			if f.Past != c.past || f.Undone == c.past || !strings.Contains(f.Error(), c.says) {
				t.Errorf("past %t, undone %t: %v", f.Past, f.Undone, f)
			}
			r.wantSaid(c.said...)
			cut, err := Unfinished(r.dir)
			if err != nil || (cut != nil) != c.isLeft {
				t.Fatalf("%+v, %v", cut, err)
			}
			if cut != nil && cut.State.Replay == nil {
				t.Error("the journal does not say that it is on its way back")
			}
			if !errors.Is(f, errBroken) {
				t.Errorf("%v", f)
			}
		})
	}
}

// A way back that was killed in the fence and is given up by the next process leaves nothing fenced.
func TestAWayBackThatIsTakenUpUndoesWhatItsForerunnerBegan(t *testing.T) {
	r := rehearse(t)
	r.Env.State.OpeningAt, r.Env.State.Replay = time.Now(), &step.Replay{}
	cut := &Cut{State: r.Env.State, begun: []begun{{"open", "open"}, {"prepare", "a"}, {"prepare", "b"}}}
	r.Playbook.Stages = r.Playbook.Stages[:2]
	r.steps["a"].do = func(context.Context, *step.Env) error { return errBroken }
	f := wantFailure(t, r.GoBack(t.Context(), cut), "prepare", "a")
	if !f.Undone || !f.Back {
		t.Errorf("undone %t, back %t: %v", f.Undone, f.Back, f)
	}
	r.wantSaid("do a", "undo b", "undo a")
}
