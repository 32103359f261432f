package membership

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/rocketmq"
)

// broker keeps lists of members as a real one does: by connection, so that a client with two is on them twice.
type broker struct {
	t    *testing.T
	addr string

	mu          sync.Mutex
	open        map[net.Conn]bool
	members     map[net.Conn]rocketmq.Heartbeat
	raw         []string          // headers of heartbeats
	connections map[string]string // answers to code 203, by group
	refused     string            // the client whose heartbeats are
	asked       int               // how often it was asked for a list
	deaf        bool              // it refuses to tell them
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{t: t, addr: l.Addr().String(), open: map[net.Conn]bool{}, members: map[net.Conn]rocketmq.Heartbeat{}, connections: map[string]string{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.open[c] = true
			b.mu.Unlock()
			all.Go(func() { b.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.mu.Lock()
		for c := range b.open {
			c.Close()
		}
		b.mu.Unlock()
		all.Wait()
	})
	return b
}

func (b *broker) serve(c net.Conn) {
	defer func() {
		c.Close()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.open, c)
		delete(b.members, c)
	}()
	for {
		var length [4]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(length[:]))
		if _, err := io.ReadFull(c, frame); err != nil {
			return
		}
		request, err := rocketmq.DecodeCommand(frame)
		if err != nil {
			b.t.Error(err)
			return
		}
		answer := b.answer(c, request, frame)
		answer.Opaque, answer.Flag = request.Opaque, 1
		out, err := answer.Encode()
		if err != nil {
			b.t.Error(err)
			return
		}
		c.Write(out)
	}
}

func (b *broker) answer(c net.Conn, request *rocketmq.Command, frame []byte) *rocketmq.Command {
	b.mu.Lock()
	defer b.mu.Unlock()
	group := request.Fields["consumerGroup"]
	switch request.Code {
	case rocketmq.GetAllSubscriptionGroupConf:
		table := map[string]map[string]string{}
		for group := range b.connections {
			table[group] = map[string]string{"groupName": group}
		}
		body, _ := json.Marshal(map[string]any{"subscriptionGroupTable": table})
		return &rocketmq.Command{Body: body}
	case rocketmq.GetConsumerConnections:
		if b.connections[group] == "" {
			return &rocketmq.Command{Code: rocketmq.ResponseConsumerNotOnline, Remark: "not online"}
		}
		return &rocketmq.Command{Body: []byte(b.connections[group])}
	case rocketmq.SendHeartbeat:
		var h rocketmq.Heartbeat
		if err := json.Unmarshal(request.Body, &h); err != nil {
			b.t.Error(err)
		}
		if h.ClientID == b.refused {
			return &rocketmq.Command{Code: rocketmq.ResponseSystemError, Remark: "no acl permission"}
		}
		h.Version = request.Version
		b.members[c] = h
		b.raw = append(b.raw, string(frame))
		return &rocketmq.Command{}
	case rocketmq.GetConsumerList:
		b.asked++
		ids := b.listLocked(group)
		if b.deaf || ids == nil {
			return &rocketmq.Command{Code: rocketmq.ResponseSystemError, Remark: map[bool]string{true: "busy", false: "no consumer for this group"}[b.deaf]}
		}
		body, _ := json.Marshal(map[string]any{"consumerIdList": ids})
		return &rocketmq.Command{Body: body}
	}
	b.t.Errorf("asked for code %d", request.Code)
	return &rocketmq.Command{Code: rocketmq.ResponseRequestCodeNotSupported}
}

func (b *broker) listLocked(group string) (ids []string) {
	for _, h := range b.members {
		for _, g := range h.Groups {
			if g.Group == group {
				ids = append(ids, h.ClientID)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

func (b *broker) list(group string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.listLocked(group), " ")
}

// client is a connection of its own to a broker, as a member or somebody who asks has it.
func (b *broker) client(t *testing.T) *rocketmq.Broker {
	t.Helper()
	c := rocketmq.NewClient(rocketmq.Options{})
	t.Cleanup(func() { c.Close() })
	return c.Broker(b.addr)
}

func (b *broker) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s; lists: g %q, h %q", what, b.list("g"), b.list("h"))
		}
	}
}

