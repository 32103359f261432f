// Package plan works out, from what is declared and what is true, what is to be done. Nothing in it
// touches a host.
package plan

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"time"
	"unicode/utf8"

	"mqlift/internal/diag"
)

// Kind is what a member is before the upgrade.
type Kind string

const (
	Master  Kind = "master"  // brokerId 0, serving
	Slave   Kind = "slave"   // brokerId > 0, following the master
	Fresh   Kind = "new"     // no broker
	DLedger Kind = "dledger" // in the new group already
)

// Plan is everything that an apply will do. It is plain data: saved as JSON, reviewed, applied later.
type Plan struct {
	Version  int       `json:"version"`
	Tool     string    `json:"tool"`
	Created  time.Time `json:"created"`
	Topology string    `json:"topology"` // path of the file it was made from
	Playbook string    `json:"playbook"`
	// Fingerprint covers what the plan was made from: topology, playbook, configuration files, roles
	// and store layout. An apply whose fingerprint differs is refused as stale.
	Fingerprint string `json:"fingerprint"`

	Cluster     string   `json:"cluster"`
	Group       string   `json:"group"`
	Release     string   `json:"release"`
	NameServers []string `json:"nameServers"`
	Peers       string   `json:"peers"` // dLegerPeers
	TracerTopic string   `json:"tracerTopic"`

	Members []*Member `json:"members"`
	Stages  []Stage   `json:"stages"`
	Copies  []Copy    `json:"copies"`
	// RebuildIndex leaves consume queues and index behind: brokers build them from the whole log, in the window.
	RebuildIndex bool `json:"rebuildIndex,omitempty"`
	// Transfer is how data was asked to go between hosts, and Routes how it does.
	Transfer Transfer   `json:"transfer"`
	Routes   []Route    `json:"routes"`
	Disk     []Forecast `json:"disk"`
	Outage   Outage     `json:"outage"`
	// Risks are what this release, and this configuration, bring with them.
	Risks diag.Findings `json:"risks"`
}

// Member is one broker host of the group, before and after.
type Member struct {
	Host     string `json:"host"`    // name in the topology
	Address  string `json:"address"` // IP that clients and peers use
	Kind     Kind   `json:"kind"`
	Peer     string `json:"peer"`     // dLegerSelfId
	BrokerID int    `json:"brokerId"` // as a follower: the peer's number + 1
	// Stopped is a slave that was found stopped: undoing the run leaves it so.
	Stopped    bool `json:"stopped,omitempty"`
	ListenPort int  `json:"listenPort"`
	RaftPort   int  `json:"raftPort"`

	Home       string            `json:"home"` // of the user that mqlift works as on the host
	InstallDir string            `json:"installDir"`
	WorkDir    string            `json:"workDir"` // mqlift's backups and lock on the host
	Start      string            `json:"start"`   // shell line, run in InstallDir
	Stop       string            `json:"stop,omitempty"`
	Env        map[string]string `json:"env,omitempty"`

	CommitLog   string `json:"commitLog"`   // folder of the old commit log, kept
	LogFileSize int64  `json:"logFileSize"` // mappedFileSizeCommitLog, bytes
	OldRoot     string `json:"oldRoot"`     // storePathRootDir before
	NewRoot     string `json:"newRoot"`     // storePathRootDir after

	ConfPath string      `json:"confPath"`
	ConfMode fs.FileMode `json:"confMode"` // of the file, or what a new one gets
	OldConf  Text        `json:"oldConf"`  // before; empty where there is none
	// FoundConf is what lies there instead of OldConf: edited for DLedger by hand while the broker goes
	// on in the old mode, or copied from another member. It is kept beside, and put back by an undo.
	FoundConf  Text `json:"foundConf,omitempty"`
	ClosedConf Text `json:"closedConf"` // for the first start, writes closed
	NewConf    Text `json:"newConf"`    // afterwards
	// RetiredConf is the old master's until it joins as a peer: in the old mode, closed.
	RetiredConf Text   `json:"retiredConf,omitempty"`
	Diff        string `json:"diff"` // unified, OldConf to NewConf
	// Reasons says, per changed property, why.
	Reasons []string `json:"reasons,omitempty"`
}

// Text is the content of a configuration file. It is kept byte for byte: Java reads properties as
// ISO-8859-1, so that it need not be UTF-8, and JSON would mend what is not.
type Text []byte

// MarshalJSON writes readable text as a string and anything else as {"base64": …}.
func (t Text) MarshalJSON() ([]byte, error) {
	if utf8.Valid(t) {
		return json.Marshal(string(t))
	}
	return json.Marshal(map[string][]byte{"base64": t})
}

// UnmarshalJSON reads both forms.
func (t *Text) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err == nil {
		*t = Text(s)
		return nil
	}
	var m struct {
		Base64 []byte `json:"base64"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*t = m.Base64
	return nil
}

// Addr is the broker's client address, host:port.
func (m *Member) Addr() string { return fmt.Sprintf("%s:%d", m.Address, m.ListenPort) }

// RaftAddr is the peer's address, host:port.
func (m *Member) RaftAddr() string { return fmt.Sprintf("%s:%d", m.Address, m.RaftPort) }

// Stage is a playbook's stage with what its steps will do.
type Stage struct {
	Name            string `json:"name"`
	Clients         string `json:"clients"`
	PointOfNoReturn bool   `json:"pointOfNoReturn,omitempty"`
	Steps           []Step `json:"steps"`
}

// Step is what one step will do.
type Step struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Actions []Action `json:"actions"`
	Undo    string   `json:"undo"`
}

// Action is one change on one host; an empty host means the cluster.
type Action struct {
	Host string `json:"host,omitempty"`
	Text string `json:"text"`
}

// Copy is data that will be moved.
type Copy struct {
	What  string `json:"what"`
	From  string `json:"from"`
	To    string `json:"to"`
	Bytes int64  `json:"bytes"` // data, holes left out
}

// Forecast is the disk that a member will need, and has.
type Forecast struct {
	Host string `json:"host"`
	Path string `json:"path"`
	Need int64  `json:"need"` // bytes
	Free int64  `json:"free"` // bytes
}

// Member finds a member by host name, nil when there is none.
func (p *Plan) Member(host string) *Member {
	for _, m := range p.Members {
		if m.Host == host {
			return m
		}
	}
	return nil
}

// Of lists the members of a kind.
func (p *Plan) Of(kind Kind) []*Member {
	var l []*Member
	for _, m := range p.Members {
		if m.Kind == kind {
			l = append(l, m)
		}
	}
	return l
}

// First are the members that form the new group before the old master joins it.
func (p *Plan) First() []*Member { return append(p.Of(Slave), p.Of(Fresh)...) }
