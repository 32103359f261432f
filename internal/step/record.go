package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode"

	"mqlift/internal/plan"
	"mqlift/internal/remote"
)

// Record is what a run keeps of itself on every host of the group, so that the way back is known also
// where the journal is not: the plan with the old files in it, and what the steps had found when it was
// written. It is written with the lock, once more before the first peers start, and once more before
// writes are opened, so that one without State.OpeningAt, on all hosts, proves that they never were.
type Record struct {
	Plan  *plan.Plan `json:"plan"`
	State *State     `json:"state"`
}

// RecordPath is a group's record below mqlift's folder on a host.
func RecordPath(workDir, group string) string { return path.Join(workDir, group+".run.json") }

// ReadRecord reads the record on one host; nil when there is none.
func ReadRecord(ctx context.Context, h *remote.Host, workDir, group string) (*Record, error) {
	file := RecordPath(workDir, group)
	data, err := h.ReadFile(ctx, file)
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(data, group)
	if err != nil {
		return nil, fmt.Errorf("%s is not the record of a run: %w; move it away when no run is going on", file, err)
	}
	return r, nil
}

// parseRecord reads what record wrote of a run on that group.
func parseRecord(data []byte, group string) (*Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	if r.Plan == nil || r.State == nil {
		return nil, errors.New("it wants a plan and a state")
	}
	if err := r.Plan.Check(); err != nil {
		return nil, fmt.Errorf("its plan: %w", err)
	}
	if r.Plan.Group != group {
		return nil, fmt.Errorf("it is of the group %q", r.Plan.Group)
	}
	// The run gives its folder the name.
	if run := r.State.Run; run == "" || run == "." || run == ".." || strings.ContainsFunc(run, func(c rune) bool { return c == '/' || unicode.IsControl(c) }) {
		return nil, fmt.Errorf("%q is not the name of a run", run)
	}
	return &r, nil
}

// record writes the run's record on every host. It holds configuration files: nobody else reads it.
func (e *Env) record(ctx context.Context) error {
	data, err := json.Marshal(Record{Plan: e.Plan, State: e.State})
	if err != nil {
		return err
	}
	return e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		return n.Remote.WriteFile(ctx, RecordPath(n.WorkDir, e.Plan.Group), data, 0o600)
	})
}

// NotOpened checks that no host's record of this run says that writes were about to be opened.
func (e *Env) NotOpened(ctx context.Context) error {
	// Those of hosts left out say the same: every host's was written before the first was opened.
	return e.each(ctx, e.reached(), func(ctx context.Context, n *Node) error {
		r, err := ReadRecord(ctx, n.Remote, n.WorkDir, e.Plan.Group)
		if err != nil || r == nil || r.State.Run != e.State.Run || !r.State.Opening() {
			return err
		}
		return fmt.Errorf("run %s opens writes since %s, as it says in %s: it went on after it was looked at, and nothing was undone; move %s away, and run `mqlift rollback` again",
			e.State.Run, r.State.OpeningAt.Format(time.RFC3339), RecordPath(n.WorkDir, e.Plan.Group), e.Options.Dir)
	})
}

// forget removes the run's record, which is another run's when that has written its own.
func (e *Env) forget(ctx context.Context) error {
	return e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		r, err := ReadRecord(ctx, n.Remote, n.WorkDir, e.Plan.Group)
		if err != nil || r == nil || r.State.Run != e.State.Run {
			return err
		}
		return removeIfThere(ctx, n, RecordPath(n.WorkDir, e.Plan.Group))
	})
}
