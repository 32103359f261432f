package probe

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"mqlift/internal/diag"
	"mqlift/internal/rocketmq"
)

// Hooks are what Failover cannot know: who leads, and how a leader is killed and brought back.
type Hooks struct {
	// FindLeader returns the address and the peer id (n0, …) of the one leader; an error while there is
	// none, or more than one. It is called over and over.
	FindLeader func(ctx context.Context) (addr, peer string, err error)
	// KillLeader kills the process that FindLeader named last, and returns when it is gone.
	KillLeader func(ctx context.Context) error
	// Revive starts what KillLeader has killed. It is called on every way out after a kill, also when
	// the context has ended.
	Revive func(ctx context.Context) error
	// WaitRejoined returns when the node is a follower that has caught up.
	WaitRejoined func(ctx context.Context) error
}

// FailoverLimits say how long each phase may take. Zero fields get the defaults.
type FailoverLimits struct {
	Leader time.Duration // finding the first leader: 30 s
	Steady time.Duration // until all senders and the reader go steadily: 60 s
	Kill   time.Duration // 30 s
	// Election is until a new leader is known: 60 s. Measured on 4.5.2: 6 to 10 s.
	Election time.Duration
	// Cluster is until writes and reads with a fresh route are back, from the new leader on: 60 s.
	Cluster time.Duration
	// Client is until the producer is back, from then on: 120 s, since it may need several of its
	// polls of the route, 30 s each.
	Client time.Duration
	Revive time.Duration // 120 s
	Rejoin time.Duration // 120 s
	// Lookup is how long nodes are asked again for keys not found yet: 30 s.
	Lookup time.Duration
}

// Failover kills the leader of a DLedger group under traffic and measures what that does to the
// cluster and to an application.
type Failover struct {
	NameServers []string // ip:port, for the producer
	Router      Router
	Brokers     Brokers
	Credentials *rocketmq.Credentials
	Broker      string // the group (brokerName)
	Topic       string
	Group       string // producer group
	// Keys of the application's messages are ClientPrefix and a number from Start on, those of the
	// fresh sender FreshPrefix likewise; "m" and "w".
	ClientPrefix string
	FreshPrefix  string
	Start        int
	// Every is the distance of two attempts of each sender and of the reader, Timeout that of one with a
	// fresh route; DefaultEvery and DefaultTimeout. An outage is measured as exactly as Every.
	Every   time.Duration
	Timeout time.Duration
	// OldKeys are looked up throughout. Without any it is a message of this very run.
	OldKeys []MessageKey
	// Nodes are the addresses on which each acknowledged message is looked up in the end; without
	// any they are those in the group's route after the killed node has rejoined.
	Nodes []string
	// Sent is the ledger, nil for one in memory. All that it holds of the group is looked up in the end,
	// also what it held before; numbers that it has already are not used again.
	Sent   *Sent
	Hooks  Hooks
	Limits FailoverLimits
	// Moments is told each moment when it comes, for a live display; may be nil.
	Moments func(Moment)
}

// Moment is a point in the course of a failover.
type Moment struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// Leader is one leader of a DLedger group.
type Leader struct {
	Addr string `json:"addr"`
	Peer string `json:"peer"`
}

// FailoverResult is what one forced failover did. In JSON all durations are milliseconds.
type FailoverResult struct {
	Old, New Leader
	Moments  []Moment
	// Killed is when the leader was killed; the summaries are of the time from then on.
	Killed time.Time
	Write  Summary // the cluster's own: fresh route for each send
	Read   Summary // the cluster's own: fresh route for each look-up
	Client Summary // as the application saw it
	// Acknowledged messages of the ledger must be on every node. Unacknowledged ones were tried and never
	// acknowledged: they may be there.
	Acknowledged   int
	Unacknowledged int
	OldKeys        int // as given
	Nodes          []NodeCount
}

// NodeCount is what one node holds of the messages of a run.
type NodeCount struct {
	Addr       string       `json:"addr"`
	Found      int          `json:"found"`     // of the acknowledged ones, by key
	Unindexed  int          `json:"unindexed"` // acknowledged and stored, but not to be found by key: see Lookup
	Missing    []MessageKey `json:"missing"`   // acknowledged, and not there
	OldFound   int          `json:"old_found"` // of the old keys
	OldMissing []MessageKey `json:"old_missing"`
	Unanswered int          `json:"unanswered"` // acknowledged or old, and no answer to be had
	FirstError string       `json:"first_error,omitempty"`
	Uncertain  int          `json:"uncertain"` // never acknowledged, and there nevertheless
	Duplicates []Copies     `json:"duplicates"`
}

