package main

import (
	"context"
	_ "embed"
)

//go:embed careful.sh
var carefulScript string

// careful is the procedure of a careful operator: everything but the end is copied before the stop.
type careful struct{}

func (careful) name() string { return "rsync twice" }

func (careful) upgrade(ctx context.Context, t *trial) error {
	return t.ground.operator.script(ctx, "careful.sh", hostsScript+carefulScript, t.ground.scriptEnv())
}