func member(id string, groups ...string) rocketmq.Heartbeat {
	h := rocketmq.Heartbeat{ClientID: id, Language: "JAVA", Version: 317}
	for _, g := range groups {
		h.Groups = append(h.Groups, rocketmq.GroupMember{
			Group: g, Type: "CONSUME_PASSIVELY", Model: "CLUSTERING", FromWhere: "CONSUME_FROM_LAST_OFFSET",
			Subscriptions: []json.RawMessage{json.RawMessage(`{"subString":"*","topic":"t"}`)},
		})
	}
	return h
}

// standIn has members stood in for, and attended to until the context that end ends.
func standIn(t *testing.T, b *broker, members ...rocketmq.Heartbeat) (s *StandIns, end func()) {
	t.Helper()
	s, err := StandIn(t.Context(), rocketmq.Options{}, b.client(t), members)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Attend(ctx)
	}()
	end = func() {
		cancel()
		<-ended
	}
	t.Cleanup(end)
	return s, end
}

func TestMembersAreToldAsTheyWouldSayItThemselves(t *testing.T) {
	b := newBroker(t)
	// As fastjson writes it. One client is in two groups, and in one of them with two connections.
	b.connections["g"] = `{"connectionSet":[{"clientAddr":"10.0.0.9:4711","clientId":"10.0.0.9@1","language":"JAVA","version":317},{"clientAddr":"10.0.0.9:4712","clientId":"10.0.0.9@1","language":"JAVA","version":317},{"clientAddr":"10.0.0.9:4713","clientId":"10.0.0.9@2","language":"GO","version":431}],"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionTable":{"t":{"classFilterMode":false,"codeSet":[2598919],"expressionType":"TAG","subString":"TagA","subVersion":1795309256032,"tagsSet":["TagA"],"topic":"t"},"%RETRY%g":{"subString":"*","topic":"%RETRY%g"}}}`
	b.connections["h"] = `{"connectionSet":[{"clientId":"10.0.0.9@1","language":"JAVA","version":317}],"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_ACTIVELY","messageModel":"BROADCASTING","subscriptionTable":{}}`
	b.connections["offline"] = ""
	got, err := Of(t.Context(), b.client(t))
	if err != nil {
		t.Fatal(err)
	}
	g := rocketmq.GroupMember{
		Group: "g", Type: "CONSUME_PASSIVELY", Model: "CLUSTERING", FromWhere: "CONSUME_FROM_FIRST_OFFSET",
		Subscriptions: []json.RawMessage{
			json.RawMessage(`{"subString":"*","topic":"%RETRY%g"}`),
			json.RawMessage(`{"classFilterMode":false,"codeSet":[2598919],"expressionType":"TAG","subString":"TagA","subVersion":1795309256032,"tagsSet":["TagA"],"topic":"t"}`),
		},
	}
	h := rocketmq.GroupMember{Group: "h", Type: "CONSUME_ACTIVELY", Model: "BROADCASTING", FromWhere: "CONSUME_FROM_LAST_OFFSET"}
	want := []rocketmq.Heartbeat{
		{ClientID: "10.0.0.9@1", Language: "JAVA", Version: 317, Groups: []rocketmq.GroupMember{g, h}},
		{ClientID: "10.0.0.9@2", Language: "GO", Version: 431, Groups: []rocketmq.GroupMember{g}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAllMembersAreOnTheListsOnceStandInsAreThere(t *testing.T) {
	b := newBroker(t)
	var members []rocketmq.Heartbeat
	var ids []string
	for i := range 40 {
		ids = append(ids, fmt.Sprintf("c%02d", i))
		members = append(members, member(ids[i], "g", "h"))
	}
	s, end := standIn(t, b, members...)
	if want := strings.Join(ids, " "); b.list("g") != want || b.list("h") != want || s.Count() != 40 {
		t.Errorf("g: %s\nh: %s", b.list("g"), b.list("h"))
	}
	b.mu.Lock()
	for c, h := range b.members {
		if d := cmp.Diff(member(h.ClientID, "g", "h").Groups, h.Groups); d != "" || h.Version != 317 {
			t.Error(c.RemoteAddr(), h.Version, d)
		}
	}
	for _, header := range b.raw {
		if !strings.Contains(header, `"language":"JAVA"`) {
			t.Error(header)
		}
	}
	b.mu.Unlock()
	end()
	b.until(t, "the lists to be empty", func() bool { return b.list("g")+b.list("h") == "" })
}

func TestAStandInEndsWhenItsMemberComesAndNoOtherOne(t *testing.T) {
	b := newBroker(t)
	_, end := standIn(t, b, member("c1", "g"), member("c2", "g", "h"), member("c3", "k"))
	own := b.client(t)
	if err := own.SendHeartbeat(t.Context(), member("c2", "h")); err != nil { // of group g it is no member any more
		t.Fatal(err)
	}
	b.until(t, "the second one to be there once", func() bool { return b.list("g") == "c1" && b.list("h") == "c2" && b.list("k") == "c3" })
	b.mu.Lock()
	b.asked = 0
	b.mu.Unlock()
	b.until(t, "the lists to be looked at again", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.asked > 4
	})
	if b.list("g") != "c1" || b.list("h") != "c2" || b.list("k") != "c3" {
		t.Errorf("then g is %q, h %q, and k %q", b.list("g"), b.list("h"), b.list("k"))
	}
	end()
	b.until(t, "the member to be alone", func() bool { return b.list("g") == "" && b.list("h") == "c2" })
}

func TestAttendReturnsWhenAllHaveComeAndSettled(t *testing.T) {
	b := newBroker(t)
	s, err := StandIn(t.Context(), rocketmq.Options{}, b.client(t), []rocketmq.Heartbeat{member("c1", "g"), member("c2", "g")})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c1", "c2"} {
		if err := b.client(t).SendHeartbeat(t.Context(), member(id, "g")); err != nil {
			t.Fatal(err)
		}
	}
	b.mu.Lock()
	b.asked = 0
	b.mu.Unlock()
	s.Attend(t.Context())
	b.until(t, "each to be there once", func() bool { return b.list("g") == "c1 c2" })
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked < 2 { // see settle
		t.Error("a stand-in has ended as soon as its member was seen")
	}
}

func TestWhoIsThereNeedsNoStandIn(t *testing.T) {
	b := newBroker(t)
	if err := b.client(t).SendHeartbeat(t.Context(), member("c1", "g")); err != nil {
		t.Fatal(err)
	}
	s, _ := standIn(t, b, member("c1", "g"), member("c2", "g"))
	if b.list("g") != "c1 c2" || s.Count() != 1 {
		t.Errorf("%q, %d stand-ins", b.list("g"), s.Count())
	}
}

func TestABrokerThatDoesNotTellItsListsIsAskedAgain(t *testing.T) {
	b := newBroker(t)
	standIn(t, b, member("c1", "g"))
	b.mu.Lock()
	b.deaf, b.asked = true, 0
	b.mu.Unlock()
	if err := b.client(t).SendHeartbeat(t.Context(), member("c1", "g")); err != nil {
		t.Fatal(err)
	}
	b.until(t, "it to have refused twice", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.asked >= 2
	})
	if b.list("g") != "c1 c1" {
		t.Errorf("a list that was not told ended one: %q", b.list("g"))
	}
	b.mu.Lock()
	b.deaf = false
	b.mu.Unlock()
	b.until(t, "the member to be there once", func() bool { return b.list("g") == "c1" })
}

