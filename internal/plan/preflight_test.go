package plan_test

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mqlift/internal/agent"
	"mqlift/internal/diag"
	"mqlift/internal/grouplock"
	"mqlift/internal/hostinfo"
	"mqlift/internal/observe"
	"mqlift/internal/plan"
	"mqlift/internal/transfer"
)

// lines are the findings that are not fine, as "severity check host".
func lines(found diag.Findings) []string {
	l := []string{}
	for _, f := range found {
		if f.Severity != diag.Pass {
			l = append(l, strings.TrimSpace(f.Severity.String()+" "+f.Check+" "+f.Host))
		}
	}
	return l
}

func (g *group) preflight() diag.Findings { return plan.Preflight(g.topology, g.group(), g.facts) }

func TestAGroupAsItShouldBePasses(t *testing.T) {
	found := healthy(t).preflight()
	if diff := cmp.Diff([]string{"warn release.dledger"}, lines(found)); diff != "" {
		t.Errorf("want (-), got (+)\n%s\n%v", diff, found)
	}
	passed := map[string]int{}
	for _, f := range found {
		if f.Severity == diag.Pass {
			passed[strings.TrimSpace(f.Check+" "+f.Host)]++
			if f.What == "" || f.Do != "" {
				t.Errorf("not as a pass should be: %+v", f)
			}
		}
	}
	for _, want := range []string{
		"group.roles", "group.release", "nameserver", "slave.caughtUp host-b",
		"broker.running host-a", "broker.running host-b", "broker.running host-c",
		"store.commitlog host-a", "store.commitlog host-b",
		"host.clock host-a", "host.java host-b", "host.raftPort host-c", "host.reach host-a",
	} {
		if passed[want] == 0 {
			t.Errorf("nothing is said of %s", want)
		}
	}
	if !slices.IsSortedFunc(found, func(a, b diag.Finding) int { return strings.Compare(a.Host, b.Host) }) {
		t.Error("the findings are not in the order of hosts")
	}
}

// down makes a member's broker one that does not answer.
func down(m *observe.Member) {
	m.Runtime, m.Live, m.RuntimeErr = nil, nil, errors.New("connection refused")
}

func asDLedger(m *observe.Member) {
	maps.Copy(m.Live, map[string]string{"enableDLegerCommitLog": "true", "dLegerSelfId": m.Declared.Peer})
}

