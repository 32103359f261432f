package step

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"mqlift/internal/acl"
	"mqlift/internal/bridge"
	"mqlift/internal/membership"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/rocketmq"
)

// bridgeClients forwards what clients with old routes send to the old master's address to the new leader, from
// the moment on that the old master gives its ports up. A client asks for its routes every 30 s; without a
// bridge one with an old route is without sends until then (measured on 4.5.2 with rocketmq-client-go: 12.3 s
// instead of 7.2 s, and up to 37 s). The broker name and the queues are the same, so that what is forwarded
// means the same.
//
// To the leader a consumer there is a stranger until its next heartbeat, and its pulls are refused: those whom the
// old master knows are made known to it (package membership; without, measured on 4.5.2: 36 s without a message
// in Java, 13 s in Go, where writes were away for 6.5 s; with: 11 s in both, where they were for 7.7 s).
type bridgeClients struct{}

func (bridgeClients) Name() string { return "bridge-clients" }
func (bridgeClients) Title() string {
	return "forward clients with old routes from the old master's address to the leader"
}
func (bridgeClients) UndoText() string { return "" }
func (bridgeClients) Requirement() playbook.Requirement {
	return playbook.Requirement{Needs: []string{"open"}, Proves: []string{"bridged"}}
}

func (bridgeClients) Describe(p *plan.Plan) []plan.Action {
	var l []plan.Action
	for _, m := range p.Of(plan.Master) {
		l = append(l, plan.Action{Text: "make the members of consumer groups that the old master knows known to the leader (codes 203 and 34), each until its own heartbeat has come there, at most for one poll"})
		l = append(l, plan.Action{Host: m.Host, Text: fmt.Sprintf("listen on ports %d and %d as soon as the old master gives them up, and forward to the leader, until clients have had two polls for fresh routes or, after one, nobody comes any more; not where an ACL file trusts this host by its address; gone at once when mqlift is", m.ListenPort, fastPort(m.ListenPort))})
	}
	return l
}

func (bridgeClients) Done(ctx context.Context, e *Env) (bool, string, error) {
	if e.Options.RoutePoll == 0 {
		return true, "left out on request (--route-poll 0)", nil
	}
	if joined, seen, err := (stopMaster{}).Done(ctx, e); err != nil || joined {
		return joined, seen, err
	}
	return time.Since(e.State.OpenedAt) > 2*e.Options.RoutePoll, "clients have had two polls for fresh routes", nil
}

func (bridgeClients) Do(ctx context.Context, e *Env) error {
	m := e.Master()
	trusted, err := e.trustsHost(ctx, m)
	if err != nil {
		return err
	}
	if trusted != "" {
		e.note(m.Host, "no bridge for clients with old routes: %s, and all of them would come from there; they are without sends until they ask for their routes again", trusted)
		return nil
	}
	leader, err := e.awaitLeader(ctx, e.peersNow())
	if err != nil {
		return err
	}
	b := &clientBridge{ended: make(chan struct{})}
	ctx, b.end = context.WithCancel(ctx)
	retarget := make(chan []string)
	var following sync.WaitGroup
	following.Go(func() { e.followLeader(ctx, leader, retarget) })
	standIns := e.standIn(ctx, leader)
	following.Go(func() {
		// Whoever lives has sent a heartbeat by then, every 30 s by default as the polls are: over the bridge,
		// or with a fresh route. The others' queues are not to wait longer.
		ctx, cancel := context.WithTimeout(ctx, e.Options.RoutePoll+pollMargin(e))
		defer cancel()
		standIns.Attend(ctx)
	})
	go func() {
		defer close(b.ended)
		defer following.Wait()
		defer b.end()
		last, err := m.Agent.Bridge(ctx, bridge.Request{
			Listen:  []string{listenOn(m.ListenPort), listenOn(fastPort(m.ListenPort))},
			Targets: bridgeTargets(leader),
			Wait:    stopLimit,
			Quiet:   bridgeQuiet,
		}, retarget, b.told)
		b.told(last)
		b.err = err
	}()
	e.bridge = b
	return nil
}

// standInLimit bounds how long consumers are made known: clients with old routes wait for the bridge meanwhile.
const standInLimit = 2 * time.Second

// standIn makes the consumers that the old master knows known to the leader. Those who are not wait for their own
// heartbeats, which is no reason to keep anybody from the leader.
func (e *Env) standIn(ctx context.Context, leader *Node) *membership.StandIns {
	ctx, cancel := context.WithTimeout(ctx, standInLimit)
	defer cancel()
	members, err := membership.Of(ctx, e.Master().broker(e))
	var s *membership.StandIns
	if err == nil {
		s, err = membership.StandIn(ctx, rocketmq.Options{Credentials: e.Options.Credentials}, leader.broker(e), members)
	}
	if err != nil {
		e.note(leader.Host, "consumers are not made known to the leader, and get no messages until their next heartbeats (every 30 s): %v", err)
		return &membership.StandIns{}
	}
	if n := s.Count(); n > 0 {
		e.note(leader.Host, "%d members of consumer groups made known to the leader, until their own heartbeats come", n)
	}
	return s
}

func (bridgeClients) Undo(context.Context, *Env) error { return ErrNothingToUndo }

// bridgeQuiet is for how long nothing may go over a forwarded connection. A consumer with a fresh route keeps the
// old connection beside the new one, and is counted twice by the leader until that is closed: some queues are
// consumed by nobody meanwhile (see package bridge). One that still needs it has messages on it, or nothing to
// lose by connecting again.
const bridgeQuiet = 3 * time.Second

