package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hedgeDelay is how long a name server may keep one waiting before the next is asked as well. A
// healthy one answers within a few milliseconds.
const hedgeDelay = 300 * time.Millisecond

// ErrTopicNotExist is returned when every name server answered that it has no route for a topic.
var ErrTopicNotExist = errors.New("there is no route for the topic")

// NameServers is a set of name servers, which know nothing of one another: each broker registers
// with every one of them, and they may differ for a while.
type NameServers struct {
	client *Client
	addrs  []string
}

// NameServers returns the name servers at these addresses (host:port). Reads start with the first
// and go on to the next on an error, or when 300 ms bring no answer; the first good answer wins.
func (c *Client) NameServers(addrs []string) *NameServers {
	return &NameServers{client: c, addrs: slices.Clone(addrs)}
}

// Addrs returns the addresses, in the order in which they are asked.
func (n *NameServers) Addrs() []string { return slices.Clone(n.addrs) }

// BrokerData is a broker group as a name server sees it: addresses (host:port) by brokerId, the
// one with id 0 being the master, or the leader once it has registered.
type BrokerData struct {
	Cluster string           `json:"cluster"`
	Name    string           `json:"brokerName"`
	Addrs   map[int64]string `json:"brokerAddrs"`
}

// QueueData tells how many queues of a topic a broker group has.
type QueueData struct {
	Broker string `json:"brokerName"`
	Read   int    `json:"readQueueNums"`
	Write  int    `json:"writeQueueNums"`
	// Perm is the topic's permission, see PermRead. Of a broker whose brokerPermission forbids reading or
	// writing it is that one instead (BrokerController.registerBrokerAll, 4.5.2), or what both allow (5.0.0 on).
	Perm int `json:"perm"`
}

// Bits of a permission (PermName.java).
const (
	PermInherit = 1
	PermWrite   = 2
	PermRead    = 4
)

// Route is where a topic's queues are.
type Route struct {
	Queues  []QueueData  `json:"queueDatas"`
	Brokers []BrokerData `json:"brokerDatas"`
}

// Broker returns the group of that name, or false when it does not serve the topic.
func (r Route) Broker(name string) (BrokerData, bool) {
	for _, b := range r.Brokers {
		if b.Name == name {
			return b, true
		}
	}
	return BrokerData{}, false
}

// ClusterInfo is everything that is registered: groups by brokerName, and the brokerNames of each
// cluster.
type ClusterInfo struct {
	Brokers  map[string]BrokerData `json:"brokerAddrTable"`
	Clusters map[string][]string   `json:"clusterAddrTable"`
}

// Registration names one broker process to a name server.
type Registration struct {
	Cluster, Name string
	Addr          string // host:port, as registered
	ID            int64  // brokerId
}

// Route asks for a topic's route. A name server that does not know the topic does not settle it,
// since it may have been started just now: ErrTopicNotExist is returned when all say so.
func (n *NameServers) Route(ctx context.Context, topic string) (Route, error) {
	answer, errs := first(ctx, n.addrs, func(ctx context.Context, addr string) (Route, error) {
		return n.RouteAt(ctx, addr, topic)
	})
	if errs == nil {
		return answer, nil
	}
	unknown := 0
	for i, err := range errs {
		if errors.Is(err, ErrTopicNotExist) {
			unknown++
			errs[i] = errors.New(err.Error()) // said, but not by all: not to be decided on
		}
	}
	if unknown == len(errs) {
		return Route{}, fmt.Errorf("topic %s: %w (asked %s)", topic, ErrTopicNotExist, strings.Join(n.addrs, ", "))
	}
	return Route{}, errors.Join(errs...)
}

// RouteAt is one name server's own view; ErrTopicNotExist is this one's word.
func (n *NameServers) RouteAt(ctx context.Context, addr, topic string) (Route, error) {
	r, err := callJSON[Route](ctx, n.client, addr, GetRoute, map[string]string{"topic": topic})
	if refused(err, ResponseTopicNotExist) {
		return Route{}, fmt.Errorf("topic %s at %s: %w", topic, addr, ErrTopicNotExist)
	}
	if err == nil {
		err = odd(addr, GetRoute, r.check())
	}
	return r, err
}

// maxQueues bounds the queues of a topic on one broker: each is asked about on its own.
const maxQueues = 1 << 16

