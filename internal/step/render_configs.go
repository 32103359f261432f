package step

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"mqlift/internal/brokerconf"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
)

// renderConfigs writes each host's new broker.conf beside the old one and keeps the old one under a
// name that says which run it was.
type renderConfigs struct{}

func (renderConfigs) Name() string  { return "render-configs" }
func (renderConfigs) Title() string { return "write the new broker.conf beside the old one" }
func (renderConfigs) UndoText() string {
	return "remove the files beside broker.conf, put back one that was prepared by hand"
}
func (renderConfigs) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"locked", "installed"}, Proves: []string{"configs"}}
}

func renderedPath(m *plan.Member) string           { return m.ConfPath + ".mqlift-new" }
func backupPath(m *plan.Member, run string) string { return m.ConfPath + ".before-" + run }

// foundPath keeps a broker.conf that somebody prepared by hand and no broker of the old group runs on.
func foundPath(m *plan.Member, run string) string { return m.ConfPath + ".found-" + run }

func (renderConfigs) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Members {
		text := "write " + renderedPath(m)
		if m.Kind != plan.Fresh {
			text += ", keep the old file as " + backupPath(m, "RUN")
		}
		l = append(l, plan.Action{Host: m.Host, Text: text})
		switch {
		case len(m.FoundConf) == 0:
		case m.Kind == plan.Fresh:
			l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("move the copied %s to %s", m.ConfPath, foundPath(m, "RUN"))})
		default:
			l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("keep %s, which was edited by hand, as %s, and put back what the running broker was started on", m.ConfPath, foundPath(m, "RUN"))})
		}
	}
	return l
}

func (renderConfigs) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (renderConfigs) Do(ctx context.Context, e *Env) error {
	return e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		if err := n.Remote.WriteFile(ctx, renderedPath(n.Member), n.NewConf, n.ConfMode); err != nil {
			return err
		}
		if err := e.setFoundAside(ctx, n); err != nil {
			return err
		}
		if n.Kind == plan.Fresh {
			return nil
		}
		backup := backupPath(n.Member, e.State.Run)
		if _, err := n.Remote.Stat(ctx, backup); err == nil {
			return nil // from this run's earlier try; what stands in broker.conf by now may be newer
		}
		return n.Remote.WriteFile(ctx, backup, n.OldConf, n.ConfMode)
	})
}

func (renderConfigs) Undo(ctx context.Context, e *Env) error {
	if err := removeRendered(ctx, e); err != nil {
		return err
	}
	return e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		if len(n.FoundConf) > 0 {
			if err := e.useConf(ctx, n, n.FoundConf, "one that was found here"); err != nil {
				return err
			}
			if err := removeIfThere(ctx, n, foundPath(n.Member, e.State.Run)); err != nil {
				return err
			}
		}
		if had, known := e.State.Baks[n.Host]; known && !had { // a run killed in updateConfig has left it
			if err := removeIfThere(ctx, n, confBak(n)); err != nil {
				return err
			}
		}
		return removeIfThere(ctx, n, backupPath(n.Member, e.State.Run))
	})
}

// confBak is where a broker that rewrites its broker.conf leaves the one before (MixAll.string2File, 4.5.2).
func confBak(n *Node) string { return n.ConfPath + ".bak" }

// findBaks notes where a broker has rewritten its broker.conf before this run made it do so.
func (e *Env) findBaks(ctx context.Context) error {
	if e.State.Baks != nil {
		return nil
	}
	baks := map[string]bool{}
	err := e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		_, err := n.Remote.Stat(ctx, confBak(n))
		if err != nil && !isNotExist(err) {
			return err
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		baks[n.Host] = err == nil
		return nil
	})
	if err == nil {
		e.State.Baks = baks
	}
	return err
}

