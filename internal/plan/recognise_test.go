package plan_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/brokerconf"
	"mqlift/internal/diag"
	"mqlift/internal/observe"
	"mqlift/internal/plan"
	"mqlift/internal/rocketmq"
)

// byHand is a host's broker.conf as an upgrade by hand leaves it, for this package's installation.
func byHand(t *testing.T, host string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "byhand", host+".conf"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), "/opt/application/rocketmq-all-4.5.2-bin-release", install)
}

// edited puts another broker.conf under a running broker of the old mode, as observe.Group sees it.
func (g *group) edited(host, conf string) {
	g.t.Helper()
	m := g.member(host)
	found, err := brokerconf.Parse(m.Declared.BrokerConf, []byte(conf))
	if err != nil {
		g.t.Fatal(err)
	}
	was, mended, err := found.AsRun(m.Live, "4.5.2")
	if err != nil {
		g.t.Fatal(err)
	}
	reconf(g.t, m, string(was.Bytes()))
	m.Found, m.Mended = found, mended
}

// copied puts an installation with a store and a broker.conf onto a host on which nothing runs.
func (g *group) copied(host, conf string) *observe.Member {
	g.t.Helper()
	m := g.member(host)
	full := broker(g.t, m.Declared, conf, nil, 0)
	full.Process, full.Runtime, full.Live = nil, nil, nil
	full.Root, full.CommitLog = install+"/store", install+"/store/commitlog"
	full.Log = slices.Clone(g.member("host-a").Log)
	full.Store.Root = full.Root
	*m = full
	return m
}

// allDLedger makes every member a peer in good order.
func (g *group) allDLedger() {
	g.t.Helper()
	for i := range g.facts.Members {
		m := &g.facts.Members[i]
		if m.Process == nil {
			*m = broker(g.t, m.Declared, strings.ReplaceAll(slaveConf, "192.168.0.221", m.Declared.Address), nil, 31)
		}
		asDLedger(m)
		maps.Copy(m.Live, map[string]string{"dLegerGroup": "broker-a", "dLegerPeers": g.group().Peers(), "brokerIP1": m.Declared.Address})
		m.Store.Ledgers = []agent.Ledger{{Path: install + "/store/dledger_store/dledger-" + m.Declared.Peer, Divided: 3 * gib, Entries: 7}}
	}
	for _, ns := range g.facts.NameServers {
		ns.Cluster.Brokers["broker-a"].Addrs[0] = "192.168.0.220:10911"
		ns.Cluster.Brokers["broker-a"].Addrs[2] = "192.168.0.221:10911"
		ns.Cluster.Brokers["broker-a"].Addrs[3] = "192.168.0.222:10911"
	}
}

func (g *group) down(host string) *observe.Member {
	m := g.member(host)
	m.Process, m.Store.Abort = nil, false
	down(m)
	return m
}