// WriteOutage is the cluster's longest outage of writes from the kill on.
func (r *FailoverResult) WriteOutage() time.Duration { return r.Write.Longest }

// ReadOutage is the cluster's longest outage of reads from the kill on.
func (r *FailoverResult) ReadOutage() time.Duration { return r.Read.Longest }

// ClientOutage is the longest time from the kill on for which the application got nothing through.
func (r *FailoverResult) ClientOutage() time.Duration { return r.Client.Longest }

// MarshalJSON writes durations as milliseconds.
func (r *FailoverResult) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Old            Leader      `json:"old_leader"`
		New            Leader      `json:"new_leader"`
		Moments        []Moment    `json:"moments"`
		Killed         time.Time   `json:"killed"`
		WriteOutage    millis      `json:"write_outage_ms"`
		ReadOutage     millis      `json:"read_outage_ms"`
		ClientOutage   millis      `json:"client_outage_ms"`
		Write          Summary     `json:"write"`
		Read           Summary     `json:"read"`
		Client         Summary     `json:"client"`
		Acknowledged   int         `json:"acknowledged"`
		Unacknowledged int         `json:"unacknowledged"`
		OldKeys        int         `json:"old_keys"`
		Nodes          []NodeCount `json:"nodes"`
	}{r.Old, r.New, r.Moments, r.Killed, millis(r.WriteOutage()), millis(r.ReadOutage()), millis(r.ClientOutage()),
		r.Write, r.Read, r.Client, r.Acknowledged, r.Unacknowledged, r.OldKeys, r.Nodes})
}

// Findings says what the result means: an acknowledged message that a node does not have is a
// failure, a node that could not be asked as well, a duplicate is worth reading.
func (r *FailoverResult) Findings() diag.Findings {
	var l diag.Findings
	l.Add(diag.Finding{Check: "probe.outage", Severity: diag.Pass, What: fmt.Sprintf(
		"leader %s killed, %s took over; without writes for %s, without reads for %s, an application for %s",
		r.Old.Addr, r.New.Addr, r.WriteOutage().Round(time.Millisecond), r.ReadOutage().Round(time.Millisecond),
		r.ClientOutage().Round(time.Millisecond))})
	for _, n := range r.Nodes {
		f := diag.Finding{Check: "probe.found", Where: n.Addr,
			What: fmt.Sprintf("all %d acknowledged messages and %d old keys found", n.Found+n.Unindexed, n.OldFound)}
		switch {
		case len(n.Missing) > 0:
			f.Severity = diag.Fail
			f.What = fmt.Sprintf("%d of %d acknowledged messages not found, the first with key %s of %s",
				len(n.Missing), r.Acknowledged, n.Missing[0].Key, n.Missing[0].Topic)
			f.Do = "look the key up on the other nodes and compare the nodes' logs before anything is restarted"
		case n.Unanswered > 0:
			f.Severity = diag.Fail
			f.What = fmt.Sprintf("%d messages could not be looked up: %s", n.Unanswered, n.FirstError)
			f.Do = "see that the broker runs and look the messages up again"
		case len(n.OldMissing) > 0:
			f.Severity = diag.Fail
			f.What = fmt.Sprintf("%d of %d old messages not found by key, the first with key %s of %s",
				len(n.OldMissing), r.OldKeys, n.OldMissing[0].Key, n.OldMissing[0].Topic)
			f.Do = doIndex
		}
		l.Add(f)
		if n.Unindexed > 0 {
			l.Add(diag.Finding{Check: "probe.index", Severity: diag.Warn, Where: n.Addr,
				What: fmt.Sprintf("%d acknowledged messages are stored but not found by key: the node has lost its index",
					n.Unindexed),
				Do: doIndex})
		}
		if len(n.Duplicates) > 0 {
			l.Add(diag.Finding{Check: "probe.duplicates", Severity: diag.Warn, Where: n.Addr,
				What: fmt.Sprintf("%d messages are stored more than once, the first with key %s of %s",
					len(n.Duplicates), n.Duplicates[0].Key, n.Duplicates[0].Topic),
				Do: "see that consumers bear a message twice: a send that times out may be stored, and its retry as well"})
		}
	}
	return l
}

