package step

import (
	"context"
	"fmt"
	"path"
	"strings"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// installRelease puts RocketMQ onto hosts that have none, as it stands on the master: programs and
// configuration, without stores and logs.
type installRelease struct{}

func (installRelease) Name() string     { return "install-release" }
func (installRelease) Title() string    { return "install the master's release on the new hosts" }
func (installRelease) UndoText() string { return "" } // stays for the next try: nothing runs from it
func (installRelease) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"locked"}, Proves: []string{"installed"}}
}

func (installRelease) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Fresh) {
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("receive %s from the master's host, without its store and logs, if %s is not there", m.InstallDir, join(m.InstallDir, "lib"))})
	}
	return l
}

func (installRelease) Done(ctx context.Context, e *Env) (bool, string, error) {
	for _, n := range e.Fresh() {
		if whole, err := e.installed(ctx, n); err != nil || !whole {
			return false, "", err
		}
	}
	return true, "the master's installation is on every new host", nil
}

func (installRelease) Do(ctx context.Context, e *Env) error {
	m := e.Master()
	entries, err := m.Remote.ReadDir(ctx, m.InstallDir)
	if err != nil {
		return err
	}
	var take []string
	for _, entry := range entries {
		if full := path.Join(m.InstallDir, entry.Name()); !m.keeps(full) {
			take = append(take, entry.Name())
		}
	}
	how := e.inService(e.Fresh())
	how.secret = true // conf/ may hold passwords
	return e.each(ctx, e.Fresh(), func(ctx context.Context, n *Node) error {
		if whole, err := e.installed(ctx, n); err != nil || whole {
			return err
		}
		if err := n.Remote.MkdirAll(ctx, n.InstallDir, 0o755); err != nil {
			return err
		}
		if err := e.copyTrees(ctx, m, n, how, m.InstallDir, n.InstallDir, take); err != nil {
			return err
		}
		// The configuration came along as the master's; a broker must not be started with that here.
		if err := removeIfThere(ctx, n, path.Join(n.InstallDir, strings.TrimPrefix(m.ConfPath, m.InstallDir))); err != nil {
			return err
		}
		e.action(n.Host, "%s installed", n.InstallDir)
		return nil
	})
}

func (installRelease) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// installed tells whether a host has all the programs that the master has, by name and size: a copy that
// was cut short has not.
func (e *Env) installed(ctx context.Context, n *Node) (bool, error) {
	for _, dir := range []string{"bin", "lib"} {
		want, err := e.Master().Remote.ReadDir(ctx, join(e.Master().InstallDir, dir))
		if err != nil {
			return false, err
		}
		has, err := n.Remote.ReadDir(ctx, join(n.InstallDir, dir))
		if isNotExist(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		sizes := map[string]int64{}
		for _, f := range has {
			sizes[f.Name()] = f.Size()
		}
		for _, f := range want {
			if size, ok := sizes[f.Name()]; !ok || !f.IsDir() && f.Mode().IsRegular() && size != f.Size() {
				return false, nil
			}
		}
	}
	return true, nil
}

// keeps tells whether a path of an installation holds, or is, data that stays on its host.
func (n *Node) keeps(full string) bool {
	if base := path.Base(full); base == "logs" || strings.HasPrefix(base, ".") {
		return true
	}
	for _, p := range []string{n.OldRoot, n.CommitLog, n.NewRoot, n.WorkDir} {
		if p == full || strings.HasPrefix(p, full+"/") {
			return true
		}
	}
	return false
}
