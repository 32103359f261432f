package step

import (
	"context"
	"path"

	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/rocketmq"
)

// copyTail brings over what the master took between the alignment and the fence.
type copyTail struct{}

func (copyTail) Name() string     { return "copy-tail" }
func (copyTail) Title() string    { return "copy the log's tail and the metadata" }
func (copyTail) UndoText() string { return "" }
func (copyTail) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"fenced", "aligned", "carried"}, Proves: []string{"tail"}}
}

func (copyTail) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.First() {
		l = append(l, plan.Action{Host: m.Host, Text: "write the bytes since the alignment into " + m.CommitLog + "; take config/*.json and all offsets as the master has them now"})
	}
	return l
}

func (copyTail) Done(context.Context, *Env) (bool, string, error) { return false, "", nil }

func (copyTail) Do(ctx context.Context, e *Env) error {
	return e.each(ctx, e.First(), func(ctx context.Context, n *Node) error {
		if err := e.unbroken(ctx, n); err != nil {
			return err
		}
		// Nobody sends meanwhile: the operator's limit would only make that longer.
		if err := e.copyLog(ctx, e.Master(), n, e.State.AlignedEnd, e.State.FencedEnd, copying{planned: true}); err != nil {
			return err
		}
		if err := e.seal(ctx, n, n.CommitLog); err != nil {
			return err
		}
		return e.copyMetadata(ctx, n)
	})
}

func (copyTail) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// metadata lists the files below config/ that a broker keeps (BrokerPathConfigHelper, 4.5.2, and what
// later releases added).
var metadata = []string{"topics.json", "subscriptionGroup.json", "consumerOffset.json", "consumerFilter.json", "delayOffset.json", "topicQueueMapping.json", "consumerOrderInfo.json"}

// copyMetadata copies the master's config/*.json into a node's new root, offsets as they are at this
// moment and not as it wrote them last. A running broker writes each
// of them anew from time to time by renaming (MixAll.string2File), so that a file may be missing for a
// moment; the .bak beside it then holds the one before.
func (e *Env) copyMetadata(ctx context.Context, n *Node) error {
	m := e.Master()
	dir := path.Join(n.NewRoot, "config")
	if err := n.Remote.MkdirAll(ctx, dir, 0o755); err != nil {
		return err
	}
	for _, name := range metadata {
		data, err := e.metadataNow(ctx, m, name)
		if err != nil {
			return err
		}
		if data == nil {
			continue // the master has never had it
		}
		e.copied(name, rocketmq.VersionOf(data))
		if err := n.Remote.WriteFile(ctx, path.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// metadataNow is one of config/*.json as the broker has it at this moment, where it can be asked for it, and
// else as it wrote it last; nil when it has none.
func (e *Env) metadataNow(ctx context.Context, n *Node, name string) ([]byte, error) {
	if data, err := e.offsetsNow(ctx, n, name); err == nil && data != nil {
		return data, nil
	}
	return n.metadataFile(ctx, name)
}

// copied remembers which state of a file the new group has.
func (e *Env) copied(name string, version rocketmq.DataVersion) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.State.Copied == nil {
		e.State.Copied = map[string]rocketmq.DataVersion{}
	}
	e.State.Copied[name] = version
}

// metadataFile reads one of config/*.json whole; nil when the broker has none.
func (n *Node) metadataFile(ctx context.Context, name string) ([]byte, error) {
	file := path.Join(n.OldRoot, "config", name)
	var err error
	for _, try := range []string{file, file, file + ".bak"} {
		var data []byte
		if data, err = n.Remote.ReadFile(ctx, try); isNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var any map[string]any
		if err = rocketmq.DecodeJSON(data, &any); err == nil {
			return data, nil
		}
	}
	if isNotExist(err) {
		return nil, nil
	}
	return nil, err
}
