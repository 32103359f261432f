package plan

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"mqlift/internal/agent"
	"mqlift/internal/brokerconf"
	"mqlift/internal/diag"
	"mqlift/internal/grouplock"
	"mqlift/internal/observe"
	"mqlift/internal/topology"
	"mqlift/internal/transfer"
)

// Limits of what preflight lets pass.
const (
	maxSkew     = 2 * time.Second // stored timestamps and the write outage are measured across clocks
	maxSlaveLag = 4 << 20         // bytes; a slave under traffic is always a little behind
	spareDisk   = 1 << 30         // bytes left free beyond what is copied
)

// KindOf tells what a member is by itself; "" when that cannot be told. Recognise tells more, looking
// at the others.
func KindOf(m *observe.Member) Kind {
	switch m.Role() {
	case "dledger":
		return DLedger
	case "master":
		return Master
	case "slave":
		return Slave
	}
	if m.Process == nil && m.Conf == nil && m.ConfErr == nil {
		return Fresh
	}
	return ""
}

// Preflight says of everything that an apply depends on whether it is as it must be. It is pure.
func Preflight(t *topology.Topology, g *topology.Group, f *observe.Facts) diag.Findings {
	p := preflight{t: t, g: g, f: f, is: Recognise(g, f)}
	p.locks()
	p.group()
	for i := range f.Members {
		p.member(&f.Members[i])
	}
	p.reached()
	p.nameServers()
	slices.SortStableFunc(p.found, func(a, b diag.Finding) int { return strings.Compare(a.Host, b.Host) })
	return p.found
}

type preflight struct {
	t     *topology.Topology
	g     *topology.Group
	f     *observe.Facts
	is    *Recognition
	found diag.Findings
}

func (p *preflight) add(s diag.Severity, check, host, where, what, do string) {
	p.found.Add(diag.Finding{Check: check, Severity: s, Host: host, Where: where, What: what, Do: do})
}

func (p *preflight) pass(check, host, format string, args ...any) {
	p.add(diag.Pass, check, host, "", fmt.Sprintf(format, args...), "")
}

// master is the one serving master, nil when there is not exactly one.
func (p *preflight) master() *observe.Member { return (&recogniser{f: p.f}).master() }

func (p *preflight) group() {
	count := map[Kind]int{}
	for _, kind := range p.is.Kinds {
		count[kind]++
	}
	p.found = append(p.found, p.is.Findings...)
	switch p.is.State {
	case Upgraded:
		p.add(diag.Fail, "group.roles", "", "", "every member runs as DLedger already", "nothing is left to apply; `mqlift verify` proves the group, `mqlift failover` its failover")
		return
	case Impaired:
		p.add(diag.Fail, "group.roles", "", "", p.is.Line, "no upgrade goes on from here: mend what is said below, then `mqlift verify`")
	case Mixed, Stopped: // said already
	default:
		switch {
		case count[Master] != 1:
			p.add(diag.Fail, "group.roles", "", "", fmt.Sprintf("%d members answer as master, not one", count[Master]), "see below which brokers do not answer; start them, or mend the topology")
		case count[Slave] == 0:
			p.add(diag.Fail, "group.roles", "", "", "no member answers as slave", "the upgrade takes consume queues and index from a stopped slave: start one, or mend the topology")
		default:
			p.pass("group.roles", "", "1 master, %d slave(s), %d new host(s)", count[Slave], count[Fresh])
		}
	}
	if quorum := p.g.Quorum(); count[Slave]+count[Fresh] < quorum && count[Master] == 1 {
		p.add(diag.Fail, "group.quorum", "", p.g.Where("members"), fmt.Sprintf("without the old master %d members are left, and a quorum is %d", count[Slave]+count[Fresh], quorum), "add members: the new group has to elect a leader before the old master joins")
	}
	want := p.g.Release
	switch running := p.f.Release; {
	case running == "":
		p.add(diag.Fail, "group.release", "", "", "no broker says which release it runs", "start the brokers, or look at their logs")
	case want != "" && want != running:
		p.add(diag.Fail, "group.release", "", p.g.Where("release"), fmt.Sprintf("the group runs %s and the topology wants %s: this version of mqlift changes the mode and keeps the release", running, want), "leave `release` out, or set it to "+running)
	case semver.Major("v"+running) == "v5":
		p.add(diag.Fail, "group.release", "", "", fmt.Sprintf("release %s does not complete carried consume queues at its first start as DLedger (seen on 5.3.3: a message no longer found)", running), "this version of mqlift upgrades 4.5.1 to 4.9.8; on 5.x consider Controller mode")
	case !brokerconf.Known(running):
		p.add(diag.Fail, "group.release", "", "", fmt.Sprintf("release %s is not one that mqlift knows the defaults of", running), "releases it knows: "+strings.Join(brokerconf.Releases(), ", "))
	default:
		p.pass("group.release", "", "%s on all brokers that answer", running)
		p.found = append(p.found, p.g.CheckRelease(running)...)
		p.found = append(p.found, releaseRisks(running)...)
	}
	for i := range p.f.Members {
		m := &p.f.Members[i]
		if v := release(m); v != "" && v != p.f.Release {
			p.add(diag.Fail, "group.release", m.Declared.Host, m.Addr, fmt.Sprintf("runs %s, the others %s", v, p.f.Release), "bring all brokers of the group to one release first")
		}
	}
}