const doIndex = "a killed node drops its newest index files at start: stop it cleanly, copy the index folder of " +
	"another cleanly stopped node, and start it"

// PhaseError says that a phase of a failover did not come about.
type PhaseError struct {
	Phase string
	Limit time.Duration // what it was given
	Err   error
}

func (e *PhaseError) Error() string {
	return fmt.Sprintf("failover: %s (limit %s): %v", e.Phase, e.Limit, e.Err)
}

func (e *PhaseError) Unwrap() error { return e.Err }

// steadyCount is how many requests in a row are steady: a second of them at DefaultEvery.
const steadyCount = 50

const (
	defaultClientPrefix = "m"
	defaultFreshPrefix  = "w"
)

const pollEvery = 100 * time.Millisecond

// Run does it. With an error the result holds what was measured up to there; a leader that was
// killed is revived all the same. Nothing of it is running when Run returns.
func (f *Failover) Run(ctx context.Context) (*FailoverResult, error) {
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("failover: %w", err)
	}
	limits := f.Limits.withDefaults()
	sent := f.Sent
	if sent == nil {
		sent = &Sent{}
	}
	var writes, reads, client Timeline
	r := &FailoverResult{}
	traffic := newTraffic(ctx)
	defer traffic.stop()

	err := f.course(traffic, limits, r, sent, &writes, &reads, &client)
	err = errors.Join(err, traffic.stop())

	r.Write, r.Read, r.Client = writes.Between(r.Killed, time.Time{}), reads.Between(r.Killed, time.Time{}),
		client.Between(r.Killed, time.Time{})
	if err != nil {
		return r, err
	}
	f.moment(r, "traffic stopped")
	if err := f.lookUp(ctx, limits, r, sent); err != nil {
		return r, err
	}
	f.moment(r, "all messages looked up")
	return r, nil
}

