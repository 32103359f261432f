// Package membership has the members of consumer groups stand on a broker's lists before they have greeted it
// themselves.
//
// A broker knows a group, its members and what they are subscribed to from heartbeats alone, which clients send
// every 30 s (heartbeatBrokerInterval), and forgets them with their connections. On a broker that takes another
// one's place they are missing until then, which costs consumers more than anything else of the change:
//
//   - A push consumer's pull does not say what it is subscribed to. It is refused (code 24, "the consumer's group
//     info not exist", PullMessageProcessor in 4.5.2 to 5.3.3), and tried again after 3 s, until some member's
//     heartbeat has come.
//   - Consumers share a group's queues out by the broker's list of members (code 38). One in Go takes the answer
//     that there is no such group for an empty list, and gives all its queues up (rocketmq-client-go 2.1.2; one in
//     Java keeps them). With a list that lacks members these give their queues up, and the others take them: what
//     both have at the moment is consumed twice.
//
// A stand-in is a connection of its own that says a member's heartbeat, once. It gets no message, since it pulls
// none; the queues stay with the member, whose pulls are answered over whatever connection they come. When the
// member's own heartbeat comes, the broker has it twice on its list, by connection (ConsumerGroupInfo), and the
// group's queues are shared out as if there were one client more: the stand-in is ended then. That is the price:
// queues change hands and come back, as when a member is restarted, and a client in Java may try pulls again after
// 3 s (seen on 4.5.2). No stand-in is needed for producers, and none is ever matched to a connection of a
// client's, so that neither addresses that several clients share nor several processes on one host matter.
//
// A member that ends meanwhile takes its leave over its own connection, and its queues wait for the end of the
// stand-in.
package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/rocketmq"
)

// Most is how many members there may be stand-ins for: each has a connection.
const Most = 2000

const (
	// atOnce is how many questions a broker is asked at the same time.
	atOnce = 16
	// every is how often a broker is asked who has come.
	every = 100 * time.Millisecond
	// settle is for how long a member that has come is left with its stand-in. A client in Java that is given
	// other queues says so in a heartbeat of its own, without which its pulls are refused (code 25), and skips it
	// while the one is under way to other brokers by which it came here ("lock heartBeat, but failed",
	// MQClientInstance 4.5.2; seen): the next such heartbeat, when it has its queues back, must not be skipped, too.
	settle = 500 * time.Millisecond
)

// Of asks a broker for the members of its consumer groups, by client id, as it would have them say it.
func Of(ctx context.Context, b *rocketmq.Broker) ([]rocketmq.Heartbeat, error) {
	groups, _, err := b.SubscriptionGroups(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	members := map[string]*rocketmq.Heartbeat{}
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(atOnce)
	for group := range groups {
		eg.Go(func() error {
			c, err := b.ConsumerConnections(ctx, group)
			if err != nil {
				return err
			}
			as := rocketmq.GroupMember{Group: group, Type: c.Type, Model: c.Model, FromWhere: c.FromWhere}
			for _, topic := range slices.Sorted(maps.Keys(c.Subscriptions)) {
				as.Subscriptions = append(as.Subscriptions, c.Subscriptions[topic])
			}
			mu.Lock()
			defer mu.Unlock()
			for _, client := range c.Clients {
				m := members[client.ID]
				if m == nil {
					m = &rocketmq.Heartbeat{ClientID: client.ID, Language: client.Language, Version: client.Version}
					members[client.ID] = m
				}
				if n := len(m.Groups); n == 0 || m.Groups[n-1].Group != group { // it may have two connections
					m.Groups = append(m.Groups, as)
				}
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	list := make([]rocketmq.Heartbeat, 0, len(members))
	for _, m := range members {
		slices.SortFunc(m.Groups, func(a, b rocketmq.GroupMember) int { return cmp.Compare(a.Group, b.Group) })
		list = append(list, *m)
	}
	slices.SortFunc(list, func(a, b rocketmq.Heartbeat) int { return cmp.Compare(a.ClientID, b.ClientID) })
	return list, nil
}

// StandIns stand on one broker's lists.
type StandIns struct {
	broker      *rocketmq.Broker
	connections map[string]*rocketmq.Client // by client id
	groups      map[string][]string         // of those, by client id
}

// StandIn has members stand on a broker's lists who are not there yet. All of them do when it returns, and none
// when there is an error: a list that lacks members is what they are to be spared. options are those of the
// connections, b is asked who is there.
func StandIn(ctx context.Context, options rocketmq.Options, b *rocketmq.Broker, members []rocketmq.Heartbeat) (*StandIns, error) {
	if len(members) > Most {
		return nil, fmt.Errorf("there are %d clients in consumer groups, more than the %d that can be stood in for", len(members), Most)
	}
	s := &StandIns{broker: b, connections: map[string]*rocketmq.Client{}, groups: map[string][]string{}}
	for _, m := range members {
		for _, g := range m.Groups {
			s.groups[m.ClientID] = append(s.groups[m.ClientID], g.Group)
		}
	}
	there, err := s.listed(ctx)
	if err != nil {
		return nil, err
	}
	eg, within := errgroup.WithContext(ctx)
	eg.SetLimit(atOnce)
	for _, m := range members {
		if there[m.ClientID] > 0 {
			delete(s.groups, m.ClientID)
			continue
		}
		connection := rocketmq.NewClient(options)
		s.connections[m.ClientID] = connection
		eg.Go(func() error { return connection.Broker(b.Addr()).SendHeartbeat(within, m) })
	}
	if err := eg.Wait(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Count is how many there are.
func (s *StandIns) Count() int { return len(s.connections) }

// Attend ends each stand-in when its member has come, and all of them when ctx ends: members that have not come
// by then are held for gone, and others get their queues. It returns when none is left.
func (s *StandIns) Attend(ctx context.Context) {
	defer s.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	came := map[string]time.Time{}
	for len(s.connections) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		there, err := s.listed(ctx)
		if err != nil {
			continue // the broker may be gone, and the stand-ins with it
		}
		for id, times := range there {
			switch first, known := came[id]; {
			case times < 2:
				delete(came, id) // and is gone again
			case !known:
				came[id] = time.Now()
			case time.Since(first) >= settle:
				s.end(id)
			}
		}
	}
}

// listed tells how often a member is on a list of its groups, at most; of members that have a stand-in, or shall.
func (s *StandIns) listed(ctx context.Context) (map[string]int, error) {
	groups := map[string]bool{}
	for _, of := range s.groups {
		for _, group := range of {
			groups[group] = true
		}
	}
	var mu sync.Mutex
	there := map[string]int{}
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(atOnce)
	for group := range groups {
		eg.Go(func() error {
			ids, err := s.broker.Consumers(ctx, group)
			if err != nil {
				return err
			}
			times := map[string]int{}
			for _, id := range ids {
				times[id]++
			}
			mu.Lock()
			defer mu.Unlock()
			for id, n := range times {
				if s.groups[id] != nil {
					there[id] = max(there[id], n)
				}
			}
			return nil
		})
	}
	return there, eg.Wait()
}

func (s *StandIns) end(id string) error {
	c := s.connections[id]
	delete(s.connections, id)
	delete(s.groups, id)
	if c == nil {
		return nil
	}
	return c.Close()
}

// Close ends all stand-ins. Attend does it, too.
func (s *StandIns) Close() error {
	var errs []error
	for _, id := range slices.Collect(maps.Keys(s.connections)) {
		errs = append(errs, s.end(id))
	}
	return errors.Join(errs...)
}