func release(m *observe.Member) string { return observe.Release(m.Runtime) }

// releaseRisks are what a release is known for.
func releaseRisks(running string) diag.Findings {
	var l diag.Findings
	if semver.Compare("v"+running, "v4.8.0") < 0 {
		l.Add(diag.Finding{Check: "release.dledger", Severity: diag.Warn,
			What: "DLedger 0.1, in releases up to 4.7.1, lets a lagging node win an election and cut its peers' logs (rocketmq #2178, dledger #52), and refuses batch messages (code 13)",
			Do:   "plan the step to 4.9.8 or newer soon after; keep nodes from lagging (disk, network) until then"})
	} else {
		l.Add(diag.Finding{Check: "release.controller", Severity: diag.Warn,
			What: "upstream's newer way to failover is Controller mode (5.x), and there is no way in place from DLedger to it",
			Do:   "decide for DLedger knowingly"})
	}
	return l
}

func (p *preflight) member(m *observe.Member) {
	host, d := m.Declared.Host, m.Declared
	kind := p.is.Kinds[host]
	if kind == DLedger {
		p.pass("broker.role", host, "runs as DLedger peer %s", m.Live["dLegerSelfId"])
		return
	}
	switch {
	case m.ConfErr != nil:
		p.add(diag.Fail, "broker.conf", host, d.BrokerConf, m.ConfErr.Error(), "mend the line: a broker does not start on this file")
		return
	case kind == Fresh:
		p.fresh(m)
	case kind == Slave && down(m):
		p.stoppedSlave(m)
	case m.Process == nil && m.Runtime == nil:
		p.add(diag.Fail, "broker.running", host, d.BrokerConf, fmt.Sprintf("has a broker.conf, but no broker runs on it and nothing answers at %s", m.Addr),
			p.startAgain(m))
	case m.Process == nil:
		p.add(diag.Fail, "broker.running", host, d.BrokerConf, fmt.Sprintf("a broker answers at %s, but no process of this host was started with this file", m.Addr),
			"set brokerConf in the topology to the file that the broker was started with (`-c`), and see that mqlift may read its processes")
	case m.Runtime == nil || m.Live == nil: // its role is in what it did not answer
		p.add(diag.Fail, "broker.running", host, m.Addr, fmt.Sprintf("the broker runs as process %d and does not answer: %v", m.Process.PID, m.RuntimeErr), "look at its log; check listenPort and brokerIP1"+p.hangs(m))
	default:
		p.pass("broker.running", host, "process %d answers at %s as %s", m.Process.PID, m.Addr, kind)
		if m.Process.User != m.Host.User {
			p.add(diag.Fail, "host.user", host, d.Where("ssh"), fmt.Sprintf("the broker runs as %s and mqlift works as %s here: what it starts and writes would belong to %[2]s", m.Process.User, m.Host.User), "log in as "+m.Process.User+", without sudo")
		}
		p.old(m)
	}
	p.host(m)
}

