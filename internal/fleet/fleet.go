// Package fleet holds the hosts that a command works on, each with one connection and the agent on it, within
// limits that bastions and sshd bear. Broker groups take their hosts from it and give them back; a host that
// another group will need is kept for it as long as there is room.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"mqlift/internal/agent"
	"mqlift/internal/diag"
	"mqlift/internal/remote"
)

// Limits bound a fleet. Connections to jump hosts, one for each host behind them, are not counted apart.
type Limits struct {
	// Open is how many hosts are connected to at once; a group that has more of its own is alone then.
	Open int
	// Starting is how many of them are being logged in to at once.
	Starting int
}

// DefaultLimits fit what is there by default: a process may have 1024 files open, and sshd, which may be one
// jump host's for all, begins to drop connections when 10 are not logged in yet (MaxStartups 10:30:100).
func DefaultLimits() Limits { return Limits{Open: 48, Starting: 8} }

// Node is one host of the fleet.
type Node struct {
	Host  *remote.Host
	Agent *agent.Agent
}

// Fleet is safe for concurrent use.
type Fleet struct {
	limits   Limits
	builds   agent.Builds
	room     *semaphore.Weighted // of Limits.Open
	starting *semaphore.Weighted

	mu    sync.Mutex
	taken int               // what of room is in use
	berth map[string]*berth // by the host's name
	later map[string]int    // how many groups will still give the host back
}

// berth is a host's place in the fleet.
type berth struct {
	users int
	ready chan struct{} // closed when the rest is set
	node  Node
	err   error
}

// New makes a fleet for groups of hosts, each named by its host's names as they will be taken.
func New(limits Limits, groups ...[]string) *Fleet {
	f := &Fleet{
		limits: limits, room: semaphore.NewWeighted(int64(limits.Open)), starting: semaphore.NewWeighted(int64(limits.Starting)),
		berth: map[string]*berth{}, later: map[string]int{},
	}
	for _, names := range groups {
		for _, name := range names {
			f.later[name]++
		}
	}
	return f
}

// Group is the hosts that one broker group has taken.
type Group struct {
	// Nodes are by the host's name, as they were taken.
	Nodes map[string]Node

	fleet   *Fleet
	targets []remote.Target
	berths  []*berth
	weight  int
	once    sync.Once
}

// Take waits until there is room for all the targets, in the order of the calls, and has them connected to, side
// by side, with SFTP started and an agent in place. Either every host is there or none: then the error is a
// *diag.Error with a finding for each host that failed (checks ssh.connect, ssh.hostkey, ssh.auth, ssh.sftp,
// host.platform, host.noexec, host.agent). When ctx ends, its error is returned.
func (f *Fleet) Take(ctx context.Context, targets []remote.Target) (*Group, error) {
	g := &Group{Nodes: map[string]Node{}, fleet: f, targets: targets, weight: min(len(targets), f.limits.Open)}
	if err := f.room.Acquire(ctx, int64(g.weight)); err != nil {
		return nil, fmt.Errorf("connect to %d hosts: %w", len(targets), err)
	}
	fresh, spare := f.enter(g)
	closed := closeAll(spare) // before others are opened in their place
	for i, b := range g.berths {
		if fresh[i] {
			go f.make(ctx, targets[i], b)
		}
	}
	var found diag.Findings
	for i, b := range g.berths {
		<-b.ready
		if g.Nodes[targets[i].Name] = b.node; b.err != nil {
			found.Add(remote.Finding(targets[i], b.err))
		}
	}
	err := found.Err()
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("connect to %d hosts: %w", len(targets), context.Cause(ctx))
	}
	if err = errors.Join(err, closed); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Close gives the hosts back: those that no other group has or will need are taken leave of, which removes their
// agents. What cannot be removed is the error.
func (g *Group) Close() (err error) {
	g.once.Do(func() {
		err = closeAll(g.fleet.leave(g))
		g.fleet.mu.Lock()
		g.fleet.taken -= g.weight
		g.fleet.mu.Unlock()
		g.fleet.room.Release(int64(g.weight))
	})
	return err
}

// Close ends what was kept for groups that never came, when those that came have been closed.
func (f *Fleet) Close() error {
	f.mu.Lock()
	var kept []Node
	for name, b := range f.berth {
		if b.users == 0 {
			kept = append(kept, b.node)
			delete(f.berth, name)
		}
	}
	f.mu.Unlock()
	return closeAll(kept)
}