func TestEveryStateOfTheProcedureByHandIsRecognised(t *testing.T) {
	const a, b, c = "host-a", "host-b", "host-c"
	written := agent.Ledger{Divided: 3 * gib, Entries: 12, First: time.UnixMilli(1700000000000), Last: time.UnixMilli(1700000100000)}
	ledger := func(m *observe.Member, l agent.Ledger) {
		l.Path = install + "/store/dledger_store/dledger-" + m.Declared.Peer
		m.Store.Ledgers = []agent.Ledger{l}
	}
	peer := func(g *group, host string) *observe.Member {
		m := g.member(host)
		if m.Process == nil {
			*m = broker(g.t, m.Declared, byHand(g.t, host), nil, 31)
		}
		reconf(g.t, m, byHand(g.t, host))
		asDLedger(m)
		return m
	}
	tests := map[string]struct {
		facts func(*group)
		state plan.State
		line  string   // a part of what it says in one sentence
		fails []string // "check host" of what stands in a plan's way, in this order; none: a plan goes on
		says  []string // parts of the findings: what and what to do
	}{
		"nothing begun":      {func(*group) {}, plan.OldMode, "nothing is begun", nil, nil},
		"a slave is stopped": {func(g *group) { g.down(b) }, plan.OldMode, "the slave on host-b is stopped", nil, nil},
		"a slave is stopped, beside a peer": {func(g *group) {
			g.down(b)
			peer(g, c)
		}, plan.Mixed, "host-b runs nothing", []string{"group.roles"}, nil},
		"installation copied to the third host": {func(g *group) { g.copied(c, masterConf) },
			plan.Begun, "host-c holds a copy of the installation", nil,
			[]string{"brokerIP1=192.168.0.220 is host-a's address", "up to file 00000000002147483648", ".found-RUN"}},
		"copied, and its file edited rightly": {func(g *group) {
			g.copied(c, strings.ReplaceAll(byHand(g.t, c), "IP1=192.168.0.220", "IP1=192.168.0.222"))
		}, plan.Begun, "host-c holds a copy", nil, []string{"the file makes it n2 of the new group, and host-a serves in the old one"}},
		"copied with a file without an address": {func(g *group) {
			without := strings.Replace(masterConf, "brokerIP1 = 192.168.0.220\n", "", 1)
			reconf(g.t, g.member(a), without)
			g.copied(c, without)
		}, plan.Begun, "host-c holds a copy", nil, []string{"the file is host-a's, byte for byte"}},
		"a copy that was cut short, with an editor's file": {func(g *group) {
			m := g.copied(c, masterConf)
			m.Log[2].Size = 99
			m.Log = append(m.Log, agent.Entry{Path: ".x.swp", Size: 12288})
		}, plan.Begun, "host-c holds a copy", nil, []string{"00000000002147483648 is 99 bytes long", ".x.swp is no commit log file", "moves this folder aside"}},
		"all files edited, the old brokers go on": {func(g *group) {
			g.edited(a, byHand(g.t, a))
			g.edited(b, byHand(g.t, b))
			g.copied(c, byHand(g.t, c))
		}, plan.Begun, "host-a's broker.conf is edited, host-b's broker.conf is edited, host-c holds a copy", nil,
			[]string{"storePathRootDir stands on lines 13, 21", "brokerName is missing: the running broker has broker-a", "dLegerSelfId=n1 on line 18"}},
		"configuration copied into the new root": {func(g *group) {
			tree := g.member(a).Trees[install+"/store/dledger_store"]
			tree.Exists = true
			g.member(a).Trees[tree.Path] = tree
		}, plan.Begun, "host-a has a dledger_store", nil, []string{"moves it aside"}},
		"peers were started, and the old brokers again": {func(g *group) {
			ledger(g.member(b), written)
		}, plan.Begun, "host-b holds dledger-n1", []string{"store.dledger host-b"}, []string{"12 message(s) stored from 2023-11-14T22:13:20Z"}},

		"nothing runs": {func(g *group) {
			g.down(a)
			g.down(b)
		}, plan.Stopped, "host-a was master (its broker.conf says so, with its own address)", []string{"group.roles"},
			[]string{"start the old group again, the master first"}},
		"nothing runs, the files are edited": {func(g *group) {
			reconf(g.t, g.down(a), byHand(g.t, a))
			reconf(g.t, g.down(b), byHand(g.t, b))
			g.copied(c, byHand(g.t, c)).Store.Abort = true
		}, plan.Stopped, "host-a was master", []string{"group.roles"},
			[]string{"on host-a: in " + install + "/conf/broker.conf take out enableDLegerCommitLog (line 17)", "write storePathRootDir=" + install + "/store (line 21)", "leave host-c as it is, its files are a copy"}},
		"nothing runs, and the master was killed": {func(g *group) {
			g.down(a).Store.Abort = true
			g.down(b)
		}, plan.Stopped, "host-a was master", []string{"store.abort host-a", "group.roles"}, []string{"did not stop cleanly"}},
		"nothing runs, and no file tells the master": {func(g *group) {
			reconf(g.t, g.down(a), strings.Replace(masterConf, "ASYNC_MASTER", "SLAVE", 1))
			g.down(b).Log = g.member(b).Log[:2]
		}, plan.Stopped, "host-a was master (its commit log goes furthest, to file 00000000002147483648)", []string{"group.roles"}, nil},
		"nothing runs, and nothing tells the master": {func(g *group) {
			reconf(g.t, g.down(a), strings.Replace(masterConf, "ASYNC_MASTER", "SLAVE", 1))
			g.down(b)
		}, plan.Stopped, "no broker of the group runs", []string{"group.roles"}, []string{"find out which member was master"}},
		"nothing runs, and it was DLedger": {func(g *group) {
			g.down(a)
			ledger(g.down(b), written)
		}, plan.Stopped, "it has served as DLedger", []string{"store.dledger host-b", "group.roles"}, []string{"do not start the old brokers"}},

		"peers beside the old master, nothing written": {func(g *group) {
			ledger(peer(g, b), agent.Ledger{Divided: 3 * gib})
			peer(g, c)
		}, plan.Mixed, "host-a serves as master in the old mode", []string{"group.roles"},
			[]string{"nothing has been written", "on host-b: kill 977, then in " + install + "/conf/broker.conf take out", "on host-c: kill 31, then leave it stopped"}},
		"peers beside the old master, written to": {func(g *group) {
			ledger(peer(g, b), written)
			ledger(peer(g, c), written)
		}, plan.Mixed, "host-b runs as DLedger peer n1 and holds 12 message(s) stored from 2023-11-14T22:13:20Z", []string{"group.roles"},
			[]string{"the messages on host-b, host-c are in no old broker's log", "neither side may be copied over the other"}},

		"all DLedger and in order": {func(g *group) { g.allDLedger() }, plan.Upgraded, "every member runs as DLedger", []string{"group.roles"}, []string{"mqlift verify"}},
		"all DLedger, started on different logs": {func(g *group) {
			g.allDLedger()
			g.member(c).Store.Ledgers[0].Divided = 2 * gib
		}, plan.Impaired, "1 thing(s) are not in order", []string{"group.roles", "store.divided host-c"}, []string{"takes the old log to end at 2147483648 and host-a's takes it to end at 3221225472"}},
		"all DLedger, one started on a shorter log": {func(g *group) {
			g.allDLedger()
			g.member(b).QueueFault = "2026-03-14 03:00:00 WARN x - [BUG]logic queue order maybe wrong, expectLogicOffset: 200 currentLogicOffset: 180 Topic: orders QID: 0 Diff: 20"
		}, plan.Impaired, "1 thing(s)", []string{"group.roles", "store.queues host-b"}, []string{"expectLogicOffset: 200", "do not let it become leader"}},
		"all DLedger, a name lost": {func(g *group) {
			g.allDLedger()
			m := g.member(c)
			reconf(g.t, m, strings.ReplaceAll(byHand(g.t, c), "192.168.0.220\n", "192.168.0.222\n"))
			m.Live["brokerName"] = "host-c.example"
		}, plan.Impaired, "1 thing(s)", []string{"group.roles", "broker.name host-c"}, []string{"a broker then takes its host's name", "storePathRootDir stands there 2 times, the last counts: " + install + "/store/dledger_store"}},
		"all DLedger, an address of another": {func(g *group) {
			g.allDLedger()
			reconf(g.t, g.member(c), byHand(g.t, c))
			g.member(c).Live["brokerIP1"] = "192.168.0.220"
		}, plan.Impaired, "1 thing(s)", []string{"group.roles", "broker.address host-c"}, []string{"two members register at one place"}},
		"all DLedger, no leader": {func(g *group) {
			g.allDLedger()
			delete(g.facts.NameServers[0].Cluster.Brokers["broker-a"].Addrs, 0)
		}, plan.Impaired, "1 thing(s)", []string{"group.roles", "nameserver"}, []string{"it knows of no leader"}},
		"all DLedger, one lags": {func(g *group) {
			g.allDLedger()
			g.member(b).Runtime = rocketmq.RuntimeInfo{"brokerVersionDesc": "V4_5_2", "commitLogMaxOffset": "17"}
		}, plan.Impaired, "1 thing(s)", []string{"group.roles", "store.lag host-b"}, nil},
		"one peer down": {func(g *group) {
			g.allDLedger()
			g.down(a)
		}, plan.Impaired, "2 of 3 members run as DLedger", []string{"group.roles", "adopt.peer host-a"}, []string{"`mqlift apply` where it was started goes on"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := healthy(t)
			test.facts(g)
			is := plan.Recognise(g.group(), g.facts)
			if is.State != test.state || !strings.Contains(is.Line, test.line) {
				t.Errorf("%s: %s\nwant %s: … %s …", is.State, is.Line, test.state, test.line)
			}
			found := g.preflight()
			var text strings.Builder
			for _, f := range found {
				text.WriteString(f.String() + "\n")
				if f.Severity != diag.Pass && (f.What == "" || f.Do == "") {
					t.Errorf("not said what to do: %+v", f)
				}
			}
			for _, s := range test.says {
				if !strings.Contains(text.String(), s) {
					t.Errorf("%q is not said:\n%s", s, text.String())
				}
			}
			for _, want := range test.fails {
				if !slices.Contains(lines(found), "fail "+want) {
					t.Errorf("%s does not fail:\n%s", want, text.String())
				}
			}
			if _, err := plan.Make(g.input()); (err == nil) != (test.fails == nil) {
				t.Errorf("a plan: %v", err)
			}
		})
	}
}

