package probe

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"

	"mqlift/internal/rocketmq"
)

// Defaults of ClientSender.
const (
	DefaultRate       = 50 // sends per second
	DefaultRetryAfter = 100 * time.Millisecond
)

const (
	// clientSendTimeout is what SendSync of client-go v2.1.2 waits for an answer, whatever its
	// options say (producer.sendSync).
	clientSendTimeout = 3 * time.Second
	// clientStopLimit is how long Run waits for sends under way. Only a first send can take longer:
	// it asks each name server for the route, 6 s each, and takes no notice of its context.
	clientStopLimit = clientSendTimeout + 2*time.Second
)

// ClientSender is an application that sends: an unmodified rocketmq-client-go producer, which renews
// its route every 30 s, with the retries left to a loop of its own.
//
// Every 1/Rate seconds there is one attempt: a message that failed RetryAfter ago or earlier, else a
// new one. So the rate stays the same during an outage and after it, and a stuck send holds up
// nothing but its own message.
type ClientSender struct {
	// NameServers as ip:port: client-go v2.1.2 refuses host names.
	NameServers []string
	Topic       string
	Group       string
	Credentials *rocketmq.Credentials // ACL; nil without
	// Keys are KeyPrefix and a number of at least six digits, counted up from Start.
	KeyPrefix string
	Start     int
	// Count of messages after which the run is over, when all are acknowledged; 0: until the
	// context ends.
	Count      int
	Rate       float64                 // attempts per second; DefaultRate
	RetryAfter time.Duration           // DefaultRetryAfter
	Body       func(key string) []byte // default: the key
	// PinRoute keeps the route as it was at the first acknowledged send, however long the run
	// takes: the slowest of clients.
	PinRoute bool
	Timeline *Timeline
	Sent     *Sent
}

// Run sends until the context ends or Count messages are acknowledged, waits for what is under way
// and shuts the producer down. It returns nil then. An error means that it could not begin, or that
// the client library failed and the record cannot be relied upon.
//
// What v2.1.2 leaves behind after a shutdown: its connection to a name server, until that was silent
// for 120 s, and for 10 s two sleeping goroutines.
func (c *ClientSender) Run(ctx context.Context) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("client sender: %w", err)
	}
	quietClient()
	panicsBefore := clientPanics.Load()

	servers := c.NameServers
	var pin *forwarder
	if c.PinRoute {
		var err error
		if pin, err = forward(servers); err != nil {
			return fmt.Errorf("client sender: pinning the route: %w", err)
		}
		defer pin.Close()
		servers = []string{pin.Addr()}
	}
	options := []producer.Option{
		producer.WithNsResolver(primitive.NewPassthroughResolver(servers)),
		producer.WithGroupName(c.Group),
		// Producers of one process with the same instance name share one client, with the name servers
		// of whichever came first (internal.GetOrNewRocketMQClient).
		producer.WithInstanceName("mqlift-" + rand.Text()),
		producer.WithRetry(0),
		// For a topic without a route the client would take that of TBW102, and a broker with
		// autoCreateTopicEnable would create the topic. Its own name in that place prevents both.
		producer.WithCreateTopicKey(c.Topic),
	}
	if c.Credentials != nil {
		options = append(options, producer.WithCredentials(primitive.Credentials{
			AccessKey: c.Credentials.AccessKey, SecretKey: c.Credentials.SecretKey,
			SecurityToken: c.Credentials.SecurityToken,
		}))
	}
	p, err := producer.NewDefaultProducer(options...)
	if err != nil {
		return fmt.Errorf("client sender: making the producer: %w", err)
	}
	if err := p.Start(); err != nil {
		p.Shutdown()
		return fmt.Errorf("client sender: starting the producer: %w", err)
	}
	left := c.dispatch(ctx, p.SendSync, pin)
	if left.wait(clientStopLimit) {
		p.Shutdown()
	} else {
		// A shutdown under a running send is a data race in the library: it comes when the last has ended.
		err = fmt.Errorf("client sender: sends still under way %s after the end", clientStopLimit)
		go func() {
			left.running.Wait()
			p.Shutdown()
		}()
	}
	if n := clientPanics.Load() - panicsBefore; n > 0 {
		err = errors.Join(err, fmt.Errorf("client sender: rocketmq-client-go panicked %d times, the last: %v",
			n, lastClientPanic.Load()))
	}
	return err
}

func (c *ClientSender) check() error {
	var problems []error
	if len(c.NameServers) == 0 {
		problems = append(problems, errors.New("no name servers"))
	}
	for _, addr := range c.NameServers {
		if _, err := netip.ParseAddrPort(addr); err != nil {
			problems = append(problems, fmt.Errorf("name server %q: give it as ip:port: %w", addr, err))
		}
	}
	if c.Topic == "" || c.Group == "" {
		problems = append(problems, errors.New("no topic or no producer group"))
	}
	if c.Timeline == nil || c.Sent == nil {
		problems = append(problems, errors.New("no timeline or no ledger"))
	}
	if c.Rate < 0 || c.Count < 0 {
		problems = append(problems, errors.New("negative rate or count"))
	}
	return errors.Join(problems...)
}

// sendSync is the producer's SendSync.
type sendSync func(ctx context.Context, msgs ...*primitive.Message) (*primitive.SendResult, error)

