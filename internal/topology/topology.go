// Package topology holds what the operator declares in one YAML file: how hosts are reached, which
// name servers there are, and which hosts are to carry each broker group. What can be read from the
// hosts themselves is not asked for.
package topology

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mqlift/internal/diag"
	"mqlift/internal/remote"
)

// Version is the version of the file's format.
const Version = 1

// TargetDLedger is the only target mode so far: a Raft log inside the broker. It is a field of the
// file and not an assumption, because RocketMQ 5.x names Controller mode as its successor.
const TargetDLedger = "dledger"

// What a field is when neither the member nor defaults has it.
const (
	DefaultBrokerConf     = "conf/broker.conf" // below installDir
	DefaultRaftPort       = 40911
	DefaultStart          = "nohup bin/mqbroker -c {{.BrokerConf}}"
	DefaultWorkDir        = ".mqlift"       // below installDir
	DefaultDLedgerRoot    = "dledger_store" // below the old store root
	DefaultTracerTopic    = "MQLIFT_TRACER"
	DefaultConnectTimeout = 10 * time.Second
)

// Topology is a whole file with every default resolved into its members. No secret is in it: an ACL
// names the place of its secret.
type Topology struct {
	// File is the path that was loaded; empty when the topology was built in memory.
	File        string   `json:"file,omitempty"`
	Version     int      `json:"version"`
	Cluster     string   `json:"cluster,omitempty"` // empty: whatever the brokers say
	NameServers []string `json:"nameServers"`       // host:port
	SSH         SSH      `json:"ssh"`               // what members start from; its Address is empty
	ACL         *ACL     `json:"acl,omitempty"`
	Groups      []Group  `json:"groups"`

	warnings diag.Findings
	where    map[string]string
}

// SSH is how one host is reached. What is empty is taken from ~/.ssh/config and ssh's own defaults:
// see remote.Target. File names may start with ~/, which is the home folder of whoever runs mqlift.
type SSH struct {
	Address       string   `json:"address,omitempty"` // IP, name or alias in ~/.ssh/config; a member's default is its host
	Port          int      `json:"port,omitempty"`
	User          string   `json:"user,omitempty"`
	IdentityFiles []string `json:"identityFiles,omitempty"`
	KnownHosts    []string `json:"knownHosts,omitempty"`
	// Jump are the jump hosts in the order in which they are passed; nil: as ~/.ssh/config says;
	// empty but not nil: none.
	Jump           []Hop         `json:"jump"`
	Sudo           bool          `json:"sudo,omitempty"`
	ConnectTimeout time.Duration `json:"connectTimeout"` // nanoseconds in JSON
}

// Hop is one jump host, written user@host:port in the file, where user and port may be left out.
type Hop struct {
	User string `json:"user,omitempty"`
	Host string `json:"host"`
	Port int    `json:"port,omitempty"`
}

// String is the hop as the file has it.
func (h Hop) String() string {
	s := h.Host
	if strings.Contains(s, ":") {
		s = "[" + s + "]"
	}
	if h.Port != 0 {
		s += ":" + strconv.Itoa(h.Port)
	}
	if h.User != "" {
		s = h.User + "@" + s
	}
	return s
}

// SSHTarget is the member's host for remote.Dial.
func (m *Member) SSHTarget() remote.Target {
	t := remote.Target{
		Name:           m.Host,
		Address:        m.SSH.Address,
		Port:           m.SSH.Port,
		User:           m.SSH.User,
		IdentityFiles:  slices.Clone(m.SSH.IdentityFiles),
		KnownHosts:     slices.Clone(m.SSH.KnownHosts),
		Sudo:           m.SSH.Sudo,
		ConnectTimeout: m.SSH.ConnectTimeout,
	}
	if m.SSH.Jump != nil {
		t.Jump = make([]remote.Hop, len(m.SSH.Jump)) // none is not the same as nil
	}
	for i, h := range m.SSH.Jump {
		t.Jump[i] = remote.Hop{Address: h.Host, Port: h.Port, User: h.User}
	}
	return t
}

// ACL says which access key mqlift signs its requests with and where the secret key is kept: in a
// file or in an environment variable, never in the topology.
type ACL struct {
	AccessKey     string `json:"accessKey"`
	SecretKeyFile string `json:"secretKeyFile,omitempty"`
	SecretKeyEnv  string `json:"secretKeyEnv,omitempty"`
}