// A slave that is down when its file was edited already is not taken for a copy: the group then has no
// slave that serves, and that stops a plan, with the lines that bring it back.
func TestAStoppedSlaveThatWasEditedIsToBeStartedAgain(t *testing.T) {
	g := healthy(t)
	reconf(t, g.down("host-b"), byHand(t, "host-b"))
	_, err := plan.Make(g.input())
	if err == nil || !strings.Contains(err.Error(), "no member answers as slave") {
		t.Fatal(err)
	}
}

// What by-hand files have wrong is right in the files that the plan writes, and said.
func TestFilesByHandAreMended(t *testing.T) {
	g := healthy(t)
	for _, host := range []string{"host-a", "host-b"} {
		g.edited(host, byHand(t, host))
	}
	g.copied("host-c", byHand(t, "host-c"))
	p := g.plan()
	for i, m := range p.Members {
		text := "\n" + string(m.NewConf)
		for _, want := range []string{
			"brokerName=broker-a", "brokerRole=SLAVE", "brokerId=" + string(rune('1'+i)), "brokerIP1=" + m.Address,
			"storePathRootDir=" + install + "/store/dledger_store", "storePathCommitLog=" + install + "/store/commitlog",
			"dLegerSelfId=" + m.Peer, "enableDLegerCommitLog=true",
		} {
			if n := strings.Count(text, "\n"+want+"\n"); n != 1 {
				t.Errorf("%s: %d times %q in\n%s", m.Host, n, want, text)
			}
		}
		if n := strings.Count(text, "\nstorePathRootDir"); n != 1 {
			t.Errorf("%s: storePathRootDir stands there %d times", m.Host, n)
		}
		if string(m.FoundConf) != byHand(t, m.Host) {
			t.Errorf("%s: the file that was found is not kept:\n%s", m.Host, m.FoundConf)
		}
	}
	for host, want := range map[string][]string{
		"host-a": {"storePathRootDir stands on lines 13, 21 and the last one"},
		"host-b": {"brokerName is missing: the running broker has broker-a"},
		"host-c": {"brokerIP1=192.168.0.220 is host-a's address", "brokerName is missing", "storePathRootDir stands on lines 11 and 19"},
	} {
		why := strings.Join(p.Member(host).Reasons, "\n")
		for _, s := range want {
			if !strings.Contains(why, s) {
				t.Errorf("%s: %q is no reason:\n%s", host, s, why)
			}
		}
	}
	// The old mode is what ran: without DLedger, and the store where it is.
	for _, host := range []string{"host-a", "host-b"} {
		old := string(p.Member(host).OldConf)
		if strings.Contains(old, "dLeger") || strings.Contains(old, "dledger_store") || !strings.Contains(old, "storePathRootDir="+install+"/store\n") || !strings.Contains(old, "brokerName=broker-a\n") {
			t.Errorf("%s would go back to\n%s", host, old)
		}
	}
	if len(p.Member("host-c").OldConf) > 0 || p.Member("host-c").Kind != plan.Fresh {
		t.Error("the copy is taken for a broker of the old group")
	}
}
