package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/agent"
	"mqlift/internal/event"
	"mqlift/internal/remote"
	"mqlift/internal/step"
)

// reconnectLimit is for how long a host whose connection was lost is tried to be reached again. Sends may
// be refused meanwhile, and what is to be undone on the other hosts waits; a link that flaps is back in
// that time, a host that reboots is left to the next apply.
const reconnectLimit = 10 * time.Second

// reconnect dials hosts again whose connection was lost, side by side, and puts the agent there again. A
// host that was not reached is not waited for a second time.
func (s *session) reconnect(ctx context.Context, nodes []*step.Node, emit event.Sink) error {
	errs := make([]error, len(nodes))
	var eg errgroup.Group
	for i, n := range nodes {
		select {
		case <-n.Remote.Done():
		default:
			continue
		}
		eg.Go(func() error {
			errs[i] = s.again(ctx, n, emit)
			return nil
		})
	}
	_ = eg.Wait() // errors are gathered per host
	return errors.Join(errs...)
}

// again connects to one host within the limit.
func (s *session) again(ctx context.Context, n *step.Node, emit event.Sink) error {
	s.mu.Lock()
	err := s.givenUp[n.Host]
	s.mu.Unlock()
	if err != nil {
		return err
	}
	emit(event.Event{Time: time.Now(), Kind: event.Note, Host: n.Host, Text: fmt.Sprintf("the connection was lost: connecting again, for up to %s", reconnectLimit)})
	member, err := s.group.Member(n.Host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, reconnectLimit)
	defer cancel()
	host, helper, err := dialAgain(ctx, member.SSHTarget(), n.Agent)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.givenUp[n.Host] = err
		return err
	}
	s.hosts[n.Host], s.agents[n.Host] = host, helper
	n.Remote, n.Agent = host, helper
	return nil
}

// dialAgain tries until ctx ends; then it returns what was in the way before. The new agent takes the old
// one's place.
func dialAgain(ctx context.Context, target remote.Target, old *agent.Agent) (*remote.Host, *agent.Agent, error) {
	var last error
	for {
		host, err := remote.Dial(ctx, target)
		if err == nil {
			helper, perr := agent.Push(ctx, host, agent.InPlaceOf(old))
			if perr == nil {
				return host, helper, nil
			}
			err = errors.Join(perr, host.Close())
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if ctx.Err() != nil || !remote.Transient(err) {
			return nil, nil, last
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