func TestPreflightFindsWhatIsWrongAndNothingElse(t *testing.T) {
	const a, b, c = "host-a", "host-b", "host-c"
	tests := map[string]struct {
		wrong func(*group)
		want  []string // beside what a healthy group has
		says  string   // in the first of them
	}{
		"every member is DLedger": {func(g *group) {
			g.allDLedger()
		}, []string{"fail group.roles"}, "every member runs as DLedger already"},
		"an upgrade stopped half-way": {func(g *group) { asDLedger(g.member(b)) },
			[]string{"fail group.roles", "fail group.quorum"}, "1 of 3 members run as DLedger and the others do not"},
		"no master": {func(g *group) { g.member(a).Live["brokerRole"] = "SLAVE" },
			[]string{"fail group.roles"}, "0 members answer as master, not one"},
		"two masters": {func(g *group) { g.member(b).Live["brokerRole"] = "SYNC_MASTER" },
			[]string{"fail group.roles", "warn broker.sync host-b"}, "2 members answer as master, not one"},
		"no slave": {func(g *group) { g.facts.Members[1] = host(g.member(b).Declared) },
			[]string{"fail group.roles"}, "no member answers as slave"},
		"too few beside the old master": {func(g *group) {
			g.member(c).Conf = g.member(b).Conf
		}, []string{"fail group.quorum", "fail broker.running host-c"}, "1 members are left, and a quorum is 2"},

		"a firewall between two hosts": {func(g *group) { g.wall(b, c) },
			[]string{"warn host.reach host-b"}, "192.168.0.222:40911, the Raft port of host-c, cannot be reached from here: i/o timeout"},

		"no release": {func(g *group) {
			g.facts.Release = ""
			for _, host := range []string{a, b} {
				delete(g.member(host).Runtime, "brokerVersionDesc")
			}
		}, []string{"fail group.release", "fail brokerconf.release host-a", "fail brokerconf.release host-b"}, "no broker says which release it runs"},
		"another release is declared": {func(g *group) {
			g.declare(strings.Replace(topologyText, "target: dledger", "release: 4.9.7", 1))
		}, []string{"fail group.release"}, "runs 4.5.2 and the topology wants 4.9.7"},
		"two releases": {func(g *group) { g.member(b).Runtime["brokerVersionDesc"] = "V4_7_1" },
			[]string{"fail group.release host-b"}, "runs 4.7.1, the others 4.5.2"},
		"a release that is not known": {func(g *group) {
			g.facts.Release = "4.6.7"
			for _, host := range []string{a, b} {
				g.member(host).Runtime["brokerVersionDesc"] = "V4_6_7"
			}
		}, []string{"fail group.release", "warn brokerconf.release host-a", "warn brokerconf.release host-b"}, "release 4.6.7 is not one that mqlift knows"},
		"an address with dashes": {func(g *group) {
			g.declare(strings.Replace(topologyText, "address: 192.168.0.222", "address: broker-c.example", 1))
		}, []string{"fail topology.address host-c"}, "broker-c.example"},

		"a file that does not parse": {func(g *group) { g.member(b).ConfErr = errors.New("line 3: odd") },
			[]string{"fail broker.conf host-b"}, "line 3: odd"},
		"the file is there and no broker": {func(g *group) {
			g.member(b).Process = nil
			down(g.member(b))
		}, []string{"warn broker.running host-b"}, "it did not stop cleanly"},
		"a slave that is stopped": {func(g *group) { g.down(b) },
			[]string{"warn broker.running host-b"}, "start it first if it is to be carried on as a slave"},
		"stopped, and of another release": {func(g *group) { g.down(b).Host.Install.Release = "4.9.7" },
			[]string{"warn broker.running host-b", "fail host.release host-b"}, "holds release 4.9.7, and the group runs 4.5.2"},
		"stopped, and of no name": {func(g *group) {
			g.member(b).Process = nil
			down(g.member(b))
			reconf(g.t, g.member(b), strings.Replace(slaveConf, "brokerName = broker-a\n", "", 1))
		}, []string{"fail broker.running host-b", "fail store.abort host-b", "fail group.roles", "fail group.quorum"}, "has a broker.conf, but no broker runs on it"},
		"stopped, at another address": {func(g *group) {
			reconf(g.t, g.down(b), strings.Replace(slaveConf, "192.168.0.221\n", "10.0.0.9\n", 1))
		}, []string{"fail broker.running host-b", "fail group.roles", "fail group.quorum"}, "has a broker.conf, but no broker runs on it"},
		"stopped, and its store is in use": {func(g *group) { g.down(b).Store.LockedBy = 4711 },
			[]string{"fail broker.running host-b", "fail group.roles", "fail group.quorum"}, "has a broker.conf, but no broker runs on it"},
		"stopped, and not a slave": {func(g *group) {
			reconf(g.t, g.down(b), strings.Replace(slaveConf, "= SLAVE", "= ASYNC_MASTER", 1))
		}, []string{"fail broker.running host-b", "fail group.roles", "fail group.quorum"}, "has a broker.conf, but no broker runs on it"},
		"a broker on another file": {func(g *group) { g.member(b).Process = nil },
			[]string{"fail broker.running host-b"}, "no process of this host was started with this file"},
		"a broker that does not answer": {func(g *group) { down(g.member(b)) },
			[]string{"fail broker.running host-b", "fail group.roles", "fail group.quorum"}, "runs as process 977 and does not answer: connection refused"},
		"a slave that does not answer": {func(g *group) { down(g.member(b)) },
			[]string{"fail broker.running host-b", "fail group.roles", "fail group.quorum"}, "it will never serve: stop it (kill 977), leave it stopped"},

		"a broker of another user": {func(g *group) { g.member(b).Process.User = "root" },
			[]string{"fail host.user host-b"}, "the broker runs as root and mqlift works as rocketmq here"},
		"writes are closed in the running broker": {func(g *group) { g.member(a).Live["brokerPermission"] = "4" },
			[]string{"fail broker.drift host-a"}, "the file gives brokerPermission=6 and the running broker has 4"},
		"consumers in Go": {func(g *group) { g.member(a).GoGroups = []string{"clerks", "readers"} },
			[]string{"warn clients.sendBack host-a"}, "2 consumer group(s) have clients in Go: clerks, readers;"},
		"consumers that cannot be asked for": {func(g *group) { g.member(a).ConsumersErr = errors.New("time ran out") },
			[]string{"warn clients.sendBack host-a"}, "which clients consume is not known: time ran out"},
		"a slave with other limits": {func(g *group) { g.member(b).Live["maxMessageSize"] = "65536" },
			[]string{"warn broker.alike host-b"}, "maxMessageSize is 65536 here and 4194304 on the master"},
		"a release that loses carried queues": {func(g *group) {
			g.facts.Release = "5.3.3"
			for _, host := range []string{a, b} {
				g.member(host).Runtime["brokerVersionDesc"] = "V5_3_3"
			}
		}, []string{"fail group.release"}, "release 5.3.3 does not complete carried consume queues"},

		"a clock that is off": {func(g *group) { g.member(c).Skew = -5 * time.Second },
			[]string{"warn host.clock host-c"}, "-5s off"},
		"no Java": {func(g *group) { g.member(c).Host.Java = nil },
			[]string{"fail host.java host-c"}, "no Java"},
		"the Raft port is taken": {func(g *group) {
			g.member(b).Host.Ports[0] = agent.Port{Port: 40911, Problem: "address already in use"}
		}, []string{"fail host.raftPort host-b"}, "port 40911 is taken: address already in use"},
		"the Raft port is an ephemeral one": {func(g *group) { g.member(b).Host.Ports[0].Ephemeral = true },
			[]string{"warn host.raftPort host-b"}, "port 40911 may be given to an outgoing connection"},
		"mqshutdown beside other brokers": {func(g *group) {
			g.declare(strings.Replace(topologyText, "javaHome:", "stop: bin/mqshutdown broker\n  javaHome:", 1))
			g.member(a).Others = []agent.RocketMQ{{Kind: agent.Broker, Java: true, Conf: "/opt/other/conf/broker.conf"}}
		}, []string{"fail host.brokers host-a"}, "1 other broker(s) run on this host"},
		"a run holds the group": {func(g *group) {
			g.member(a).Lock = &grouplock.Held{Lock: grouplock.Lock{Group: "broker-a", Run: "run-7", Operator: "alice", From: "bastion-2"}, Life: grouplock.Alive}
		}, []string{"warn group.lock"}, "run run-7 of alice on bastion-2 holds broker-a"},
		"a lock that nobody can read": {func(g *group) { g.member(a).LockErr = errors.New("host-a: not a lock that mqlift wrote") },
			[]string{"fail group.lock host-a"}, "not a lock that mqlift wrote"},
		"a folder that may not be written": {func(g *group) {
			tree := g.member(c).Trees[install]
			tree.Writable = false
			g.member(c).Trees[install] = tree
		}, []string{"fail host.writable host-c"}, "user rocketmq may not write here"},

		"another release on the new host": {func(g *group) {
			g.member(c).Host.Install = &agent.Install{Dir: install, Exists: true, Release: "4.9.7"}
		}, []string{"fail host.release host-c"}, "holds release 4.9.7, and the group runs 4.5.2"},
		"a port of the new broker is taken": {func(g *group) {
			g.member(c).Host.Listeners = []hostinfo.Listener{{Address: netip.MustParseAddrPort("[::]:10909"), PID: 88}, {Address: netip.MustParseAddrPort("[::]:10910"), PID: 89}}
		}, []string{"fail host.ports host-c"}, "port 10909, which the new broker needs (listenPort 10911 with its neighbours), is taken by process 88"},

		"another group's file": {func(g *group) {
			reconf(g.t, g.member(b), strings.Replace(slaveConf, "brokerName = broker-a", "brokerName = broker-b", 1))
		}, []string{"fail broker.name host-b"}, "brokerName is broker-b, the topology's group is broker-a"},
		"no brokerName and another host name": {func(g *group) {
			reconf(g.t, g.member(b), strings.Replace(slaveConf, "brokerName = broker-a\n", "", 1))
			g.member(b).Live["brokerName"] = "host-b"
		}, []string{"fail broker.name host-b", "warn brokerconf.name host-b"}, "calls itself host-b and not broker-a"},
		"a key twice": {func(g *group) { reconf(g.t, g.member(b), slaveConf+"brokerId=1\n") },
			[]string{"warn brokerconf.duplicate host-b"}, "brokerId stands on lines 3 and 11"},
		"a broker that was started with something else": {func(g *group) {
			g.member(a).Live["storePathCommitLog"] = "/data/commitlog"
		}, []string{"fail broker.drift host-a"}, "the file gives storePathCommitLog=/opt/rocketmq-4.5.2/store/commitlog and the running broker has /data/commitlog"},
		"several commit log folders": {func(g *group) {
			const folders = "/d1/log,/d2/log"
			reconf(g.t, g.member(a), strings.Replace(masterConf, install+"/store/commitlog", folders, 1))
			g.member(a).Live["storePathCommitLog"] = folders
		}, []string{"fail store.commitlog host-a"}, "several folders"},
		"ledgers of an earlier try": {func(g *group) {
			g.member(b).Store.Ledgers = []agent.Ledger{{Path: install + "/store/dledger_store/dledger-n1", Divided: gib}}
		}, []string{"warn store.dledger host-b"}, "to which nothing was written"},
		"ledgers below the old root": {func(g *group) {
			g.member(b).Store.Ledgers = []agent.Ledger{{Path: install + "/store/dledger-n1", Divided: gib}}
		}, []string{"warn store.dledger host-b"}, "to which nothing was written"},
		"ledgers that were written to": {func(g *group) {
			g.member(b).Store.Ledgers = []agent.Ledger{{Path: install + "/store/dledger_store/dledger-n1", Divided: gib, Entries: 12,
				First: time.UnixMilli(1700000000000), Last: time.UnixMilli(1700000100000)}}
		}, []string{"fail store.dledger host-b"}, "holds 12 message(s) stored from 2023-11-14T22:13:20Z to 2023-11-14T22:15:00Z"},
		"a new root that was prepared": {func(g *group) {
			tree := g.member(b).Trees[install+"/store/dledger_store"]
			tree.Exists = true
			g.member(b).Trees[install+"/store/dledger_store"] = tree
		}, []string{"warn adopt.root host-b"}, "topics, groups and offsets have moved on since"},
		"a folder in the commit log": {func(g *group) {
			g.member(a).Log = append(g.member(a).Log, agent.Entry{Path: "backup", Mode: fs.ModeDir | 0o755})
		}, []string{"fail store.junk host-a"}, "a folder inside the commit log's folder"},
		"a file in the commit log": {func(g *group) {
			g.member(b).Log = append(g.member(b).Log, agent.Entry{Path: "00000000000000000000.tmp", Size: gib})
		}, []string{"fail store.junk host-b"}, "is no commit log file"},
		"a short commit log file": {func(g *group) { g.member(b).Log[2].Size = 77 },
			[]string{"fail store.fileSize host-b"}, "is 77 bytes long, and mappedFileSizeCommitLog is 1073741824"},
		"another file length on the slave": {func(g *group) {
			reconf(g.t, g.member(b), slaveConf+"mappedFileSizeCommitLog=1048576\n")
			g.member(b).Live["mappedFileSizeCommitLog"] = "1048576"
			for i := range g.member(b).Log {
				g.member(b).Log[i].Size = 1 << 20
			}
		}, []string{"fail store.fileSize host-b"}, "mappedFileSizeCommitLog is 1048576 here and 1073741824 on the master"},
		"a file length that no file has": {func(g *group) {
			reconf(g.t, g.member(a), masterConf+"mappedFileSizeCommitLog=1048576\n")
			g.member(a).Live["mappedFileSizeCommitLog"] = "1048576"
		}, []string{"fail store.fileSize host-a", "fail store.fileSize host-b"}, "mappedFileSizeCommitLog is 1048576, and all 3 files in " + install + "/store/commitlog are 1073741824 bytes long: the broker does not start again with it"},
		"an editor's swap file": {func(g *group) {
			g.member(a).Log = append(g.member(a).Log, agent.Entry{Path: ".00000000000000000000.swp", Size: 12288})
		}, []string{"fail store.junk host-a"}, "is no commit log file"},
		"a broker that does not say its configuration": {func(g *group) {
			g.member(b).Live, g.member(b).RuntimeErr = nil, errors.New("no answer in time")
		}, []string{"fail group.roles", "fail group.quorum", "fail broker.running host-b"}, "does not answer: no answer in time"},
		"lost+found": {func(g *group) {
			g.member(a).Log = append(g.member(a).Log, agent.Entry{Path: "lost+found", Mode: fs.ModeDir | 0o700})
		}, []string{"fail store.junk host-a"}, "a folder inside the commit log's folder"},
		"lost+found on the new host's own disk for the log": {func(g *group) {
			m := g.member(c)
			m.CommitLog = install + "/store/commitlog"
			m.Log = []agent.Entry{{Path: "lost+found", Mode: fs.ModeDir | 0o700}, {Path: transfer.IncomingName, Mode: fs.ModeDir | 0o755}}
			m.Trees[m.CommitLog] = agent.Path{Path: m.CommitLog, Filesystem: hostinfo.Filesystem{MountPoint: m.CommitLog, Free: 99 * gib}}
		}, []string{"fail store.junk host-c"}, "is a mount point, which cannot be moved aside, and what lies in it is not what a broker takes: lost+found is a folder"},
		"what NFS keeps": {func(g *group) {
			g.member(a).Log = append(g.member(a).Log, agent.Entry{Path: ".nfs000000000012", Size: gib})
		}, []string{"fail store.junk host-a"}, "is what NFS keeps"},
		"the new root in the old log": {func(g *group) {
			g.declare(strings.Replace(topologyText, "javaHome:", "dledgerRoot: /data/log/new\n  javaHome:", 1))
			for host, conf := range map[string]string{a: masterConf, b: slaveConf} {
				reconf(g.t, g.member(host), strings.Replace(conf, install+"/store/commitlog", "/data/log", 1))
				g.member(host).Live["storePathCommitLog"] = "/data/log"
			}
		}, []string{"fail topology.path host-a", "fail topology.path host-b", "fail topology.path host-c"}, "is in the old commit log's folder"},
		"a slave that has copied nothing": {func(g *group) { g.member(b).Runtime["commitLogMaxOffset"] = "0" },
			[]string{"fail slave.caughtUp host-b"}, "copied nothing"},
		"a slave that is behind": {func(g *group) { g.member(b).Runtime["commitLogMaxOffset"] = "1000000000" },
			[]string{"fail slave.caughtUp host-b"}, "2221224472 bytes behind the master"},
		"a slave that is ahead": {func(g *group) { g.member(b).Runtime["commitLogMaxOffset"] = "4000000000" },
			[]string{"fail slave.caughtUp host-b"}, "goes 778775528 bytes further than the master's"},
		"a synchronous master": {func(g *group) {
			reconf(g.t, g.member(a), strings.Replace(masterConf, "ASYNC_MASTER", "SYNC_MASTER", 1))
			g.member(a).Live["brokerRole"] = "SYNC_MASTER"
		}, []string{"warn broker.sync host-a"}, "SLAVE_NOT_AVAILABLE"},

		"one name server down": {func(g *group) {
			g.facts.NameServers[1] = observe.NameServer{Addr: "192.168.0.221:9876", Err: errors.New("connection refused")}
		}, []string{"warn nameserver"}, "does not answer: connection refused"},
		"no name server": {func(g *group) {
			for i := range g.facts.NameServers {
				g.facts.NameServers[i] = observe.NameServer{Addr: g.facts.NameServers[i].Addr, Err: errors.New("connection refused")}
			}
		}, []string{"fail nameserver", "warn nameserver", "warn nameserver"}, "no name server answers"},
		"a name server with another master": {func(g *group) {
			g.facts.NameServers[0].Cluster.Brokers["broker-a"].Addrs[0] = "172.17.0.1:10911"
		}, []string{"fail nameserver"}, `gives "172.17.0.1:10911" as the master of broker-a, and 192.168.0.220:10911 is`},
		"another cluster": {func(g *group) {
			g.declare(strings.Replace(topologyText, "cluster: DefaultCluster", "cluster: other", 1))
		}, []string{"fail nameserver", "fail nameserver"}, "is in cluster DefaultCluster, the topology says other"},
	}
	usual := lines(healthy(t).preflight())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := healthy(t)
			test.wrong(g)
			found := g.preflight()
			got := lines(found)
			for _, l := range usual {
				if i := slices.Index(got, l); i >= 0 {
					got = slices.Delete(got, i, i+1)
				}
			}
			slices.Sort(got)
			slices.Sort(test.want)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("want (-), got (+)\n%s\n%v", diff, found.Err())
			}
			said := false
			for _, f := range found {
				if f.Severity == diag.Pass {
					continue
				}
				said = said || strings.Contains(f.What+"; "+f.Do, test.says)
				if f.What == "" || f.Do == "" {
					t.Errorf("not said what to do: %+v", f)
				}
			}
			if !said {
				t.Errorf("nothing says %q:\n%v", test.says, found)
			}
			p, err := plan.Make(g.input())
			if fails := found.Count(diag.Fail) > 0; (err != nil) != fails || (p == nil) != fails {
				t.Errorf("plan %v, error %v", p != nil, err)
			}
		})
	}
}

