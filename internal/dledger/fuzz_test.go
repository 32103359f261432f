package dledger

import (
	"context"
	"strings"
	"testing"

	"mqlift/internal/rocketmq"
)

type says []byte

func (s says) Call(context.Context, string, *rocketmq.Command) (*rocketmq.Command, error) {
	return &rocketmq.Command{Body: s}, nil
}

func FuzzMetadataIsTakenOnlyFromAPeerThatAgrees(f *testing.F) {
	f.Add([]byte(`{"code":200,"group":"g","leaderId":"n0","peers":{"n0":"h:1"},"term":1}`))
	f.Add([]byte(`{code:200,'leaderId':null,"peers":{0:1}}`))
	f.Add([]byte(`{"code":405}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := Ask(t.Context(), says(body), "g", Peer{ID: "n1", Addr: "h:2", Name: "host-b"})
		if err == nil && m.Code != responseSuccess {
			t.Fatalf("taken: %+v", m)
		}
		if err != nil && !strings.Contains(err.Error(), "n1 (host-b) at h:2") {
			t.Fatalf("it is not said where: %v", err)
		}
		v := Look(t.Context(), says(body), "g", []Peer{{ID: "n0"}, {ID: "n1"}, {ID: "n2"}})
		if v.Leader != nil && v.Leader.ID != m.LeaderID {
			t.Fatalf("leader %+v of %+v", v.Leader, m)
		}
	})
}
