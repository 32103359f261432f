package rocketmq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/magiconair/properties"

	"mqlift/internal/message"
)

// Broker is one broker process, addressed as it is and not through a route: each node answers from
// its own store and its own configuration.
type Broker struct {
	client *Client
	addr   string
}

// Broker returns the broker that listens at host:port.
func (c *Client) Broker(addr string) *Broker { return &Broker{client: c, addr: addr} }

// Addr returns the broker's host:port.
func (b *Broker) Addr() string { return b.addr }

// call is the way of nearly every request: fields in, a response with code 0 out.
func (b *Broker) call(ctx context.Context, code Code, fields map[string]string, body []byte) (*Command, error) {
	return b.client.Call(ctx, b.addr, &Command{Code: code, Fields: fields, Body: body})
}

// callJSON is a call whose result is the response's body.
func callJSON[T any](ctx context.Context, c *Client, addr string, code Code, fields map[string]string) (T, error) {
	var v T
	response, err := c.Call(ctx, addr, &Command{Code: code, Fields: fields})
	if err == nil {
		err = odd(addr, code, DecodeJSON(response.Body, &v))
	}
	return v, err
}

// odd says where an answer came from that cannot be read.
func odd(addr string, code Code, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s at %s: the answer cannot be read: %w", requestName(code), addr, err)
}

// refused tells that the peer answered with that code.
func refused(err error, code Code) bool {
	var r *ResponseError
	return errors.As(err, &r) && r.Code == code
}

// queue is the fields of a request about one queue.
func queue(topic string, queueID int) map[string]string {
	return map[string]string{"topic": topic, "queueId": strconv.Itoa(queueID)}
}

// collisions is how many index entries a look-up asks for at least. The index holds 31-bit hashes
// of topic#key, so in a file of 20 million entries about one look-up in a hundred also meets a
// stranger, and a reply of a single entry could be the stranger alone. Brokers cut at 64
// (maxMsgsNumBatch).
const collisions = 32

