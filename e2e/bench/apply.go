package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mqlift/e2e/refcase"
	"mqlift/internal/event"
)

// apply is mqlift: plan and apply, without the forced failover, which the others do not have.
type apply struct {
	limit float64 // MiB per second while the old group serves; 0: no limit
}

const mqlift = "mqlift"

func (a apply) name() string {
	if a.limit == 0 {
		return mqlift
	}
	return mqlift + " --limit-rate " + a.rate()
}

// rate is the limit as mqlift's flag has it.
func (a apply) rate() string { return strconv.FormatFloat(a.limit, 'f', -1, 64) + "M" }

// byMqlift tells whether it was mqlift's run.
func (s sample) byMqlift() bool { return strings.HasPrefix(s.Procedure, mqlift) }

// latency is what the copy of the commit log does to sends while the old group serves.
type latency struct {
	// Copy is how long the copy took, in seconds, and Sends how many of the application's were acknowledged in
	// that time.
	Copy  float64 `json:"copy"`
	Sends int     `json:"sends"`
	// P99 is the 99th percentile of those, and Before that of as long a time before the apply began, in seconds.
	P99    float64 `json:"p99"`
	Before float64 `json:"p99Before"`
}

func (a apply) upgrade(ctx context.Context, t *trial) error {
	plan, report := filepath.Join(t.c.Dir, "plan.json"), filepath.Join(t.c.Dir, "apply.json")
	if err := t.c.Run(ctx, "plan", "-t", t.c.Topology, "-o", plan); err != nil {
		return err
	}
	args := []string{"apply", "-t", t.c.Topology, "--state-dir", t.c.StateDir(), "--no-failover", "--keys", refcase.KeySpec, "--report", report}
	quiet := time.Now()
	if a.limit > 0 {
		args = append(args, "--limit-rate", a.rate())
		if err := a.watchQuiet(ctx, t); err != nil {
			return err
		}
	}
	began := time.Now()
	t.quiet = began.Sub(quiet)
	if err := t.c.Run(ctx, append(args, plan)...); err != nil {
		return err
	}
	data, err := os.ReadFile(report)
	if err != nil {
		return err
	}
	var said struct {
		Run   string `json:"run"`
		State struct {
			Stages []refcase.Stage `json:"stages"`
		} `json:"state"`
	}
	if err := json.Unmarshal(data, &said); err != nil {
		return fmt.Errorf("%s: %w", report, err)
	}
	t.sample.Stages = map[string]float64{}
	for _, s := range said.State.Stages {
		t.sample.Stages[s.Name] = s.Took.Seconds()
		t.sample.stages = append(t.sample.stages, s.Name)
	}
	if a.limit == 0 {
		return nil
	}
	events := filepath.Join(t.c.StateDir(), "runs", refcase.Group, said.Run, "events.jsonl")
	if data, err = os.ReadFile(events); err != nil {
		return err
	}
	from, to, err := stepTimes(data, "copy-log-live")
	if err != nil {
		return fmt.Errorf("%s: %w", events, err)
	}
	if before := began.Add(from.Sub(to)); before.After(quiet) {
		quiet = before
	}
	during, before := t.c.Client.Between(from, to), t.c.Client.Between(quiet, began)
	t.sample.Latency = &latency{Copy: to.Sub(from).Seconds(), Sends: during.OK, P99: during.Latency.P99.Seconds(), Before: before.Latency.P99.Seconds()}
	return nil
}

// watchQuiet lets the traffic go for as long as the copy will take.
func (a apply) watchQuiet(ctx context.Context, t *trial) error {
	info, err := t.ground.broker(master).RuntimeInfo(ctx)
	if err != nil {
		return err
	}
	end, err := info.CommitLogMaxOffset()
	if err != nil {
		return err
	}
	select {
	case <-time.After(time.Duration(float64(end) / (a.limit * (1 << 20)) * float64(time.Second))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stepTimes finds in a run's events, one JSON object after the other, when a step began and was done.
func stepTimes(events []byte, step string) (from, to time.Time, err error) {
	for in := json.NewDecoder(bytes.NewReader(events)); ; {
		var e event.Event
		if err := in.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			return from, to, err
		}
		switch {
		case e.Step != step:
		case e.Kind == event.StepBegin:
			from = e.Time
		case e.Kind == event.StepEnd:
			to = e.Time
		}
	}
	if from.IsZero() || to.IsZero() {
		err = errors.New("there is no beginning or no end of " + step)
	}
	return from, to, err
}