// SecretKey reads the secret key anew. A file that group or others can read or write is refused.
func (a ACL) SecretKey() (string, error) {
	if a.SecretKeyEnv != "" {
		if s := os.Getenv(a.SecretKeyEnv); s != "" {
			return s, nil
		}
		return "", fmt.Errorf("environment variable %s is not set", a.SecretKeyEnv)
	}
	name, err := expandHome(a.SecretKeyFile)
	if err != nil {
		return "", err
	}
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	// The mode of the opened file, not of the name: it cannot change in between.
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", name)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return "", fmt.Errorf("%s has mode %04o and is open to others than its owner", name, perm)
	}
	const most = 64 << 10
	if info.Size() > most {
		return "", fmt.Errorf("%s has %d bytes, which is no secret key", name, info.Size())
	}
	data := make([]byte, info.Size())
	n, err := file.ReadAt(data, 0)
	if n < len(data) {
		return "", fmt.Errorf("reading %s: %w", name, err)
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("%s is empty", name)
	}
	return secret, nil
}

// Group is one broker group and what is to become of it.
type Group struct {
	Name        string   `json:"name"` // the brokerName, and the dLegerGroup
	Target      string   `json:"target"`
	Release     string   `json:"release,omitempty"` // empty: the one that is running
	TracerTopic string   `json:"tracerTopic"`
	Members     []Member `json:"members"`

	where map[string]string
}

// Member is one host of a group after the upgrade, the new one included.
type Member struct {
	Host    string `json:"host"`    // the name used in every message; unique in its group
	Peer    string `json:"peer"`    // dLegerSelfId: one letter and an index
	Address string `json:"address"` // what peers and clients connect to; default Host
	SSH     SSH    `json:"ssh"`

	RaftPort int `json:"raftPort"`
	// ListenPort is the broker's own port, declared only where no broker.conf has it yet; otherwise 0.
	ListenPort int    `json:"listenPort,omitempty"`
	InstallDir string `json:"installDir"` // absolute, on the host, as all following paths
	BrokerConf string `json:"brokerConf"`
	// Start is a shell line, run in InstallDir, with placeholders: see StartCommand.
	Start string `json:"start"`
	// Stop is a shell line like Start; empty: SIGTERM to the broker's own process.
	Stop     string            `json:"stop,omitempty"`
	JavaHome string            `json:"javaHome,omitempty"`
	Env      map[string]string `json:"env,omitempty"` // for Start, besides JAVA_HOME
	// DLedgerRoot is the new storePathRootDir; empty: DefaultDLedgerRoot below the old one, which only
	// the host knows: see DLedgerRootFor.
	DLedgerRoot string `json:"dledgerRoot,omitempty"`
	WorkDir     string `json:"workDir"` // backups and state of mqlift on the host

	where map[string]string
}

// Warnings are the findings that did not stop Load.
func (t *Topology) Warnings() diag.Findings { return slices.Clone(t.warnings) }

// Where is file:line:column of a key of the file's top level, or of the file's start.
func (t *Topology) Where(key string) string { return lookup(t.where, key) }

// Where is file:line:column of one of the group's keys where it is written, or else of the group.
func (g *Group) Where(key string) string { return lookup(g.where, key) }

// Where is file:line:column of one of the member's keys, in the member or in defaults, wherever its
// value comes from, or else of the member.
func (m *Member) Where(key string) string { return lookup(m.where, key) }

func lookup(where map[string]string, key string) string {
	if w, ok := where[key]; ok {
		return w
	}
	return where[""]
}

// Group finds a group by its name; with an empty name, the only one there is. The error lists the
// names there are.
func (t *Topology) Group(name string) (*Group, error) {
	names := make([]string, len(t.Groups))
	for i := range t.Groups {
		if names[i] = t.Groups[i].Name; names[i] == name {
			return &t.Groups[i], nil
		}
	}
	list := strings.Join(names, ", ")
	switch {
	case len(names) == 0:
		return nil, errors.New("the topology has no broker group")
	case name != "":
		return nil, fmt.Errorf("no broker group %q in the topology; there is %s", name, list)
	case len(names) > 1:
		return nil, fmt.Errorf("which broker group? The topology has %s", list)
	}
	return &t.Groups[0], nil
}

// Member finds a member by its host or its peer id; the error lists those there are.
func (g *Group) Member(name string) (*Member, error) {
	var list []string
	for i := range g.Members {
		m := &g.Members[i]
		if m.Host == name || m.Peer == name {
			return m, nil
		}
		list = append(list, m.Peer+" ("+m.Host+")")
	}
	return nil, fmt.Errorf("no member %q in broker group %s; there is %s", name, g.Name, strings.Join(list, ", "))
}

