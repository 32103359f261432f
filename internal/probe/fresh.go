package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mqlift/internal/message"
	"mqlift/internal/rocketmq"
)

// Defaults of FreshSender and FreshReader.
const (
	DefaultEvery   = 20 * time.Millisecond
	DefaultTimeout = time.Second
)

// Router answers with a topic's route as the name servers have it now.
type Router interface {
	Route(ctx context.Context, topic string) (rocketmq.Route, error)
}

// Broker is one broker, by address.
type Broker interface {
	Send(ctx context.Context, r rocketmq.SendRequest) (rocketmq.SendResult, error)
	QueryByKey(ctx context.Context, topic, key string, max int, from, to time.Time) ([]message.Message, error)
	Pull(ctx context.Context, topic string, queueID int, offset int64, max int) (rocketmq.PullResult, error)
}

// Brokers gives the broker at an address; it does not connect.
type Brokers func(addr string) Broker

// BrokersOf makes Brokers of a remoting client.
func BrokersOf(c *rocketmq.Client) Brokers {
	return func(addr string) Broker { return c.Broker(addr) }
}

// FreshSender measures the cluster's own outage of writes: before each message it asks the name
// servers for the route, and it sends to the broker that the route has as id 0.
type FreshSender struct {
	Router  Router
	Brokers Brokers
	// Broker is the group (brokerName) to send to; empty: each that serves the topic, in turn.
	Broker string
	Topic  string
	Group  string // producer group as the broker sees it
	// Keys are KeyPrefix and a number of at least six digits, counted up from Start.
	KeyPrefix string
	Start     int
	Every     time.Duration // one send each; DefaultEvery
	Timeout   time.Duration // of one send with its route; DefaultTimeout
	Timeline  *Timeline
	Sent      *Sent
}

// Run sends until the context ends, waits for what is under way and returns nil. An error means
// that it could not begin.
func (s *FreshSender) Run(ctx context.Context) error {
	if s.Topic == "" || s.Timeline == nil || s.Sent == nil {
		return errors.New("fresh sender: needs a topic, a timeline and a ledger")
	}
	timeout := cmp.Or(s.Timeout, DefaultTimeout)
	pace(ctx, cmp.Or(s.Every, DefaultEvery), timeout, func(n int) {
		key := NumberedKey(s.KeyPrefix, s.Start+n)
		start := time.Now()
		// A send is not broken off when the run ends: whether it was stored would be unknown.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		e, err := s.send(ctx, n, key)
		s.Timeline.Record(start, err)
		if err != nil {
			s.Sent.Unacknowledged(s.Topic, key, err)
			return
		}
		s.Sent.Acknowledged(e)
	})
	return nil
}

func (s *FreshSender) send(ctx context.Context, n int, key string) (Entry, error) {
	route, err := s.Router.Route(ctx, s.Topic)
	if err != nil {
		return Entry{}, fmt.Errorf("route of %s: %w", s.Topic, err)
	}
	broker, addr, queue, err := writable(route, s.Broker, n)
	if err != nil {
		return Entry{}, fmt.Errorf("route of %s: %w", s.Topic, err)
	}
	r, err := s.Brokers(addr).Send(ctx, rocketmq.SendRequest{
		Group: s.Group, Topic: s.Topic, QueueID: queue, Body: []byte(key),
		Properties: map[string]string{message.PropertyKeys: key},
	})
	if err != nil {
		return Entry{}, fmt.Errorf("send to %s: %w", addr, err)
	}
	e := Entry{Topic: s.Topic, Key: key, Broker: broker, MsgID: r.MsgID, Queue: r.QueueID, Offset: r.QueueOffset,
		At: time.Now()}
	if r.Status != rocketmq.SendOK {
		e.Status = r.Status.String()
	}
	return e, nil
}

// writable picks the n-th of the queues that take sends, of one group or of all.
func writable(route rocketmq.Route, group string, n int) (broker, addr string, queue int, err error) {
	var total int
	var reason error
	type span struct {
		broker, addr string
		queues       int
	}
	var spans []span
	for _, q := range route.Queues {
		if group != "" && q.Broker != group {
			continue
		}
		b, _ := route.Broker(q.Broker)
		master := b.Addrs[0]
		switch {
		case q.Perm&rocketmq.PermWrite == 0 || q.Write <= 0:
			reason = fmt.Errorf("%s takes no sends (perm %d)", q.Broker, q.Perm)
		case master == "":
			reason = fmt.Errorf("%s has no broker id 0", q.Broker)
		default:
			spans = append(spans, span{q.Broker, master, q.Write})
			total += q.Write
		}
	}
	if total == 0 {
		if reason == nil {
			reason = errNotServed(group)
		}
		return "", "", 0, reason
	}
	n %= total
	for _, s := range spans {
		if n < s.queues {
			return s.broker, s.addr, n, nil
		}
		n -= s.queues
	}
	panic("probe: queue number out of range") // n < total, the sum of all spans
}

