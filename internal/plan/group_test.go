package plan_test

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/brokerconf"
	"mqlift/internal/hostinfo"
	"mqlift/internal/observe"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/rocketmq"
	"mqlift/internal/step"
	"mqlift/internal/topology"
)

const topologyText = `version: 1
cluster: DefaultCluster
nameServers: [192.168.0.220:9876, 192.168.0.221:9876]
ssh: {user: rocketmq}
defaults:
  installDir: /opt/rocketmq-4.5.2
  javaHome: /usr/lib/jvm/java-8
groups:
  - name: broker-a
    target: dledger
    members:
      - {host: host-a, address: 192.168.0.220, peer: n0}
      - {host: host-b, address: 192.168.0.221, peer: n1}
      - {host: host-c, address: 192.168.0.222, peer: n2}
`

const masterConf = `# broker-a on host-a, since 2019
brokerClusterName = DefaultCluster
brokerName = broker-a
brokerId = 0
deleteWhen = 04
fileReservedTime = 48
brokerRole = ASYNC_MASTER
flushDiskType = ASYNC_FLUSH
brokerIP1 = 192.168.0.220
namesrvAddr = 192.168.0.220:9876;192.168.0.221:9876
storePathRootDir = /opt/rocketmq-4.5.2/store
storePathCommitLog = /opt/rocketmq-4.5.2/store/commitlog
autoCreateTopicEnable=false
`

const slaveConf = `brokerClusterName = DefaultCluster
brokerName = broker-a
brokerId = 1
brokerRole = SLAVE
flushDiskType = ASYNC_FLUSH
brokerIP1 = 192.168.0.221
namesrvAddr = 192.168.0.220:9876;192.168.0.221:9876
storePathRootDir = /opt/rocketmq-4.5.2/store
storePathCommitLog = /opt/rocketmq-4.5.2/store/commitlog
sendMessageThreadPoolNums=4
`

const (
	gib      = int64(1 << 30)
	logFiles = 3
	install  = "/opt/rocketmq-4.5.2"
)

// group is what is declared and what is true of a broker group: a master on host-a, its slave on
// host-b, and host-c without a broker, all as they should be.
type group struct {
	t        *testing.T
	topology *topology.Topology
	facts    *observe.Facts
	playbook *playbook.Playbook
	transfer plan.Transfer
}

func healthy(t *testing.T) *group {
	t.Helper()
	g := &group{t: t}
	g.declare(topologyText)
	var err error
	if g.playbook, err = playbook.Load("dledger", step.Requirements()); err != nil {
		t.Fatal(err)
	}
	g.facts = &observe.Facts{At: time.Date(2026, 3, 14, 3, 0, 0, 123456789, time.UTC), Release: "4.5.2"}
	members := g.group().Members
	g.facts.Members = []observe.Member{
		broker(t, &members[0], masterConf, map[string]string{"brokerRole": "ASYNC_MASTER", "brokerId": "0"}, 4211),
		broker(t, &members[1], slaveConf, map[string]string{"brokerRole": "SLAVE", "brokerId": "1"}, 977),
		host(&members[2]),
	}
	for i, addr := range g.topology.NameServers {
		g.facts.NameServers = append(g.facts.NameServers, observe.NameServer{
			Addr: addr, Took: time.Duration(i+2) * time.Millisecond,
			Cluster: rocketmq.ClusterInfo{
				Brokers: map[string]rocketmq.BrokerData{"broker-a": {
					Cluster: "DefaultCluster", Name: "broker-a",
					Addrs: map[int64]string{0: "192.168.0.220:10911", 1: "192.168.0.221:10911"},
				}},
				Clusters: map[string][]string{"DefaultCluster": {"broker-a"}},
			},
		})
	}
	for _, from := range members {
		for _, to := range members {
			if from.Host != to.Host {
				g.facts.Reached = append(g.facts.Reached, agent.Reached{From: from.Host, To: to.Host})
			}
		}
	}
	return g
}

// wall lets nothing pass from one host to another.
func (g *group) wall(from, to string) {
	for i := range g.facts.Reached {
		if r := &g.facts.Reached[i]; r.From == from && r.To == to {
			r.Err = errors.New("i/o timeout")
		}
	}
}

func (g *group) group() *topology.Group { return &g.topology.Groups[0] }

func (g *group) member(host string) *observe.Member {
	for i := range g.facts.Members {
		if m := &g.facts.Members[i]; m.Declared.Host == host {
			return m
		}
	}
	g.t.Fatalf("no member %s", host)
	return nil
}

// declare replaces the topology and leaves the facts.
func (g *group) declare(text string) {
	g.t.Helper()
	top, err := topology.Parse("topology.yaml", []byte(text))
	if err != nil {
		g.t.Fatal(err)
	}
	g.topology = top
	if g.facts != nil {
		for i := range g.facts.Members {
			g.facts.Members[i].Declared = &g.group().Members[i]
		}
	}
}

