package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mqlift/e2e/refcase"
	"mqlift/internal/probe"
)

// procedure is one way to upgrade the group.
type procedure interface {
	name() string
	upgrade(context.Context, *trial) error
}

// sample is what one run of a procedure came to. Times are in seconds.
type sample struct {
	Store     string `json:"store"` // GiB
	Procedure string `json:"procedure"`
	Round     int    `json:"round"`
	// Start is how long the master took, before the run, from its start until it answered a look-up.
	Start float64 `json:"brokerStart"`
	yardsticks
	// Latency is measured in mqlift's runs with a limited rate.
	Latency *latency `json:"latency,omitempty"`

	// The longest outages, and of writes their sum: with fresh routes, and as applications with unmodified
	// clients in Go and in Java saw them.
	Write           float64 `json:"writeOutage"`
	WriteTotal      float64 `json:"writeOutagesTotal"`
	Application     float64 `json:"applicationWriteOutage"`
	JavaApplication float64 `json:"javaApplicationWriteOutage"`
	Read            float64 `json:"readOutage"`
	Lookups         int     `json:"lookups"`
	LookupsFailed   int     `json:"lookupsFailed"`
	// The longest time in which a consumer was given nothing, writes being away included.
	ConsumerGap     float64 `json:"consumerGap"`
	JavaConsumerGap float64 `json:"javaConsumerGap"`
	Took            float64 `json:"took"`

	Acknowledged int `json:"acknowledged"`
	Missing      int `json:"missing"`    // acknowledged, and not on every node
	NotByKey     int `json:"notByKey"`   // on every node, and not found by key on every one
	Unconsumed   int `json:"unconsumed"` // acknowledged, and never given to a consumer, of the two
	Bugs         int `json:"bugLines"`   // lines with [BUG] in the brokers' logs

	Stages map[string]float64 `json:"stages,omitempty"`
	stages []string           // their order
	// Problem is why the procedure did not end with a group that serves.
	Problem string `json:"problem,omitempty"`
}

// trial is one run of a procedure.
type trial struct {
	ground *ground
	c      *refcase.Case
	quiet  time.Duration // in which the procedure waited, for a measurement's sake
	sample sample
}

// settled bounds how long a group may take to serve after a procedure has ended.
const settled = 5 * time.Minute

// run measures one procedure. The error says that there is no measurement; what the procedure did wrong is
// in the sample.
func (g *ground) run(ctx context.Context, o options, store string, p procedure, round int) (_ sample, err error) {
	dir := filepath.Join(cmp.Or(o.keep, filepath.Join(g.dir, "runs")), strings.ReplaceAll(fmt.Sprintf("%s-%d-%s", store, round, p.name()), " ", "-"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return sample{}, err
	}
	start, err := g.begin(ctx, store)
	if err != nil {
		return sample{}, err
	}
	var said bytes.Buffer
	on := refcase.Ground{Topology: g.topology, NameServers: g.NameServers(), Down: g.killAll}
	for _, h := range g.Hosts() {
		on.Hosts = append(on.Hosts, refcase.Host{Name: h.Name, Broker: h.BrokerAddr(), Logs: filepath.Join(h.Home(), "logs/rocketmqlogs")})
	}
	c, err := refcase.Up(ctx, on, refcase.Options{Binary: o.binary, Dir: dir, Release: o.release, Rate: o.rate, Java: true, Out: &said})
	if err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	t := &trial{ground: g, c: c, sample: sample{Store: store, Procedure: p.name(), Round: round, Start: start.Seconds()}}
	if err := c.Start(ctx); err != nil {
		return sample{}, err
	}
	from := time.Now()
	err = p.upgrade(ctx, t)
	if err == nil {
		err = t.settle(ctx, time.Now())
	}
	to := time.Now()
	if werr := os.WriteFile(filepath.Join(dir, "output.log"), said.Bytes(), 0o644); werr != nil {
		return sample{}, errors.Join(werr, err)
	}
	if err != nil && ctx.Err() == nil {
		t.sample.Problem = fmt.Sprintf("%v\n%s", err, said.Bytes())
	}
	if err := errors.Join(ctx.Err(), c.Stop()); err != nil {
		return sample{}, err
	}
	t.measured(from, to)
	if err := t.count(ctx); err != nil {
		return sample{}, err
	}
	if p == (apply{}) && t.sample.Problem == "" {
		if err := c.StopConsuming(); err != nil {
			return sample{}, err
		}
		if t.sample.yardsticks, err = g.yardsticks(ctx); err != nil {
			return sample{}, fmt.Errorf("measuring a peer's first start: %w", err)
		}
	}
	return t.sample, nil
}

// settle waits until all three nodes answer and all traffic goes.
func (t *trial) settle(ctx context.Context, after time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, settled)
	defer cancel()
	for role := range t.ground.Hosts() {
		if err := t.ground.serves(ctx, role); err != nil {
			return err
		}
	}
	if err := t.c.Write.WaitSteady(ctx, after, 50); err != nil {
		return fmt.Errorf("waiting for sends (%s): %w", t.c.Write.LastError(after), err)
	}
	return t.c.Steady(ctx)
}

func (t *trial) measured(from, to time.Time) {
	s := &t.sample
	write, read := t.c.Write.Between(from, to), t.c.Read.Between(from, to)
	s.Write, s.WriteTotal = write.Longest.Seconds(), write.Total.Seconds()
	s.Application, s.JavaApplication = t.c.Client.Between(from, to).Longest.Seconds(), t.c.JavaClient.Between(from, to).Longest.Seconds()
	s.Read, s.Lookups, s.LookupsFailed = read.Longest.Seconds(), read.OK+read.Failed, read.Failed
	s.ConsumerGap, s.JavaConsumerGap = t.c.Reader.Gap(from, to).Seconds(), t.c.JavaReader.Gap(from, to).Seconds()
	s.Took = (to.Sub(from) - t.quiet).Seconds()
}

// count looks up everything that was acknowledged, on every node.
func (t *trial) count(ctx context.Context) error {
	s := &t.sample
	acked := append(t.c.Sent.Acked(), t.c.Old...)
	s.Acknowledged = len(acked)
	for _, reader := range []*refcase.Received{&t.c.Reader.Received, &t.c.JavaReader} {
		s.Unconsumed += len(reader.Await(ctx, 30*time.Second, acked).Unseen)
	}
	nodes, err := t.c.Find(ctx, acked)
	if err != nil {
		return err
	}
	missing, unindexed := map[probe.MessageKey]bool{}, map[probe.MessageKey]bool{}
	for _, n := range nodes {
		for _, k := range append(n.Missing, n.Unanswered...) {
			missing[k] = true
		}
		for _, k := range n.Unindexed {
			unindexed[k] = true
		}
	}
	s.Missing, s.NotByKey = len(missing), len(unindexed)
	bugs, err := t.c.Bugs()
	for _, lines := range bugs {
		s.Bugs += len(lines)
	}
	if s.Problem != "" {
		return nil // a host may have none
	}
	return err
}
