package step

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/hostinfo"
	"mqlift/internal/remote"
	"mqlift/internal/rocketmq"
	"mqlift/internal/store"
	"mqlift/internal/transfer"
	"mqlift/internal/view"
)

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func (n *Node) broker(e *Env) *rocketmq.Broker { return e.Client.Broker(n.Addr()) }

// process is the broker that runs on this node's broker.conf; nil when none does.
func (n *Node) process(ctx context.Context) (*agent.RocketMQ, error) {
	return n.Agent.Broker(ctx, n.ConfPath)
}

// start runs the operator's start line and returns once the broker's JVM is there.
func (n *Node) start(ctx context.Context) error {
	if err := n.clearIncoming(ctx); err != nil {
		return err
	}
	// Half a start would be taken for none by the undoing that follows: it is seen through.
	_, err := n.Agent.StartBroker(context.WithoutCancel(ctx), agent.StartRequest{
		Shell: n.Start, Dir: n.InstallDir, Env: n.Env, ExpectConf: n.ConfPath,
		Log: n.outLog(), Logs: []string{n.brokerLog(ctx)}, Timeout: 2 * time.Minute,
	})
	var already *agent.AlreadyRunningError
	if errors.As(err, &already) {
		return nil
	}
	return err
}

// outLog is where a start line's output goes, as in the guide's own start line.
func (n *Node) outLog() string { return path.Join(n.InstallDir, "logs", "broker_default.log") }

// brokerLog is RocketMQ's own log, below the home of the user that it runs as.
func (n *Node) brokerLog(context.Context) string {
	return path.Join(n.Home, "logs/rocketmqlogs/broker.log")
}

// lastWords is what a broker wrote last.
func (n *Node) lastWords(ctx context.Context) string {
	var text []string
	for _, file := range []string{n.outLog(), n.brokerLog(ctx)} {
		if t, err := n.Agent.TailFile(ctx, agent.TailRequest{Path: file, Lines: 15, Grep: agent.NoFrames}); err == nil {
			text = append(text, t.Path+" ends with:\n  "+strings.Join(t.Lines, "\n  "))
		}
	}
	return strings.Join(text, "\n")
}

// stopLimit is how long a broker may take to stop; seen are 2 to 7 s. Sends are refused meanwhile.
const stopLimit = 2 * time.Minute

// stop ends a broker with SIGTERM, or the operator's line, and waits until it is gone.
func (e *Env) stop(ctx context.Context, n *Node, p *agent.RocketMQ) (time.Duration, error) {
	defer e.heartbeat(n.Host, fmt.Sprintf("waiting for broker %d to stop", p.PID))()
	// A signal cannot be called back: the end is waited for also when the operator asks to stop.
	ctx = context.WithoutCancel(ctx)
	r, err := n.Agent.StopBroker(ctx, agent.StopRequest{Process: p.ProcessID, Shell: n.Stop, Dir: n.InstallDir, Env: n.Env, Timeout: stopLimit})
	var still *agent.StillRunningError
	if errors.As(err, &still) {
		return 0, fmt.Errorf("%w. It is left alone: SIGKILL would lose what it has not flushed. See why it hangs (jstack %d, and its log), end it, then run `mqlift apply` again; %s", err, p.PID, n.lastWords(ctx))
	}
	if err != nil {
		return 0, err
	}
	if r.Successor != nil {
		return r.Took, fmt.Errorf("%s: broker %d stopped, and something started it again as %d: take it from its service manager first, or name the stop command in the topology (stop:)", n.Host, p.PID, r.Successor.PID)
	}
	return r.Took, nil
}

// heartbeat says every ten seconds what is being waited for, until the function that it returns is called.
func (e *Env) heartbeat(host, what string) (stop func()) {
	tick, done, began := time.NewTicker(10*time.Second), make(chan struct{}), time.Now()
	go func() {
		for {
			select {
			case <-tick.C:
				e.note(host, "%s since %s", what, time.Since(began).Round(time.Second))
			case <-done:
				return
			}
		}
	}()
	return func() {
		tick.Stop()
		close(done)
	}
}

func (n *Node) kill(ctx context.Context, p *agent.RocketMQ) error {
	_, err := n.Agent.KillBroker(ctx, agent.KillRequest{Process: p.ProcessID})
	if errors.Is(err, hostinfo.ErrGone) {
		return nil
	}
	return err
}

