package rocketmq

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"mqlift/internal/message"
)

const caseTopic = "topic_dw_test_by_order_01"

// brokerFor is a broker that answers every request with the reply captured from 4.5.2 under that
// name, and the last request it got.
func brokerFor(t *testing.T, name string) (*Broker, *atomic.Pointer[Command]) {
	return brokerOf(t, "4.5.2", name)
}

func brokerOf(t *testing.T, release, name string) (*Broker, *atomic.Pointer[Command]) {
	var last atomic.Pointer[Command]
	p := answering(t, func(r *Command) *Command {
		last.Store(r)
		return capturedFrom(t, release, name)
	})
	return newTestClient(t, Options{}).Broker(p.addr), &last
}

func stored(topic, keys, unique string, at time.Time) []byte {
	return message.Append(nil, message.Message{Topic: topic, Stored: at, Body: []byte(keys), Properties: map[string]string{
		message.PropertyKeys: keys, message.PropertyUniqueKey: unique,
	}})
}

func TestALookUpReturnsOnlyMessagesThatCarryTheKey(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	var last atomic.Pointer[Command]
	p := answering(t, func(r *Command) *Command {
		last.Store(r)
		var body []byte
		for _, m := range [][]byte{ // as a broker answers that compares hashes only
			stored("t", "other m1x", "u1", at),
			stored("t", "a m1 b", "u2", at.Add(time.Second)),
			stored("another", "m1", "u3", at),
			stored("t", "x", "m1", at.Add(2*time.Second)),
			stored("t", "m1", "u4", at.Add(3*time.Second)),
		} {
			body = append(body, m...)
		}
		return &Command{Body: body}
	})
	b := newTestClient(t, Options{}).Broker(p.addr)
	for name, c := range map[string]struct {
		max      int
		from, to time.Time
		want     []string
	}{
		"all, oldest first":        {max: 10, want: []string{"a m1 b", "x", "m1"}},
		"the newest one":           {max: 1, want: []string{"m1"}},
		"in a stretch of time":     {max: 10, from: at.Add(time.Second), to: at.Add(2 * time.Second), want: []string{"a m1 b", "x"}},
		"at the very time":         {max: 10, from: at.Add(2 * time.Second), to: at.Add(2 * time.Second), want: []string{"x"}},
		"nothing in that stretch":  {max: 10, from: at.Add(time.Hour)},
		"nothing up to that point": {max: 10, to: at},
	} {
		found, err := b.QueryByKey(within(t), "t", "m1", c.max, c.from, c.to)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range found {
			got = append(got, string(m.Body))
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		fields := last.Load().Fields
		if n, _ := strconv.Atoi(fields["maxNum"]); n < 32 {
			t.Errorf("asks for %d entries: strangers with the same hash could hide the message", n)
		}
		if begin, _ := strconv.ParseInt(fields["beginTimestamp"], 10, 64); !c.from.IsZero() && begin > c.from.UnixMilli()-1000 {
			t.Errorf("%s: begins at %d, but the index rounds times down by up to a second", name, begin)
		}
	}
}

func TestALookUpReadsWhatARealBrokerAnswers(t *testing.T) {
	b, last := brokerFor(t, "by-key")
	found, err := b.QueryByKey(within(t), caseTopic, "x7", 1, time.Time{}, time.Time{})
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if m := found[0]; string(m.Body) != "body 7" || m.QueueID != 3 || m.QueueOffset != 1 || m.Tags() != "täg" {
		t.Errorf("%+v", m)
	}
	want := map[string]string{
		"topic": caseTopic, "key": "x7", "maxNum": "32", "beginTimestamp": "0", "endTimestamp": "9223372036854775807",
	}
	if d := cmp.Diff(want, last.Load().Fields); d != "" {
		t.Error(d)
	}
	b, _ = brokerFor(t, "by-key-none")
	if found, err := b.QueryByKey(within(t), caseTopic, "never", 1, time.Time{}, time.Time{}); err != nil || len(found) != 0 {
		t.Error(found, err)
	}
}

func TestACutAnswerIsAnErrorAndNotFewerMessages(t *testing.T) {
	p := answering(t, func(*Command) *Command {
		b := stored("t", "m1", "u", time.Now())
		return &Command{Body: append(b, b[:40]...)}
	})
	b := newTestClient(t, Options{}).Broker(p.addr)
	if found, err := b.QueryByKey(within(t), "t", "m1", 5, time.Time{}, time.Time{}); err == nil {
		t.Error(found)
	}
}

func TestASendSaysWhereTheMessageIs(t *testing.T) {
	b, last := brokerFor(t, "send")
	got, err := b.Send(within(t), SendRequest{
		Group: "g", Topic: caseTopic, QueueID: 2, Body: []byte("body"), Born: time.UnixMilli(17), Flag: 3, SysFlag: 1,
		ReconsumeTimes: 4, Properties: map[string]string{"KEYS": "k", "A": "ü"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(SendResult{MsgID: "7F000001000051AF0000000000001F26", QueueID: 0, QueueOffset: 10}, got); d != "" {
		t.Error(d)
	}
	r := last.Load()
	want := map[string]string{
		"a": "g", "b": caseTopic, "c": caseTopic, "d": "4", "e": "2", "f": "1", "g": "17", "h": "3",
		"i": "A\x01ü\x02KEYS\x01k\x02", "j": "4", "k": "false", "m": "false",
	}
	if d := cmp.Diff(want, r.Fields); d != "" || string(r.Body) != "body" || r.Code != 310 {
		t.Error(d, r)
	}
}

func TestASendThatIsStoredButNotAsSafeAsWishedIsAcknowledged(t *testing.T) {
	for code, want := range map[Code]SendStatus{
		0: SendOK, 10: FlushDiskTimeout, 11: SlaveNotAvailable, 12: FlushSlaveTimeout,
	} {
		p := answering(t, func(*Command) *Command {
			return &Command{Code: code, Fields: map[string]string{"msgId": "x", "queueId": "1", "queueOffset": "2"}}
		})
		got, err := newTestClient(t, Options{}).Broker(p.addr).Send(within(t), SendRequest{Topic: "t"})
		if err != nil || got != (SendResult{want, "x", 1, 2}) || got.Status.String() == "" {
			t.Error(code, got, err)
		}
	}
	for _, answer := range []*Command{{Code: 1, Remark: "busy"}, {Code: 14}, ok(nil)} {
		p := answering(t, func(*Command) *Command { return answer })
		if got, err := newTestClient(t, Options{}).Broker(p.addr).Send(within(t), SendRequest{Topic: "t"}); err == nil {
			t.Errorf("%+v was taken for an acknowledgement: %+v", answer, got)
		}
	}
}

func TestAPullNeverAsksOutsideOfTheQueue(t *testing.T) {
	var pulls atomic.Int32
	p := answering(t, func(r *Command) *Command {
		switch r.Code {
		case GetMinOffset:
			return ok(map[string]string{"offset": "3"})
		case GetMaxOffset:
			return ok(map[string]string{"offset": "10"})
		}
		pulls.Add(1)
		if n, _ := strconv.Atoi(r.Fields["queueOffset"]); n < 3 || n > 10 {
			t.Errorf("pulled at %d: a master writes an OFFSET_MOVED_EVENT into its log", n)
		}
		return captured(t, "pull")
	})
	b := newTestClient(t, Options{}).Broker(p.addr)
	for offset, next := range map[int64]int64{0: 3, 2: 3, 10: 10, 500: 10} {
		got, err := b.Pull(within(t), caseTopic, 1, offset, 3)
		if d := cmp.Diff(PullResult{Next: next, Min: 3, Max: 10}, got); d != "" || err != nil {
			t.Error(offset, d, err)
		}
	}
	got, err := b.Pull(within(t), caseTopic, 1, 5, 3)
	if err != nil || pulls.Load() != 1 {
		t.Fatal(err, pulls.Load())
	}
	if len(got.Messages) != 3 || string(got.Messages[2].Body) != "body 9" || got.Next != 3 || got.Max != 10 {
		t.Errorf("%+v", got)
	}
}

func TestEmptyPullsAreNoErrors(t *testing.T) {
	p := answering(t, func(r *Command) *Command {
		switch r.Code {
		case GetMinOffset:
			return ok(map[string]string{"offset": "0"})
		case GetMaxOffset:
			return captured(t, "max-offset")
		}
		return captured(t, "pull-end")
	})
	got, err := newTestClient(t, Options{}).Broker(p.addr).Pull(within(t), caseTopic, 1, 9, 3)
	if d := cmp.Diff(PullResult{Next: 10, Max: 10}, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestRuntimeInfoHasItsFiguresOrAnError(t *testing.T) {
	b, _ := brokerFor(t, "runtime")
	info, err := b.RuntimeInfo(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if v := info.Version(); v != "V4_5_2" {
		t.Error(v)
	}
	if n, err := info.CommitLogMaxOffset(); err != nil || n != 7974 {
		t.Error(n, err)
	}
	if n, err := info.CommitLogMinOffset(); err != nil || n != 0 {
		t.Error(n, err)
	}
	if n, err := info.DispatchBehind(); err != nil || n != 0 {
		t.Error(n, err)
	}
	if at, err := info.Booted(); err != nil || at.UnixMilli() != 1795227117575 {
		t.Error(at, err)
	}
	if at, err := info.AcceptsSendsFrom(); err != nil || at.UnixMilli() != 0 {
		t.Error(at, err)
	}
	if n, err := (RuntimeInfo{}).CommitLogMaxOffset(); err == nil {
		t.Error("a missing figure was read as", n)
	}
}

func TestConfigIsReadAsJavaReadsIt(t *testing.T) {
	b, _ := brokerFor(t, "config")
	config, err := b.Config(within(t))
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{
		"brokerName": "broker-a", "brokerPermission": "6", "mappedFileSizeCommitLog": "16777216",
		"messageDelayLevel": "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h",
		"namesrvAddr":       "127.0.0.1:29876;127.0.0.1:29877",
	} {
		if config[k] != want {
			t.Errorf("%s=%q, want %q", k, config[k], want)
		}
	}
	if len(config) != 157 { // as many lines as the broker writes into broker.conf
		t.Errorf("%d properties", len(config))
	}
	odd, err := parseProperties([]byte("a=${b}\nb=${a}\nc=x\nc=y\n"))
	if d := cmp.Diff(map[string]string{"a": "${b}", "b": "${a}", "c": "y"}, odd); d != "" || err != nil {
		t.Error(d, err)
	}
}

// configBroker takes the properties it knows, as Configuration.update does.
func configBroker(t *testing.T, config map[string]string) *Broker {
	p := answering(t, func(r *Command) *Command {
		if r.Code == UpdateBrokerConfig {
			set, err := parseProperties(r.Body)
			if err != nil {
				t.Error(err)
			}
			for k, v := range set {
				if _, known := config[k]; known {
					config[k] = v
				}
			}
			return ok(nil)
		}
		var b strings.Builder
		for _, k := range sortedKeys(config) {
			b.WriteString(k + "=" + config[k] + "\n")
		}
		return &Command{Body: []byte(b.String())}
	})
	return newTestClient(t, Options{}).Broker(p.addr)
}

func TestAConfigurationThatTheBrokerDoesNotTakeIsAnError(t *testing.T) {
	b := configBroker(t, map[string]string{"brokerPermission": "6", "startAcceptSendRequestTimeStamp": "0"})
	if err := b.UpdateConfig(within(t), map[string]string{"brokerPermission": "4", "startAcceptSendRequestTimeStamp": "4102444800000"}); err != nil {
		t.Fatal(err)
	}
	err := b.UpdateConfig(within(t), map[string]string{"brokerPermission": "6", "brokerPermision": "4"})
	var missed *ConfigNotTakenError
	if !errors.As(err, &missed) || len(missed.Want) != 1 || missed.Want["brokerPermision"] != "4" {
		t.Errorf("%v", err)
	}
}

func TestPropertiesComeBackWhateverTheyHold(t *testing.T) {
	text := rapid.StringOf(rapid.OneOf(
		rapid.SampledFrom([]rune(`=:#! \ ${}t`+"\t\n\r\f\x00ü€😀")), rapid.Rune(), rapid.RuneFrom([]rune("abcXYZ09._-"))))
	rapid.Check(t, func(t *rapid.T) {
		// Keys without what javaStrings cuts: two of them must not become one.
		key := rapid.Map(text, func(s string) string { return "k" + cut(s) })
		want := rapid.MapOfN(key, text, 0, 5).Draw(t, "set")
		b := formatProperties(want)
		for _, c := range b {
			if c > '~' {
				t.Fatalf("%q is not ASCII, and Java would read it as ISO-8859-1", b)
			}
		}
		got, err := parseProperties(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(javaStrings(want), javaStrings(got)); d != "" {
			t.Fatalf("%q: %s", b, d)
		}
	})
}

// javaStrings is m without the letters beyond 16 bits, whose two escapes Java joins and
// magiconair/properties does not.
func javaStrings(m map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[cut(k)] = cut(v)
	}
	return out
}

func cut(s string) string {
	return strings.Map(func(r rune) rune {
		if r > 0xffff || r == 0xfffd {
			return -1
		}
		return r
	}, s)
}

func TestCreateTopicWaitsUntilTheBrokerHasIt(t *testing.T) {
	var lists atomic.Int32
	var created atomic.Pointer[Command]
	p := answering(t, func(r *Command) *Command {
		if r.Code == CreateTopic {
			created.Store(r)
			return ok(nil) // 4.5.2 answers first
		}
		a := captured(t, "topics")
		if lists.Add(1) < 3 {
			a.Body = []byte(strings.ReplaceAll(string(a.Body), caseTopic, "not yet"))
		}
		return a
	})
	b := newTestClient(t, Options{RequestTimeout: 2 * time.Second}).Broker(p.addr)
	if err := b.CreateTopic(within(t), NewTopic(caseTopic, 4)); err != nil {
		t.Fatal(err)
	}
	if n := lists.Load(); n != 3 {
		t.Errorf("looked %d times", n)
	}
	want := map[string]string{
		"topic": caseTopic, "defaultTopic": "TBW102", "readQueueNums": "4", "writeQueueNums": "4", "perm": "6",
		"topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
	}
	if d := cmp.Diff(want, created.Load().Fields); d != "" {
		t.Error(d)
	}
	b = newTestClient(t, Options{RequestTimeout: 100 * time.Millisecond}).Broker(p.addr)
	if err := b.CreateTopic(within(t), NewTopic(caseTopic, 8)); err == nil {
		t.Error("a topic with 4 queues was taken for one with 8")
	}
}

func TestTopicsAndGroupsAreListed(t *testing.T) {
	b, _ := brokerFor(t, "topics")
	topics, version, err := b.Topics(within(t))
	if err != nil || version.Counter != 4 || version.Time().UnixMilli() != 1795227199768 {
		t.Error(version, err)
	}
	if d := cmp.Diff(NewTopic(caseTopic, 4), topics[caseTopic]); d != "" {
		t.Error(d)
	}
	b, _ = brokerFor(t, "groups")
	groups, version, err := b.SubscriptionGroups(within(t))
	if err != nil || version.Counter != 1 {
		t.Error(version, err)
	}
	if d := cmp.Diff(NewSubscriptionGroup("g1"), groups["g1"]); d != "" {
		t.Error(d)
	}
}

func TestAGroupIsCreatedWithItsWholeConfiguration(t *testing.T) {
	b, last := brokerFor(t, "max-offset")
	if err := b.CreateSubscriptionGroup(within(t), NewSubscriptionGroup("g1")); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(last.Load().Body, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{ // as 4.5.2 lists one made by its own tools
		"groupName": "g1", "consumeEnable": true, "consumeFromMinEnable": true, "consumeBroadcastEnable": true,
		"retryQueueNums": 1.0, "retryMaxTimes": 16.0, "brokerId": 0.0, "whichBrokerWhenConsumeSlowly": 1.0,
		"notifyConsumerIdsChangedEnable": true,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestOffsetsAreRead(t *testing.T) {
	b, _ := brokerFor(t, "consumer-offsets")
	offsets, err := b.ConsumerOffsets(within(t))
	if d := cmp.Diff(ConsumerOffsets{caseTopic + "@g1": {2: 5}}, offsets); d != "" || err != nil {
		t.Error(d, err)
	}
	b, _ = brokerFor(t, "delay-offsets")
	if delays, err := b.DelayOffsets(within(t)); err != nil || len(delays) != 0 {
		t.Error(delays, err)
	}
	b, _ = brokerFor(t, "max-offset")
	if n, err := b.MaxOffset(within(t), caseTopic, 1); err != nil || n != 10 {
		t.Error(n, err)
	}
	p := answering(t, func(*Command) *Command { return &Command{Code: ResponseQueryNotFound} })
	b = newTestClient(t, Options{}).Broker(p.addr)
	if n, found, err := b.ConsumerOffset(within(t), "g", "t", 0); n != 0 || found || err != nil {
		t.Error(n, found, err)
	}
}

func TestAnOffsetIsSetForItsGroupAndQueue(t *testing.T) {
	b, last := brokerFor(t, "max-offset")
	if err := b.UpdateConsumerOffset(within(t), "g1", "t", 2, 1<<40); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"consumerGroup": "g1", "topic": "t", "queueId": "2", "commitOffset": "1099511627776"}
	if d := cmp.Diff(want, last.Load().Fields); d != "" || last.Load().Code != 15 {
		t.Error(d)
	}
}

func TestAGroupWithoutConsumersIsNoError(t *testing.T) {
	b, _ := brokerFor(t, "no-consumers")
	if ids, err := b.Consumers(within(t), "g1"); err != nil || len(ids) != 0 {
		t.Error(ids, err)
	}
	p := answering(t, func(*Command) *Command { return &Command{Body: []byte(`{"consumerIdList":["a@1","b@2"]}`)} })
	ids, err := newTestClient(t, Options{}).Broker(p.addr).Consumers(within(t), "g1")
	if d := cmp.Diff([]string{"a@1", "b@2"}, ids); d != "" || err != nil {
		t.Error(d, err)
	}
	p = answering(t, func(*Command) *Command { return &Command{Code: 1, Remark: "something else"} })
	if _, err := newTestClient(t, Options{}).Broker(p.addr).Consumers(within(t), "g1"); err == nil {
		t.Error("any failure was taken for a group without consumers")
	}
}

func TestAGroupsConnectionsTellTheClientsLanguage(t *testing.T) {
	body := `{"connectionSet":[{"clientAddr":"10.0.0.9:4711","clientId":"10.0.0.9@a","language":"GO","version":317}],"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionTable":{}}`
	p := answering(t, func(*Command) *Command { return &Command{Body: []byte(body)} })
	c, err := newTestClient(t, Options{}).Broker(p.addr).ConsumerConnections(within(t), "g1")
	if err != nil || c.Model != "CLUSTERING" || len(c.Clients) != 1 || c.Clients[0].Language != "GO" {
		t.Errorf("%+v %v", c, err)
	}
	for code, none := range map[Code]bool{ResponseConsumerNotOnline: true, ResponseSystemError: false} {
		p := answering(t, func(*Command) *Command { return &Command{Code: code, Remark: "the consumer group[g1] not online"} })
		c, err := newTestClient(t, Options{}).Broker(p.addr).ConsumerConnections(within(t), "g1")
		if (err == nil) != none || len(c.Clients) != 0 {
			t.Errorf("code %d: %+v %v", code, c, err)
		}
	}
}

func TestAHeartbeatIsTheClients(t *testing.T) {
	heard := make(chan string, 1)
	p := newPeer(t, func(p *peerConn) {
		frame, err := readFrame(p)
		if err != nil {
			t.Error(err)
			return
		}
		heard <- string(frame[4:])
		request, _ := DecodeCommand(frame)
		p.reply(request, ok(nil))
	})
	err := newTestClient(t, Options{}).Broker(p.addr).SendHeartbeat(within(t), Heartbeat{
		ClientID: "10.0.0.9@a", Language: "JAVA", Version: 401,
		Groups: []GroupMember{{Group: "g1", Type: "CONSUME_PASSIVELY", Model: "CLUSTERING", FromWhere: "CONSUME_FROM_LAST_OFFSET", Subscriptions: []json.RawMessage{json.RawMessage(`{"subString":"*","topic":"t"}`)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"code":34,"language":"JAVA","version":401,"opaque":1,"flag":0,"serializeTypeCurrentRPC":"JSON"}` +
		`{"clientID":"10.0.0.9@a","consumerDataSet":[{"groupName":"g1","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","subscriptionDataSet":[{"subString":"*","topic":"t"}]}]}`
	if d := cmp.Diff(want, <-heard); d != "" {
		t.Error(d)
	}
}

func TestAnAnswerWithoutItsPartsIsAnErrorThatSaysWhere(t *testing.T) {
	for name, answer := range map[string]*Command{
		"empty": ok(nil), "no number": {Fields: map[string]string{"offset": "x"}, Body: []byte("]")},
	} {
		p := answering(t, func(*Command) *Command { return answer })
		b := newTestClient(t, Options{}).Broker(p.addr)
		for call, f := range map[string]func() error{
			"MaxOffset":   func() error { _, err := b.MaxOffset(within(t), "t", 0); return err },
			"RuntimeInfo": func() error { _, err := b.RuntimeInfo(within(t)); return err },
			"Topics":      func() error { _, _, err := b.Topics(within(t)); return err },
			"Groups":      func() error { _, _, err := b.SubscriptionGroups(within(t)); return err },
			"Offsets":     func() error { _, err := b.ConsumerOffsets(within(t)); return err },
			"Delays":      func() error { _, err := b.DelayOffsets(within(t)); return err },
		} {
			if err := f(); err == nil || !strings.Contains(err.Error(), p.addr) {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
	}
}

func TestTheNewestReleasesAnswersAreReadTheSame(t *testing.T) {
	broker := func(name string) *Broker {
		b, _ := brokerOf(t, "5.3.3", name)
		return b
	}
	ns := func(name string) (*NameServers, string) {
		b := broker(name)
		return b.client.NameServers([]string{b.addr}), b.addr
	}
	n, _ := ns("route")
	route, err := n.Route(within(t), caseTopic)
	if d := cmp.Diff(caseRoute, route); d != "" || err != nil {
		t.Error(d, err)
	}
	n, addr := ns("cluster")
	info, err := n.ClusterInfoAt(within(t), addr)
	if d := cmp.Diff(caseCluster, info); d != "" || err != nil {
		t.Error(d, err)
	}
	topics, _, err := broker("topics").Topics(within(t))
	if d := cmp.Diff(NewTopic(caseTopic, 4), topics[caseTopic], cmpopts.EquateEmpty()); d != "" || err != nil {
		t.Error(d, err)
	}
	groups, _, err := broker("groups").SubscriptionGroups(within(t))
	want := NewSubscriptionGroup("g1")
	want.ConsumeTimeoutMinutes = 15
	if d := cmp.Diff(want, groups["g1"], cmpopts.EquateEmpty()); d != "" || err != nil {
		t.Error(d, err)
	}
	offsets, err := broker("consumer-offsets").ConsumerOffsets(within(t))
	if d := cmp.Diff(ConsumerOffsets{caseTopic + "@g1": {2: 5}}, offsets); d != "" || err != nil {
		t.Error(d, err)
	}
	runtime, err := broker("runtime").RuntimeInfo(within(t))
	if end, e := runtime.CommitLogMaxOffset(); runtime.Version() != "V5_3_3" || end == 0 || err != nil || e != nil {
		t.Error(runtime, err, e)
	}
	config, err := broker("config").Config(within(t))
	if config["brokerName"] != "broker-a" || config["listenPort"] != "20911" || err != nil {
		t.Error(len(config), err)
	}
	found, err := broker("by-key").QueryByKey(within(t), caseTopic, "x7", 1, time.Time{}, time.Time{})
	if err != nil || len(found) != 1 || string(found[0].Body) != "body 7" || found[0].Tags() != "täg" {
		t.Error(found, err)
	}
	sent, err := broker("send").Send(within(t), SendRequest{Topic: caseTopic})
	if err != nil || sent.MsgID == "" || sent.QueueOffset != 10 {
		t.Error(sent, err)
	}
}