// course is the order of work, from the first leader to the rejoined node.
func (f *Failover) course(traffic *traffic, limits FailoverLimits, r *FailoverResult, sent *Sent,
	writes, reads, client *Timeline) (err error) {
	ctx := traffic.ctx
	freshPrefix, clientPrefix := cmp.Or(f.FreshPrefix, defaultFreshPrefix), cmp.Or(f.ClientPrefix, defaultClientPrefix)
	err = phase(ctx, "finding the leader", limits.Leader, func(ctx context.Context) (err error) {
		r.Old, err = f.leader(ctx, "")
		return err
	})
	if err != nil {
		return err
	}

	traffic.run((&FreshSender{Router: f.Router, Brokers: f.Brokers, Broker: f.Broker, Topic: f.Topic,
		Group: f.Group, KeyPrefix: freshPrefix, Start: sent.Next(f.Topic, freshPrefix, f.Start),
		Every: f.Every, Timeout: f.Timeout, Timeline: writes, Sent: sent}).Run)
	traffic.run((&ClientSender{NameServers: f.NameServers, Topic: f.Topic, Group: f.Group, Credentials: f.Credentials,
		KeyPrefix: clientPrefix, Start: sent.Next(f.Topic, clientPrefix, f.Start),
		Rate: 1 / cmp.Or(f.Every, DefaultEvery).Seconds(), Timeline: client, Sent: sent}).Run)
	err = phase(ctx, "steady sends before the kill", limits.Steady, func(ctx context.Context) error {
		return errors.Join(steady(ctx, "sends with a fresh route", writes, time.Time{}),
			steady(ctx, "the producer", client, time.Time{}))
	})
	if err != nil {
		return err
	}
	keys := f.OldKeys
	if len(keys) == 0 {
		for _, e := range sent.Acked() {
			if e.Broker == f.Broker {
				keys = []MessageKey{{e.Topic, e.Key}}
				break
			}
		}
	}
	traffic.run((&FreshReader{Router: f.Router, Brokers: f.Brokers, Broker: f.Broker, Keys: keys,
		Every: f.Every, Timeout: f.Timeout, Timeline: reads}).Run)
	err = phase(ctx, "steady look-ups before the kill", limits.Steady, func(ctx context.Context) error {
		return steady(ctx, "look-ups", reads, time.Time{})
	})
	if err != nil {
		return err
	}
	f.moment(r, "steady")

	// From here on a node may be dead: it is revived on every way out.
	revived := false
	defer func() {
		if revived {
			return
		}
		failed := phase(context.WithoutCancel(ctx), "reviving the killed node", limits.Revive, f.Hooks.Revive)
		if failed == nil {
			f.moment(r, "killed node revived on the way out")
		}
		err = errors.Join(err, failed)
	}()
	r.Killed = time.Now()
	f.moment(r, "killing the leader "+r.Old.Addr)
	if err := phase(ctx, "killing the leader "+r.Old.Addr, limits.Kill, f.Hooks.KillLeader); err != nil {
		return err
	}
	f.moment(r, "leader gone")
	gone := time.Now()

	err = phase(ctx, "a new leader", limits.Election, func(ctx context.Context) (err error) {
		r.New, err = f.leader(ctx, r.Old.Addr)
		return err
	})
	if err != nil {
		return err
	}
	f.moment(r, "new leader "+r.New.Addr)

	err = phase(ctx, "writes and reads of the cluster after the kill", limits.Cluster, func(ctx context.Context) error {
		return errors.Join(steady(ctx, "sends with a fresh route", writes, gone), steady(ctx, "look-ups", reads, gone))
	})
	if err != nil {
		return err
	}
	f.moment(r, "cluster writes and reads again")
	err = phase(ctx, "the producer's sends after the kill", limits.Client, func(ctx context.Context) error {
		return steady(ctx, "the producer", client, gone)
	})
	if err != nil {
		return err
	}
	f.moment(r, "producer sends again")

	revived = true
	if err := phase(ctx, "reviving the killed node", limits.Revive, f.Hooks.Revive); err != nil {
		return err
	}
	f.moment(r, "killed node revived")
	if err := phase(ctx, "the killed node's return", limits.Rejoin, f.Hooks.WaitRejoined); err != nil {
		return err
	}
	f.moment(r, "killed node rejoined")

	rejoined := time.Now()
	return phase(ctx, "steady traffic after the return", limits.Steady, func(ctx context.Context) error {
		return errors.Join(steady(ctx, "sends with a fresh route", writes, rejoined),
			steady(ctx, "look-ups", reads, rejoined), steady(ctx, "the producer", client, rejoined))
	})
}