// QueryByKey returns the newest messages of a topic, at most limit, that carry the key in KEYS or as
// UNIQ_KEY and were stored in [from, to], oldest first; zero times leave that end open. It reads
// this node's own index and log. No such message is not an error. Brokers compare hashes only, so
// what they answer is looked at again here.
func (b *Broker) QueryByKey(ctx context.Context, topic, key string, limit int, from, to time.Time) ([]message.Message, error) {
	// The index keeps whole seconds since its file's first entry, rounded down (IndexFile.java,
	// 4.5.2): a message may seem up to a second older than it is.
	begin, end := int64(0), int64(math.MaxInt64)
	if !from.IsZero() {
		begin = from.UnixMilli() - 1000
	}
	if !to.IsZero() {
		end = to.UnixMilli()
	}
	response, err := b.call(ctx, QueryMessage, map[string]string{
		"topic":          topic,
		"key":            key,
		"maxNum":         strconv.Itoa(max(limit, collisions)),
		"beginTimestamp": strconv.FormatInt(begin, 10),
		"endTimestamp":   strconv.FormatInt(end, 10),
	}, nil)
	if refused(err, ResponseQueryNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := message.DecodeAll(response.Body)
	if err != nil {
		return nil, odd(b.addr, QueryMessage, err)
	}
	found := slices.DeleteFunc(all, func(m message.Message) bool {
		return m.Topic != topic || !m.HasKey(key) ||
			!from.IsZero() && m.Stored.UnixMilli() < from.UnixMilli() ||
			!to.IsZero() && m.Stored.UnixMilli() > to.UnixMilli()
	})
	if len(found) > limit {
		found = found[len(found)-limit:]
	}
	return found, nil
}

// SendRequest is one message to be stored.
type SendRequest struct {
	Group string // producer group
	Topic string
	// QueueID -1 leaves the choice to the broker.
	QueueID    int
	Body       []byte
	Properties map[string]string // message.PropertyKeys, …
	Flag       int32
	// SysFlag is the stored one, with bit 0 when Body is zlib.
	SysFlag        int32
	Born           time.Time // zero: now
	ReconsumeTimes int
}

// SendStatus is how far an acknowledged message had got. All of them mean that it is stored.
type SendStatus int

// Send statuses, by the response code behind each.
const (
	SendOK            = SendStatus(ResponseSuccess)
	FlushDiskTimeout  = SendStatus(ResponseFlushDiskTimeout)  // not on the disk yet (SYNC_FLUSH)
	FlushSlaveTimeout = SendStatus(ResponseFlushSlaveTimeout) // not on a slave in time (SYNC_MASTER)
	SlaveNotAvailable = SendStatus(ResponseSlaveNotAvailable) // no slave is near enough (SYNC_MASTER)
)

func (s SendStatus) String() string {
	if s == SendOK {
		return "SEND_OK"
	}
	return responseName(Code(s))
}

// SendResult is a broker's acknowledgement.
type SendResult struct {
	Status SendStatus
	// MsgID is the store host's address and the physical offset, in hex.
	MsgID       string
	QueueID     int
	QueueOffset int64
}

// Send stores one message on this broker. It never creates a topic: an unknown one is refused with
// ResponseTopicNotExist even where autoCreateTopicEnable is on. An error leaves it open whether
// the message was stored when it is a *CallError with Sent, or a *ResponseError with code 1, which
// DLedger also answers when its quorum was late.
func (b *Broker) Send(ctx context.Context, r SendRequest) (SendResult, error) {
	born := r.Born
	if born.IsZero() {
		born = time.Now()
	}
	// SendMessageRequestHeaderV2.java: SEND_MESSAGE's fields under letters.
	response, err := b.call(ctx, SendMessageV2, map[string]string{
		"a": r.Group,
		"b": r.Topic,
		"c": r.Topic, // defaultTopic, the pattern for an automatic creation: one that is not there
		"d": "4",     // defaultTopicQueueNums
		"e": strconv.Itoa(r.QueueID),
		"f": strconv.Itoa(int(r.SysFlag)),
		"g": strconv.FormatInt(born.UnixMilli(), 10),
		"h": strconv.Itoa(int(r.Flag)),
		"i": message.PropertiesString(r.Properties),
		"j": strconv.Itoa(r.ReconsumeTimes),
		"k": "false", // unitMode
		"m": "false", // batch
	}, r.Body)
	var re *ResponseError
	if errors.As(err, &re) {
		switch re.Code {
		case ResponseFlushDiskTimeout, ResponseFlushSlaveTimeout, ResponseSlaveNotAvailable:
			err = nil
		}
	}
	if err != nil {
		return SendResult{}, err
	}
	result := SendResult{Status: SendStatus(response.Code), MsgID: response.Fields["msgId"]}
	id, err := response.Int64("queueId")
	if err == nil {
		result.QueueOffset, err = response.Int64("queueOffset")
	}
	result.QueueID = int(id)
	return result, odd(b.addr, SendMessageV2, err)
}

// toolsGroup is the consumer group that every broker has from its start
// (MixAll.TOOLS_CONSUMER_GROUP), so that a pull works with autoCreateSubscriptionGroup=false.
const toolsGroup = "TOOLS_CONSUMER"

// PullResult is a stretch of a queue.
type PullResult struct {
	// Messages is empty at the queue's end, and where an offset is not in the queue.
	Messages []message.Message
	// Next is the offset to go on from; Min and Max are the queue's first offset and its end.
	Next, Min, Max int64
}

// Pull reads at most limit messages of a queue from an offset on, without a consumer and without
// moving any group's offset; a queue that is not there looks like an empty one. The broker may
// return fewer: up to 32 messages or 256 KB from memory, 8 or 64 KB from disk (MessageStoreConfig,
// 4.5.2).
//
// The broker is never asked for an offset outside of the queue: a master would write a message
// about it into its log, past any fence for sends (topic OFFSET_MOVED_EVENT; PullMessageProcessor,
// 4.5.2 to 5.3.3; the message itself was seen on 4.5.2).
func (b *Broker) Pull(ctx context.Context, topic string, queueID int, offset int64, limit int) (PullResult, error) {
	first, err := b.MinOffset(ctx, topic, queueID)
	if err != nil {
		return PullResult{}, err
	}
	end, err := b.MaxOffset(ctx, topic, queueID)
	if err != nil {
		return PullResult{}, err
	}
	if offset < first {
		return PullResult{Next: first, Min: first, Max: end}, nil
	}
	if offset >= end {
		return PullResult{Next: end, Min: first, Max: end}, nil
	}
	fields := queue(topic, queueID)
	for k, v := range map[string]string{
		"consumerGroup":        toolsGroup,
		"queueOffset":          strconv.FormatInt(offset, 10),
		"maxMsgNums":           strconv.Itoa(limit),
		"sysFlag":              "4", // the subscription is in the request; neither wait nor commit
		"commitOffset":         "0",
		"suspendTimeoutMillis": "0",
		"subscription":         "*",
		"subVersion":           "0",
		"expressionType":       "TAG",
	} {
		fields[k] = v
	}
	response, err := b.call(ctx, PullMessage, fields, nil)
	if err != nil && !refused(err, ResponsePullNotFound) && !refused(err, ResponsePullRetryImmediately) &&
		!refused(err, ResponsePullOffsetMoved) {
		return PullResult{}, err
	}
	var r PullResult
	r.Next, err = response.Int64("nextBeginOffset")
	if err == nil {
		r.Min, err = response.Int64("minOffset")
	}
	if err == nil {
		r.Max, err = response.Int64("maxOffset")
	}
	if err == nil && response.Code == ResponseSuccess {
		r.Messages, err = message.DecodeAll(response.Body)
	}
	return r, odd(b.addr, PullMessage, err)
}

// MaxOffset is the offset that a queue's next message gets; 0 for a queue that is not there.
func (b *Broker) MaxOffset(ctx context.Context, topic string, queueID int) (int64, error) {
	return b.offset(ctx, GetMaxOffset, queue(topic, queueID))
}

// MinOffset is the offset of the first message kept in a queue; 0 for a queue that is not there.
func (b *Broker) MinOffset(ctx context.Context, topic string, queueID int) (int64, error) {
	return b.offset(ctx, GetMinOffset, queue(topic, queueID))
}

func (b *Broker) offset(ctx context.Context, code Code, fields map[string]string) (int64, error) {
	response, err := b.call(ctx, code, fields, nil)
	if err != nil {
		return 0, err
	}
	n, err := response.Int64("offset")
	return n, odd(b.addr, code, err)
}

// RuntimeInfo asks for the broker's figures about itself.
func (b *Broker) RuntimeInfo(ctx context.Context) (RuntimeInfo, error) {
	body, err := callJSON[struct {
		Table RuntimeInfo `json:"table"`
	}](ctx, b.client, b.addr, GetBrokerRuntimeInfo, nil)
	if err == nil && body.Table == nil {
		err = odd(b.addr, GetBrokerRuntimeInfo, errors.New("there is no table in it"))
	}
	return body.Table, err
}

// RuntimeInfo is a broker's figures by the names that AdminBrokerProcessor.prepareRuntimeInfo and
// StoreStatsService give them.
type RuntimeInfo map[string]string

// Int64 reads a figure; a missing or odd one is an error and never 0.
func (i RuntimeInfo) Int64(name string) (int64, error) {
	if _, ok := i[name]; !ok {
		return 0, fmt.Errorf("the broker's runtime info has no %s", name)
	}
	n, err := strconv.ParseInt(i[name], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the broker's runtime info has %s=%q, not a number", name, i[name])
	}
	return n, nil
}

// Version is the release, such as V4_5_2.
func (i RuntimeInfo) Version() string { return i["brokerVersionDesc"] }

// CommitLogMinOffset is the physical offset of the first byte kept.
func (i RuntimeInfo) CommitLogMinOffset() (int64, error) { return i.Int64("commitLogMinOffset") }

// CommitLogMaxOffset is the physical offset of the log's end.
func (i RuntimeInfo) CommitLogMaxOffset() (int64, error) { return i.Int64("commitLogMaxOffset") }

// DispatchBehind is how many bytes of the log are not yet in consume queues and index.
func (i RuntimeInfo) DispatchBehind() (int64, error) { return i.Int64("dispatchBehindBytes") }

// Booted is when the message store was opened.
func (i RuntimeInfo) Booted() (time.Time, error) {
	ms, err := i.Int64("bootTimestamp")
	return time.UnixMilli(ms), err
}

// AcceptsSendsFrom is startAcceptSendRequestTimeStamp: before it, every send is refused.
func (i RuntimeInfo) AcceptsSendsFrom() (time.Time, error) {
	ms, err := i.Int64("startAcceptSendRequestTimeStamp")
	return time.UnixMilli(ms), err
}

// Config reads the configuration in effect: all properties of the broker, its store, Netty and the
// rest, with their defaults. They are read as RocketMQ's own tools read them. The broker writes
// values as they are, without escapes, so that a backslash in one is lost on this way.
func (b *Broker) Config(ctx context.Context) (map[string]string, error) {
	response, err := b.call(ctx, GetBrokerConfig, nil, nil)
	if err != nil {
		return nil, err
	}
	config, err := parseProperties(response.Body)
	return config, odd(b.addr, GetBrokerConfig, err)
}

// parseProperties reads a text as java.util.Properties would. ${…} is text, as it is to Java.
func parseProperties(text []byte) (map[string]string, error) {
	loader := properties.Loader{Encoding: properties.UTF8, DisableExpansion: true}
	p, err := loader.LoadBytes(text)
	if err != nil {
		return nil, err
	}
	return p.Map(), nil
}

// ConfigNotTakenError tells which properties a broker did not take although it answered that all
// was well: unknown names and values that do not fit are skipped in silence.
type ConfigNotTakenError struct {
	Addr string
	// Want is what was asked for, and Got what is in effect ("" when there is no such property).
	Want, Got map[string]string
}

func (e *ConfigNotTakenError) Error() string {
	var parts []string
	for k, v := range e.Want {
		parts = append(parts, fmt.Sprintf("%s=%s (in effect: %q)", k, v, e.Got[k]))
	}
	slices.Sort(parts)
	return fmt.Sprintf("the broker at %s did not take %s", e.Addr, strings.Join(parts, ", "))
}

// UpdateConfig changes properties of the running broker, reads them back, and returns a
// *ConfigNotTakenError when one is not in effect. The broker rewrites broker.conf with every
// property it knows: the operator's file is to be put back afterwards. With brokerPermission among
// them it registers with the name servers before it answers.
func (b *Broker) UpdateConfig(ctx context.Context, set map[string]string) error {
	if _, err := b.call(ctx, UpdateBrokerConfig, nil, formatProperties(set)); err != nil {
		return err
	}
	now, err := b.Config(ctx)
	if err != nil {
		return fmt.Errorf("after changing the configuration: %w", err)
	}
	missed := &ConfigNotTakenError{Addr: b.addr, Want: map[string]string{}, Got: map[string]string{}}
	for k, v := range set {
		if got := now[k]; strings.TrimSpace(got) != strings.TrimSpace(v) {
			missed.Want[k], missed.Got[k] = v, got
		}
	}
	if len(missed.Want) > 0 {
		return missed
	}
	return nil
}

// formatProperties writes a text that java.util.Properties reads back as these, whatever they
// hold; brokers read it as ISO-8859-1, so that other letters need escapes.
func formatProperties(set map[string]string) []byte {
	var b strings.Builder
	escape := func(s string, key bool) {
		for i, r := range s {
			switch {
			case r == '\\', key && strings.ContainsRune("=:#! ", r), r == ' ' && i == 0:
				b.WriteByte('\\')
				b.WriteRune(r)
			case r < ' ' || r > '~':
				for _, u := range utf16Units(r) {
					fmt.Fprintf(&b, `\u%04x`, u)
				}
			default:
				b.WriteRune(r)
			}
		}
	}
	for _, k := range sortedKeys(set) {
		escape(k, true)
		b.WriteByte('=')
		escape(set[k], false)
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

// CreateTopic creates a topic or changes it, and returns when the broker's list has it: 4.5.2
// answers before it has done it, and would refuse a send in between. The route follows with the
// registration at the name servers. 4.5.2 ignores Order.
func (b *Broker) CreateTopic(ctx context.Context, t TopicConfig) error {
	fields := map[string]string{
		"topic":           t.Name,
		"defaultTopic":    "TBW102", // required, and not looked at
		"readQueueNums":   strconv.Itoa(t.ReadQueues),
		"writeQueueNums":  strconv.Itoa(t.WriteQueues),
		"perm":            strconv.Itoa(t.Perm),
		"topicFilterType": t.FilterType,
		"topicSysFlag":    strconv.Itoa(t.SysFlag),
		"order":           strconv.FormatBool(t.Order),
	}
	if t.FilterType == "" {
		fields["topicFilterType"] = "SINGLE_TAG"
	}
	if _, err := b.call(ctx, CreateTopic, fields, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, b.client.options.RequestTimeout)
	defer cancel()
	for {
		topics, _, err := b.Topics(ctx)
		if err != nil {
			return fmt.Errorf("after creating topic %s: %w", t.Name, err)
		}
		got, ok := topics[t.Name]
		if ok && got.ReadQueues == t.ReadQueues && got.WriteQueues == t.WriteQueues && got.Perm == t.Perm {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the broker at %s accepted topic %s but does not list it as asked: %w", b.addr, t.Name, ctx.Err())
		}
	}
}

// Topics lists the topics by name, system and retry topics included, with their version.
func (b *Broker) Topics(ctx context.Context) (map[string]TopicConfig, DataVersion, error) {
	response, err := b.call(ctx, GetAllTopicConfig, nil, nil)
	if err != nil {
		return nil, DataVersion{}, err
	}
	topics, version, err := ParseTopics(response.Body)
	return topics, version, odd(b.addr, GetAllTopicConfig, err)
}

// CreateSubscriptionGroup creates a consumer group or changes it; start from
// NewSubscriptionGroup, since a zero SubscriptionGroupConfig forbids everything.
func (b *Broker) CreateSubscriptionGroup(ctx context.Context, g SubscriptionGroupConfig) error {
	body, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("creating subscription group %s: %w", g.Name, err)
	}
	_, err = b.call(ctx, CreateSubscriptionGroup, nil, body)
	return err
}

// SubscriptionGroups lists the consumer groups by name.
func (b *Broker) SubscriptionGroups(ctx context.Context) (map[string]SubscriptionGroupConfig, DataVersion, error) {
	response, err := b.call(ctx, GetAllSubscriptionGroupConf, nil, nil)
	if err != nil {
		return nil, DataVersion{}, err
	}
	groups, version, err := ParseSubscriptionGroups(response.Body)
	return groups, version, odd(b.addr, GetAllSubscriptionGroupConf, err)
}

// ConsumerOffsets reads what all groups have committed to this broker.
func (b *Broker) ConsumerOffsets(ctx context.Context) (ConsumerOffsets, error) {
	response, err := b.call(ctx, GetAllConsumerOffset, nil, nil)
	if err != nil {
		return nil, err
	}
	offsets, err := ParseConsumerOffsets(response.Body)
	return offsets, odd(b.addr, GetAllConsumerOffset, err)
}

// UpdateConsumerOffset sets what a group has committed for a queue, also backwards. 5.x refuses
// unknown groups (code 26) and topics (code 17); 4.5.2 takes any.
func (b *Broker) UpdateConsumerOffset(ctx context.Context, group, topic string, queueID int, offset int64) error {
	fields := queue(topic, queueID)
	fields["consumerGroup"] = group
	fields["commitOffset"] = strconv.FormatInt(offset, 10)
	_, err := b.call(ctx, UpdateConsumerOffset, fields, nil)
	return err
}

// ConsumerOffset reads what a group has committed for a queue; found is false when it has not.
// 4.5.2 answers 0 also for a group that never has, where the queue still starts at 0 and its first
// message is in memory: ConsumerOffsets tells the two apart.
func (b *Broker) ConsumerOffset(ctx context.Context, group, topic string, queueID int) (offset int64, found bool, err error) {
	fields := queue(topic, queueID)
	fields["consumerGroup"] = group
	fields["setZeroIfNotFound"] = "false" // 5.x
	offset, err = b.offset(ctx, QueryConsumerOffset, fields)
	if refused(err, ResponseQueryNotFound) {
		return 0, false, nil
	}
	return offset, err == nil, err
}

// DelayOffsets reads how far each delay level has been delivered.
func (b *Broker) DelayOffsets(ctx context.Context) (DelayOffsets, error) {
	response, err := b.call(ctx, GetAllDelayOffset, nil, nil)
	if err != nil {
		return nil, err
	}
	offsets, err := ParseDelayOffsets(response.Body)
	return offsets, odd(b.addr, GetAllDelayOffset, err)
}

// Consumers lists the client ids of a group that are connected to this broker.
func (b *Broker) Consumers(ctx context.Context, group string) ([]string, error) {
	body, err := callJSON[struct {
		IDs []string `json:"consumerIdList"`
	}](ctx, b.client, b.addr, GetConsumerList, map[string]string{"consumerGroup": group})
	var re *ResponseError
	if errors.As(err, &re) && strings.HasPrefix(re.Remark, "no consumer for this group") {
		return nil, nil // code 1, like any failure: ConsumerManageProcessor, 4.5.2 and 5.3.3
	}
	return body.IDs, err
}

// ConsumerConnections are the clients of one consumer group that are connected to a broker.
type ConsumerConnections struct {
	Clients []struct {
		ID       string `json:"clientId"`
		Addr     string `json:"clientAddr"`
		Language string `json:"language"` // JAVA, GO, CPP, … (LanguageCode.java)
		Version  int    `json:"version"`  // ordinal of MQVersion.Version, as the client gives it
	} `json:"connectionSet"`
	Type      string `json:"consumeType"`      // CONSUME_PASSIVELY (push) or CONSUME_ACTIVELY (pull)
	Model     string `json:"messageModel"`     // CLUSTERING or BROADCASTING
	FromWhere string `json:"consumeFromWhere"` // CONSUME_FROM_LAST_OFFSET, …
	// Subscriptions are what the group is subscribed to, by topic, as the clients said it (SubscriptionData.java).
	Subscriptions map[string]json.RawMessage `json:"subscriptionTable"`
}

// ConsumerConnections lists the clients of a group; a group without any is no error.
func (b *Broker) ConsumerConnections(ctx context.Context, group string) (ConsumerConnections, error) {
	c, err := callJSON[ConsumerConnections](ctx, b.client, b.addr, GetConsumerConnections, map[string]string{"consumerGroup": group})
	if refused(err, ResponseConsumerNotOnline) {
		return ConsumerConnections{}, nil
	}
	return c, err
}

// Heartbeat is what a client tells a broker of itself every 30 s (HeartbeatData.java), here of its consumers
// alone. From then on the connection that it comes over is, for the broker, the client: a member of these groups
// until the connection ends or has brought no heartbeat for 120 s.
type Heartbeat struct {
	ClientID string        `json:"clientID"`
	Groups   []GroupMember `json:"consumerDataSet"`
	Language string        `json:"-"` // of the client, as in ConsumerConnections
	Version  int           `json:"-"`
}

// GroupMember is how a client consumes as a member of a group (ConsumerData.java). A group's subscriptions are
// those of the last heartbeat.
type GroupMember struct {
	Group         string            `json:"groupName"`
	Type          string            `json:"consumeType"`
	Model         string            `json:"messageModel"`
	FromWhere     string            `json:"consumeFromWhere"`
	Subscriptions []json.RawMessage `json:"subscriptionDataSet"`
}

// SendHeartbeat makes the Client's connection to this broker that client's, and returns when it is one. Where
// ACL is on, the credentials must allow what is subscribed to.
func (b *Broker) SendHeartbeat(ctx context.Context, h Heartbeat) error {
	body, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("the heartbeat of %s: %w", h.ClientID, err)
	}
	_, err = b.client.Call(ctx, b.addr, &Command{Code: SendHeartbeat, Language: h.Language, Version: h.Version, Body: body})
	return err
}
