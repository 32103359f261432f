package step

import (
	"context"
	"path"
	"slices"
	"strings"
	"sync"

	"mqlift/internal/plan"
)

// Leftovers names, by host, what a run that went back leaves there on purpose: what it moved aside, and
// what it copied to new hosts.
func (e *Env) Leftovers(ctx context.Context) (map[string][]string, error) {
	left := map[string][]string{}
	var mu sync.Mutex
	err := e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		var found []string
		dirs := []string{path.Dir(n.NewRoot), path.Dir(n.CommitLog), n.OldRoot, n.NewRoot}
		slices.Sort(dirs)
		for _, dir := range slices.Compact(dirs) {
			entries, err := n.Remote.ReadDir(ctx, dir)
			if isNotExist(err) {
				continue
			}
			if err != nil {
				return err
			}
			for _, entry := range entries {
				if strings.Contains(entry.Name(), ".mqlift-") {
					found = append(found, join(dir, entry.Name()))
				}
			}
		}
		if n.Kind == plan.Fresh {
			for _, dir := range []string{n.InstallDir, n.CommitLog} {
				if _, err := n.Remote.Stat(ctx, dir); err == nil {
					found = append(found, dir)
				} else if !isNotExist(err) {
					return err
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		left[n.Host] = found
		return nil
	})
	return left, err
}
