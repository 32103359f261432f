package observe

import (
	"testing"

	"mqlift/internal/agent"
	"mqlift/internal/brokerconf"
)

// Where a DLedger peer may be started at any moment its Raft port is not tried.
func TestWhereAPeerMayStart(t *testing.T) {
	old := map[string]string{"brokerId": "0"}
	for name, c := range map[string]struct {
		m    Member
		want bool
	}{
		"an old master":                    {Member{Live: old, Process: &agent.RocketMQ{}}, false},
		"a slave that is down":             {Member{Conf: &brokerconf.File{}}, false},
		"a new host":                       {Member{}, false},
		"a peer":                           {Member{Live: map[string]string{"enableDLegerCommitLog": "true"}}, true},
		"a peer that is down":              {Member{Conf: &brokerconf.File{}, Settings: brokerconf.Settings{DLedger: true}}, true},
		"an old master edited for DLedger": {Member{Live: old, Found: &brokerconf.File{}}, true},
		"a broker that does not answer":    {Member{Process: &agent.RocketMQ{}}, true},
		"another group's broker beside":    {Member{Others: []agent.RocketMQ{{}}}, false},
	} {
		if got := c.m.mayStartAsPeer(); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
