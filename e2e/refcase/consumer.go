package refcase

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"

	"mqlift/e2e/wait"
	"mqlift/internal/probe"
)

// Consumer is an application that consumes: an unmodified rocketmq-client-go push consumer in cluster
// mode with default settings, but that a new group begins with the first message of each queue; and what
// it was given.
type Consumer struct {
	NameServers []string
	Group       string
	Topics      []string
	// Fail tells whether the application fails on a message that it is given for the first time, so that
	// the client sends it back; nil never does.
	Fail func(probe.MessageKey) bool

	stop func() error
	mu   sync.Mutex
	seen map[probe.MessageKey][]sight
	last time.Time // of the last message
	gaps []gap     // a second long or longer
}

// sight is one time that a message was given to the application.
type sight struct {
	offset  int64 // physical offset: which stored copy it was
	retries int32 // how often that copy had been sent back before
}

type gap struct{ from, to time.Time }

// Start subscribes.
func (c *Consumer) Start() error {
	probe.QuietClient()
	c.seen = map[probe.MessageKey][]sight{}
	p, err := consumer.NewPushConsumer(
		consumer.WithNsResolver(primitive.NewPassthroughResolver(c.NameServers)),
		consumer.WithGroupName(c.Group),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		// Clients of one process with the same instance name share their connections and name servers.
		consumer.WithInstance("consumer-"+rand.Text()),
	)
	if err != nil {
		return fmt.Errorf("consumer group %s: %w", c.Group, err)
	}
	for _, topic := range c.Topics {
		if err := p.Subscribe(topic, consumer.MessageSelector{}, c.consume); err != nil {
			return fmt.Errorf("consumer group %s: subscribing to %s: %w", c.Group, topic, err)
		}
	}
	c.stop = p.Shutdown
	if err := p.Start(); err != nil {
		return fmt.Errorf("consumer group %s: %w", c.Group, err)
	}
	return nil
}

// Stop ends the consumer.
func (c *Consumer) Stop() error {
	if c.stop == nil {
		return nil
	}
	return c.stop()
}

func (c *Consumer) consume(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	result := consumer.ConsumeSuccess
	now := time.Now()
	if !c.last.IsZero() && now.Sub(c.last) >= time.Second {
		c.gaps = append(c.gaps, gap{c.last, now})
	}
	c.last = now
	for _, m := range messages {
		k := probe.MessageKey{Topic: m.Topic, Key: m.GetKeys()}
		if c.Fail != nil && len(c.seen[k]) == 0 && c.Fail(k) {
			result = consumer.ConsumeRetryLater
		}
		c.seen[k] = append(c.seen[k], sight{m.CommitLogOffset, m.ReconsumeTimes})
	}
	return result, nil
}

// Times is how often the application was given a message.
func (c *Consumer) Times(k probe.MessageKey) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen[k])
}

// Consumed is what an application was given of the messages that it should have been given.
type Consumed struct {
	Wanted int
	Unseen []probe.MessageKey
	// Again is how often a message was given once more from the same place in the log: its offset was
	// not committed in time.
	Again int
	// Copies is how often a message was given from another place: it is stored more than once.
	Copies int
	// Retries is how often a message was given again because the application had sent it back.
	Retries int
}

func (r Consumed) String() string {
	return fmt.Sprintf("consumed %d of %d; %d duplicates: %d whose offset was not committed in time, %d stored more than once, %d sent back by the application",
		r.Wanted-len(r.Unseen), r.Wanted, r.Again+r.Copies+r.Retries, r.Again, r.Copies, r.Retries)
}

// Count compares what was given with what was acknowledged to producers.
func (c *Consumer) Count(acked []probe.Entry) Consumed {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := Consumed{Wanted: len(acked)}
	for _, e := range acked {
		k := probe.MessageKey{Topic: e.Topic, Key: e.Key}
		var places []int64
		for _, s := range c.seen[k] {
			switch {
			case len(places) == 0:
			case slices.Contains(places, s.offset):
				r.Again++
			case s.retries > 0:
				r.Retries++
			default:
				r.Copies++
			}
			places = append(places, s.offset)
		}
		if len(places) == 0 {
			r.Unseen = append(r.Unseen, k)
		}
	}
	return r
}

// Gap is the longest time without any message that began in a stretch of time; what is shorter than a
// second is none.
func (c *Consumer) Gap(from, to time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var longest time.Duration
	for _, g := range c.gaps {
		if g.to.After(from) && g.from.Before(to) {
			longest = max(longest, g.to.Sub(g.from))
		}
	}
	return longest
}

// Await waits until the application was given everything, and returns the count in any case.
func (c *Consumer) Await(ctx context.Context, limit time.Duration, acked []probe.Entry) Consumed {
	var r Consumed
	_ = wait.Until(ctx, limit, "all to be consumed", func(context.Context) error { // the count says what is missing
		if r = c.Count(acked); len(r.Unseen) > 0 {
			return fmt.Errorf("%d are not", len(r.Unseen))
		}
		return nil
	})
	return r
}