// host checks what any member's host needs.
func (p *preflight) host(m *observe.Member) {
	host, d := m.Declared.Host, m.Declared
	switch skew := m.Skew.Abs(); {
	case skew > maxSkew+m.SkewBy:
		p.add(diag.Warn, "host.clock", host, "", fmt.Sprintf("its clock is %s off this machine's", m.Skew.Round(time.Millisecond)), "synchronise the clocks: store timestamps, retention and outage times go by them")
	default:
		p.pass("host.clock", host, "within %s of this machine's", max(skew, m.SkewBy).Round(time.Millisecond))
	}
	if len(m.Host.Java) == 0 {
		p.add(diag.Fail, "host.java", host, "", "no Java is found in the environment that the start line will have", "install a JDK, or set javaHome in the topology")
	} else {
		p.pass("host.java", host, "%s at %s", m.Host.Java[0].Version, m.Host.Java[0].Path)
	}
	for _, port := range m.Host.Ports {
		switch {
		case port.Port != d.RaftPort:
		case !port.Free:
			p.add(diag.Fail, "host.raftPort", host, d.Where("raftPort"), fmt.Sprintf("port %d is taken: %s", port.Port, port.Problem), "free it, or choose another raftPort")
		case port.Ephemeral:
			p.add(diag.Warn, "host.raftPort", host, d.Where("raftPort"), fmt.Sprintf("port %d may be given to an outgoing connection of this host (net.ipv4.ip_local_port_range), and a restarting peer then not get it", port.Port), "reserve it (net.ipv4.ip_local_reserved_ports)")
		default:
			p.pass("host.raftPort", host, "%d is free", port.Port)
		}
	}
	if len(m.Others) > 0 && strings.Contains(d.Stop, "mqshutdown") {
		p.add(diag.Fail, "host.brokers", host, d.Where("stop"), fmt.Sprintf("%d other broker(s) run on this host, and mqshutdown stops every broker that it finds", len(m.Others)), "leave `stop` out: mqlift then signals the one process")
	}
	if m.LockErr != nil {
		p.add(diag.Fail, "group.lock", host, grouplock.Path(d.WorkDir, p.g.Name), m.LockErr.Error(), "look at it, and remove it when no run is going on")
	}
	if d.WorkDir != "" {
		if tree, ok := m.Trees[d.InstallDir]; ok && !tree.Writable {
			p.add(diag.Fail, "host.writable", host, tree.Nearest, fmt.Sprintf("user %s may not write here", m.Host.User), "use the broker's own user, or sudo: true")
		}
	}
}

// reached says which hosts reach one another at their Raft ports, which DLedger lives on.
func (p *preflight) reached() {
	ways := map[string][]string{}
	for _, r := range p.f.Reached {
		if r.Err == nil {
			ways[r.From] = append(ways[r.From], r.To)
			continue
		}
		to, err := p.g.Member(r.To)
		if err != nil {
			continue
		}
		p.add(diag.Warn, "host.reach", r.From, to.Where("raftPort"), fmt.Sprintf("%s, the Raft port of %s, cannot be reached from here: %v", to.RaftAddr(), r.To, r.Err),
			"open it between all members: DLedger has no leader, or loses it, without; the store goes through the machine that mqlift runs on as long as it is closed")
	}
	for _, from := range slices.Sorted(maps.Keys(ways)) {
		p.pass("host.reach", from, "reaches %s at the Raft port", strings.Join(ways[from], " and "))
	}
}