// Members that are missing on a list give up what the others take.
func TestThereAreStandInsForAllOrForNone(t *testing.T) {
	t.Run("one is refused", func(t *testing.T) {
		b := newBroker(t)
		b.refused = "c2"
		_, err := StandIn(t.Context(), rocketmq.Options{}, b.client(t), []rocketmq.Heartbeat{member("c1", "g"), member("c2", "g"), member("c3", "g")})
		var refusal *rocketmq.ResponseError
		if !errors.As(err, &refusal) || refusal.Request != rocketmq.SendHeartbeat {
			t.Errorf("%v", err)
		}
		b.until(t, "the list to be empty", func() bool { return b.list("g") == "" })
	})
	t.Run("too many", func(t *testing.T) {
		b := newBroker(t)
		if _, err := StandIn(t.Context(), rocketmq.Options{}, b.client(t), make([]rocketmq.Heartbeat, Most+1)); err == nil || !strings.Contains(err.Error(), "2001") {
			t.Errorf("%v", err)
		}
	})
	t.Run("the lists are not told", func(t *testing.T) {
		b := newBroker(t)
		b.deaf = true
		if _, err := StandIn(t.Context(), rocketmq.Options{}, b.client(t), []rocketmq.Heartbeat{member("c1", "g")}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("none", func(t *testing.T) {
		(&StandIns{}).Attend(t.Context())
	})
}