// lookUp finds every message of the ledger on every node.
func (f *Failover) lookUp(ctx context.Context, limits FailoverLimits, r *FailoverResult, sent *Sent) error {
	nodes := f.Nodes
	if len(nodes) == 0 {
		err := phase(ctx, "the group's nodes", limits.Leader, func(ctx context.Context) error {
			route, err := f.Router.Route(ctx, f.Topic)
			if err != nil {
				return err
			}
			for _, b := range route.Brokers {
				if b.Name == f.Broker {
					nodes = slices.Sorted(maps.Values(b.Addrs))
				}
			}
			if len(nodes) == 0 {
				return errNotServed(f.Broker)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	acked := sent.filter(func(e Entry) bool { return e.Acked && e.Broker == f.Broker })
	unacked := sent.Unacked()
	old := make([]Entry, len(f.OldKeys))
	for i, k := range f.OldKeys {
		old[i] = Entry{Topic: k.Topic, Key: k.Key}
	}
	r.Acknowledged, r.Unacknowledged, r.OldKeys = len(acked), len(unacked), len(old)

	found, err := Lookup{Brokers: f.Brokers, Limit: limits.Lookup}.Find(ctx, acked, nodes)
	if err != nil {
		return fmt.Errorf("failover: looking the messages up: %w", err)
	}
	// By now all that was stored before the last of them is indexed as well: once is enough.
	once := Lookup{Brokers: f.Brokers, Limit: time.Nanosecond}
	uncertain, err := once.Find(ctx, unacked, nodes)
	if err != nil {
		return fmt.Errorf("failover: looking the unacknowledged messages up: %w", err)
	}
	oldFound, err := once.Find(ctx, old, nodes)
	if err != nil {
		return fmt.Errorf("failover: looking the old messages up: %w", err)
	}
	for i, n := range found {
		r.Nodes = append(r.Nodes, NodeCount{
			Addr:       n.Addr,
			Found:      len(n.Found),
			Unindexed:  len(n.Unindexed),
			Missing:    n.Missing,
			Unanswered: len(n.Unanswered) + len(oldFound[i].Unanswered),
			FirstError: cmp.Or(n.FirstError, oldFound[i].FirstError),
			OldFound:   len(oldFound[i].Found),
			OldMissing: oldFound[i].Missing,
			Uncertain:  len(uncertain[i].Found),
			Duplicates: slices.Concat(n.Copies, uncertain[i].Copies),
		})
	}
	return nil
}

// leader waits for a leader other than the one at not.
func (f *Failover) leader(ctx context.Context, not string) (Leader, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		addr, peer, err := f.Hooks.FindLeader(ctx)
		if err == nil && addr != not {
			return Leader{addr, peer}, nil
		}
		if err == nil {
			err = fmt.Errorf("the leader is still %s", addr)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return Leader{}, fmt.Errorf("%w; last seen: %w", context.Cause(ctx), err)
		}
	}
}

func steady(ctx context.Context, what string, t *Timeline, after time.Time) error {
	if err := t.WaitSteady(ctx, after, steadyCount); err != nil {
		last := cmp.Or(t.LastError(after), "none")
		return fmt.Errorf("%s: %w; last failure: %s", what, err, last)
	}
	return nil
}

func phase(ctx context.Context, name string, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errors.New("did not come about in time"))
	defer cancel()
	if err := do(ctx); err != nil {
		return &PhaseError{Phase: name, Limit: limit, Err: err}
	}
	return nil
}

func (f *Failover) moment(r *FailoverResult, what string) {
	m := Moment{At: time.Now(), What: what}
	r.Moments = append(r.Moments, m)
	if f.Moments != nil {
		f.Moments(m)
	}
}

func (f *Failover) check() error {
	var problems []error
	if f.Router == nil || f.Brokers == nil {
		problems = append(problems, errors.New("no router or no brokers"))
	}
	if f.Broker == "" || f.Topic == "" || f.Group == "" {
		problems = append(problems, errors.New("no broker group, topic or producer group"))
	}
	if h := f.Hooks; h.FindLeader == nil || h.KillLeader == nil || h.Revive == nil || h.WaitRejoined == nil {
		problems = append(problems, errors.New("a hook is missing"))
	}
	if f.Every < 0 || f.Timeout < 0 {
		problems = append(problems, errors.New("a negative interval or time-out"))
	}
	if cmp.Or(f.FreshPrefix, defaultFreshPrefix) == cmp.Or(f.ClientPrefix, defaultClientPrefix) {
		problems = append(problems, errors.New("both senders have the same key prefix"))
	}
	return errors.Join(problems...)
}

func (l FailoverLimits) withDefaults() FailoverLimits {
	return FailoverLimits{
		Leader:   cmp.Or(l.Leader, 30*time.Second),
		Steady:   cmp.Or(l.Steady, 60*time.Second),
		Kill:     cmp.Or(l.Kill, 30*time.Second),
		Election: cmp.Or(l.Election, 60*time.Second),
		Cluster:  cmp.Or(l.Cluster, 60*time.Second),
		Client:   cmp.Or(l.Client, 120*time.Second),
		Revive:   cmp.Or(l.Revive, 120*time.Second),
		Rejoin:   cmp.Or(l.Rejoin, 120*time.Second),
		Lookup:   cmp.Or(l.Lookup, 30*time.Second),
	}
}

// traffic runs senders and readers until it is stopped. When one cannot go on its context ends.
type traffic struct {
	ctx     context.Context
	end     context.CancelCauseFunc
	running sync.WaitGroup
	mu      sync.Mutex
	errs    []error
}

func newTraffic(ctx context.Context) *traffic {
	ctx, end := context.WithCancelCause(ctx)
	return &traffic{ctx: ctx, end: end}
}

func (t *traffic) run(run func(context.Context) error) {
	t.running.Go(func() {
		if err := run(t.ctx); err != nil {
			t.mu.Lock()
			t.errs = append(t.errs, err)
			t.mu.Unlock()
			t.end(err)
		}
	})
}

// stop ends all of it, waits until nothing is under way, and returns why any of it failed.
func (t *traffic) stop() error {
	t.end(nil)
	t.running.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(t.errs...)
}
