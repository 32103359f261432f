package crowd

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/agent/agenttest"
	"mqlift/internal/hostinfo"
	"mqlift/internal/lab/sshhost"
	"mqlift/internal/lab/sshhost/sshhosttest"
	"mqlift/internal/rocketmq"
)

const (
	gib      = int64(1 << 30)
	logFiles = 3 // of 1 GiB, on each host with a broker
	release  = "4.5.2"
)

// machines are what `uname -m` says on hosts that there are builds for.
var machines = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// crowd is many broker groups in this process: for each a master, a slave and a host without a broker, as SSH
// servers that answer as hosts with an agent on them do, brokers that answer what mqlift asks, and name servers
// that know them all.
type crowd struct {
	site     *sshhosttest.Site
	count    sshhost.Count // of all hosts
	topology string        // file
	groups   []string
	hosts    []*agenttest.Host // a master, a slave and one without a broker for each group
}

// newCrowd starts that many groups; they end with the test.
func newCrowd(t testing.TB, groups int) *crowd {
	t.Helper()
	c := &crowd{site: sshhosttest.NewSite(t)}
	cluster := struct {
		Brokers  map[string]map[string]any `json:"brokerAddrTable"`
		Clusters map[string][]string       `json:"clusterAddrTable"`
	}{map[string]map[string]any{}, map[string][]string{}}
	nameServers := []string{
		serve(t, func(r *rocketmq.Command) *rocketmq.Command { return answer(r, rocketmq.GetClusterInfo, cluster) }),
		serve(t, func(r *rocketmq.Command) *rocketmq.Command { return answer(r, rocketmq.GetClusterInfo, cluster) }),
	}
	var text strings.Builder
	fmt.Fprintf(&text, "version: 1\nnameServers: [%s]\nssh: {user: %s, identityFiles: [%s], knownHosts: [%s], jump: []}\ngroups:\n",
		strings.Join(nameServers, ", "), sshhosttest.User, c.site.Identity, c.site.Known)
	var programs agenttest.Programs
	for i := range groups {
		group := fmt.Sprintf("broker-%03d", i)
		c.groups = append(c.groups, group)
		fmt.Fprintf(&text, "  - name: %s\n    members:\n", group)
		addrs := map[string]string{}
		for j, role := range []string{"ASYNC_MASTER", "SLAVE", ""} {
			name, raft := fmt.Sprintf("host-%03d-%c", i, 'a'+j), 10000+3*i+j
			m := &member{dir: "/opt/" + name, raftPort: raft}
			listen := ""
			if role != "" {
				m.live = map[string]string{
					"brokerName": group, "brokerClusterName": "DefaultCluster", "brokerId": strconv.Itoa(j), "brokerRole": role,
					"brokerIP1": "127.0.0.1", "flushDiskType": "ASYNC_FLUSH", "namesrvAddr": strings.Join(nameServers, ";"),
					"storePathRootDir": m.dir + "/store", "storePathCommitLog": m.dir + "/store/commitlog",
				}
				addr := serve(t, m.broker)
				_, m.live["listenPort"], _ = net.SplitHostPort(addr)
				addrs[strconv.Itoa(j)] = addr
			} else {
				listen = fmt.Sprintf("listenPort: %d, ", 20000+4*i) // of a broker that is to be
			}
			host := &agenttest.Host{Machine: machines[runtime.GOARCH], Programs: &programs, Answer: m.answer}
			c.hosts = append(c.hosts, host)
			server := c.site.Start(name, func(conf *sshhost.Config) { conf.Run, conf.Count = host.Run, &c.count })
			fmt.Fprintf(&text, "      - {host: %s, peer: n%d, address: 127.0.0.1, %sraftPort: %d, installDir: %s, ssh: {address: 127.0.0.1, port: %d}}\n",
				name, j, listen, raft, m.dir, server.Port())
		}
		cluster.Brokers[group] = map[string]any{"cluster": "DefaultCluster", "brokerName": group, "brokerAddrs": addrs}
	}
	cluster.Clusters["DefaultCluster"] = slices.Sorted(maps.Keys(cluster.Brokers))
	c.topology = filepath.Join(c.site.Home, "topology.yaml")
	if err := os.WriteFile(c.topology, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// member is one host and its broker.
type member struct {
	dir      string
	raftPort int
	live     map[string]string // the broker's configuration, as in its file; nil: no broker
}

func (m *member) conf() string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(m.live)) {
		lines = append(lines, k+"="+m.live[k])
	}
	return strings.Join(lines, "\n") + "\n"
}

// answer is what the agent on the host says.
func (m *member) answer(verb string, request json.RawMessage) (any, error) {
	switch verb {
	case "facts":
		var r agent.FactsRequest
		if err := json.Unmarshal(request, &r); err != nil {
			return nil, err
		}
		return m.facts(r), nil
	case "lock":
		return agent.LockAnswer{}, nil
	}
	return nil, fmt.Errorf("unexpected verb %s", verb)
}