// inspect walks the node's commit log, telling its progress. A folder that is not there yet holds an
// empty log.
func (n *Node) inspect(ctx context.Context, e *Env, o store.Options, what string) (*store.Inspection, error) {
	o.Root = n.OldRoot
	o.FileSize = n.LogFileSize
	show := e.progress(n.Host, what)
	o.Progress = func(done int64) { show(agent.Progress{Done: done}) }
	in, err := n.Agent.Inspect(ctx, n.CommitLog, o)
	if isNotExist(err) {
		return &store.Inspection{Dir: n.CommitLog}, nil
	}
	return in, err
}

// walkedEnd walks the log on disk from a known message boundary to its end; Env.logEnd asks the broker.
func (n *Node) walkedEnd(ctx context.Context, e *Env, from int64) (int64, error) {
	in, err := n.inspect(ctx, e, store.Options{From: from}, "reading the log's end")
	if err != nil {
		return 0, err
	}
	return in.End, in.Findings.Err()
}

// moveLedgersAside renames the dledger-* folders below the new root and returns their new names.
func (n *Node) moveLedgersAside(ctx context.Context, run string) ([]string, error) {
	entries, err := n.Remote.ReadDir(ctx, n.NewRoot)
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var moved []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), "dledger-") || strings.Contains(entry.Name(), ".mqlift-") {
			continue
		}
		to, err := n.Agent.MoveAside(ctx, path.Join(n.NewRoot, entry.Name()), run)
		if err != nil {
			return moved, err
		}
		moved = append(moved, to)
	}
	return moved, nil
}

// ledgerEmpty tells whether DLedger has written nothing yet. Its index holds 32 bytes an entry
// (DLedgerMmapFileStore, dledger 0.1 to 0.3), so that the first ones are zero until then.
func (n *Node) ledgerEmpty(ctx context.Context) (bool, error) {
	dir := path.Join(n.NewRoot, "dledger-"+n.Peer, "index")
	entries, err := n.Remote.ReadDir(ctx, dir)
	if isNotExist(err) || err == nil && len(entries) == 0 {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	r, err := n.Remote.Run(ctx, remote.Cmd{Argv: []string{"head", "-c", "32", path.Join(dir, entries[0].Name())}})
	if err != nil {
		return false, err
	}
	return strings.Trim(r.Stdout, "\x00") == "", nil
}

// copyWithin makes trees of one root mirror those of another on the same host.
func (e *Env) copyWithin(ctx context.Context, n *Node, fromRoot, toRoot string, trees []string) error {
	if err := n.Remote.MkdirAll(ctx, toRoot, 0o755); err != nil {
		return err
	}
	r, err := n.Agent.CopyLocal(ctx, agent.CopyLocalSpec{
		FromRoot: fromRoot, ToRoot: toRoot, Trees: trees, Quarantine: e.aside(toRoot), Incoming: inside(toRoot),
	}, e.progress(n.Host, "files"))
	if err == nil {
		e.action(n.Host, "%d files, %s of data, carried to %s", r.Files, view.Bytes(r.Bytes), toRoot)
	}
	return err
}

// aside is where a run puts what it finds in its way: beside the folder, on the same file system.
func (e *Env) aside(dir string) string { return dir + ".mqlift-" + e.State.Run }

// incoming is where files of a commit log lie that are not complete yet: no broker starts with a strange
// file in there.
func incoming(commitLog string) string { return commitLog + ".mqlift-incoming" }

// inside is the same for trees below a root, which may be a mount point.
func inside(root string) string { return path.Join(root, transfer.IncomingName) }

// clearIncoming removes what a copy that died with its host left inside the commit log, where it lies only
// if that is a mount point: no broker starts with it there.
func (n *Node) clearIncoming(ctx context.Context) error {
	dir := path.Join(n.CommitLog, transfer.IncomingName)
	if _, err := n.Remote.Stat(ctx, dir); err != nil {
		if isNotExist(err) {
			return nil
		}
		return err
	}
	_, err := n.Remote.Run(ctx, remote.Cmd{Argv: []string{"rm", "-rf", dir}})
	return err
}