func TestTheRiskOfAReleaseIsThatReleasesOwn(t *testing.T) {
	for release, want := range map[string]string{
		"4.5.1": "release.dledger", "4.7.1": "release.dledger", "4.8.0": "release.controller", "4.9.8": "release.controller",
	} {
		g := healthy(t)
		g.facts.Release = release
		for _, host := range []string{"host-a", "host-b"} {
			g.member(host).Runtime["brokerVersionDesc"] = "V" + strings.ReplaceAll(release, ".", "_")
		}
		var got []string
		for _, f := range g.preflight() {
			if strings.HasPrefix(f.Check, "release.") {
				got = append(got, f.Check)
			}
		}
		if !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q, want %s", release, got, want)
		}
	}
}

func TestPreflightOfTheSameFactsSaysTheSame(t *testing.T) {
	g := healthy(t)
	m := g.member("host-a")
	maps.Copy(m.Live, map[string]string{"storePathRootDir": "/x", "storePathCommitLog": "/y", "mapedFileSizeCommitLog": "1", "mappedFileSizeCommitLog": "2"})
	first := g.preflight()
	for range 20 {
		if diff := cmp.Diff(first, g.preflight()); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestThePlaceThatLedgersAreToBeMovedToIsNotFoundAgain(t *testing.T) {
	g := healthy(t)
	const ledger = install + "/store/dledger_store/dledger-n1"
	g.member("host-b").Store.Ledgers = []agent.Ledger{{Path: ledger, Divided: gib, Entries: 1}}
	found := false
	for _, f := range g.preflight() {
		if f.Check != "store.dledger" {
			continue
		}
		found = true
		if want := "mv " + ledger + " " + install + "/store/dledger_store/old-dledger-n1"; f.Where != ledger || !strings.Contains(f.Do, want) {
			t.Errorf("%+v", f)
		}
	}
	if !found {
		t.Error("the ledger is not found")
	}
}