// setFoundAside keeps a broker.conf that was prepared by hand under another name and makes the host's file
// what it is in the old mode: what the running broker was started on, or none. From here on the run need
// not know of it.
func (e *Env) setFoundAside(ctx context.Context, n *Node) error {
	if len(n.FoundConf) == 0 {
		return nil
	}
	if err := n.Remote.WriteFile(ctx, foundPath(n.Member, e.State.Run), n.FoundConf, n.ConfMode); err != nil {
		return err
	}
	now, err := n.Remote.ReadFile(ctx, n.ConfPath)
	switch {
	case isNotExist(err):
		return nil // an installation that was not whole was brought anew, without it
	case err != nil:
		return err
	case !bytes.Equal(now, n.FoundConf):
		return nil // from this run's earlier try; what stands there by now may be newer
	}
	e.action(n.Host, "%s, prepared by hand, kept as %s", n.ConfPath, foundPath(n.Member, e.State.Run))
	return e.restoreOldConf(ctx, n)
}

func removeRendered(ctx context.Context, e *Env) error {
	return e.each(ctx, e.Nodes, func(ctx context.Context, n *Node) error {
		return removeIfThere(ctx, n, renderedPath(n.Member))
	})
}

func removeIfThere(ctx context.Context, n *Node, file string) error {
	if err := n.Remote.Remove(ctx, file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// useConf makes text the host's broker.conf.
func (e *Env) useConf(ctx context.Context, n *Node, text []byte, what string) error {
	if old, err := n.Remote.ReadFile(ctx, n.ConfPath); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := n.Remote.WriteFile(ctx, n.ConfPath, text, n.ConfMode); err != nil {
		return fmt.Errorf("writing %s broker.conf: %w", what, err)
	}
	e.action(n.Host, "%s is now the %s one", n.ConfPath, what)
	return nil
}

// restoreOldConf puts back what stood there before the run.
func (e *Env) restoreOldConf(ctx context.Context, n *Node) error {
	if n.Kind == plan.Fresh {
		return removeIfThere(ctx, n, n.ConfPath)
	}
	return e.useConf(ctx, n, n.OldConf, "old")
}

// updateConfig changes properties of a running broker. The broker answers by rewriting its
// broker.conf with every property it knows (Configuration.persist in 4.5.2: 14 lines became 157) and
// leaves the previous one as .bak; the operator's text is put back at once.
func (e *Env) updateConfig(ctx context.Context, n *Node, set map[string]string, conf []byte) error {
	n.conf.Lock() // peers are silenced beside what the steps do with them
	defer n.conf.Unlock()
	bak := confBak(n)
	_, bakErr := n.Remote.Stat(ctx, bak)
	if err := e.setProperties(ctx, n, set); err != nil {
		return err
	}
	// The broker's own writing has changed the mode as well (MixAll.string2File, 4.5.2).
	if err := n.Remote.Upload(ctx, n.ConfPath, bytes.NewReader(conf), n.ConfMode); err != nil {
		return fmt.Errorf("putting back %s, which the broker rewrote: %w", n.ConfPath, err)
	}
	if errors.Is(bakErr, fs.ErrNotExist) {
		return removeIfThere(ctx, n, bak)
	}
	return nil
}

// setProperties changes properties of a running broker (code 25) and returns once they are in effect and
// broker.conf has been rewritten. With brokerPermission among them a broker answers only after it has
// registered again, and a single name server that hangs holds each registration for 6 s, one after the
// other (AdminBrokerProcessor.updateBrokerConfig, BrokerController.registerBrokerAll, 4.5.2; seen). What
// was asked for is done by then, so that a late answer is not waited for.
func (e *Env) setProperties(ctx context.Context, n *Node, set map[string]string) error {
	before, err := n.Remote.ReadFile(ctx, n.ConfPath)
	if err != nil {
		return err
	}
	answer := make(chan error, 1)
	go func() { answer <- n.broker(e).UpdateConfig(ctx, set) }()
	look := time.NewTicker(500 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case err := <-answer:
			return err
		case <-look.C:
			now, err := n.Remote.ReadFile(ctx, n.ConfPath)
			if err == nil && !bytes.Equal(now, before) && holds(n.ConfPath, now, set) {
				return nil
			}
		}
	}
}

// holds tells whether a broker.conf has these properties.
func holds(name string, data []byte, set map[string]string) bool {
	f, err := brokerconf.Parse(name, data)
	if err != nil {
		return false
	}
	for key, want := range set {
		if v, ok := f.Get(key); !ok || v != want {
			return false
		}
	}
	return true
}

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }

func join(dir string, elem ...string) string { return path.Join(append([]string{dir}, elem...)...) }