// underway counts the attempts that have not ended.
type underway struct{ running sync.WaitGroup }

func (u *underway) wait(limit time.Duration) bool {
	all := make(chan struct{})
	go func() {
		u.running.Wait()
		close(all)
	}()
	select {
	case <-all:
		return true
	case <-time.After(limit):
		return false
	}
}

// outgoing is a message that was not acknowledged yet. It is sent again as the same object, as an
// application's retry would: all copies then have the same UNIQ_KEY.
type outgoing struct {
	key string
	msg *primitive.Message
	due time.Time // not before
}

type outcome struct {
	*outgoing
	err error
}

// dispatch makes attempts until there is no more to do, and returns those not ended.
func (c *ClientSender) dispatch(ctx context.Context, send sendSync, pin *forwarder) *underway {
	rate := cmp.Or(c.Rate, DefaultRate)
	retryAfter := cmp.Or(c.RetryAfter, DefaultRetryAfter)
	room := int(rate*clientSendTimeout.Seconds()) + 2 // as many as can be stuck at once
	outcomes := make(chan outcome, room)              // never blocks, also when nobody listens any more
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()

	var (
		under   underway
		busy    int
		begun   int
		acked   int
		waiting []*outgoing // failed ones, the earliest due first
	)
	next := func(now time.Time) *outgoing {
		if len(waiting) > 0 && !waiting[0].due.After(now) {
			o := waiting[0]
			waiting = waiting[1:]
			return o
		}
		if c.Count > 0 && begun == c.Count {
			return nil
		}
		key := NumberedKey(c.KeyPrefix, c.Start+begun)
		begun++
		return &outgoing{key: key, msg: c.message(key)}
	}
	for c.Count == 0 || acked < c.Count {
		select {
		case <-ctx.Done():
			return &under
		case o := <-outcomes:
			busy--
			if o.err == nil {
				acked++
				if pin != nil {
					pin.Close()
				}
				continue
			}
			o.due = time.Now().Add(retryAfter)
			waiting = append(waiting, o.outgoing)
		case now := <-tick.C:
			// Until one send got through the client has no route and asks for it within each send, under
			// one lock and without a context: many at once would queue up for minutes.
			if busy >= room || acked == 0 && busy > 0 {
				continue
			}
			if o := next(now); o != nil {
				busy++
				under.running.Go(func() { outcomes <- outcome{o, c.attempt(ctx, send, o)} })
			}
		}
	}
	return &under
}

func (c *ClientSender) message(key string) *primitive.Message {
	body := []byte(key)
	if c.Body != nil {
		body = c.Body(key)
	}
	return primitive.NewMessage(c.Topic, body).WithKeys([]string{key})
}

// attempt sends once and records what came of it. The end of the run does not break it off: whether
// it was stored would be unknown.
func (c *ClientSender) attempt(ctx context.Context, send sendSync, o *outgoing) error {
	start := time.Now()
	r, err := sendOnce(context.WithoutCancel(ctx), send, o.msg)
	c.Timeline.Record(start, err)
	if err != nil {
		c.Sent.Unacknowledged(c.Topic, o.key, err)
		return err
	}
	e := Entry{Topic: c.Topic, Key: o.key, Broker: r.MessageQueue.BrokerName, MsgID: r.OffsetMsgID,
		Queue: r.MessageQueue.QueueId, Offset: r.QueueOffset, At: time.Now()}
	switch r.Status { // each of these comes back without an error (internal.ProcessSendResponse)
	case primitive.SendFlushDiskTimeout:
		e.Status = rocketmq.FlushDiskTimeout.String()
	case primitive.SendFlushSlaveTimeout:
		e.Status = rocketmq.FlushSlaveTimeout.String()
	case primitive.SendSlaveNotAvailable:
		e.Status = rocketmq.SlaveNotAvailable.String()
	}
	c.Sent.Acknowledged(e)
	return nil
}

func sendOnce(ctx context.Context, send sendSync, msg *primitive.Message) (r *primitive.SendResult, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("rocketmq-client-go panicked: %v", p)
		}
	}()
	r, err = send(ctx, msg)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// rocketmq-client-go keeps its logger and its panic handler in variables of its own packages, so
// setting them is global to the process. It is done once, before the first producer: the library
// reads both without a lock.
var (
	clientPanics    atomic.Int64
	lastClientPanic atomic.Value

	quietClient = sync.OnceFunc(func() {
		rlog.SetLogger(silent{})
		// Without a handler a panic in one of the library's goroutines, such as on a frame with a negative
		// length, ends the process, in the middle of whatever else it is doing.
		primitive.PanicHandler = func(p any) {
			lastClientPanic.Store(fmt.Sprint(p))
			clientPanics.Add(1)
		}
	})
)

// QuietClient silences rocketmq-client-go for the whole process: its logger writes to standard error.
// Whoever makes a producer or consumer of that library outside of this package calls it first.
// ClientSender does so itself.
func QuietClient() { quietClient() }

type silent struct{}

func (silent) Debug(string, map[string]any)   {}
func (silent) Info(string, map[string]any)    {}
func (silent) Warning(string, map[string]any) {}
func (silent) Error(string, map[string]any)   {}
func (silent) Fatal(string, map[string]any)   {} // the library's own would exit the process
func (silent) Level(string)                   {}
func (silent) OutputPath(string) error        { return nil }
