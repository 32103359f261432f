package plan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mqlift/internal/agent"
	"mqlift/internal/corpus"
	"mqlift/internal/diag"
	"mqlift/internal/hostinfo"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/view"
)

func TestThePlanAsItsReviewerReadsIt(t *testing.T) {
	var b bytes.Buffer
	view.Plan(&b, false, healthy(t).plan())
	file := filepath.Join("testdata", "plan.golden")
	if corpus.Update() {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("not as in %s (go test ./internal/plan -update): want (-), got (+)\n%s", file, diff)
	}
}

func TestAPlanSaysWhatEachMemberWillBe(t *testing.T) {
	p := healthy(t).plan()
	type member struct {
		Kind                               plan.Kind
		BrokerID                           int
		Addr, RaftAddr, CommitLog, NewRoot string
		Old                                bool
	}
	got := map[string]member{}
	for _, m := range p.Members {
		got[m.Host] = member{m.Kind, m.BrokerID, m.Addr(), m.RaftAddr(), m.CommitLog, m.NewRoot, len(m.OldConf) > 0}
		closed, open := string(m.ClosedConf), string(m.NewConf)
		if !strings.Contains(closed, "brokerPermission=4\n") || !strings.Contains(closed, "startAcceptSendRequestTimeStamp=4102444800000\n") {
			t.Errorf("%s: the first start would take sends:\n%s", m.Host, closed)
		}
		if strings.Contains(open, "brokerPermission") || strings.Contains(open, "startAcceptSendRequestTimeStamp") {
			t.Errorf("%s: what stays refuses sends:\n%s", m.Host, open)
		}
		for _, want := range []string{"enableDLegerCommitLog=true", "dLegerSelfId=" + m.Peer, "dLegerPeers=" + p.Peers, "dLegerGroup=broker-a"} {
			if !strings.Contains(closed, want+"\n") || !strings.Contains(open, want+"\n") {
				t.Errorf("%s: no %s", m.Host, want)
			}
		}
	}
	const root, log = install + "/store/dledger_store", install + "/store/commitlog"
	want := map[string]member{
		"host-a": {plan.Master, 1, "192.168.0.220:10911", "192.168.0.220:40911", log, root, true},
		"host-b": {plan.Slave, 2, "192.168.0.221:10911", "192.168.0.221:40911", log, root, true},
		"host-c": {plan.Fresh, 3, "192.168.0.222:10911", "192.168.0.222:40911", log, root, false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if p.Created != time.Date(2026, 3, 14, 3, 0, 0, 0, time.UTC) {
		t.Errorf("made at %s", p.Created)
	}
	var first []string
	for _, m := range p.First() {
		first = append(first, m.Host)
	}
	if got := strings.Join(first, " "); got != "host-b host-c" {
		t.Errorf("the new group is formed by %s", got)
	}
	if p.Member("host-c") != p.Members[2] || p.Member("n2") != nil {
		t.Error("members are not found by their hosts")
	}
}

// A slave that was found stopped takes part as one that is stopped by the run, stays stopped when that is
// undone, and may need room for what it lacks of the log.
func TestASlaveThatIsStoppedTakesPart(t *testing.T) {
	g := healthy(t)
	m := g.down("host-b")
	tree := m.Trees[m.CommitLog]
	tree.Size.Allocated = gib
	m.Trees[m.CommitLog] = tree
	before, p := healthy(t).plan(), g.plan()
	if b := p.Member("host-b"); b.Kind != plan.Slave || !b.Stopped || before.Member("host-b").Stopped || p.Member("host-a").Stopped || p.Member("host-c").Stopped {
		t.Errorf("%+v", b)
	}
	if p.Fingerprint == before.Fingerprint {
		t.Error("the plan is taken for one of a slave that serves")
	}
	for i, d := range p.Disk {
		more := int64(0)
		if d.Host == "host-b" {
			more = 2 * gib
		}
		if got := d.Need - before.Disk[i].Need; got != more {
			t.Errorf("%s needs %d bytes more, want %d", d.Host, got, more)
		}
	}
	for _, s := range p.Stages {
		for _, st := range s.Steps {
			if st.Name == "stop-slaves" && (len(st.Actions) != 1 || strings.Contains(st.Actions[0].Text, "SIGTERM")) {
				t.Errorf("the slave is stopped already: %v", st.Actions)
			}
		}
	}
}

func TestWhatIsCopiedAndTheDiskItNeeds(t *testing.T) {
	p := healthy(t).plan()
	const queues = 460 << 20
	copies := []plan.Copy{
		{What: plan.CopyQueues, From: "host-a", To: "host-a", Bytes: queues},
		{What: plan.CopyQueues, From: "host-b", To: "host-b", Bytes: queues},
		{What: plan.CopyLog, From: "host-a", To: "host-c", Bytes: 3 * gib},
		{What: plan.CopyQueues, From: "host-b", To: "host-c", Bytes: queues},
	}
	if diff := cmp.Diff(copies, p.Copies); diff != "" {
		t.Error(diff)
	}
	const root = install + "/store/dledger_store"
	disk := []plan.Forecast{
		{Host: "host-a", Path: root, Need: queues, Free: 40 * gib},
		{Host: "host-b", Path: root, Need: queues, Free: 40 * gib},
		{Host: "host-c", Path: root, Need: queues + 3*gib, Free: 40 * gib},
	}
	if diff := cmp.Diff(disk, p.Disk); diff != "" {
		t.Error(diff)
	}
}

// setFree sets the free bytes of all of a host's file systems.
func (g *group) setFree(host string, free int64) {
	m := g.member(host)
	for p, tree := range m.Trees {
		tree.Filesystem.Free = free
		m.Trees[p] = tree
	}
}

func TestADiskThatIsTooSmallIsRefusedBeforeAnythingIsCopied(t *testing.T) {
	need := map[string]int64{"host-a": 460 << 20, "host-b": 460 << 20, "host-c": 460<<20 + 3*gib}
	for host, need := range need {
		g := healthy(t)
		g.setFree(host, need+gib)
		g.plan()
		g.setFree(host, need+gib-1)
		_, err := plan.Make(g.input())
		var refused *diag.Error
		if !errors.As(err, &refused) || len(refused.Findings) != 1 {
			t.Fatalf("%s: %v", host, err)
		}
		if f := refused.Findings[0]; f.Check != "host.disk" || f.Host != host || f.Do == "" {
			t.Errorf("%+v", f)
		}
	}
}

func TestFactsThatFailPreflightGiveNoPlan(t *testing.T) {
	g := healthy(t)
	g.member("host-c").Host.Java = nil
	g.member("host-b").Log[0].Size = 1
	p, err := plan.Make(g.input())
	var refused *diag.Error
	if p != nil || !errors.As(err, &refused) {
		t.Fatalf("%v %v", p, err)
	}
	if got := strings.Join(lines(refused.Findings), ", "); got != "fail store.fileSize host-b, fail host.java host-c" {
		t.Errorf("refused for %s", got)
	}
}

func TestTheSameFactsGiveTheSamePlan(t *testing.T) {
	g := healthy(t)
	first := g.plan()
	for range 5 {
		if diff := cmp.Diff(first, g.plan()); diff != "" {
			t.Fatalf("from the same input\n%s", diff)
		}
	}
	if diff := cmp.Diff(first, healthy(t).plan()); diff != "" {
		t.Errorf("from equal input\n%s", diff)
	}
}

func TestASavedPlanIsReadBackAsItWas(t *testing.T) {
	latin := strings.Replace(masterConf, "since 2019", "s\xe4it 2019 \xff\x00", 1)
	for name, conf := range map[string]string{"ASCII": masterConf, "ISO-8859-1": latin, "DOS": strings.ReplaceAll(masterConf, "\n", "\r\n")} {
		t.Run(name, func(t *testing.T) {
			g := healthy(t)
			reconf(t, g.member("host-a"), conf)
			p := g.plan()
			data, err := json.MarshalIndent(p, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			var back plan.Plan
			if err := json.Unmarshal(data, &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(p, &back, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("made (-), read back (+)\n%s", diff)
			}
			if m := back.Member("host-a"); string(m.OldConf) != conf {
				t.Errorf("the way back would write\n%q, not\n%q", m.OldConf, conf)
			}
			again, err := json.MarshalIndent(back, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(data), string(again)); diff != "" {
				t.Errorf("saved again\n%s", diff)
			}
			if err := plan.CheckFresh(&back, g.plan()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestATextIsReadBackByteForByte(t *testing.T) {
	for _, want := range []string{"", "a=b\n", "a=\"b\"\r\n\t<>&", "ä=ö", "\xe4=\xf6", "\x00\x01", "\u2028", `{"base64": "eA=="}`} {
		data, err := json.Marshal(plan.Text(want))
		if err != nil {
			t.Fatal(err)
		}
		var got plan.Text
		if err := json.Unmarshal(data, &got); err != nil || string(got) != want {
			t.Errorf("%q is saved as %s and read as %q: %v", want, data, got, err)
		}
	}
	for _, bad := range []string{"1", "[]", `{"base64": 7}`, `{"base64": "x"}`} {
		var got plan.Text
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is read as %q", bad, got)
		}
	}
}

// moves are changes after which a saved plan is not to be applied, with what StaleError says of it.
var moves = map[string]struct {
	move func(*group)
	says string
}{
	"a byte of a configuration file": {func(g *group) { reconf(g.t, g.member("host-b"), slaveConf+"#") }, "host-b: /opt/rocketmq-4.5.2/conf/broker.conf was changed"},
	"a blank at a line's end":        {func(g *group) { reconf(g.t, g.member("host-a"), strings.Replace(masterConf, "2019", "2019 ", 1)) }, "host-a: /opt/rocketmq-4.5.2/conf/broker.conf was changed"},
	"the roles": {func(g *group) {
		a, b := g.member("host-a"), g.member("host-b")
		a.Live["brokerRole"], b.Live["brokerRole"] = "SLAVE", "ASYNC_MASTER"
		for _, ns := range g.facts.NameServers {
			ns.Cluster.Brokers["broker-a"].Addrs[0] = b.Addr
		}
	}, "host-a was master and is slave; host-b was slave and is master"},
	"the new host has become a slave": {func(g *group) {
		g.facts.Members[2] = broker(g.t, &g.group().Members[2], strings.ReplaceAll(strings.ReplaceAll(slaveConf, "192.168.0.221", "192.168.0.222"), "brokerId = 1", "brokerId = 2"), map[string]string{"brokerRole": "SLAVE"}, 5)
	}, "host-c was new and is slave"},
	"the default place of a store": {func(g *group) {
		m := g.member("host-b")
		m.Settings.StoreCommitLog, m.Live["storePathCommitLog"] = "/data/log", "/data/log"
	}, "host-b: the store's place was changed"},
	"the playbook": {func(g *group) {
		p := *g.playbook
		p.Stages = append([]playbook.Stage{}, p.Stages...)
		p.Stages[0].Steps = p.Stages[0].Steps[:len(p.Stages[0].Steps)-1]
		g.playbook = &p
	}, "the topology, the playbook or the release was changed"},
	"a Raft port": {func(g *group) {
		g.declare(strings.Replace(topologyText, "peer: n2", "peer: n2, raftPort: 40912", 1))
	}, "the topology, the playbook or the release was changed"},
	"a name server": {func(g *group) {
		g.declare(strings.Replace(topologyText, ", 192.168.0.221:9876", "", 1))
	}, "the topology, the playbook or the release was changed"},
	"the release": {func(g *group) {
		g.facts.Release = "4.7.1"
		for _, host := range []string{"host-a", "host-b"} {
			g.member(host).Runtime["brokerVersionDesc"] = "V4_7_1"
		}
	}, "the topology, the playbook or the release was changed"},
}

func TestAPlanIsStaleOnceWhatItWasMadeFromHasMoved(t *testing.T) {
	saved := healthy(t).plan()
	for name, m := range moves {
		t.Run(name, func(t *testing.T) {
			g := healthy(t)
			m.move(g)
			now := g.plan()
			if now.Fingerprint == saved.Fingerprint {
				t.Fatal("the fingerprint is the same")
			}
			err := plan.CheckFresh(saved, now)
			var stale *plan.StaleError
			if !errors.As(err, &stale) || stale.Plan != saved || stale.Now != now {
				t.Fatalf("%T %v", err, err)
			}
			for _, want := range []string{": " + m.says + "; make and review", saved.Fingerprint, "2026-03-14T03:00:00Z", "mqlift plan"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nis without %q", err, want)
				}
			}
		})
	}
}

func TestACommitLogOnADiskOfItsOwnIsForecastThere(t *testing.T) {
	log := install + "/store/commitlog"
	g := healthy(t)
	m := g.member("host-c")
	m.Trees[log] = agent.Path{Path: log, Filesystem: hostinfo.Filesystem{MountPoint: log, Free: 5 * gib}}
	g.setFree("host-c", 2*gib) // too little for the log
	m.Trees[log] = agent.Path{Path: log, Filesystem: hostinfo.Filesystem{MountPoint: log, Free: 5 * gib}}
	var found []string
	for _, d := range g.plan().Disk {
		if d.Host == "host-c" {
			found = append(found, fmt.Sprint(d.Path, " ", d.Need/gib, " of ", d.Free/gib))
		}
	}
	want := []string{log + " 3 of 5", install + "/store/dledger_store 0 of 2"}
	if !slices.Equal(found, want) {
		t.Errorf("forecast %q, not %q", found, want)
	}
	m.Trees[log] = agent.Path{Path: log, Filesystem: hostinfo.Filesystem{MountPoint: log, Free: 3 * gib}}
	if _, err := plan.Make(g.input()); err == nil || !strings.Contains(err.Error(), log) {
		t.Errorf("a log disk that is too small: %v", err)
	}
}

func TestAPlanStaysFreshWhileMessagesComeAndTimePasses(t *testing.T) {
	saved := healthy(t).plan()
	for name, passes := range map[string]func(*group){
		"an hour": func(g *group) { g.facts.At = g.facts.At.Add(time.Hour) },
		"traffic": func(g *group) {
			for _, host := range []string{"host-a", "host-b"} {
				m := g.member(host)
				m.Runtime["commitLogMaxOffset"] = "3221225000"
				m.Log = append(m.Log, agent.Entry{Path: "00000000003221225472", Size: gib, Allocated: 4096})
				tree := m.Trees[install+"/store/commitlog"]
				tree.Size.Allocated += gib
				m.Trees[install+"/store/commitlog"] = tree
			}
		},
		"a restart":             func(g *group) { g.member("host-b").Process.PID++ },
		"clocks":                func(g *group) { g.member("host-c").Skew = 5 * time.Second },
		"a disk":                func(g *group) { g.setFree("host-a", 30*gib) },
		"a name server's delay": func(g *group) { g.facts.NameServers[0].Took *= 100 },
		"another mqlift":        func(g *group) {},
	} {
		t.Run(name, func(t *testing.T) {
			g := healthy(t)
			passes(g)
			in := g.input()
			in.Tool = "v1.2.3"
			now, err := plan.Make(in)
			if err != nil {
				t.Fatal(err)
			}
			if err := plan.CheckFresh(saved, now); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnOutageIsTheSumOfItsParts(t *testing.T) {
	o := plan.Outage{Parts: []plan.Part{{Stage: "a", Low: time.Second, High: 3 * time.Second}, {Stage: "b", Low: 20 * time.Millisecond, High: time.Minute}}}
	if low, high := o.Sum(); low != 1020*time.Millisecond || high != 63*time.Second {
		t.Errorf("%s to %s", low, high)
	}
	if low, high := o.Of("b").Sum(); low != 20*time.Millisecond || high != time.Minute {
		t.Errorf("%s to %s", low, high)
	}
}
