package rocketmq

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A name server of each temper.
func goodNameServer(t *testing.T) *peer {
	return answering(t, func(r *Command) *Command {
		switch {
		case r.Code == GetRoute && r.Fields["topic"] == "topic_dw_test_by_order_01":
			return captured(t, "route")
		case r.Code == GetRoute:
			return captured(t, "route-none")
		case r.Code == GetClusterInfo:
			return captured(t, "cluster")
		}
		return ok(nil)
	})
}

func stalledNameServer(t *testing.T) *peer {
	return answering(t, func(*Command) *Command { return nil })
}

func freshNameServer(t *testing.T) *peer { // started just now: no broker has registered yet
	return answering(t, func(r *Command) *Command {
		if r.Code == GetRoute {
			return captured(t, "route-none")
		}
		return &Command{Body: []byte(`{"brokerAddrTable":{},"clusterAddrTable":{}}`)}
	})
}

func deadAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var (
	caseBroker = BrokerData{Cluster: "DefaultCluster", Name: "broker-a", Addrs: map[int64]string{0: "127.0.0.1:20911"}}
	caseRoute  = Route{
		Queues:  []QueueData{{Broker: "broker-a", Read: 4, Write: 4, Perm: PermRead | PermWrite}},
		Brokers: []BrokerData{caseBroker},
	}
	caseCluster = ClusterInfo{
		Brokers:  map[string]BrokerData{"broker-a": caseBroker},
		Clusters: map[string][]string{"DefaultCluster": {"broker-a"}},
	}
)

func TestReadsSurviveSlowDeadAndFreshNameServers(t *testing.T) {
	good, stalled, fresh := goodNameServer(t).addr, stalledNameServer(t).addr, freshNameServer(t).addr
	dead := deadAddr(t)
	for name, addrs := range map[string][]string{
		"good":                    {good},
		"dead, good":              {dead, good},
		"stalled, good":           {stalled, good},
		"fresh, good":             {fresh, good},
		"stalled, dead, good":     {stalled, dead, good},
		"dead, stalled, good":     {dead, stalled, good},
		"all tempers, good last":  {stalled, fresh, dead, good},
		"good first, others dead": {good, dead, dead},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newTestClient(t, Options{}).NameServers(addrs)
			started := time.Now()
			route, err := ns.Route(within(t), "topic_dw_test_by_order_01")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(caseRoute, route); d != "" {
				t.Error(d)
			}
			if b, ok := route.Broker("broker-a"); !ok || b.Addrs[0] != "127.0.0.1:20911" {
				t.Error(b, ok)
			}
			info, err := ns.ClusterInfo(within(t))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(caseCluster, info); d != "" {
				t.Error(d)
			}
			if took := time.Since(started); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestATopicIsUnknownOnlyWhenAllNameServersSaySo(t *testing.T) {
	good, fresh, dead := goodNameServer(t).addr, freshNameServer(t).addr, deadAddr(t)
	c := newTestClient(t, Options{})
	_, err := c.NameServers([]string{good, fresh}).Route(within(t), "nope")
	if !errors.Is(err, ErrTopicNotExist) {
		t.Error(err)
	}
	_, err = c.NameServers([]string{good, dead}).Route(within(t), "nope")
	if err == nil || errors.Is(err, ErrTopicNotExist) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error("one of two cannot decide:", err)
	}
	for _, addr := range []string{good, dead} {
		if !strings.Contains(err.Error(), addr) {
			t.Errorf("%s is missing in %q", addr, err)
		}
	}
	if _, err := c.NameServers(nil).RouteAt(within(t), good, "nope"); !errors.Is(err, ErrTopicNotExist) {
		t.Error(err)
	}
}

func TestAnEmptyClusterListIsTheAnswerWhenNobodyHasABetterOne(t *testing.T) {
	c := newTestClient(t, Options{})
	info, err := c.NameServers([]string{deadAddr(t), freshNameServer(t).addr}).ClusterInfo(within(t))
	if err != nil || len(info.Brokers) != 0 {
		t.Error(info, err)
	}
}

func TestWhenAllNameServersFailEachIsNamed(t *testing.T) {
	dead, stalled := deadAddr(t), stalledNameServer(t).addr
	c := newTestClient(t, Options{RequestTimeout: 100 * time.Millisecond})
	_, err := c.NameServers([]string{dead, stalled}).ClusterInfo(within(t))
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	for _, addr := range []string{dead, stalled} {
		if err == nil || !strings.Contains(err.Error(), addr) {
			t.Errorf("%s is missing in %v", addr, err)
		}
	}
	if _, err := c.NameServers(nil).ClusterInfo(within(t)); err == nil {
		t.Error("no name server at all gave an answer")
	}
}

func TestAHedgedReadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
	defer cancel()
	c := newTestClient(t, Options{})
	started := time.Now()
	_, err := c.NameServers([]string{stalledNameServer(t).addr, stalledNameServer(t).addr}).ClusterInfo(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > 5*time.Second {
		t.Error(err, time.Since(started))
	}
}

func TestUnregisteringGoesToEveryNameServer(t *testing.T) {
	var mu sync.Mutex
	got := map[string]map[string]string{}
	server := func(name string) string {
		return answering(t, func(r *Command) *Command {
			mu.Lock()
			defer mu.Unlock()
			got[name] = r.Fields
			return ok(nil)
		}).addr
	}
	dead := deadAddr(t)
	addrs := []string{server("a"), dead, server("b")}
	c := newTestClient(t, Options{})
	err := c.NameServers(addrs).UnregisterBroker(within(t), Registration{
		Cluster: "DefaultCluster", Name: "broker-a", Addr: "127.0.0.1:20911", ID: 0,
	})
	if err == nil || !strings.Contains(err.Error(), dead) || strings.Contains(err.Error(), addrs[0]) {
		t.Errorf("%v", err)
	}
	fields := map[string]string{
		"clusterName": "DefaultCluster", "brokerName": "broker-a", "brokerAddr": "127.0.0.1:20911", "brokerId": "0",
	}
	if d := cmp.Diff(map[string]map[string]string{"a": fields, "b": fields}, got); d != "" {
		t.Error(d)
	}
}

func TestEachNameServersOwnViewCanBeHad(t *testing.T) {
	good, fresh, dead := goodNameServer(t).addr, freshNameServer(t).addr, deadAddr(t)
	ns := newTestClient(t, Options{}).NameServers([]string{good, fresh, dead})
	answers := AskEach(within(t), ns, func(ctx context.Context, addr string) (ClusterInfo, error) {
		return ns.ClusterInfoAt(ctx, addr)
	})
	if len(answers) != 3 || answers[0].Addr != good || len(answers[0].Value.Brokers) != 1 ||
		answers[1].Err != nil || len(answers[1].Value.Brokers) != 0 ||
		!errors.Is(answers[2].Err, syscall.ECONNREFUSED) {
		t.Errorf("%+v", answers)
	}
}
