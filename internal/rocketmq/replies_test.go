package rocketmq_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"mqlift/internal/corpus"
	"mqlift/internal/dledger"
	"mqlift/internal/rocketmq"
)

var waited = regexp.MustCompile(`waited [0-9.]+m?s`)

// What a call says that is answered so by whatever listens there: a case's first line names the call, the
// rest is for corpus.Peer. It ends within its time, whatever comes.
func TestEachFaultyReplyIsSaid(t *testing.T) {
	corpus.Run(t, "testdata/replies/*.txt", func(t *testing.T, input []byte) string {
		first, rest, _ := strings.Cut(string(input), "\n")
		addr := corpus.Peer(t, []byte(rest))
		limit := 10 * time.Second
		if strings.HasSuffix(first, " silent") { // what is waited for does not come
			limit = 200 * time.Millisecond
		}
		client := rocketmq.NewClient(rocketmq.Options{RequestTimeout: limit})
		defer client.Close()
		call, ok := calls[strings.Fields(first)[1]]
		if !ok {
			t.Fatalf("there is no call %q", first)
		}
		done := make(chan error, 1)
		go func() { done <- call(t.Context(), client, addr) }()
		select {
		case err := <-done:
			if err == nil {
				return ""
			}
			if strings.HasSuffix(first, " silent") != errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it took all its time, or not: %v", err)
			}
			if !strings.Contains(err.Error(), addr) {
				t.Errorf("it is not said where: %v", err)
			}
			said := strings.ReplaceAll(err.Error(), addr, "ADDRESS")
			return waited.ReplaceAllString(said, "waited LIMIT")
		case <-time.After(time.Minute):
			t.Fatal("the call does not end")
		}
		return ""
	})
}

var calls = map[string]func(context.Context, *rocketmq.Client, string) error{
	"route": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		_, err := c.NameServers([]string{addr}).Route(ctx, "orders")
		return err
	},
	"cluster": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		_, err := c.NameServers([]string{addr}).ClusterInfo(ctx)
		return err
	},
	"max-offset": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		_, err := c.Broker(addr).MaxOffset(ctx, "orders", 0)
		return err
	},
	"pull": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		_, err := c.Broker(addr).Pull(ctx, "orders", 0, 0, 32)
		return err
	},
	"by-key": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		_, err := c.Broker(addr).QueryByKey(ctx, "orders", "k1", 1, time.Time{}, time.Time{})
		return err
	},
	"send": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		_, err := c.Broker(addr).Send(ctx, rocketmq.SendRequest{Group: "g", Topic: "orders", Body: []byte("b")})
		return err
	},
	"runtime": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		info, err := c.Broker(addr).RuntimeInfo(ctx)
		if err == nil {
			_, err = info.CommitLogMaxOffset()
		}
		return err
	},
	"topics": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		_, _, err := c.Broker(addr).Topics(ctx)
		return err
	},
	"offsets": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		_, err := c.Broker(addr).ConsumerOffsets(ctx)
		return err
	},
	"delays": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		_, err := c.Broker(addr).DelayOffsets(ctx)
		return err
	},
	"fence": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		return c.Broker(addr).UpdateConfig(ctx, map[string]string{"brokerPermission": "4"})
	},
	"leader": func(ctx context.Context, c *rocketmq.Client, addr string) error {
		_, err := dledger.Ask(ctx, c, "broker-a", dledger.Peer{ID: "n1", Addr: addr, Name: "mq2"})
		return err
	},
}
