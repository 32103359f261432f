// Package step holds the steps of an upgrade, one file each: what a step needs proven, what it
// proves, how it is seen to be done, how it is done, and how it is undone.
package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/event"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/probe"
	"mqlift/internal/remote"
	"mqlift/internal/rocketmq"
)

// Step is one piece of work that a playbook puts in order.
type Step interface {
	// Name is the verb and noun under which playbooks, journals and plans know the step.
	Name() string
	// Title says in a few words what the step does.
	Title() string
	// Requirement is what a playbook must keep to.
	Requirement() playbook.Requirement
	// Describe lists what the step will do on which host, as the plan shows it.
	Describe(*plan.Plan) []plan.Action
	// Done asks the real hosts whether nothing is left to do; seen says what was looked at. An error
	// means that the step can neither be skipped nor done.
	Done(context.Context, *Env) (done bool, seen string, err error)
	// Do does it. It must be safe to do again after having been cut short anywhere.
	Do(context.Context, *Env) error
	// Undo takes back what Do did, or may have half done. ErrNothingToUndo is for steps that leave
	// nothing behind that matters.
	Undo(context.Context, *Env) error
	// UndoText says, for the plan, how the step is undone.
	UndoText() string
}

// ErrNothingToUndo is returned by Undo where there is nothing to take back.
var ErrNothingToUndo = errors.New("nothing to undo")

// ErrLeftOut is why nothing is done on a host that the operator goes back without.
var ErrLeftOut = errors.New("left out")

// Node is a member with the connections to it.
type Node struct {
	*plan.Member
	Remote *remote.Host
	Agent  *agent.Agent

	// LeftOut tells that the operator goes back without this host: it cannot be reached.
	LeftOut bool

	conf sync.Mutex // held while its broker.conf is rewritten and put back
}

// Env is what steps work with.
type Env struct {
	Plan        *plan.Plan
	Nodes       []*Node // in the plan's order of members
	Client      *rocketmq.Client
	NameServers *rocketmq.NameServers
	State       *State
	Emit        event.Sink
	Options     Options

	// Reconnect mends connections that were lost, before anything is undone; nil does nothing.
	Reconnect func(context.Context) error
	// Unchanged checks, once the lock is held, that the group is still what the plan was made for; nil does
	// not. Between a plan and its lock lies as long as an operator takes to say yes, in which another one's
	// run may have begun and ended.
	Unchanged func(context.Context) error
	// Save journals the state in the middle of a step, for what a later run must know even when this
	// one is killed the next moment.
	Save func() error

	lock        lock
	bridge      *clientBridge // nil: there is none
	mu          sync.Mutex
	seals       map[string]map[string]seal // by host and folder
	stage, step string
}

// Options are the operator's choices for one run.
type Options struct {
	// NoFailover leaves the forced failover out of the proof; the report says so.
	NoFailover bool
	// Decide is asked at the last point where going back is free; nil goes on.
	Decide func(context.Context, Decision) error
	// Keys are old keys that must be found on every node, beside those sampled from the log.
	Keys []probe.MessageKey
	// LimitRate bounds what each host sends while the old group takes sends, in bytes a second; 0: no limit.
	LimitRate int64
	// RoutePoll is how often clients ask for their routes (pollNameServerInterval); 0: no bridge for those with
	// old ones.
	RoutePoll time.Duration
	// PullHold is for how long the master may have been asked to hold a pull (brokerSuspendMaxTimeMillis of
	// consumers: 15 s for push consumers in Java, 20 s for others and in Go); 0: it goes on holding them.
	PullHold time.Duration
	// BreakLock names a run whose lock is taken over, unless it lives; empty for none.
	BreakLock string
	// Credentials sign requests where the cluster has ACL; nil without.
	Credentials *rocketmq.Credentials
	// Operator, From and Dir name the person, the machine and the run's folder there in the lock.
	Operator, From, Dir string
}

// Decision is what the operator is told before the point of no return.
type Decision struct {
	Group       string
	Leader      string        // host of the new leader
	Certificate string        // digest
	End         int64         // physical offset at which all logs end
	Keys        int           // old keys found on each node
	Closed      time.Duration // how long sends have been refused
	OwnWrites   bool          // the new leader has written by itself
}

// Written says what the new group has written so far.
func (d Decision) Written() string {
	if d.OwnWrites {
		return "nothing written but what the new leader does by itself (the old master does the same)"
	}
	return "nothing written yet"
}

// At sets the place that events are reported for.
func (e *Env) At(stage, step string) { e.stage, e.step = stage, step }