// check refuses a route that no name server gives: where no broker is registered for the topic, it answers
// TOPIC_NOT_EXIST instead (RouteInfoManager.pickupTopicRouteData returns null, and getRouteInfoByTopic of
// DefaultRequestProcessor, in 5.x of ClientRequestProcessor, answers so; 4.5.2, 4.9.7, 5.3.3).
func (r Route) check() error {
	if len(r.Brokers) == 0 {
		return errors.New("the route names no broker")
	}
	for _, q := range r.Queues {
		if q.Read < 0 || q.Read > maxQueues || q.Write < 0 || q.Write > maxQueues {
			return fmt.Errorf("%s has %d read and %d write queues", q.Broker, q.Read, q.Write)
		}
	}
	return nil
}

// errNothingRegistered is an answer that is good only when no other is better.
var errNothingRegistered = errors.New("no broker is registered")

// ClusterInfo asks for everything registered. An empty list, as of a name server started just now,
// is taken only when no other name server has a better one.
func (n *NameServers) ClusterInfo(ctx context.Context) (ClusterInfo, error) {
	answer, errs := first(ctx, n.addrs, func(ctx context.Context, addr string) (ClusterInfo, error) {
		info, err := n.ClusterInfoAt(ctx, addr)
		if err == nil && len(info.Brokers) == 0 {
			err = errNothingRegistered
		}
		return info, err
	})
	for _, e := range errs {
		if errors.Is(e, errNothingRegistered) {
			return ClusterInfo{}, nil
		}
	}
	return answer, errors.Join(errs...)
}

// ClusterInfoAt is one name server's own view.
func (n *NameServers) ClusterInfoAt(ctx context.Context, addr string) (ClusterInfo, error) {
	return callJSON[ClusterInfo](ctx, n.client, addr, GetClusterInfo, nil)
}

// UnregisterBroker takes a broker process out of the routes on every name server; a running broker
// comes back with its next registration, which is every 30 s (registerNameServerPeriod; 10 s to 60 s). From
// 5.0.0 on it is carried out a moment after the answer (BatchUnregistrationService; 4.9.8 has none).
func (n *NameServers) UnregisterBroker(ctx context.Context, r Registration) error {
	return n.Each(ctx, func(ctx context.Context, addr string) error {
		_, err := n.client.Call(ctx, addr, &Command{Code: UnregisterBroker, Fields: map[string]string{
			"clusterName": r.Cluster,
			"brokerName":  r.Name,
			"brokerAddr":  r.Addr,
			"brokerId":    strconv.FormatInt(r.ID, 10),
		}})
		return err
	})
}

// Each runs f for every name server side by side, to the end, and joins the errors, each with its
// address.
func (n *NameServers) Each(ctx context.Context, f func(ctx context.Context, addr string) error) error {
	var errs []error
	for _, a := range AskEach(ctx, n, func(ctx context.Context, addr string) (struct{}, error) {
		return struct{}{}, f(ctx, addr)
	}) {
		if a.Err != nil {
			errs = append(errs, fmt.Errorf("name server %s: %w", a.Addr, a.Err))
		}
	}
	return errors.Join(errs...)
}

// Answer is what one name server said.
type Answer[T any] struct {
	Addr  string
	Value T
	Err   error
}

// AskEach asks every name server side by side and returns each one's answer, in their order; it is
// for what they may differ in, such as a route during a failover.
func AskEach[T any](ctx context.Context, n *NameServers, f func(ctx context.Context, addr string) (T, error)) []Answer[T] {
	answers := make([]Answer[T], len(n.addrs))
	done := make(chan struct{})
	for i, addr := range n.addrs {
		go func() {
			v, err := f(ctx, addr)
			answers[i] = Answer[T]{addr, v, err}
			done <- struct{}{}
		}()
	}
	for range n.addrs {
		<-done
	}
	return answers
}

// first asks one address after the other, each when the one before it has failed or kept it
// waiting for hedgeDelay, and returns the first good answer. Without one it returns every
// address's error, in their order; the rest is cancelled in either case.
func first[T any](ctx context.Context, addrs []string, f func(ctx context.Context, addr string) (T, error)) (answer T, _ []error) {
	if len(addrs) == 0 {
		return answer, []error{errors.New("no name server is given")}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		i     int
		value T
		err   error
	}
	results := make(chan result, len(addrs))
	asked := 0
	ask := func() {
		i := asked
		asked++
		go func() {
			v, err := f(ctx, addrs[i])
			results <- result{i, v, err}
		}()
	}
	ask()
	hedge := time.NewTicker(hedgeDelay)
	defer hedge.Stop()
	errs := make([]error, len(addrs))
	for failed := 0; failed < len(addrs); {
		select {
		case r := <-results:
			if r.err == nil {
				return r.value, nil
			}
			errs[r.i] = r.err
			failed++
		case <-hedge.C:
		}
		if asked < len(addrs) {
			ask()
			hedge.Reset(hedgeDelay)
		}
	}
	return answer, errs
}