// host is a host without a broker.
func host(d *topology.Member) observe.Member {
	disk := hostinfo.Filesystem{Type: "ext4", MountPoint: "/", Total: 100 * gib, Free: 40 * gib}
	return observe.Member{
		Declared: d, Skew: -40 * time.Millisecond, SkewBy: 2 * time.Millisecond,
		Host: &agent.Facts{
			OS: "linux", Arch: "amd64", Hostname: d.Host, User: "rocketmq", Home: "/home/rocketmq",
			Install: &agent.Install{Dir: d.InstallDir},
			Java:    []agent.Java{{Path: "/usr/lib/jvm/java-8/bin/java", Version: "1.8.0_392", Found: agent.JavaHome}},
			Ports:   []agent.Port{{Port: d.RaftPort, Free: true}},
			Listeners: []hostinfo.Listener{
				{Address: netip.MustParseAddrPort("0.0.0.0:22"), PID: 1},
			},
		},
		Trees: map[string]agent.Path{d.InstallDir: {Path: d.InstallDir, Nearest: "/opt", Writable: true, Filesystem: disk}},
	}
}

// broker is a host with a running broker.
func broker(t *testing.T, d *topology.Member, conf string, live map[string]string, pid int) observe.Member {
	t.Helper()
	m := host(d)
	m.Host.Install = &agent.Install{Dir: d.InstallDir, Exists: true, Release: "4.5.2", DLedger: "0.1"}
	m.Process = &agent.RocketMQ{Process: hostinfo.Process{ProcessID: hostinfo.ProcessID{PID: pid}, User: "rocketmq"}, Kind: agent.Broker, Java: true, Conf: d.BrokerConf}
	reconf(t, &m, conf)
	s := m.Settings
	m.Addr = d.Address + ":" + strconv.Itoa(s.ListenPort)
	m.Runtime = rocketmq.RuntimeInfo{"brokerVersionDesc": "V4_5_2", "commitLogMaxOffset": strconv.FormatInt(logFiles*gib-1000, 10)}
	m.Live = map[string]string{
		"brokerName": s.BrokerName, "storePathRootDir": s.StoreRoot, "storePathCommitLog": s.StoreCommitLog,
		"mappedFileSizeCommitLog": strconv.FormatInt(s.MappedFileSizeCommitLog, 10),
		"brokerPermission":        "6", "startAcceptSendRequestTimeStamp": "0", "maxMessageSize": "4194304", "fileReservedTime": "48",
	}
	maps.Copy(m.Live, live)
	for i := range int64(logFiles) {
		name := strconv.FormatInt(i*gib, 10)
		m.Log = append(m.Log, agent.Entry{Path: "00000000000000000000"[len(name):] + name, Mode: 0o644, Size: gib, Allocated: gib})
	}
	m.Root, m.CommitLog = s.StoreRoot, s.StoreCommitLog
	m.Store = &agent.Store{Root: s.StoreRoot, Exists: true, Abort: true}
	place := m.Trees[d.InstallDir]
	tree := func(p string, size int64) {
		place.Path, place.Nearest, place.Exists, place.IsDir, place.Mode = p, p, true, true, fs.ModeDir|0o755
		place.Size = hostinfo.TreeSize{Files: 10, Apparent: size, Allocated: size}
		m.Trees[p] = place
	}
	tree(d.InstallDir, 4*gib)
	tree(s.StoreRoot, 4*gib)
	tree(s.StoreCommitLog, logFiles*gib)
	tree(s.StoreRoot+"/consumequeue", 60<<20)
	tree(s.StoreRoot+"/index", 400<<20)
	place = m.Trees[d.InstallDir]
	place.Path, place.Exists, place.Size = d.DLedgerRootFor(s.StoreRoot), false, hostinfo.TreeSize{}
	m.Trees[place.Path] = place
	return m
}

// reconf is another broker.conf of a member, as observe.Group would have read it.
func reconf(t *testing.T, m *observe.Member, conf string) {
	t.Helper()
	file, err := brokerconf.Parse(m.Declared.BrokerConf, []byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	m.Host.BrokerConf = &agent.File{Path: m.Declared.BrokerConf, Content: []byte(conf), Mode: 0o644}
	m.Conf, m.Settings = file, file.Settings("4.5.2", m.Host.Home)
}

func (g *group) input() plan.Input {
	return plan.Input{
		Topology: g.topology, Group: g.group(), Facts: g.facts, Playbook: g.playbook, Transfer: g.transfer, Tool: "v0.0.0-test",
		Describe: func(name string, p *plan.Plan) plan.Step {
			s, ok := step.ByName(name)
			if !ok {
				g.t.Fatalf("no step %s", name)
			}
			return plan.Step{Name: name, Title: s.Title(), Actions: s.Describe(p), Undo: s.UndoText()}
		},
	}
}

func (g *group) plan() *plan.Plan {
	g.t.Helper()
	p, err := plan.Make(g.input())
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}