// leave takes the group off its hosts and hands out those that nobody needs any more.
func (f *Fleet) leave(g *Group) (done []Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, b := range g.berths {
		name := g.targets[i].Name
		b.users--
		f.later[name]--
		kept := f.berth[name] == b
		if b.err != nil || b.users > 0 || kept && f.later[name] > 0 {
			continue
		}
		if kept {
			delete(f.berth, name)
		}
		done = append(done, b.node)
	}
	return done
}

func closeAll(nodes []Node) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = errors.Join(n.Agent.Close(), n.Host.Close()) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Again connects to a host of the group anew whose connection was lost, and puts an agent there in place of the
// old one. It tries until ctx ends, unless what is in the way does not change by itself; the error is what was
// in the way before that.
func (g *Group) Again(ctx context.Context, name string) (Node, error) {
	i := slices.IndexFunc(g.targets, func(t remote.Target) bool { return t.Name == name })
	if i < 0 {
		return Node{}, fmt.Errorf("%s is no host of this group", name)
	}
	g.fleet.mu.Lock()
	old := g.berths[i].node.Agent
	g.fleet.mu.Unlock()
	var last error
	for {
		n, err := g.fleet.connect(ctx, g.targets[i], agent.InPlaceOf(old))
		if err == nil {
			g.fleet.mu.Lock()
			g.berths[i].node = n
			g.fleet.mu.Unlock()
			return n, nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if ctx.Err() != nil || !remote.Transient(err) {
			return Node{}, last
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// enter gives the group its berths and tells which of them are new. What is over the limit then is handed out
// to be closed: hosts that wait for a later group.
func (f *Fleet) enter(g *Group) (fresh []bool, spare []Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken += g.weight
	for _, t := range g.targets {
		b := f.berth[t.Name]
		if b != nil && b.lost() {
			spare, b = append(spare, b.node), nil
		}
		fresh = append(fresh, b == nil)
		if b == nil {
			b = &berth{ready: make(chan struct{})}
			f.berth[t.Name] = b
		}
		b.users++
		g.berths = append(g.berths, b)
	}
	idle := 0
	for _, b := range f.berth {
		if b.users == 0 {
			idle++
		}
	}
	for name, b := range f.berth {
		if b.users == 0 && idle > f.limits.Open-f.taken {
			delete(f.berth, name)
			spare, idle = append(spare, b.node), idle-1
		}
	}
	return fresh, spare
}

// lost tells that nobody uses the berth's host and its connection has ended.
func (b *berth) lost() bool {
	if b.users > 0 {
		return false
	}
	select {
	case <-b.node.Host.Done():
		return true
	default:
		return false
	}
}

// make connects to a berth's host.
func (f *Fleet) make(ctx context.Context, t remote.Target, b *berth) {
	defer close(b.ready)
	if b.node, b.err = f.connect(ctx, t); b.err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.berth[t.Name] == b {
			delete(f.berth, t.Name) // the next one tries again
		}
	}
}

func (f *Fleet) connect(ctx context.Context, t remote.Target, options ...agent.PushOption) (n Node, err error) {
	if err := f.starting.Acquire(ctx, 1); err != nil {
		return n, err
	}
	n.Host, err = remote.Dial(ctx, t)
	f.starting.Release(1)
	if err != nil {
		return n, err
	}
	if err = n.Host.StartSFTP(ctx); err == nil {
		n.Agent, err = agent.Push(ctx, n.Host, append(options, agent.From(&f.builds))...)
		var known interface{ Finding() diag.Finding }
		if err != nil && !errors.As(err, &known) {
			err = &agentError{n.Host, err}
		}
	}
	if err != nil {
		return Node{}, errors.Join(err, n.Host.Close())
	}
	return n, nil
}

// agentError is that a host was logged in to and the agent could not be put there.
type agentError struct {
	host *remote.Host
	err  error
}

func (e *agentError) Finding() diag.Finding {
	return diag.Finding{Check: "host.agent", Severity: diag.Fail, Host: e.host.Name(), Where: e.host.Addr(), What: e.err.Error(),
		Do: "see that the host still answers, and that its temporary folder (TMPDIR, or /tmp) takes a program of 20 MB from this user"}
}

func (e *agentError) Error() string { return e.err.Error() }
func (e *agentError) Unwrap() error { return e.err }
