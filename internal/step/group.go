package step

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mqlift/internal/dledger"
	"mqlift/internal/message"
	"mqlift/internal/probe"
	"mqlift/internal/rocketmq"
)

// peers lists the Raft side of nodes.
func peers(nodes []*Node) []dledger.Peer {
	l := make([]dledger.Peer, len(nodes))
	for i, n := range nodes {
		l[i] = dledger.Peer{ID: n.Peer, Addr: n.RaftAddr(), Name: n.Host}
	}
	return l
}

// leader finds the node that all of these peers call their leader, and that every answering name
// server gives as brokerId 0: on 4.5.2 the id alone proves nothing, since a starting broker registers
// with what its file says.
func (e *Env) leader(ctx context.Context, nodes []*Node) (*Node, error) {
	n, err := e.raftLeader(ctx, nodes)
	if err != nil {
		return nil, err
	}
	return n, e.mastersAre(ctx, n)
}

// awaitLeader is leader, waiting out what passes: an election, a peer that is just joining, a name server
// that is slow to answer.
func (e *Env) awaitLeader(ctx context.Context, nodes []*Node) (leader *Node, err error) {
	err = e.until(ctx, 60*time.Second, "the peers and the name servers to agree on a leader", func(ctx context.Context) (err error) {
		if leader, err = e.leader(ctx, nodes); err != nil {
			err = e.unlessGone(ctx, nodes, err)
		}
		return err
	})
	return leader, err
}

// unlessGone makes an error one that waiting will not mend where the broker of a node is gone: sends are
// refused meanwhile, or fail.
func (e *Env) unlessGone(ctx context.Context, nodes []*Node, err error) error {
	gone := e.each(ctx, nodes, func(ctx context.Context, n *Node) error {
		if p, perr := n.process(ctx); perr != nil || p != nil {
			return nil // err is what counts
		}
		return fmt.Errorf("the broker of peer %s is gone; %s", n.Peer, n.lastWords(ctx))
	})
	if gone != nil {
		return permanent(errors.Join(gone, err))
	}
	return err
}

// raftLeader is leader by the peers' word alone.
func (e *Env) raftLeader(ctx context.Context, nodes []*Node) (*Node, error) {
	v := dledger.Look(ctx, e.Client, e.Plan.Group, peers(nodes))
	if err := v.Err(len(e.Nodes)); err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if n.Peer == v.Leader.ID {
			return n, nil
		}
	}
	return nil, fmt.Errorf("peer %s leads, which is none of the expected ones", v.Leader.ID)
}

// sendTracer sends one of mqlift's own messages to a broker and returns once it is acknowledged: from
// then on it is an old key like the others.
func (e *Env) sendTracer(ctx context.Context, n *Node) error {
	k := probe.MessageKey{Topic: e.Plan.TracerTopic, Key: fmt.Sprintf("%s-%d", e.State.Run, time.Now().UnixNano())}
	_, err := n.broker(e).Send(ctx, rocketmq.SendRequest{
		Group: "mqlift", Topic: k.Topic, QueueID: 0,
		Body: []byte("mqlift tracer"), Properties: map[string]string{message.PropertyKeys: k.Key},
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.State.Tracers = append(e.State.Tracers, k)
	e.mu.Unlock()
	return nil
}

// oldKeys are the messages that must be found on every node.
func (e *Env) oldKeys() []probe.MessageKey {
	keys := append([]probe.MessageKey{}, e.State.Samples...)
	keys = append(keys, e.Options.Keys...)
	return append(keys, e.State.Tracers...)
}

// findOn looks keys up on each node by its own address and says what is missing where.
func (e *Env) findOn(ctx context.Context, keys []probe.MessageKey, nodes []*Node) error {
	addrs := make([]string, len(nodes))
	for i, n := range nodes {
		addrs[i] = n.Addr()
	}
	entries := make([]probe.Entry, len(keys))
	for i, k := range keys {
		entries[i] = probe.Entry{Topic: k.Topic, Key: k.Key}
	}
	found, err := probe.Lookup{Brokers: probe.BrokersOf(e.Client), Limit: 20 * time.Second}.Find(ctx, entries, addrs)
	if err != nil {
		return err
	}
	for i, f := range found {
		switch {
		case len(f.Missing) > 0:
			return fmt.Errorf("%s (%s): %d of %d old messages are not found by key, the first being %s of %s", nodes[i].Host, f.Addr, len(f.Missing), len(keys), f.Missing[0].Key, f.Missing[0].Topic)
		case len(f.Unanswered) > 0:
			return fmt.Errorf("%s (%s): %d of %d old messages could not be looked up: %s", nodes[i].Host, f.Addr, len(f.Unanswered), len(keys), f.FirstError)
		}
		e.note(nodes[i].Host, "%d old keys looked up, all found", len(keys))
	}
	return nil
}

// caughtUp waits until a node that has joined is a follower known to the name servers, names the same
// leader as all, and holds as much as the leader.
func (e *Env) caughtUp(ctx context.Context, n *Node) error {
	return e.until(ctx, 5*time.Minute, n.Host+" to follow the leader and catch up", func(ctx context.Context) error {
		leader, err := e.leader(ctx, e.Nodes)
		if err != nil {
			return err
		}
		e.State.Leader = leader.Host
		ahead, err := e.dispatched(ctx, leader)
		if err != nil {
			return err
		}
		here, err := e.dispatched(ctx, n)
		if err != nil {
			return err
		}
		if here < ahead {
			return fmt.Errorf("it holds %d of the leader's %d bytes", here, ahead)
		}
		return e.registered(ctx, n)
	})
}

// logEnd asks a broker where its log ends: a message boundary.
func (e *Env) logEnd(ctx context.Context, n *Node) (int64, error) {
	info, err := n.broker(e).RuntimeInfo(ctx)
	if err != nil {
		return 0, err
	}
	return info.CommitLogMaxOffset()
}

// dispatched is where a broker's log ends as far as consume queues and index have it.
func (e *Env) dispatched(ctx context.Context, n *Node) (int64, error) {
	info, err := n.broker(e).RuntimeInfo(ctx)
	if err != nil {
		return 0, err
	}
	end, err := info.CommitLogMaxOffset()
	if err != nil {
		return 0, err
	}
	behind, err := info.DispatchBehind()
	return end - max(behind, 0), err
}

// registered checks that a name server gives the node under the group.
func (e *Env) registered(ctx context.Context, n *Node) error {
	info, err := e.NameServers.ClusterInfo(ctx)
	if err != nil {
		return err
	}
	for _, addr := range info.Brokers[e.Plan.Group].Addrs {
		if addr == n.Addr() {
			return nil
		}
	}
	return fmt.Errorf("%s is not registered with the name servers yet", n.Addr())
}
