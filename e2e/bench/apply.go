package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"mqlift/e2e/refcase"
)

// apply is mqlift: plan and apply, without the forced failover, which the others do not have.
type apply struct{}

func (apply) name() string { return "mqlift" }

func (apply) upgrade(ctx context.Context, t *trial) error {
	plan, report := filepath.Join(t.c.Dir, "plan.json"), filepath.Join(t.c.Dir, "apply.json")
	if err := t.c.Run(ctx, "plan", "-t", t.c.Topology, "-o", plan); err != nil {
		return err
	}
	if err := t.c.Run(ctx, "apply", "-t", t.c.Topology, "--state-dir", t.c.StateDir(), "--no-failover", "--keys", refcase.KeySpec, "--report", report, plan); err != nil {
		return err
	}
	data, err := os.ReadFile(report)
	if err != nil {
		return err
	}
	var said struct {
		State struct {
			Stages []refcase.Stage `json:"stages"`
		} `json:"state"`
	}
	if err := json.Unmarshal(data, &said); err != nil {
		return err
	}
	t.sample.Stages = map[string]float64{}
	for _, s := range said.State.Stages {
		t.sample.Stages[s.Name] = s.Took.Seconds()
		t.sample.stages = append(t.sample.stages, s.Name)
	}
	return nil
}
