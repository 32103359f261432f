package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mqlift/internal/probe"
)

// traffic sends keyed messages for as long as a row takes: an application with a route that it renews
// every 30 s, and beside it a sender with a fresh route each time.
type traffic struct {
	sent          probe.Sent
	client, fresh probe.Timeline
	cancel        context.CancelFunc
	ended         chan error
}

// startTraffic sends at most so many messages per second with each producer; 0: as the ground has it.
func (g *ground) startTraffic(ctx context.Context, most int) *traffic {
	rate := g.rate
	if most > 0 {
		rate = min(rate, most)
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &traffic{cancel: cancel, ended: make(chan error, 2)}
	go func() {
		t.ended <- (&probe.ClientSender{NameServers: g.NameServers(), Topic: topic, Group: "application", KeyPrefix: "a", Rate: float64(rate), Timeline: &t.client, Sent: &t.sent}).Run(ctx)
	}()
	go func() {
		t.ended <- (&probe.FreshSender{Router: g.client.NameServers(g.NameServers()), Brokers: probe.BrokersOf(g.client), Broker: group, Topic: topic, Group: "probe",
			KeyPrefix: "w", Every: time.Second / time.Duration(rate), Timeline: &t.fresh, Sent: &t.sent}).Run(ctx)
	}()
	return t
}

// steady waits until sends with a fresh route have been acknowledged for a while.
func (t *traffic) steady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	now := time.Now()
	if err := t.fresh.WaitSteady(ctx, now, 40); err != nil {
		return fmt.Errorf("sends do not go again (%s): %w", t.fresh.LastError(now), err)
	}
	return nil
}

// stop ends the traffic and waits for what is under way.
func (t *traffic) stop() error {
	t.cancel()
	return errors.Join(<-t.ended, <-t.ended)
}

// count is what became of the acknowledged messages on the nodes where all of them must be.
type count struct {
	Acknowledged int `json:"acknowledged"`
	// Found counts the acknowledged messages that every node has; NotByKey those of them that some node
	// has stored and does not find by key any more.
	Found    int `json:"found"`
	NotByKey int `json:"notByKey"`
	// Missing counts what any node does not have, old messages included.
	Missing int    `json:"missing"`
	First   string `json:"firstMissing,omitempty"`
}

// count looks up all old and all acknowledged messages on hosts.
func (g *ground) count(ctx context.Context, t *traffic, hosts ...role) (count, error) {
	acked := t.sent.Acked()
	c := count{Acknowledged: len(acked)}
	var addrs []string
	for _, h := range hosts {
		addrs = append(addrs, g.member(h).Addr)
	}
	nodes, err := probe.Lookup{Brokers: probe.BrokersOf(g.client), Parallel: 8}.Find(ctx, append(acked, g.old...), addrs)
	if err != nil {
		return c, err
	}
	missing, unindexed := map[probe.MessageKey]bool{}, map[probe.MessageKey]bool{}
	for i, n := range nodes {
		for _, k := range append(n.Missing, n.Unanswered...) {
			missing[k] = true
			if c.First == "" {
				c.First = fmt.Sprintf("%s on %s %s", k.Key, g.member(hosts[i]).Name, n.FirstError)
			}
		}
		for _, k := range n.Unindexed {
			unindexed[k] = true
		}
	}
	for _, e := range acked {
		k := probe.MessageKey{Topic: e.Topic, Key: e.Key}
		if !missing[k] {
			c.Found++
			if unindexed[k] {
				c.NotByKey++
			}
		}
	}
	c.Missing = len(missing)
	return c, nil
}