// locks says who holds the group, once for each run and before all that may be that run's work. It is no
// failure: whether a run may go on with the lock there is for apply to decide, which knows the journals of
// this machine.
func (p *preflight) locks() {
	said := map[string]bool{}
	for _, m := range p.f.Members {
		if m.Lock == nil || said[m.Lock.Run] {
			continue
		}
		said[m.Lock.Run] = true
		p.add(diag.Warn, "group.lock", "", m.Declared.Host+":"+m.Lock.Path, m.Lock.Holder()+"; what is found below may be its work, so that nothing is to be mended by hand", m.Lock.Do())
	}
}

// fresh checks a host that gets its first broker.
func (p *preflight) fresh(m *observe.Member) {
	host, d := m.Declared.Host, m.Declared
	p.pass("broker.running", host, "no broker yet")
	if m.Host.Install != nil && m.Host.Install.Release != "" && m.Host.Install.Release != p.f.Release {
		p.add(diag.Fail, "host.release", host, d.InstallDir, fmt.Sprintf("holds release %s, and the group runs %s", m.Host.Install.Release, p.f.Release), "move it away, or name another installDir")
	}
	port := d.ListenPort
	if master := p.master(); master != nil {
		if port == 0 {
			port = master.Settings.ListenPort
		}
		root, log := observe.Places(d, master)
		p.found = append(p.found, d.CheckStore(root, log)...)
		if log == m.CommitLog {
			p.copiedLog(m, log, master.Settings.MappedFileSizeCommitLog)
		}
	}
	for _, l := range m.Host.Listeners {
		if used := int(l.Address.Port()); used == port || used == port+1 || used == port-2 {
			p.add(diag.Fail, "host.ports", host, "", fmt.Sprintf("port %d, which the new broker needs (listenPort %d with its neighbours), is taken by process %d", used, port, l.PID), "free it, or set listenPort of this member in the topology")
		}
	}
}

// old checks a running member of the old group.
func (p *preflight) old(m *observe.Member) {
	host, d, s := m.Declared.Host, m.Declared, m.Settings
	if s.BrokerName != "" && s.BrokerName != p.g.Name {
		p.add(diag.Fail, "broker.name", host, d.BrokerConf, fmt.Sprintf("brokerName is %s, the topology's group is %s", s.BrokerName, p.g.Name), "name the right file, or the right group")
	}
	if live := m.Live["brokerName"]; live != p.g.Name && s.BrokerName == "" {
		p.add(diag.Fail, "broker.name", host, d.BrokerConf, fmt.Sprintf("the file has no brokerName, and the broker calls itself %s and not %s", live, p.g.Name), "write brokerName="+p.g.Name+" into the file and restart this broker")
	}
	for _, f := range m.Conf.Findings(brokerconf.Site{Host: host, Release: p.f.Release, Home: m.Host.Home, Addresses: []string{d.Address}}) {
		p.found.Add(f)
	}
	size := strconv.FormatInt(s.MappedFileSizeCommitLog, 10)
	for _, set := range []brokerconf.KV{
		{Key: "storePathRootDir", Value: s.StoreRoot}, {Key: "storePathCommitLog", Value: s.StoreCommitLog},
		{Key: "mapedFileSizeCommitLog", Value: size}, {Key: "mappedFileSizeCommitLog", Value: size},
		{Key: "brokerPermission", Value: strconv.Itoa(s.Permission)}, {Key: "startAcceptSendRequestTimeStamp", Value: strconv.FormatInt(s.AcceptSendsFrom, 10)},
	} {
		if live, ok := m.Live[set.Key]; ok && live != set.Value {
			p.add(diag.Fail, "broker.drift", host, d.BrokerConf, fmt.Sprintf("the file gives %s=%s and the running broker has %s", set.Key, set.Value, live), "the file is not the one that the broker was started with, or was changed since: make them agree and restart this broker")
		}
	}
	if strings.Contains(s.StoreCommitLog, ",") {
		p.add(diag.Fail, "store.commitlog", host, d.BrokerConf, "storePathCommitLog names several folders, which DLedger cannot take over", "bring the commit log into one folder first")
	}
	p.commitLog(m)
	p.found = append(p.found, d.CheckStore(s.StoreRoot, s.StoreCommitLog)...)
	if KindOf(m) == Slave {
		p.slave(m)
	}
	p.sendBacks(m)
	if m.Live["brokerRole"] == "SYNC_MASTER" {
		p.add(diag.Warn, "broker.sync", host, "", "SYNC_MASTER: from the stop of the slave to the fence sends answer SLAVE_NOT_AVAILABLE although they are stored", "have producers take that status as stored, or pause them for the stage `narrow`")
	}
}

