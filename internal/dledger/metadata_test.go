package dledger_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"mqlift/internal/dledger"
	"mqlift/internal/rocketmq"
)

// raftPort is a peer's Raft port in this process: RocketMQ's remoting, which DLedger 0.1 speaks there.
type raftPort struct {
	dledger.Peer
	group  string
	leader string // that it names; empty: none
}

// serve opens the port and answers METADATA as DLedger 0.1 does (DLedgerRpcNettyService and
// DLedgerServer.handleMetadata): the header's code is DLedger's own success, 200, and the body has it
// again, or why the request was refused.
func (p *raftPort) serve(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Addr = l.Addr().String()
	var mu sync.Mutex
	var open []net.Conn
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			all.Go(func() {
				defer conn.Close()
				for p.answer(t, conn) == nil {
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
}

func (p *raftPort) answer(t *testing.T, conn net.Conn) error {
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(conn, frame); err != nil {
		return err
	}
	request, err := rocketmq.DecodeCommand(frame)
	if err != nil {
		t.Error(err)
		return err
	}
	var asked struct{ Group, RemoteID string }
	if err := json.Unmarshal(request.Body, &asked); err != nil {
		t.Error(err)
	}
	if request.Code != 50000 {
		t.Errorf("request code %d, want METADATA", request.Code)
	}
	// DLedgerServer.handleMetadata and DLedgerResponseCode of 0.1: the self id is looked at first (401
	// UNKNOWN_MEMBER), then the group (400 UNKNOWN_GROUP), and a refusal names the leader as well.
	body := fmt.Sprintf(`{"code":200,"group":%q,"leaderId":%q,"peers":{"n0":"127.0.0.1:1"},"term":3}`, p.group, p.leader)
	switch {
	case asked.RemoteID != p.ID:
		body = fmt.Sprintf(`{"code":401,"group":%q,"leaderId":%q,"remoteId":%q,"term":-1}`, asked.Group, p.leader, asked.RemoteID)
	case asked.Group != p.group:
		body = fmt.Sprintf(`{"code":400,"group":%q,"leaderId":%q,"remoteId":%q,"term":-1}`, asked.Group, p.leader, asked.RemoteID)
	case p.leader == "":
		body = fmt.Sprintf(`{"code":200,"group":%q,"peers":{"n0":"127.0.0.1:1"},"term":3}`, p.group) // fastjson leaves nulls out
	}
	reply := &rocketmq.Command{Code: 200, Opaque: request.Opaque, Flag: 1, Body: []byte(body)}
	b, err := reply.Encode()
	if err != nil {
		t.Error(err)
		return err
	}
	_, err = conn.Write(b)
	return err
}

// closedPort is an address on which nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// threePeers are n0 to n2, each naming that leader; "-" is a peer that is down.
func threePeers(t *testing.T, leaders ...string) []dledger.Peer {
	t.Helper()
	var peers []dledger.Peer
	for i, leader := range leaders {
		p := &raftPort{Peer: dledger.Peer{ID: fmt.Sprintf("n%d", i), Name: fmt.Sprintf("host-%c", 'a'+i)}, group: "broker-a", leader: leader}
		if leader == "-" {
			p.Addr = closedPort(t)
		} else {
			p.serve(t)
		}
		peers = append(peers, p.Peer)
	}
	return peers
}

func newClient(t *testing.T) (*rocketmq.Client, context.Context) {
	t.Helper()
	c := rocketmq.NewClient(rocketmq.Options{DialTimeout: 5 * time.Second, RequestTimeout: 5 * time.Second})
	t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c, ctx
}

func TestALeaderIsWhomAQuorumOfPeersNames(t *testing.T) {
	tests := map[string]struct {
		leaders []string // that n0, n1, n2 name
		leader  string
		says    []string // in the error; none: there is a leader
	}{
		"all agree":              {[]string{"n1", "n1", "n1"}, "n1", nil},
		"one is down":            {[]string{"n1", "n1", "-"}, "n1", nil},
		"the leader it was":      {[]string{"n2", "n2", "-"}, "n2", nil},
		"they disagree":          {[]string{"n1", "n2", "n1"}, "", []string{"do not agree", "n0 (host-a) says n1", "n1 (host-b) says n2", "n2 (host-c) says n1"}},
		"one knows of none":      {[]string{"n1", "", "n1"}, "", []string{"n1 (host-b) says no leader"}},
		"none is elected":        {[]string{"", "", ""}, "", []string{"n0 (host-a) says no leader", "n2 (host-c) says no leader"}},
		"two are down":           {[]string{"n0", "-", "-"}, "n0", []string{"1 of 3 peers answer, a quorum is 2", "peer n1 (host-b) at 127.0.0.1:", "peer n2 (host-c) at 127.0.0.1:"}},
		"all are down":           {[]string{"-", "-", "-"}, "", []string{"0 of 3 peers answer", "(host-a)", "(host-b)", "(host-c)"}},
		"a leader that is none":  {[]string{"n9", "n9", "n9"}, "", []string{"do not agree", "says n9"}},
		"the others not yet up":  {[]string{"n1", "n1"}, "n1", nil}, // asked before the third one joins
		"two, of which one down": {[]string{"n1", "-"}, "n1", []string{"1 of 3 peers answer"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, ctx := newClient(t)
			peers := threePeers(t, test.leaders...)
			v := dledger.Look(ctx, c, "broker-a", peers)
			leader := ""
			if v.Leader != nil {
				leader = v.Leader.ID
			}
			if leader != test.leader {
				t.Errorf("leader %q, want %q", leader, test.leader)
			}
			for i, p := range peers {
				says, answered := v.Says[p.ID]
				if down := test.leaders[i] == "-"; answered == down || !down && says != test.leaders[i] {
					t.Errorf("%s says %q (answered: %v), want %q", p.ID, says, answered, test.leaders[i])
				}
			}
			if len(v.Answered)+len(v.Errs) != len(peers) {
				t.Errorf("%d answered, %d did not, of %d", len(v.Answered), len(v.Errs), len(peers))
			}
			err := v.Err(3)
			if (err == nil) != (test.says == nil) {
				t.Fatalf("error %v", err)
			}
			for _, want := range test.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nis without %q", err, want)
				}
			}
		})
	}
}

func TestAPeerThatAnswersLaysItsGroupOpen(t *testing.T) {
	c, ctx := newClient(t)
	p := threePeers(t, "n0")[0]
	m, err := dledger.Ask(ctx, c, "broker-a", p)
	if err != nil {
		t.Fatal(err)
	}
	if m.Group != "broker-a" || m.LeaderID != "n0" || m.Peers["n0"] != "127.0.0.1:1" {
		t.Errorf("%+v", m)
	}
}

func TestAnotherGroupOrAnotherPeerAtTheAddressIsToldFromSilence(t *testing.T) {
	c, ctx := newClient(t)
	p := threePeers(t, "n0")[0]
	other := p
	other.ID = "n1"
	for name, ask := range map[string]func() error{
		"400": func() error { _, err := dledger.Ask(ctx, c, "broker-b", p); return err },
		"401": func() error { _, err := dledger.Ask(ctx, c, "broker-a", other); return err },
	} {
		err := ask()
		if err == nil || !strings.Contains(err.Error(), "refuses with code "+name) || !strings.Contains(err.Error(), p.Addr) || !strings.Contains(err.Error(), "host-a") {
			t.Errorf("%s: %v", name, err)
		}
	}
	v := dledger.Look(ctx, c, "broker-b", []dledger.Peer{p})
	if v.Leader != nil || len(v.Answered) != 0 || v.Err(1) == nil {
		t.Errorf("%+v", v)
	}
}

// talker answers with what is no metadata.
type talker struct{ body string }

func (c talker) Call(context.Context, string, *rocketmq.Command) (*rocketmq.Command, error) {
	return &rocketmq.Command{Body: []byte(c.body)}, nil
}

func TestAnAnswerOfAnotherKindIsAnError(t *testing.T) {
	for _, body := range []string{"", "null", "{}", "[]", "<html>", `{"code":"x"}`, `{"code":500}`} {
		if m, err := dledger.Ask(t.Context(), talker{body}, "broker-a", dledger.Peer{ID: "n0", Name: "host-a"}); err == nil {
			t.Errorf("%q is taken for %+v", body, m)
		}
	}
}

func TestALookEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, _ := newClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	v := dledger.Look(ctx, c, "broker-a", []dledger.Peer{{ID: "n0", Addr: l.Addr().String(), Name: "host-a"}})
	if took := time.Since(began); len(v.Errs) != 1 || took > 3*time.Second {
		t.Errorf("%v after %s", v.Errs, took)
	}
}
