package probe

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
)

func TestClientSenderSendsCountMessagesAndTakesNoMore(t *testing.T) {
	g := newGroup(t)
	sent, tl := &Sent{}, &Timeline{}
	c := &ClientSender{NameServers: g.servers(), Topic: testTopic, Group: "app", KeyPrefix: "m", Start: 600000, Count: 20,
		Rate: 200, Timeline: tl, Sent: sent}
	if err := c.Run(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	entries := sent.Acked()
	if len(entries) != 20 || g.stored() != 20 || entries[0].Key != "m600000" {
		t.Fatalf("%d acknowledged, %d stored, %+v", len(entries), g.stored(), entries)
	}
	found, err := Lookup{Brokers: g.brokers()}.Find(t.Context(), entries, g.addrs()[:1])
	if err != nil || len(found[0].Found) != 20 || len(found[0].Copies) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestSeveralClientSendersInOneProcessKeepTheirOwnNameServers(t *testing.T) {
	var all sync.WaitGroup
	for range 3 {
		g := newGroup(t)
		all.Go(func() {
			c := &ClientSender{NameServers: g.servers(), Topic: testTopic, Group: "app", Count: 10, Rate: 200,
				Timeline: &Timeline{}, Sent: &Sent{}}
			if err := c.Run(t.Context()); err != nil || g.stored() != 10 {
				t.Errorf("%d stored, %v", g.stored(), err)
			}
		})
	}
	all.Wait()
}

func TestClientSenderWithoutAClusterEndsWithItsContext(t *testing.T) {
	dead := listen(t, nil)
	dead.kill()
	tl, sent := &Timeline{}, &Sent{}
	stop := runs(t, (&ClientSender{NameServers: []string{dead.addr}, Topic: testTopic, Group: "app", Timeline: tl,
		Sent: sent}).Run)
	if err := waitFailure(t, tl, time.Time{}); !strings.Contains(err, "route info not found") {
		t.Errorf("failure: %s", err)
	}
	stop()
	if len(sent.Unacked()) == 0 || len(sent.Acked()) != 0 {
		t.Errorf("ledger: %+v", sent.Entries())
	}
}

func TestClientSenderRefusesWhatItCannotUse(t *testing.T) {
	err := (&ClientSender{NameServers: []string{"mq1:9876"}, Rate: -1}).Run(t.Context())
	for _, part := range []string{"mq1:9876", "ip:port", "topic", "ledger", "rate"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("no %q in: %v", part, err)
		}
	}
}

func acknowledge(context.Context, ...*primitive.Message) (*primitive.SendResult, error) {
	return &primitive.SendResult{MessageQueue: &primitive.MessageQueue{BrokerName: testBroker}}, nil
}

func TestStuckClientSendsDoNotStopTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := &Timeline{}
		c := &ClientSender{Topic: testTopic, Timeline: tl, Sent: &Sent{}} // 50 a second
		var calls atomic.Int64
		send := func(ctx context.Context, m ...*primitive.Message) (*primitive.SendResult, error) {
			if calls.Add(1) == 1 {
				return acknowledge(ctx)
			}
			time.Sleep(clientSendTimeout)
			return nil, errors.New("request timeout")
		}
		c.dispatch(within(t, 10*time.Second), send, nil).running.Wait()
		if n := calls.Load(); n < 495 || n > 500 {
			t.Errorf("%d sends in 10 s", n)
		}
	})
}

func TestTheFirstClientSendIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &ClientSender{Topic: testTopic, Timeline: &Timeline{}, Sent: &Sent{}}
		var running, most atomic.Int64
		send := func(context.Context, ...*primitive.Message) (*primitive.SendResult, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(12 * time.Second)
			return nil, errors.New("no route")
		}
		c.dispatch(within(t, time.Minute), send, nil).running.Wait()
		if most.Load() != 1 {
			t.Errorf("%d at once before any was acknowledged", most.Load())
		}
	})
}

func TestFailedMessagesAreSentAgainAsTheSameUntilAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := &Sent{}
		c := &ClientSender{Topic: testTopic, KeyPrefix: "m", Count: 30, Timeline: &Timeline{}, Sent: sent}
		began := time.Now()
		var mu sync.Mutex
		objects := map[string]*primitive.Message{}
		last := map[string]time.Time{}
		send := func(ctx context.Context, ms ...*primitive.Message) (*primitive.SendResult, error) {
			mu.Lock()
			defer mu.Unlock()
			m := ms[0]
			if before := objects[m.GetKeys()]; before != nil && before != m {
				t.Errorf("%s was sent again as another message", m.GetKeys())
			}
			if gap := time.Since(last[m.GetKeys()]); gap < DefaultRetryAfter {
				t.Errorf("%s was sent again after %s", m.GetKeys(), gap)
			}
			objects[m.GetKeys()], last[m.GetKeys()] = m, time.Now()
			if since := time.Since(began); since > 200*time.Millisecond && since < 2*time.Second {
				return nil, errors.New("refused")
			}
			return acknowledge(ctx)
		}
		c.dispatch(within(t, time.Minute), send, nil).running.Wait()
		if n := len(sent.Acked()); n != 30 {
			t.Errorf("%d acknowledged", n)
		}
		retried := 0
		for _, e := range sent.Acked() {
			if e.Tries > 1 {
				retried++
			}
		}
		if retried == 0 {
			t.Error("nothing was sent again")
		}
	})
}

func TestAPanicInTheClientLibraryIsAFailedSend(t *testing.T) {
	_, err := sendOnce(t.Context(), func(context.Context, ...*primitive.Message) (*primitive.SendResult, error) {
		panic("slice bounds out of range")
	}, nil)
	if err == nil || !strings.Contains(err.Error(), "slice bounds") {
		t.Errorf("%v", err)
	}
}

func TestAPinnedClientIsCutOffFromTheNameServersAndSendsOn(t *testing.T) {
	g := newGroup(t)
	tl := &Timeline{}
	runs(t, (&ClientSender{NameServers: g.servers(), Topic: testTopic, Group: "app", PinRoute: true, Timeline: tl,
		Sent: &Sent{}}).Run)
	if err := tl.WaitSteady(within(t, 10*time.Second), time.Time{}, 2); err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(10 * time.Second); g.nameServer.open.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("still connected to the name server")
		}
	}
	if err := tl.WaitSteady(within(t, 10*time.Second), time.Now(), 5); err != nil {
		t.Error(err)
	}
}

func TestForwarderTakesTheFirstThatAcceptsAndEndsForGood(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	dead := listen(t, nil)
	dead.kill()
	f, err := forward([]string{dead.addr, echo.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	c.Write([]byte("ping"))
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
		t.Fatalf("%q, %v", b, err)
	}
	f.Close()
	if _, err := c.Read(b); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection is still open: %v", err)
	}
	if c, err := net.Dial("tcp", f.Addr()); err == nil {
		c.Close()
		t.Error("it still accepts")
	}
}