// sendBacks warns of clients that do not bear a refused send-back. In rocketmq-client-go up to 2.1.2
// pushConsumer.sendMessageBack takes any answer for success and moves on (read there; later ones and
// Java's send the message to the retry topic, or consume it again).
func (p *preflight) sendBacks(m *observe.Member) {
	host := m.Declared.Host
	switch {
	case m.ConsumersErr != nil:
		p.add(diag.Warn, "clients.sendBack", host, m.Addr, "which clients consume is not known: "+m.ConsumersErr.Error(), "clients in Go may lose a message that they send back while writes are refused: see for yourself whether there are any")
	case len(m.GoGroups) > 0:
		p.add(diag.Warn, "clients.sendBack", host, m.Addr,
			fmt.Sprintf("%d consumer group(s) have clients in Go: %s; rocketmq-client-go up to 2.1.2 takes a refused send-back for done, so that a message on which the application fails while writes are refused is not given to it again", len(m.GoGroups), strings.Join(m.GoGroups, ", ")),
			"have applications with such a client retry within themselves, or stop them for the stages fence to open; other clients try again by themselves")
	}
}

// stoppedSlave is about a slave that the plan takes as it would have left it: stopped.
func (p *preflight) stoppedSlave(m *observe.Member) {
	host, d := m.Declared.Host, m.Declared
	what := "this slave is stopped, so that the master holds the only copy that moves"
	if m.Store != nil && m.Store.Abort {
		what += "; it did not stop cleanly (" + path.Join(m.Store.Root, "abort") + " is there), and its consume queues and index are not made use of"
	}
	p.add(diag.Warn, "broker.running", host, d.BrokerConf, what,
		"nothing: the plan makes its log like the master's, whatever it lacks or has of its own, and leaves it stopped when the run is undone; start it first if it is to be carried on as a slave")
	if m.Host.Install != nil && m.Host.Install.Release != "" && m.Host.Install.Release != p.f.Release {
		p.add(diag.Fail, "host.release", host, d.InstallDir, fmt.Sprintf("holds release %s, and the group runs %s", m.Host.Install.Release, p.f.Release), "bring all brokers of the group to one release first")
	}
	p.old(m)
}

// hangs says of a slave what else keeps it from answering. Its start waits until the whole log has been
// dispatched, from where its consume queues end, and a slave does not pass over what is no message there
// (DefaultMessageStore.start and ReputMessageService.doReput, 4.5.2; seen).
func (p *preflight) hangs(m *observe.Member) string {
	if m.Settings.Role != "SLAVE" {
		return ""
	}
	return fmt.Sprintf("; when its store.log goes on with \"Try to finish doing reput the messages fall behind\", its log is not the one that its consume queues were made from, and it will never serve: stop it (kill %d), leave it stopped and `mqlift check` again: the plan makes a stopped slave's log like the master's", m.Process.PID)
}

// startAgain says how a member that is down comes back.
func (p *preflight) startAgain(m *observe.Member) string {
	const fresh = "; where the host is to be a new member, move the file away: a copy of the store that lies here is then made use of, and nothing of it is lost"
	if _, prepared := m.Conf.Prepared(); !prepared {
		return "start the broker and let it catch up" + fresh
	}
	return "start the broker in the old mode and let it catch up: " + (&recogniser{g: p.g, f: p.f}).oldAgain(m) + fresh
}

