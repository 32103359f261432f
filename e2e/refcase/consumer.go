package refcase

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"

	"mqlift/internal/probe"
)

// Consumer is an application that consumes: an unmodified rocketmq-client-go push consumer in cluster
// mode with default settings, but that a new group begins with the first message of each queue; and what
// it was given.
type Consumer struct {
	Received
	NameServers []string
	Group       string
	Topics      []string
	// Fail tells whether the application fails on a message that it is given for the first time, so that
	// the client sends it back; nil never does.
	Fail func(probe.MessageKey) bool

	stop func() error
}

// Start subscribes.
func (c *Consumer) Start() error {
	probe.QuietClient()
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
	result := consumer.ConsumeSuccess
	for _, m := range messages {
		k := probe.MessageKey{Topic: m.Topic, Key: m.GetKeys()}
		if c.Fail != nil && c.Times(k) == 0 && c.Fail(k) {
			result = consumer.ConsumeRetryLater
		}
		c.Add(time.Now(), k, m.CommitLogOffset, m.ReconsumeTimes)
	}
	return result, nil
}