// WaitOldKeys waits until a first old message is known and returns what is known by then; nothing when
// ctx ends before.
func (e *Env) WaitOldKeys(ctx context.Context) []probe.MessageKey {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		e.mu.Lock()
		keys := append(append([]probe.MessageKey{}, e.State.Samples...), e.State.Tracers...)
		e.mu.Unlock()
		if len(keys) > 0 {
			return keys
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (e *Env) emit(kind event.Kind, host, format string, args ...any) {
	e.Emit(event.Event{Time: time.Now(), Kind: kind, Stage: e.stage, Step: e.step, Host: host, Text: fmt.Sprintf(format, args...)})
}

// note reports something worth knowing.
func (e *Env) note(host, format string, args ...any) { e.emit(event.Note, host, format, args...) }

// action reports a change that has been made.
func (e *Env) action(host, format string, args ...any) { e.emit(event.Action, host, format, args...) }

// progress returns a callback for long work, which reports at most four times a second.
func (e *Env) progress(host, what string) func(agent.Progress) {
	var mu sync.Mutex
	var last time.Time
	return func(p agent.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(last) > 250*time.Millisecond {
			last = now
			e.Emit(event.Event{Time: now, Kind: event.Progress, Stage: e.stage, Step: e.step, Host: host, Text: what, Done: p.Done, Total: p.Total})
		}
	}
}

// Master is the old master's node.
func (e *Env) Master() *Node { return e.only(plan.Master)[0] }

// Slaves are the nodes of the old slaves.
func (e *Env) Slaves() []*Node { return e.only(plan.Slave) }

// Fresh are the nodes that have no broker before the upgrade.
func (e *Env) Fresh() []*Node { return e.only(plan.Fresh) }

// First are the nodes that form the new group before the old master joins it.
func (e *Env) First() []*Node { return append(e.Slaves(), e.Fresh()...) }

func (e *Env) only(kind plan.Kind) []*Node {
	var l []*Node
	for _, n := range e.Nodes {
		if n.Kind == kind {
			l = append(l, n)
		}
	}
	return l
}

// LeftOut names the hosts that the operator goes back without.
func (e *Env) LeftOut() []string {
	var hosts []string
	for _, n := range e.Nodes {
		if n.LeftOut {
			hosts = append(hosts, n.Host)
		}
	}
	return hosts
}

// reached are the nodes of hosts that are not left out.
func (e *Env) reached() []*Node {
	return slices.DeleteFunc(slices.Clone(e.Nodes), func(n *Node) bool { return n.LeftOut })
}

// All lists every step there is.
func All() []Step {
	return []Step{
		lockGroup{}, sampleKeys{}, createTracerTopic{}, installRelease{}, copyLogLive{}, renderConfigs{},
		shortenPulls{}, stopSlaves{}, alignLogs{}, carryStores{},
		fenceMaster{},
		copyTail{}, certifyLogs{},
		startPeers{}, provePeers{},
		decide{},
		retireMaster{}, carryOffsets{},
		openWrites{},
		bridgeClients{}, stopMaster{},
		joinOldMaster{},
		proveGroup{}, proveFailover{},
		unlockGroup{},
	}
}

// Requirements is what playbooks are checked against.
func Requirements() map[string]playbook.Requirement { return requirements(All()) }

func requirements(steps []Step) map[string]playbook.Requirement {
	m := map[string]playbook.Requirement{}
	for _, s := range steps {
		m[s.Name()] = s.Requirement()
	}
	return m
}

// WayBack lists the steps of going back from an opened group; no playbook of an upgrade may name them.
func WayBack() []Step {
	return []Step{lockGroup{}, takeMessages{}, fencePeers{}, takeRest{}, restoreOld{}, sendAgain{}, giveBack{}, proveReplay{}, endReplay{}}
}

// WayBackRequirements is what the order of going back is checked against.
func WayBackRequirements() map[string]playbook.Requirement { return requirements(WayBack()) }

// ByName finds a step, of an upgrade or of the way back.
func ByName(name string) (Step, bool) {
	for _, s := range append(All(), WayBack()...) {
		if s.Name() == name {
			return s, true
		}
	}
	return nil, false
}

// each runs f for every node side by side and joins what went wrong.
func (e *Env) each(ctx context.Context, nodes []*Node, f func(context.Context, *Node) error) error {
	errs := make([]error, len(nodes))
	done := make(chan struct{})
	for i, n := range nodes {
		go func() {
			defer func() { done <- struct{}{} }()
			if err := f(ctx, n); err != nil {
				errs[i] = fmt.Errorf("%s: %w", n.Host, err)
			}
		}()
	}
	for range nodes {
		<-done
	}
	return errors.Join(errs...)
}