// strange says what a file, or a folder, in a commit log's folder has to do with the broker's start;
// "" for a commit log file. A broker lists the folder and takes everything in it for its log: with one
// entry of another length it does not start ("length not matched message store config value", exit -3),
// nor with a name that is no number (MappedFileQueue.load, MappedFile.init, 4.5.2).
func strange(e agent.Entry, size int64) (check, what string) {
	switch named := len(e.Path) == 20 && strings.Trim(e.Path, "0123456789") == ""; {
	case e.Mode.IsDir():
		return "store.junk", "is a folder inside the commit log's folder"
	case !named && strings.HasPrefix(e.Path, ".nfs"):
		return "store.junk", "is what NFS keeps of a file that was deleted while a process has it open, in the commit log's folder"
	case !named:
		return "store.junk", "is no commit log file, and lies in the commit log's folder"
	case e.Size != size:
		return "store.fileSize", fmt.Sprintf("is %d bytes long, and mappedFileSizeCommitLog is %d", e.Size, size)
	}
	return "", ""
}

// noStart is what any of that means for a running broker.
const noStart = `: the broker does not start again with it ("length not matched message store config value")`

func (p *preflight) commitLog(m *observe.Member) {
	host, dir, size := m.Declared.Host, m.Settings.StoreCommitLog, m.Settings.MappedFileSizeCommitLog
	var files int
	bad := false
	lengths := map[int64]int{}
	for _, e := range m.Log {
		check, what := strange(e, size)
		switch check {
		case "":
			files++
			continue
		case "store.fileSize":
			lengths[e.Size]++
		}
		bad = true
		if check == "store.junk" {
			p.add(diag.Fail, check, host, path.Join(dir, e.Path), what+noStart, "move it away, to a folder outside of this one")
		}
	}
	for _, length := range slices.Sorted(maps.Keys(lengths)) {
		p.otherLength(m, length, lengths[length], files)
	}
	if !bad {
		p.pass("store.commitlog", host, "%d files of %d bytes in %s", files, size, dir)
	}
	if master := p.master(); master != nil && master.Settings.MappedFileSizeCommitLog != size {
		p.add(diag.Fail, "store.fileSize", host, at(m.Conf, "mappedFileSizeCommitLog"), fmt.Sprintf("mappedFileSizeCommitLog is %d here and %d on the master", size, master.Settings.MappedFileSizeCommitLog), "DLedger needs the same file length on all members, and it must be the one that the files have")
	}
}

// otherLength is about files that have another length than the broker.conf says, all of one.
func (p *preflight) otherLength(m *observe.Member, length int64, count, right int) {
	dir, size := m.Settings.StoreCommitLog, m.Settings.MappedFileSizeCommitLog
	if right == 0 { // it is the setting that is wrong
		p.add(diag.Fail, "store.fileSize", m.Declared.Host, at(m.Conf, "mappedFileSizeCommitLog"),
			fmt.Sprintf("mappedFileSizeCommitLog is %d, and all %d files in %s are %d bytes long%s", size, count, dir, length, noStart), fmt.Sprintf("write mappedFileSizeCommitLog=%d, which the files were made with", length))
		return
	}
	for _, e := range m.Log {
		if check, what := strange(e, size); check == "store.fileSize" && e.Size == length {
			p.add(diag.Fail, check, m.Declared.Host, path.Join(dir, e.Path), what+noStart, "all files must have that length: a copy that was cut short goes away, a file of the broker's own has to be brought back whole")
		}
	}
}

// copiedLog is about a commit log that lies on a host without a broker: what is not as it must be is
// moved aside, whatever it is.
func (p *preflight) copiedLog(m *observe.Member, dir string, size int64) {
	var odd []string
	for _, e := range m.Log {
		if e.Path == transfer.IncomingName { // of a copy that died; it goes before the next one
			continue
		}
		if check, what := strange(e, size); check != "" {
			odd = append(odd, e.Path+" "+what)
		}
	}
	switch mounted := m.Trees[dir].Filesystem.MountPoint == dir; {
	case len(odd) > 0 && mounted:
		p.add(diag.Fail, "store.junk", m.Declared.Host, dir, "is a mount point, which cannot be moved aside, and what lies in it is not what a broker takes: "+strings.Join(odd, ", "), "move that away, to a folder outside of this one; an empty lost+found can be removed")
	case len(odd) > 0:
		p.add(diag.Warn, "store.junk", m.Declared.Host, dir, "the commit log that lies here is not one that a broker takes: "+strings.Join(odd, ", "), "nothing: the plan moves this folder aside and copies the master's log anew")
	}
}

