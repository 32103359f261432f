package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"mqlift/e2e/refcase"
	"mqlift/e2e/wait"
	"mqlift/internal/probe"
)

// yardsticks are what an upgrade's write outage cannot do without, in seconds, measured after mqlift's runs.
type yardsticks struct {
	// FirstStarts are how long two peers took, one after the other, from a start over the old log, without a
	// dledger folder, until they answered a look-up. 4.5.2 takes a second longer for it than for later
	// starts: it waits while there is something to dispatch (DefaultMessageStore.start), which there is until
	// the rest of the old log's last file has been skipped.
	FirstStarts []float64 `json:"peerFirstStarts,omitempty"`
	// Election is how long they took from when both could vote until their leader had acknowledged a message.
	Election float64 `json:"election,omitempty"`
}

// yardsticks stops the group, starts two of its nodes as peers over their old logs, one after the other, and
// measures until each serves, and from when the second can vote until a message is acknowledged.
func (g *ground) yardsticks(ctx context.Context) (y yardsticks, err error) {
	for _, role := range []int{master, slave, empty} {
		if err := g.stop(ctx, role); err != nil {
			return y, err
		}
	}
	for _, role := range []int{slave, empty} {
		if err := g.removeLedger(role); err != nil {
			return y, err
		}
	}
	began := time.Now()
	if err := errors.Join(g.start(ctx, slave), g.serves(ctx, slave)); err != nil {
		return y, err
	}
	y.FirstStarts = append(y.FirstStarts, time.Since(began).Seconds())

	var sends probe.Timeline
	sending, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- (&probe.FreshSender{Router: g.client.NameServers(g.NameServers()), Brokers: probe.BrokersOf(g.client), Broker: refcase.Group,
			Topic: fillTopic, Group: "probe", KeyPrefix: "e", Timeline: &sends, Sent: &probe.Sent{}}).Run(sending)
	}()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	began = time.Now()
	if err := g.start(ctx, empty); err != nil {
		return y, err
	}
	h := g.host(empty)
	err = wait.Until(ctx, 2*time.Minute, "the second peer to listen", func(ctx context.Context) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(h.Address, strconv.Itoa(h.RaftPort)))
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		return y, err
	}
	votes := time.Now()
	if err := g.serves(ctx, empty); err != nil {
		return y, err
	}
	y.FirstStarts = append(y.FirstStarts, time.Since(began).Seconds())
	limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := sends.WaitSteady(limit, votes, 1); err != nil {
		return y, fmt.Errorf("waiting for a leader (%s): %w", sends.LastError(votes), err)
	}
	for _, a := range sends.Attempts() {
		if a.OK() {
			y.Election = a.End.Sub(votes).Seconds()
			return y, nil
		}
	}
	return y, errors.New("no message was acknowledged")
}

// removeLedger makes a stopped peer's next start the first one over its old log.
func (g *ground) removeLedger(role int) error {
	pattern := filepath.Join(g.host(role).InstallDir, "store/dledger_store/dledger-*")
	ledgers, err := filepath.Glob(pattern)
	if err == nil && len(ledgers) == 0 {
		err = fmt.Errorf("there is no %s", pattern)
	}
	for _, dir := range ledgers {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}
