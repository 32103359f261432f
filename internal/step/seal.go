package step

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"mqlift/internal/agent"
)

// seal is the files below a folder as they were when they were compared, or carried. To hash all of them
// once more while sends are refused would take the longer the larger the store is; what is written to one
// of them meanwhile shows in when it was last changed.
type seal map[string]agent.Entry // by path below the folder

// seal remembers folders of a node as they are now.
func (e *Env) seal(ctx context.Context, n *Node, dirs ...string) error {
	for _, dir := range dirs {
		now, err := n.filesIn(ctx, dir)
		if err != nil {
			return err
		}
		e.mu.Lock()
		if e.seals[n.Host] == nil {
			if e.seals == nil {
				e.seals = map[string]map[string]seal{}
			}
			e.seals[n.Host] = map[string]seal{}
		}
		e.seals[n.Host][dir] = now
		e.mu.Unlock()
	}
	return nil
}

// unseal forgets all seals of a node: what was sealed is to be written to.
func (e *Env) unseal(n *Node) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.seals, n.Host)
}

// unbroken checks that nothing has written to what was sealed on a node.
func (e *Env) unbroken(ctx context.Context, n *Node) error {
	e.mu.Lock()
	sealed := maps.Clone(e.seals[n.Host])
	e.mu.Unlock()
	for _, dir := range slices.Sorted(maps.Keys(sealed)) {
		now, err := n.filesIn(ctx, dir)
		if err != nil {
			return err
		}
		if err := sealed[dir].holds(now); err != nil {
			return fmt.Errorf("%s: %w, after it had been compared: find out what writes there, and apply again", dir, err)
		}
	}
	return nil
}

// holds compares a seal with the files as they are now.
func (s seal) holds(now seal) error {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		was, is := s[name], now[name]
		switch {
		case is.Path == "":
			return fmt.Errorf("%s has gone", name)
		case is.Size != was.Size || !is.Changed.Equal(was.Changed):
			return fmt.Errorf("%s was changed at %s", name, is.Changed.Format(time.RFC3339Nano))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if s[name].Path == "" {
			return fmt.Errorf("%s has appeared", name)
		}
	}
	return nil
}

// filesIn lists the files below a folder; one that is not there holds none.
func (n *Node) filesIn(ctx context.Context, dir string) (seal, error) {
	entries, err := n.Agent.ListTree(ctx, agent.ListRequest{Dir: dir}, nil)
	if err != nil && !isNotExist(err) {
		return nil, err
	}
	files := seal{}
	for _, entry := range entries {
		if entry.Mode.IsRegular() {
			files[entry.Path] = entry
		}
	}
	return files, nil
}
