package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// What a lab keeps in its directory.
const (
	stateFile      = "lab.json"
	lockFile       = "lab.lock"
	socketFile     = "lab.sock"
	logFile        = "lab.log"
	topologyFile   = "topology.yaml"
	knownHostsFile = "known_hosts"
	clientKeyFile  = "id_ed25519"
	hostsDir       = "hosts"
)

// The reference case.
const (
	clusterName = "DefaultCluster"
	groupName   = "broker-a"
	hostCount   = 3
)

// Host is one host of a lab.
type Host struct {
	Name    string `json:"name"`
	Address string `json:"address"` // of SSH, brokers and peers alike
	SSHPort int    `json:"sshPort"`
	// Dir holds everything of the host; its HOME is Dir/home.
	Dir string `json:"dir"`
	// InstallDir is where RocketMQ is, or on an empty host, where the topology wants it.
	InstallDir string `json:"installDir"`
	// Role and BrokerID are as in broker.conf, ASYNC_MASTER with 0 or SLAVE with 1; Role is empty on
	// an empty host.
	Role     string `json:"role,omitempty"`
	BrokerID int    `json:"brokerId"`
	// ListenPort is the broker's; on an empty host it is the one to use.
	ListenPort int    `json:"listenPort"`
	RaftPort   int    `json:"raftPort"`
	Peer       string `json:"peer"`
	// NameServer is the address of the host's name server, empty where there is none.
	NameServer string `json:"nameServer,omitempty"`
}

// SSHAddr is the IP:port of the host's SSH server.
func (h Host) SSHAddr() string { return net.JoinHostPort(h.Address, strconv.Itoa(h.SSHPort)) }

// BrokerAddr is the IP:port of the host's broker.
func (h Host) BrokerAddr() string { return net.JoinHostPort(h.Address, strconv.Itoa(h.ListenPort)) }

// Home is the home directory of the host's user.
func (h Host) Home() string { return filepath.Join(h.Dir, "home") }

// state is what lab.json holds: written before anything is started, so that whatever is left of a
// lab can be found by its id.
type state struct {
	ID          string    `json:"id"` // the marker's value
	PID         int       `json:"pid"`
	Begun       time.Time `json:"begun"`
	Release     string    `json:"release"`
	NameServers []string  `json:"nameServers"`
	Hosts       []Host    `json:"hosts"`
	// Kept says that the lab was ended and its files were to be kept.
	Kept bool `json:"kept,omitempty"`
}

func readState(dir string) (state, error) {
	var s state
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("reading %s: %w", filepath.Join(dir, stateFile), err)
	}
	return s, nil
}

func (s state) write(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, stateFile)
	if err := os.WriteFile(name+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the lab's state: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("writing the lab's state: %w", err)
	}
	return nil
}

// newState plans a lab: host-a with the master and a name server, host-b with the slave and another,
// host-c with nothing.
func newState(id, dir, release string, base int, ownAddresses bool) state {
	s := state{ID: id, PID: os.Getpid(), Begun: time.Now().Truncate(time.Second), Release: release}
	for i := range hostCount {
		h := Host{
			Name:       "host-" + string(rune('a'+i)),
			Address:    "127.0.0.1",
			SSHPort:    base + sshAt + i,
			ListenPort: brokerPort(base, i),
			RaftPort:   base + raftAt + i,
			Peer:       "n" + strconv.Itoa(i),
		}
		if ownAddresses {
			h.Address = fmt.Sprintf("127.0.0.%d", 1+i)
		}
		h.Dir = filepath.Join(dir, hostsDir, h.Name)
		h.InstallDir = filepath.Join(h.Dir, "opt", "rocketmq-"+release)
		switch i {
		case 0:
			h.Role = "ASYNC_MASTER"
		case 1:
			h.Role, h.BrokerID = "SLAVE", 1
		}
		if h.Role != "" {
			h.NameServer = net.JoinHostPort(h.Address, strconv.Itoa(base+nameServerAt+i))
			s.NameServers = append(s.NameServers, h.NameServer)
		}
		s.Hosts = append(s.Hosts, h)
	}
	return s
}

// host finds a host by its name.
func (s state) host(name string) (Host, error) {
	var names []string
	for _, h := range s.Hosts {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return Host{}, fmt.Errorf("the lab has no host %q; it has %s", name, strings.Join(names, ", "))
}

// topologyText is the topology of the lab. Paths and names in it need no quoting: Up refuses a
// directory that would.
var topologyText = template.Must(template.New(topologyFile).Parse(
	`# A lab on this machine, written by mqlift lab up: the broker group {{.Group}} before its upgrade.
version: 1
cluster: {{.Cluster}}
nameServers:
{{- range .NameServers}}
  - {{.}}
{{- end}}
ssh:
  user: {{.User}}
  identityFiles: [{{.Dir}}/{{.ClientKey}}]
  knownHosts: [{{.Dir}}/{{.KnownHosts}}]
groups:
  - name: {{.Group}}
    target: dledger
    release: {{.Release}}
    members:
{{- range .Hosts}}
      - host: {{.Name}} # {{if .Role}}{{.Role}}{{else}}empty so far{{end}}
        address: {{.Address}}
        peer: {{.Peer}}
        raftPort: {{.RaftPort}}
{{- if not .Role}}
        listenPort: {{.ListenPort}}
{{- end}}
        installDir: {{.InstallDir}}
        ssh: {address: {{.Address}}, port: {{.SSHPort}}}
{{- end}}
`))

func (s state) topology(dir, user string) (string, error) {
	var b strings.Builder
	err := topologyText.Execute(&b, map[string]any{
		"Cluster": clusterName, "Group": groupName, "NameServers": s.NameServers, "Hosts": s.Hosts,
		"Release": s.Release, "User": user, "Dir": dir, "ClientKey": clientKeyFile, "KnownHosts": knownHostsFile,
	})
	return b.String(), err
}

// removeFiles removes a lab's files and nothing else: the directory goes only if it is empty then.
func removeFiles(dir string) error {
	for _, name := range []string{
		hostsDir, topologyFile, knownHostsFile, clientKeyFile, clientKeyFile + ".pub", socketFile, logFile,
		stateFile + ".new", stateFile, lockFile, // the state late: until then the rest is known to be a lab's
	} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("removing the lab's files: %w", err)
		}
	}
	err := os.Remove(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		if left, readErr := os.ReadDir(dir); readErr == nil && len(left) > 0 {
			return nil // somebody else's files
		}
		return fmt.Errorf("removing the lab's directory: %w", err)
	}
	return nil
}

// DefaultDir is where a lab is when nobody says otherwise: below the user's state directory.
func DefaultDir() (string, error) {
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "mqlift", "lab"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("choosing the lab's directory: %w; give one with --dir", err)
	}
	return filepath.Join(home, ".local", "state", "mqlift", "lab"), nil
}