func errNotServed(group string) error {
	if group == "" {
		return errors.New("no broker serves the topic")
	}
	return fmt.Errorf("%s does not serve the topic", group)
}

// MessageKey names a message that is looked up.
type MessageKey struct {
	Topic string `json:"topic"`
	Key   string `json:"key"`
}

// lookUpMax is how many messages a look-up asks for, to see duplicates; 4.5.2 gives no more
// (MessageStoreConfig.maxMsgsNumBatch).
const lookUpMax = 64

// FreshReader measures the cluster's own outage of reads: before each look-up it asks the name
// servers for the route, and then looks one of the keys up, in turn, as the Java client does: at the
// master, or at any slave while the route has no master (BrokerData.selectBrokerAddr, 4.5.2).
type FreshReader struct {
	Router  Router
	Brokers Brokers
	// Broker is the group (brokerName) that has the keys; empty: one broker of every group is asked,
	// and it is enough that one of them has the key.
	Broker   string
	Keys     []MessageKey
	Every    time.Duration // one look-up each; DefaultEvery
	Timeout  time.Duration // of one look-up with its route; DefaultTimeout
	Timeline *Timeline
}

// ErrNotFound is the failure of a look-up that was answered, but not with the message.
var ErrNotFound = errors.New("not found")

// Run looks keys up until the context ends, waits for what is under way and returns nil. An error
// means that it could not begin.
func (r *FreshReader) Run(ctx context.Context) error {
	if len(r.Keys) == 0 || r.Timeline == nil {
		return errors.New("fresh reader: needs at least one key and a timeline")
	}
	timeout := cmp.Or(r.Timeout, DefaultTimeout)
	pace(ctx, cmp.Or(r.Every, DefaultEvery), timeout, func(n int) {
		start := time.Now()
		// Not broken off when the run ends: it would count as failed.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		r.Timeline.Record(start, r.find(ctx, r.Keys[n%len(r.Keys)]))
	})
	return nil
}

func (r *FreshReader) find(ctx context.Context, k MessageKey) error {
	route, err := r.Router.Route(ctx, k.Topic)
	if err != nil {
		return fmt.Errorf("route of %s: %w", k.Topic, err)
	}
	var addrs []string
	for _, b := range route.Brokers {
		if addr := readable(b); addr != "" && (r.Broker == "" || b.Name == r.Broker) {
			addrs = append(addrs, addr)
		}
	}
	if len(addrs) == 0 {
		return fmt.Errorf("route of %s: %w", k.Topic, errNotServed(r.Broker))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan error)
	for _, addr := range addrs {
		go func() { answers <- lookUp(ctx, r.Brokers(addr), addr, k) }()
	}
	var found bool
	var failed error
	for range addrs {
		switch err := <-answers; {
		case err == nil:
			found = true
			cancel() // the other groups need not be waited for
		case failed == nil || errors.Is(failed, ErrNotFound):
			failed = err // one that could not answer explains more than one that has no such key
		}
	}
	if found {
		return nil
	}
	return failed
}

func lookUp(ctx context.Context, b Broker, addr string, k MessageKey) error {
	found, err := b.QueryByKey(ctx, k.Topic, k.Key, lookUpMax, time.Time{}, time.Time{})
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("look-up of %s at %s: %w", k.Key, addr, err)
	}
	return nil
}

// readable picks the address that the Java client reads from.
func readable(b rocketmq.BrokerData) string {
	if master := b.Addrs[0]; master != "" {
		return master
	}
	addrs := slices.Sorted(maps.Values(b.Addrs))
	if len(addrs) == 0 {
		return ""
	}
	return addrs[rand.IntN(len(addrs))]
}

// NumberedKey is a message key as the probes number them, such as m600000.
func NumberedKey(prefix string, n int) string { return fmt.Sprintf("%s%06d", prefix, n) }

// pace calls try with 0, 1, 2, …, one each tick, until the context ends, and returns when all calls
// have. Calls overlap, so that stuck ones do not hold up the rest. There is room for all that can be
// stuck when each ends within the time-out; should even that be full, ticks are left out.
func pace(ctx context.Context, every, timeout time.Duration, try func(n int)) {
	var running sync.WaitGroup
	defer running.Wait()
	var busy atomic.Int64
	room := int64(timeout/every) + 2
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; {
		if ctx.Err() != nil {
			return
		}
		if busy.Load() < room {
			number := n
			n++
			busy.Add(1)
			running.Go(func() {
				defer busy.Add(-1)
				try(number)
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