// Peers is the value of dLegerPeers: id-host:port separated by semicolons, in the file's order.
// DLedger does not trim, so there are no spaces in it.
func (g *Group) Peers() string {
	peers := make([]string, len(g.Members))
	for i, m := range g.Members {
		peers[i] = m.Peer + "-" + m.RaftAddr()
	}
	return strings.Join(peers, ";")
}

// Quorum is how many members must be up for a leader: more than half.
func (g *Group) Quorum() int { return len(g.Members)/2 + 1 }

// RaftAddr is Address:RaftPort.
func (m *Member) RaftAddr() string { return m.Address + ":" + strconv.Itoa(m.RaftPort) }

// BrokerID is the brokerId under which the member registers while it follows: the integer of its
// peer id plus one (RocketMQ 4.5.2 to 5.3.3, DLedgerCommitLog); the leader has 0. It is 0 for a peer
// id that Load would have refused.
func (m *Member) BrokerID() int {
	index, ok := peerIndex(m.Peer)
	if !ok {
		return 0
	}
	return index + 1
}

var peerID = regexp.MustCompile(`^[A-Za-z][0-9]+$`)

// peerIndex reads the integer of a peer id. Java takes Integer.valueOf(selfId.substring(1)) + 1, so
// the largest int has no room.
func peerIndex(id string) (int, bool) {
	if !peerID.MatchString(id) {
		return 0, false
	}
	n, err := strconv.ParseInt(id[1:], 10, 32)
	if err != nil || n == 1<<31-1 {
		return 0, false
	}
	return int(n), true
}

// StartCommand is Start with its placeholders filled in: {{.BrokerConf}}, {{.InstallDir}}, {{.Host}},
// {{.Address}}, {{.Peer}} and {{.JavaHome}}. It is a line for sh, to be run in InstallDir.
func (m *Member) StartCommand() (string, error) { return m.fill(m.Start) }

// StopCommand is Stop with the same placeholders filled in; empty when the broker's own process is to
// be signalled.
func (m *Member) StopCommand() (string, error) { return m.fill(m.Stop) }

var placeholder = regexp.MustCompile(`\{\{\s*\.([A-Za-z]+)\s*\}\}`)

// fill puts values as they are into the line: Load admits only paths and names that mean the same in
// sh with and without quotes.
func (m *Member) fill(line string) (string, error) {
	values := map[string]string{
		"Address": m.Address, "BrokerConf": m.BrokerConf, "Host": m.Host,
		"InstallDir": m.InstallDir, "JavaHome": m.JavaHome, "Peer": m.Peer,
	}
	const known = "the placeholders are {{.Address}}, {{.BrokerConf}}, {{.Host}}, {{.InstallDir}}, {{.JavaHome}} and {{.Peer}}"
	var unknown error
	filled := placeholder.ReplaceAllStringFunc(line, func(found string) string {
		name := placeholder.FindStringSubmatch(found)[1]
		value, ok := values[name]
		if !ok && unknown == nil {
			unknown = fmt.Errorf("%s is no placeholder; %s", found, known)
		}
		return value
	})
	if unknown != nil {
		return "", unknown
	}
	if strings.Contains(placeholder.ReplaceAllString(line, ""), "{{") {
		return "", fmt.Errorf("{{ opens something else than a placeholder; %s", known)
	}
	return filled, nil
}

// Environment is what the start line runs with on top of what the host gives: Env and JAVA_HOME.
func (m *Member) Environment() map[string]string {
	env := make(map[string]string, len(m.Env)+1)
	for k, v := range m.Env {
		env[k] = v
	}
	if m.JavaHome != "" {
		env["JAVA_HOME"] = m.JavaHome
	}
	return env
}

// DLedgerRootFor is the new storePathRootDir, given the old one as the host's broker.conf has it.
func (m *Member) DLedgerRootFor(storeRoot string) string {
	if m.DLedgerRoot != "" {
		return m.DLedgerRoot
	}
	return path.Join(storeRoot, DefaultDLedgerRoot)
}

// expandHome replaces a leading ~/ by the home folder of whoever runs mqlift.
func expandHome(name string) (string, error) {
	rest, ok := strings.CutPrefix(name, "~/")
	if !ok {
		return name, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("resolving %s: %w", name, err)
	}
	return filepath.Join(home, rest), nil
}