// alike are the properties that clients or retention notice when the leader is the old slave.
var alike = []string{"maxMessageSize", "autoCreateTopicEnable", "autoCreateSubscriptionGroup", "aclEnable", "fileReservedTime", "deleteWhen", "messageDelayLevel", "enablePropertyFilter"}

func (p *preflight) slave(m *observe.Member) {
	master := p.master()
	if master != nil {
		for _, key := range alike {
			if a, b := master.Live[key], m.Live[key]; a != b {
				p.add(diag.Warn, "broker.alike", m.Declared.Host, m.Declared.BrokerConf, fmt.Sprintf("%s is %s here and %s on the master", key, b, a), "make them alike: this broker may lead after the upgrade")
			}
		}
	}
	if master == nil || master.LogMax() < 0 || m.LogMax() < 0 {
		return
	}
	switch lag := master.LogMax() - m.LogMax(); {
	case m.LogMax() == 0 && lag > 0: // however little there is
		p.add(diag.Fail, "slave.caughtUp", m.Declared.Host, m.Addr, fmt.Sprintf("the slave has copied nothing of the master's %d bytes", lag), "see that it reaches the master's HA port (listenPort+1); a slave that has just started connects within seconds: `mqlift check` again then")
	case lag > maxSlaveLag:
		p.add(diag.Fail, "slave.caughtUp", m.Declared.Host, m.Addr, fmt.Sprintf("the slave is %d bytes behind the master", lag), "let it catch up: `mqlift check` again then; when it never does (its store.log says why), stop it and leave it stopped: the plan makes a stopped slave's log like the master's")
	case lag < -maxSlaveLag:
		p.add(diag.Fail, "slave.caughtUp", m.Declared.Host, m.Addr, fmt.Sprintf("the slave's log goes %d bytes further than the master's", -lag), "it has messages that the master does not (`mqlift store compare` names the first): find out why before anything is changed; when they are to be given up, stop this slave and leave it stopped: the plan makes a stopped slave's log like the master's")
	default:
		p.pass("slave.caughtUp", m.Declared.Host, "%d bytes behind the master", max(0, lag))
	}
}

func (p *preflight) nameServers() {
	master := p.master()
	answered := 0
	for _, ns := range p.f.NameServers {
		if ns.Err != nil {
			p.add(diag.Warn, "nameserver", "", ns.Addr, fmt.Sprintf("does not answer: %v", ns.Err), "start it: the upgrade goes on with the others, and clients that know only this one see nothing of it")
			continue
		}
		answered++
		addrs := ns.Cluster.Brokers[p.g.Name].Addrs
		if master != nil && addrs[0] != master.Addr {
			p.add(diag.Fail, "nameserver", "", ns.Addr, fmt.Sprintf("gives %q as the master of %s, and %s is", addrs[0], p.g.Name, master.Addr), "see that brokerIP1 and listenPort of the master are right, and that it registers here")
			continue
		}
		if cluster := ns.Cluster.Brokers[p.g.Name].Cluster; p.t.Cluster != "" && cluster != p.t.Cluster && master != nil {
			p.add(diag.Fail, "nameserver", "", p.t.Where("cluster"), fmt.Sprintf("the group is in cluster %s, the topology says %s", cluster, p.t.Cluster), "mend the topology")
			continue
		}
		p.pass("nameserver", "", "%s answers in %s and knows the master", ns.Addr, ns.Took.Round(time.Millisecond))
	}
	if answered == 0 {
		p.add(diag.Fail, "nameserver", "", strings.Join(p.t.NameServers, ", "), "no name server answers", "start one, or mend nameServers in the topology")
	}
}
