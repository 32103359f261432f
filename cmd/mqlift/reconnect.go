package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/event"
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
	ctx, cancel := context.WithTimeout(ctx, reconnectLimit)
	defer cancel()
	again, err := s.taken.Again(ctx, n.Host)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.givenUp[n.Host] = err
		return err
	}
	s.hosts[n.Host], s.agents[n.Host] = again.Host, again.Agent
	n.Remote, n.Agent = again.Host, again.Agent
	return nil
}