func (m *member) facts(r agent.FactsRequest) *agent.Facts {
	disk := hostinfo.Filesystem{Type: "xfs", MountPoint: "/", Total: 500 * gib, Free: 400 * gib}
	f := &agent.Facts{OS: "linux", Arch: runtime.GOARCH, Hostname: "stand-in", User: "rocketmq", Home: "/home/rocketmq"}
	if r.InstallDir != "" {
		f.Install = &agent.Install{Dir: r.InstallDir}
		f.Java = []agent.Java{{Path: "/usr/lib/jvm/java-8/bin/java", Version: "1.8.0_392", Found: agent.JavaHome}}
	}
	for _, p := range r.Ports {
		f.Ports = append(f.Ports, agent.Port{Port: p, Free: true})
	}
	for _, p := range r.Paths {
		at := agent.Path{Path: p, Nearest: "/opt", Writable: true, Filesystem: disk}
		if m.live != nil && !strings.Contains(p, "dledger_store") {
			at.Exists, at.IsDir, at.Nearest, at.Mode = true, true, p, fs.ModeDir|0o755
			at.Size = hostinfo.TreeSize{Files: logFiles, Apparent: logFiles * gib, Allocated: logFiles * gib}
		}
		f.Paths = append(f.Paths, at)
	}
	for _, root := range r.StoreRoots {
		f.Stores = append(f.Stores, agent.Store{Root: root, Exists: m.live != nil, Abort: m.live != nil})
	}
	for _, dir := range r.List {
		l := agent.Listing{Dir: dir, Exists: m.live != nil}
		for i := range int64(logFiles) {
			if m.live != nil {
				l.Entries = append(l.Entries, agent.Entry{Path: fmt.Sprintf("%020d", i*gib), Mode: 0o644, Size: gib, Allocated: gib})
			}
		}
		f.Lists = append(f.Lists, l)
	}
	if m.live != nil {
		f.Brokers = []agent.RocketMQ{{Kind: agent.Broker, Java: true, Conf: m.dir + "/conf/broker.conf",
			Process: hostinfo.Process{ProcessID: hostinfo.ProcessID{PID: 4711}, User: "rocketmq"}}}
		if f.Install != nil {
			f.Install.Exists, f.Install.Release, f.Install.DLedger = true, release, "0.1"
		}
		if r.BrokerConf != "" {
			f.BrokerConf = &agent.File{Path: r.BrokerConf, Content: []byte(m.conf()), Mode: 0o644}
		}
	}
	return f
}

// broker is what the broker says.
func (m *member) broker(r *rocketmq.Command) *rocketmq.Command {
	switch r.Code {
	case rocketmq.GetBrokerConfig:
		live := maps.Clone(m.live)
		maps.Copy(live, map[string]string{"mappedFileSizeCommitLog": strconv.FormatInt(gib, 10), "brokerPermission": "6", "maxMessageSize": "4194304"})
		return &rocketmq.Command{Body: []byte((&member{live: live}).conf())}
	case rocketmq.GetAllSubscriptionGroupConf:
		return answer(r, r.Code, map[string]any{"subscriptionGroupTable": map[string]any{}, "dataVersion": map[string]any{"timestamp": 1, "counter": 1}})
	}
	return answer(r, rocketmq.GetBrokerRuntimeInfo, map[string]any{"table": map[string]string{
		"brokerVersionDesc": "V" + strings.ReplaceAll(release, ".", "_"), "commitLogMaxOffset": strconv.FormatInt(logFiles*gib-1000, 10)}})
}

// answer is v for a request with that code, and a refusal of any other.
func answer(r *rocketmq.Command, code rocketmq.Code, v any) *rocketmq.Command {
	body, err := json.Marshal(v)
	if err != nil || r.Code != code {
		return &rocketmq.Command{Code: rocketmq.ResponseRequestCodeNotSupported, Remark: fmt.Sprintf("a stand-in that does not answer code %d (%v)", r.Code, err)}
	}
	return &rocketmq.Command{Body: body}
}

// serve starts a server of RocketMQ's remoting protocol and returns its address; it ends with the test.
func serve(t testing.TB, answer func(*rocketmq.Command) *rocketmq.Command) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				converse(c, answer)
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() }) // mqlift has ended, and its connections with it
	return l.Addr().String()
}

// converse answers requests until the connection ends, or brings what is none.
func converse(c net.Conn, answer func(*rocketmq.Command) *rocketmq.Command) {
	r := bufio.NewReader(c)
	for {
		c.SetDeadline(time.Now().Add(time.Minute))
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(length[:]))
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		request, err := rocketmq.DecodeCommand(frame)
		if err != nil {
			return
		}
		a := answer(request)
		a.Opaque, a.Flag = request.Opaque, 1 // a response
		data, err := a.Encode()
		if err != nil {
			return
		}
		if _, err := c.Write(data); err != nil {
			return
		}
	}
}
