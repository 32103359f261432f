// Package dledger asks DLedger peers about their Raft group, on their Raft ports.
package dledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"mqlift/internal/rocketmq"
)

// metadataCode is DLedgerRequestCode.METADATA, which DLedger 0.1 to 0.3 answer over RocketMQ's remoting.
const metadataCode rocketmq.Code = 50000

// responseSuccess is DLedgerResponseCode.SUCCESS.
const responseSuccess = 200

// Peer is one member of a Raft group.
type Peer struct {
	ID   string // dLegerSelfId
	Addr string // host:port of its Raft port
	Name string // what messages call it, a host's name
}

// Metadata is what one peer thinks of its group.
type Metadata struct {
	Group    string            `json:"group"`
	LeaderID string            `json:"leaderId"` // empty: it knows of no leader
	Peers    map[string]string `json:"peers"`    // host:port by id
	Code     int               `json:"code"`
}

// Caller is *rocketmq.Client.
type Caller interface {
	Call(ctx context.Context, addr string, request *rocketmq.Command) (*rocketmq.Command, error)
}

// Ask asks one peer.
func Ask(ctx context.Context, c Caller, group string, p Peer) (Metadata, error) {
	body, err := json.Marshal(map[string]string{"group": group, "remoteId": p.ID})
	if err != nil {
		return Metadata{}, err
	}
	reply, err := c.Call(ctx, p.Addr, &rocketmq.Command{Code: metadataCode, Body: body})
	var refused *rocketmq.ResponseError
	if errors.As(err, &refused) && refused.Code == responseSuccess {
		err = nil // DLedger's own success, where RocketMQ's is 0
	}
	if err != nil {
		if errors.As(err, &refused) && refused.Code == rocketmq.ResponseRequestCodeNotSupported {
			err = fmt.Errorf("%w; this is a broker's port for clients and not its Raft port: compare dLegerPeers and raftPort", err)
		}
		return Metadata{}, fmt.Errorf("asking peer %s (%s) at %s for its leader: %w", p.ID, p.Name, p.Addr, err)
	}
	var m Metadata
	err = rocketmq.DecodeJSON(reply.Body, &m)
	if err == nil && m.Code == 0 {
		err = errors.New("there is no code in it")
	}
	if err != nil {
		return Metadata{}, fmt.Errorf("peer %s (%s) at %s: the answer cannot be read: %w; compare the port with dLegerPeers", p.ID, p.Name, p.Addr, err)
	}
	if m.Code != responseSuccess {
		return m, fmt.Errorf("peer %s (%s) at %s refuses with code %d: another group or another self id runs there", p.ID, p.Name, p.Addr, m.Code)
	}
	return m, nil
}

// View is the group as its peers see it together.
type View struct {
	// Leader is the one that all answering peers name; nil when they do not agree or know none.
	Leader *Peer
	// Answered are the peers that answered, Errs says why the others did not.
	Answered []Peer
	Errs     []error
	// Says holds each answering peer's leader, by the peer's id.
	Says map[string]string
}

// Look asks all peers side by side.
func Look(ctx context.Context, c Caller, group string, peers []Peer) View {
	type answer struct {
		m   Metadata
		err error
	}
	answers := make([]answer, len(peers))
	done := make(chan int)
	for i, p := range peers {
		go func() {
			answers[i].m, answers[i].err = Ask(ctx, c, group, p)
			done <- i
		}()
	}
	for range peers {
		<-done
	}
	v := View{Says: map[string]string{}}
	leaders := map[string]bool{}
	for i, a := range answers {
		if a.err != nil {
			v.Errs = append(v.Errs, a.err)
			continue
		}
		v.Answered = append(v.Answered, peers[i])
		v.Says[peers[i].ID] = a.m.LeaderID
		leaders[a.m.LeaderID] = true
	}
	if len(leaders) == 1 {
		for i := range peers {
			if leaders[peers[i].ID] {
				v.Leader = &peers[i]
			}
		}
	}
	return v
}

// Err says why the view has no leader that a quorum of size members stands behind.
func (v View) Err(members int) error {
	quorum := members/2 + 1
	switch {
	case len(v.Answered) < quorum:
		return fmt.Errorf("%d of %d peers answer, a quorum is %d: %w", len(v.Answered), members, quorum, errors.Join(v.Errs...))
	case v.Leader == nil:
		var says []string
		for _, p := range v.Answered {
			leader := v.Says[p.ID]
			if leader == "" {
				leader = "no leader"
			}
			says = append(says, fmt.Sprintf("%s (%s) says %s", p.ID, p.Name, leader))
		}
		return fmt.Errorf("the peers do not agree on a leader: %s", strings.Join(says, ", "))
	}
	return nil
}