// bridgeAlone is for how long a bridge may hold its ports of which nothing is known (Agent.Bridge).
const bridgeAlone = 20 * time.Second

// fastPort is the second port on which a broker serves clients (fastRemotingServer, 4.5.2 to 5.3.3).
func fastPort(listen int) int { return listen - 2 }

func listenOn(port int) string { return net.JoinHostPort("", strconv.Itoa(port)) }

func bridgeTargets(n *Node) []string {
	host, _, _ := net.SplitHostPort(n.Addr())
	return []string{n.Addr(), net.JoinHostPort(host, strconv.Itoa(fastPort(n.ListenPort)))}
}

// pollMargin is what a poll may be late by.
func pollMargin(e *Env) time.Duration { return e.Options.RoutePoll / 6 }

// clientBridge is the bridge of a run.
type clientBridge struct {
	end   context.CancelFunc
	ended chan struct{} // closed when it is known to have ended, or not; err tells which
	err   error

	mu    sync.Mutex
	state bridge.State
}

func (b *clientBridge) told(s bridge.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = s
}

func (b *clientBridge) now() bridge.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// followLeader tells the bridge of a new leader, until ctx ends.
func (e *Env) followLeader(ctx context.Context, leader *Node, retarget chan<- []string) {
	for look := time.NewTicker(500 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			look.Stop()
			return
		case <-look.C:
		}
		now, err := e.raftLeader(ctx, e.First())
		if err != nil || now == leader {
			continue
		}
		select {
		case retarget <- bridgeTargets(now):
			leader = now
		case <-ctx.Done():
		}
	}
}

// endBridge waits until clients have fresh routes, ends the bridge, and returns when the old master's ports are
// free.
func (e *Env) endBridge(ctx context.Context) error {
	b, m, poll := e.bridge, e.Master(), e.Options.RoutePoll
	if b == nil {
		return nil
	}
	stop := e.heartbeat(m.Host, "forwarding clients with old routes to the leader")
	margin := pollMargin(e)
	for look := time.NewTicker(100 * time.Millisecond); ; {
		s, since := b.now(), time.Since(e.State.OpenedAt)
		nobody := s.Open == 0 && (s.Accepted == 0 || s.SinceAccepted > margin)
		if since > 2*poll || since > poll+margin && nobody {
			look.Stop()
			break
		}
		select {
		case <-look.C:
			continue
		case <-b.ended:
		case <-ctx.Done():
		}
		look.Stop()
		break
	}
	stop()
	b.end()
	<-b.ended
	e.bridge = nil
	s := b.now()
	e.State.Bridge = &Bridged{Connections: s.Accepted, FromClients: s.FromClients, ToClients: s.ToClients}
	if b.err != nil { // no reason to leave the group without its third peer
		e.note(m.Host, "the bridge for clients with old routes: %v", b.err)
		if err := sleep(ctx, bridgeAlone); err != nil {
			return err
		}
	}
	if s.Accepted > 0 {
		e.note(m.Host, "%d connections of clients with old routes were forwarded to the leader", s.Accepted)
	}
	return ctx.Err()
}

// Bridged is what went over the bridge; bytes both ways.
type Bridged struct {
	Connections int64 `json:"connections"`
	FromClients int64 `json:"fromClients"`
	ToClients   int64 `json:"toClients"`
}

// trustsHost tells which ACL file of a peer trusts a host by its address; empty when none does. What is sent over
// a bridge from there would need neither signature nor permission.
func (e *Env) trustsHost(ctx context.Context, host *Node) (string, error) {
	addr, err := netip.ParseAddr(host.Address)
	if err != nil {
		return "", err
	}
	for _, n := range e.First() {
		live, err := n.broker(e).Config(ctx)
		if err != nil {
			return "", err
		}
		if live["aclEnable"] != "true" {
			continue
		}
		files, err := n.aclFiles(ctx)
		if err != nil {
			return "", err
		}
		for _, file := range files {
			data, err := n.Remote.ReadFile(ctx, file)
			if err != nil {
				return "", err
			}
			entries, err := acl.WhiteLists(data)
			if err != nil {
				return fmt.Sprintf("whom %s on %s trusts by address cannot be read (%v)", file, n.Host, err), nil
			}
			for _, entry := range entries {
				if entry.Matches(addr) {
					return fmt.Sprintf("%s on %s trusts this host by its address (%s)", file, n.Host, entry.Pattern), nil
				}
			}
		}
	}
	return "", nil
}

// aclFiles are the files that a broker with aclEnable reads: conf/plain_acl.yml, and from 4.9.3 on those below
// conf/acl.
func (n *Node) aclFiles(ctx context.Context) ([]string, error) {
	conf := join(n.InstallDir, "conf")
	below, err := n.filesIn(ctx, join(conf, "acl"))
	if err != nil {
		return nil, err
	}
	var files []string
	for name := range below {
		if strings.HasSuffix(name, ".yml") || strings.HasSuffix(name, ".yaml") {
			files = append(files, join(conf, "acl", name))
		}
	}
	switch _, err := n.Remote.Stat(ctx, join(conf, "plain_acl.yml")); {
	case err == nil:
		files = append(files, join(conf, "plain_acl.yml"))
	case !isNotExist(err):
		return nil, err
	}
	return files, nil
}
