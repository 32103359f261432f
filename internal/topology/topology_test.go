package topology

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"mqlift/internal/corpus"
	"mqlift/internal/diag"
	"mqlift/internal/remote"
)

const minimal = `version: 1
nameServers: [192.168.0.220:9876]
defaults: {installDir: /opt/rocketmq}
groups:
  - name: broker-a
    members:
      - {host: 192.168.0.220, peer: n0}
      - {host: 192.168.0.221, peer: n1}
      - {host: 192.168.0.222, peer: n2}
`

func parsed(t *testing.T, text string) *Topology {
	t.Helper()
	top, err := Parse("topology.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func TestDefaultsAreResolvedIntoEachMember(t *testing.T) {
	top := parsed(t, minimal)
	if len(top.Warnings()) > 0 {
		t.Error(top.Warnings())
	}
	g, err := top.Group("")
	if err != nil {
		t.Fatal(err)
	}
	want := Member{
		Host: "192.168.0.221", Peer: "n1", Address: "192.168.0.221",
		SSH:        SSH{Address: "192.168.0.221", ConnectTimeout: 10 * time.Second},
		RaftPort:   40911,
		InstallDir: "/opt/rocketmq",
		BrokerConf: "/opt/rocketmq/conf/broker.conf",
		Start:      "nohup bin/mqbroker -c {{.BrokerConf}}",
		WorkDir:    "/opt/rocketmq/.mqlift",
	}
	if diff := cmp.Diff(want, g.Members[1], exported); diff != "" {
		t.Error(diff)
	}
	if g.Target != TargetDLedger || g.Release != "" || g.TracerTopic != DefaultTracerTopic {
		t.Errorf("%+v", g)
	}
	if got, want := g.Peers(), "n0-192.168.0.220:40911;n1-192.168.0.221:40911;n2-192.168.0.222:40911"; got != want {
		t.Errorf("peers %s", got)
	}
	if got := g.Members[2].BrokerID(); got != 3 {
		t.Errorf("brokerId %d, want the peer's integer + 1", got)
	}
	if g.Quorum() != 2 {
		t.Errorf("quorum %d", g.Quorum())
	}
	start, err := g.Members[0].StartCommand()
	if err != nil || start != "nohup bin/mqbroker -c /opt/rocketmq/conf/broker.conf" {
		t.Errorf("%q %v", start, err)
	}
	if got := g.Members[0].DLedgerRootFor("/data/store"); got != "/data/store/dledger_store" {
		t.Error(got)
	}
}

var exported = cmpopts.IgnoreUnexported(Topology{}, Group{}, Member{})

func TestAMemberOverridesDefaults(t *testing.T) {
	top := parsed(t, `version: 1
nameServers: [192.168.0.220:9876]
ssh: {user: rocketmq, identityFiles: [keys/id, ~/.ssh/id], jump: [root@bastion:2222, inner], sudo: true, connectTimeout: 3s}
defaults:
  installDir: /opt/rocketmq
  raftPort: 40000
  stop: bin/stop {{ .Peer }}
  javaHome: /java8
  env: {JAVA_OPT: -Xmx4g, LANG: C}
  dledgerRoot: store/dledger_store
groups:
  - name: broker-a
    members:
      - {host: 192.168.0.220, peer: n0}
      - {host: 192.168.0.221, peer: n1}
      - host: mq-2
        peer: n2
        address: 192.168.0.222
        ssh: {address: 10.0.0.2, port: 2200, user: admin, jump: [], sudo: false}
        listenPort: 20911
        raftPort: 40911
        installDir: /srv/mq
        brokerConf: /etc/mq/broker.conf
        start: |
          export A=1
          exec bin/mqbroker -c {{.BrokerConf}}
        stop: ""
        javaHome: ""
        env: {JAVA_OPT: -Xmx8g}
        dledgerRoot: /data/dledger
        workDir: /var/lib/mqlift/
`)
	folder, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	g, _ := top.Group("broker-a")
	m, err := g.Member("mq-2")
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{filepath.Join(folder, "keys/id"), "~/.ssh/id"}
	want := Member{
		Host: "mq-2", Peer: "n2", Address: "192.168.0.222",
		SSH:      SSH{Address: "10.0.0.2", Port: 2200, User: "admin", IdentityFiles: keys, Jump: []Hop{}, ConnectTimeout: 3 * time.Second},
		RaftPort: 40911, ListenPort: 20911,
		InstallDir: "/srv/mq", BrokerConf: "/etc/mq/broker.conf",
		Start:       "export A=1\nexec bin/mqbroker -c {{.BrokerConf}}",
		Env:         map[string]string{"JAVA_OPT": "-Xmx8g", "LANG": "C"},
		DLedgerRoot: "/data/dledger", WorkDir: "/var/lib/mqlift",
	}
	if diff := cmp.Diff(want, *m, exported); diff != "" {
		t.Error(diff)
	}
	target := remote.Target{
		Name: "mq-2", Address: "10.0.0.2", Port: 2200, User: "admin", IdentityFiles: keys, Jump: []remote.Hop{}, ConnectTimeout: 3 * time.Second,
	}
	if diff := cmp.Diff(target, m.SSHTarget()); diff != "" {
		t.Error(diff)
	}
	first := &g.Members[0]
	hops := []remote.Hop{{Address: "bastion", Port: 2222, User: "root"}, {Address: "inner"}}
	if diff := cmp.Diff(hops, first.SSHTarget().Jump); diff != "" {
		t.Error(diff)
	}
	if stop, err := first.StopCommand(); stop != "bin/stop n0" || err != nil {
		t.Errorf("%q %v", stop, err)
	}
	env := map[string]string{"JAVA_HOME": "/java8", "JAVA_OPT": "-Xmx4g", "LANG": "C"}
	if diff := cmp.Diff(env, first.Environment()); diff != "" {
		t.Error(diff)
	}
	if got := first.DLedgerRootFor("/data/store"); got != "/opt/rocketmq/store/dledger_store" {
		t.Error(got)
	}
	for key, want := range map[string]string{"raftPort": "topology.yaml:6:13", "": "topology.yaml:14:9", "workDir": "topology.yaml:14:9"} {
		if got := first.Where(key); got != want {
			t.Errorf("%s is said to be at %s, not %s", key, got, want)
		}
	}
}

func TestHostAndPortInAListInBracesAreOneText(t *testing.T) {
	top := parsed(t, "ssh: {jump: [user@bastion:22, 10.0.0.1:2222, inner]}\n"+minimal)
	want := []Hop{{"user", "bastion", 22}, {"", "10.0.0.1", 2222}, {"", "inner", 0}}
	if diff := cmp.Diff(want, top.SSH.Jump); diff != "" {
		t.Error(diff)
	}
	for _, apart := range []string{"[bastion: 22]", `["bastion":22]`, "[{bastion: 22}]", "[{bastion:22}]"} {
		if _, err := Parse("topology.yaml", []byte("ssh: {jump: "+apart+"}\n"+minimal)); err == nil {
			t.Errorf("%s is read as text", apart)
		}
	}
}

func TestGroupNamesWhatThereIs(t *testing.T) {
	one := parsed(t, minimal)
	two := &Topology{Groups: []Group{{Name: "broker-a"}, {Name: "broker-b"}}}
	for _, c := range []struct {
		top        *Topology
		name, want string
		err        string
	}{
		{one, "", "broker-a", ""},
		{one, "broker-a", "broker-a", ""},
		{one, "broker-x", "", `no broker group "broker-x" in the topology; there is broker-a`},
		{two, "broker-b", "broker-b", ""},
		{two, "", "", "which broker group? The topology has broker-a, broker-b"},
		{&Topology{}, "", "", "the topology has no broker group"},
	} {
		g, err := c.top.Group(c.name)
		if fmt.Sprint(err) != c.err && (err != nil || c.err != "") {
			t.Errorf("%q: %v, want %s", c.name, err, c.err)
		}
		if err == nil && g.Name != c.want {
			t.Errorf("%q: %s", c.name, g.Name)
		}
	}
	if _, err := one.Groups[0].Member("n7"); err == nil || !strings.Contains(err.Error(), "n0 (192.168.0.220)") {
		t.Error(err)
	}
}

func TestTenMistakesAreSaidAtOnceByLoad(t *testing.T) {
	_, err := Load("testdata/ten-mistakes.yaml")
	all, ok := errors.AsType[*diag.Error](err)
	if !ok || len(all.Findings) != 10 {
		t.Fatalf("%v", err)
	}
	if !strings.HasPrefix(all.Findings[0].Where, "testdata/ten-mistakes.yaml:1:10") {
		t.Error(all.Findings[0].Where)
	}
}

func TestLoadSaysWhatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{filepath.Join(dir, "none.yaml"), dir} {
		_, err := Load(name)
		all, ok := errors.AsType[*diag.Error](err)
		if !ok || all.Findings[0].Where != name || all.Findings[0].Do == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Unlimited, 256 KiB of [ keep the YAML parser busy for more than four minutes, and its recursion
// grows with them.
func TestWhatIsNoTopologyIsRefusedSoon(t *testing.T) {
	for _, part := range []string{"[", "{a: ", "- ", "!a ", "- - a: [\n"} {
		for _, size := range []int{mostBytes / 4, 100 * mostBytes} {
			start := time.Now()
			_, err := Parse("f.yaml", []byte(strings.Repeat(part, size/len(part))))
			if took := time.Since(start); err == nil || took > 20*time.Second {
				t.Errorf("%q, %d bytes: %v after %v", part, size, err, took)
			}
			if size < mostBytes && !strings.Contains(err.Error(), "nested too deeply") {
				t.Errorf("%q: %v", part, err)
			}
		}
	}
}

func TestTheSecretKeyIsReadOnlyFromAFileOfItsOwner(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("good", "hunter2hunter2\n", 0o600)
	write("group", "hunter2hunter2", 0o640)
	write("world", "hunter2hunter2", 0o604)
	write("empty", "\n", 0o600)
	t.Setenv("MQLIFT_TEST_SECRET", "hunter2hunter2")
	for _, c := range []struct{ acl, err string }{
		{"{accessKey: admin, secretKeyFile: good}", ""},
		{"{accessKey: admin, secretKeyEnv: MQLIFT_TEST_SECRET}", ""},
		{"{accessKey: admin, secretKeyFile: group}", "mode 0640"},
		{"{accessKey: admin, secretKeyFile: world}", "mode 0604"},
		{"{accessKey: admin, secretKeyFile: empty}", "is empty"},
		{"{accessKey: admin, secretKeyFile: .}", "not a regular file"},
		{"{accessKey: admin, secretKeyFile: none}", "no such file"},
		{"{accessKey: admin, secretKeyEnv: MQLIFT_TEST_UNSET}", "MQLIFT_TEST_UNSET is not set"},
	} {
		file := filepath.Join(dir, "topology.yaml")
		if err := os.WriteFile(file, []byte("acl: "+c.acl+"\n"+minimal), 0o644); err != nil {
			t.Fatal(err)
		}
		top, err := Load(file)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || !strings.HasPrefix(err.Error(), file+":1:") {
				t.Errorf("%s: %v", c.acl, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.acl, err)
			continue
		}
		if s, err := top.ACL.SecretKey(); s != "hunter2hunter2" || err != nil {
			t.Errorf("%s: %q %v", c.acl, s, err)
		}
		text, err := json.Marshal(top)
		if err != nil {
			t.Fatal(err)
		}
		yaml, err := top.YAML()
		if err != nil {
			t.Fatal(err)
		}
		for _, shown := range []string{fmt.Sprintf("%+v %#v", top, *top.ACL), string(text), string(yaml)} {
			if strings.Contains(shown, "hunter2") {
				t.Errorf("the secret key is in %s", shown)
			}
		}
	}
}

func TestASecretWrittenIntoTheFileIsNotRepeated(t *testing.T) {
	for _, acl := range []string{
		"{accessKey: a, secretKey: hunter2}", "{accessKey: a, secretKeyEnv: hunter2=}", "hunter2", "[hunter2]",
		"{accessKey: a, secretKeyEnv: {hunter2: x}}", "{accessKey: [hunter2], secretKey: hunter2}", "{secretKey: hunter2", "&hunter2 x",
	} {
		_, err := Parse("topology.yaml", []byte("acl: "+acl+"\n"+minimal))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", acl, err)
		}
	}
}

func TestTheOldStoreIsLeftAlone(t *testing.T) {
	for _, c := range []struct{ root, work, want string }{
		{"", "/opt/.mqlift", ""},
		{"/data/store/dledger", "/opt/.mqlift", ""},
		{"/data/commitlogs", "/opt/.mqlift", ""},
		{"/data/log", "/opt/.mqlift", "dledgerRoot /data/log is in the old commit log's folder"},
		{"/data/log/dledger/", "/opt/.mqlift", "dledgerRoot /data/log/dledger is in the old commit log's folder"},
		{"/data/store", "/opt/.mqlift", "dledgerRoot /data/store is the old store itself"},
		{"", "/data/log/.mqlift", "workDir /data/log/.mqlift is in the old commit log's folder"},
	} {
		m := Member{Host: "h", DLedgerRoot: c.root, WorkDir: c.work}
		found := m.CheckStore("/data/store", "/data/log")
		if err := found.Err(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestTheRunningReleaseIsCheckedWhenItIsKnown(t *testing.T) {
	top := parsed(t, strings.Replace(minimal, "192.168.0.222,", "mq-2,", 1))
	if n := top.Warnings().Count(diag.Warn); n != 1 {
		t.Errorf("%d warnings before the release is known", n)
	}
	for release, failures := range map[string]int{"4.4.0": 2, "4.5.2": 1, "4.7.1": 1, "4.8.0": 0, "5.3.3": 0, "unknown": 0} {
		if n := top.Groups[0].CheckRelease(release).Count(diag.Fail); n != failures {
			t.Errorf("%s: %d failures, want %d", release, n, failures)
		}
	}
}

func TestAMistypedKeyIsAnsweredWithTheRightOne(t *testing.T) {
	for key, want := range map[string]string{
		"nameserver": "nameServers", "Version": "version", "vresion": "version", "group": "groups", "clutser": "cluster", "shs": "ssh", "ack": "acl",
		"zookeeper": "", "x": "", "": "",
	} {
		if got := nearest(key, topKeys); got != want {
			t.Errorf("%q: %q, want %q", key, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-d]{0,6}`)
		a, b, c := word.Draw(t, "a"), word.Draw(t, "b"), word.Draw(t, "c")
		ab := distance(a, b)
		if ab != distance(b, a) || (ab == 0) != (a == b) || ab > max(len(a), len(b)) {
			t.Fatalf("distance(%q, %q) = %d", a, b, ab)
		}
		if d := distance(a+c, b+c); d > ab {
			t.Fatalf("a common end makes %q and %q more different: %d", a+c, b+c, d)
		}
	})
}

func TestWhatIsWrittenIsReadBackAsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		top := drawTopology(t)
		data, err := top.YAML()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(top.File, data)
		if err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		if diff := cmp.Diff(top, back, exported); diff != "" {
			t.Fatalf("%s\n%s", diff, data)
		}
	})
}

// drawTopology is any topology that Load could have made.
func drawTopology(t *rapid.T) *Topology {
	folder := rapid.StringMatching(`/[a-z]{1,5}(/[A-Za-z0-9._@+-]{1,6}x){0,2}`)
	text := rapid.StringOf(rapid.OneOf(rapid.RuneFrom([]rune("abc :#'\"\\{}[],&*!|>%@`-?~\n\t0x1é")), rapid.Rune().Filter(func(c rune) bool {
		return c >= ' ' && (c < 0x7f || c > 0x9f)
	}))).Filter(func(s string) bool { return !strings.Contains(s, "{{") })
	user := rapid.SampledFrom([]string{"", "rocketmq", "null", "no", "n", "true", "_x.y"})
	hop := rapid.Custom(func(t *rapid.T) Hop {
		return Hop{user.Draw(t, "user"), rapid.SampledFrom([]string{"bastion", "10.0.0.1", "fd00::1"}).Draw(t, "host"), rapid.IntRange(0, 65535).Draw(t, "port")}
	})
	optional := func(name string, files *rapid.Generator[string]) []string {
		if !rapid.Bool().Draw(t, name) {
			return nil
		}
		return rapid.SliceOfN(files, 1, 2).Draw(t, name)
	}
	files := rapid.OneOf(folder, rapid.SampledFrom([]string{"~/.ssh/id_ed25519", "/key with space", "/a: b", "/# x"}))
	top := &Topology{
		File: "/x/topology.yaml", Version: 1,
		Cluster:     rapid.SampledFrom([]string{"", "DefaultCluster", "no", "1.5", "0x1"}).Draw(t, "cluster"),
		NameServers: rapid.SampledFrom([][]string{{"192.168.9.1:9876"}, {"192.168.9.1:9876", "mq:1"}}).Draw(t, "name servers"),
		SSH: SSH{
			Port: rapid.IntRange(0, 2).Draw(t, "port"), User: user.Draw(t, "user"),
			IdentityFiles: optional("keys", files), KnownHosts: optional("known hosts", files),
			Sudo:           rapid.Bool().Draw(t, "sudo"),
			ConnectTimeout: rapid.SampledFrom([]time.Duration{DefaultConnectTimeout, time.Second, 90 * time.Minute, 1500 * time.Microsecond}).Draw(t, "timeout"),
		},
	}
	if rapid.Bool().Draw(t, "jump") {
		top.SSH.Jump = rapid.SliceOfN(hop, 0, 2).Draw(t, "jump")
	}
	switch rapid.IntRange(0, 2).Draw(t, "acl") {
	case 1:
		top.ACL = &ACL{AccessKey: "admin", SecretKeyEnv: "SECRET"}
	case 2:
		top.ACL = &ACL{AccessKey: "12345", SecretKeyFile: "~/secret"}
	}
	values := rapid.SampledFrom([]string{"", "1", "true", "-Xmx4g -Dx=y: z", " a ", "é\t\n"})
	name := rapid.SampledFrom([]string{"JAVA_OPT", "LANG", "y", "no", "null", "_1"})
	shared := rapid.MapOfN(name, values, 0, 3).Draw(t, "env")
	start := rapid.OneOf(rapid.Just(DefaultStart), text.Filter(func(s string) bool { return strings.TrimSpace(s) != "" }))
	serial := 0
	for g := range rapid.IntRange(1, 2).Draw(t, "groups") {
		group := Group{
			Name: fmt.Sprintf("broker-%d", g), Target: TargetDLedger, TracerTopic: rapid.SampledFrom([]string{DefaultTracerTopic, "T", "1"}).Draw(t, "tracer"),
			Release: rapid.SampledFrom([]string{"", "4.5.2", "5.3.3"}).Draw(t, "release"),
		}
		for i := range rapid.IntRange(3, 5).Draw(t, "members") {
			serial++
			m := Member{
				Host: fmt.Sprintf("192.168.%d.%d", g, i), Peer: fmt.Sprintf("n%d", i),
				RaftPort:    rapid.SampledFrom([]int{DefaultRaftPort, 40000}).Draw(t, "raft port"),
				ListenPort:  rapid.SampledFrom([]int{0, 0, 20911}).Draw(t, "listen port"),
				InstallDir:  rapid.OneOf(rapid.Just("/opt/rocketmq"), folder).Draw(t, "install dir"),
				Start:       start.Draw(t, "start"),
				Stop:        rapid.OneOf(rapid.Just(""), text).Draw(t, "stop"),
				JavaHome:    rapid.OneOf(rapid.Just(""), folder).Draw(t, "java home"),
				DLedgerRoot: rapid.SampledFrom([]string{"", "/data/dledger", "/opt/rocketmq/store/dledger_store"}).Draw(t, "root"),
				WorkDir:     rapid.SampledFrom([]string{"/var/lib/mqlift", "/opt/rocketmq/.mqlift"}).Draw(t, "work dir"),
			}
			m.BrokerConf = rapid.SampledFrom([]string{"/etc/broker.conf", m.InstallDir + "/conf/broker.conf", m.InstallDir + "/x"}).Draw(t, "broker.conf")
			m.Address = rapid.SampledFrom([]string{m.Host, fmt.Sprintf("10.0.%d.%d", g, i)}).Draw(t, "address")
			m.SSH = top.SSH.clone()
			m.SSH.Address = m.Host
			if rapid.Bool().Draw(t, "own ssh") {
				m.SSH = SSH{
					Address: fmt.Sprintf("10.1.%d.%d", g, i), Port: rapid.IntRange(1, 65535).Draw(t, "own port"), User: user.Draw(t, "own user"),
					IdentityFiles: optional("own keys", files), KnownHosts: top.SSH.KnownHosts,
					Jump: rapid.SliceOfN(hop, 0, 1).Draw(t, "own jump"), Sudo: rapid.Bool().Draw(t, "own sudo"), ConnectTimeout: DefaultConnectTimeout,
				}
			}
			m.Env = map[string]string{}
			for k, v := range shared {
				m.Env[k] = v
			}
			if rapid.Bool().Draw(t, "own env") {
				m.Env[name.Draw(t, "name")] = values.Draw(t, "value")
			}
			if len(m.Env) == 0 {
				m.Env = nil
			}
			group.Members = append(group.Members, m)
		}
		top.Groups = append(top.Groups, group)
	}
	return top
}

func TestATopologyBuiltByHandTakesDefaultsAndIsSmall(t *testing.T) {
	top := &Topology{
		NameServers: []string{"127.0.0.1:9876"},
		SSH:         SSH{User: "lab", KnownHosts: []string{"/lab/known_hosts"}},
		Groups:      []Group{{Name: "broker-a"}},
	}
	g := &top.Groups[0]
	for i := range 3 {
		g.Members = append(g.Members, Member{
			Host: fmt.Sprintf("h%d", i), Peer: fmt.Sprintf("n%d", i), Address: "127.0.0.1", RaftPort: 40921 + i,
			InstallDir: fmt.Sprintf("/lab/%d", i), SSH: SSH{Address: "127.0.0.1", Port: 2200 + i}, Env: map[string]string{"JAVA_OPT": "-Xmx256m"},
		})
	}
	data, err := top.YAML()
	if err != nil {
		t.Fatal(err)
	}
	want := `version: 1
nameServers: ["127.0.0.1:9876"]
ssh:
  user: lab
  knownHosts: [/lab/known_hosts]
defaults:
  env: {JAVA_OPT: "-Xmx256m"}
groups:
  - name: broker-a
    target: dledger
    members:
      - {host: h0, peer: n0, address: 127.0.0.1, installDir: /lab/0, raftPort: 40921, ssh: {address: 127.0.0.1, port: 2200}}
      - {host: h1, peer: n1, address: 127.0.0.1, installDir: /lab/1, raftPort: 40922, ssh: {address: 127.0.0.1, port: 2201}}
      - {host: h2, peer: n2, address: 127.0.0.1, installDir: /lab/2, raftPort: 40923, ssh: {address: 127.0.0.1, port: 2202}}
`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Error(diff)
	}
	m := parsed(t, string(data)).Groups[0].Members[2]
	if m.SSH.User != "lab" || m.SSH.Port != 2202 || m.RaftPort != 40923 || m.BrokerConf != "/lab/2/conf/broker.conf" || m.SSH.KnownHosts[0] != "/lab/known_hosts" {
		t.Errorf("%+v", m)
	}
}

func TestWhatLoadWouldRefuseIsNotWritten(t *testing.T) {
	for name, spoil := range map[string]func(*Topology){
		"two members": func(top *Topology) { top.Groups[0].Members = top.Groups[0].Members[:2] },
		"bad UTF-8":   func(top *Topology) { top.Groups[0].Members[0].Host = "\xff" },
		"new line":    func(top *Topology) { top.Groups[0].Members[0].Host = "a\nb" },
	} {
		top := parsed(t, minimal)
		spoil(top)
		if data, err := top.YAML(); err == nil {
			t.Errorf("%s: written as\n%s", name, data)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range append(files, "../../templates/topology.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(minimal))
	f.Add([]byte("\xff"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		top, err := Parse("f.yaml", data)
		var found diag.Findings
		if err == nil {
			found = top.Warnings()
		} else if all, ok := errors.AsType[*diag.Error](err); ok {
			found = all.Findings
		} else {
			t.Fatalf("%T: %v", err, err)
		}
		for _, f := range found {
			line, column, ok := corpus.Position(f.Where)
			if !ok || f.What == "" || f.Do == "" || !strings.HasPrefix(f.Where, "f.yaml:") {
				t.Fatalf("%+v", f)
			}
			// A lone CR ends a line for the parser; only the lines' number is bounded then.
			if n := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 1; line > n || column > len(data)+2 {
				t.Fatalf("outside the %d lines: %+v", n, f)
			}
		}
		if err != nil {
			return
		}
		out, err := top.YAML()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		back, err := Parse("f.yaml", out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if diff := cmp.Diff(top, back, exported); diff != "" {
			t.Fatalf("%s\n%s", diff, out)
		}
	})
}
