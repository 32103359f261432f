package plan

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"mqlift/internal/agent"
	"mqlift/internal/brokerconf"
	"mqlift/internal/diag"
	"mqlift/internal/observe"
	"mqlift/internal/topology"
)

// State is where a group stands between master/slave and DLedger, whoever brought it there.
type State string

const (
	OldMode  State = "master and slave"      // as before any upgrade
	Begun    State = "begun by hand"         // the old brokers serve as before, and something is prepared beside them
	Stopped  State = "stopped"               // no broker of the group runs
	Mixed    State = "partly DLedger"        // old brokers and DLedger peers run side by side
	Impaired State = "DLedger, not in order" // no old broker runs, and not every member is a peer as it should be
	Upgraded State = "DLedger"               // every member is a peer
	Unclear  State = "unclear"               // none of these, as when a slave is down
)

// Recognition is what a group was recognised as.
type Recognition struct {
	State State
	Line  string // the state in one sentence, without a full stop
	// Kinds are the members' parts in an upgrade from here, by host; "" where a member has none.
	Kinds map[string]Kind
	// Findings are the evidence, and what to do about it. Warn: a plan goes on from there.
	Findings diag.Findings
}

// Recognise tells where a group stands, also when an upgrade by hand has stopped half-way. It is pure.
func Recognise(g *topology.Group, f *observe.Facts) *Recognition {
	r := &recogniser{g: g, f: f, Recognition: Recognition{Kinds: map[string]Kind{}}}
	r.kinds()
	count := map[Kind]int{}
	running := 0
	for i := range f.Members {
		m := &f.Members[i]
		count[r.Kinds[m.Declared.Host]]++
		if m.Process != nil || m.Runtime != nil {
			running++
		}
	}
	old := count[Master] + count[Slave]
	switch {
	case count[DLedger] > 0 && old > 0:
		r.mixed(count[DLedger])
	case count[DLedger] > 0:
		r.dledger(count[DLedger])
	case running == 0:
		r.stopped()
	case count[Master] == 1 && count[Slave] > 0 && old+count[Fresh] == len(f.Members):
		r.begun(count)
	default:
		r.State, r.Line = Unclear, fmt.Sprintf("%d member(s) serve as master and %d as slave, %d run nothing", count[Master], count[Slave], len(f.Members)-running)
		r.halfStopped()
	}
	return &r.Recognition
}

type recogniser struct {
	Recognition
	g *topology.Group
	f *observe.Facts
	// copies says of the hosts that were copied to how that is known.
	copies map[string]string
}

func (r *recogniser) add(s diag.Severity, check, host, where, what, do string) {
	r.Findings.Add(diag.Finding{Check: check, Severity: s, Host: host, Where: where, What: what, Do: do})
}

func (r *recogniser) kinds() {
	r.copies = map[string]string{}
	for i := range r.f.Members {
		r.Kinds[r.f.Members[i].Declared.Host] = KindOf(&r.f.Members[i])
	}
	master := r.master()
	if master == nil {
		return
	}
	for i := range r.f.Members {
		m := &r.f.Members[i]
		if why := r.copied(m, master); why != "" {
			r.Kinds[m.Declared.Host], r.copies[m.Declared.Host] = Fresh, why
		}
	}
	for _, kind := range r.Kinds {
		if kind == DLedger {
			return // whatever is stopped may have been a peer
		}
	}
	for i := range r.f.Members {
		if m := &r.f.Members[i]; r.stoppedSlave(m) {
			r.Kinds[m.Declared.Host] = Slave
		}
	}
}

// stoppedSlave tells whether a member on which nothing runs is by its broker.conf, beyond doubt, a slave
// of this group, while the master serves: it then holds a copy like a slave that a run has stopped itself.
func (r *recogniser) stoppedSlave(m *observe.Member) bool {
	s := m.Settings
	return m.Conf != nil && m.ConfErr == nil && r.copies[m.Declared.Host] == "" && down(m) &&
		s.Role == "SLAVE" && !s.DLedger && s.BrokerName == r.g.Name && s.IP1 == m.Declared.Address
}

// down tells whether nothing of a member's broker is there: no process, no answer, nobody in its store.
func down(m *observe.Member) bool {
	return m.Process == nil && m.Runtime == nil && (m.Store == nil || m.Store.LockedBy == 0)
}

// master is the one member that serves as master in the old mode, nil when there is not exactly one.
func (r *recogniser) master() *observe.Member {
	var found *observe.Member
	for i := range r.f.Members {
		if KindOf(&r.f.Members[i]) == Master {
			if found != nil {
				return nil
			}
			found = &r.f.Members[i]
		}
	}
	return found
}

// copied tells by what a host on which nothing runs is known to hold a copy of another member, and not
// that other member's peer that is down; "" when it is not.
func (r *recogniser) copied(m, master *observe.Member) string {
	if m.Conf == nil || !down(m) {
		return ""
	}
	if owner := r.addressOf(m); owner != "" {
		return fmt.Sprintf("brokerIP1=%s is %s's address", m.Settings.IP1, owner)
	}
	if m.Settings.DLedger && m.Settings.SelfID == m.Declared.Peer {
		return fmt.Sprintf("the file makes it %s of the new group, and %s serves in the old one", m.Settings.SelfID, master.Declared.Host)
	}
	if !m.Settings.DLedger && m.Settings.IP1 == "" && string(m.Conf.Bytes()) == string(master.Conf.Bytes()) {
		return fmt.Sprintf("the file is %s's, byte for byte", master.Declared.Host)
	}
	return ""
}

// addressOf is the other member whose address a member's file names as its own.
func (r *recogniser) addressOf(m *observe.Member) string {
	for i := range r.g.Members {
		if o := &r.g.Members[i]; o.Host != m.Declared.Host && o.Address == m.Settings.IP1 && o.Address != m.Declared.Address {
			return o.Host
		}
	}
	return ""
}

// begun is the old group at work, perhaps with something prepared beside it.
func (r *recogniser) begun(count map[Kind]int) {
	var seen []string
	for i := range r.f.Members {
		m := &r.f.Members[i]
		host, d := m.Declared.Host, m.Declared
		if why := r.copies[host]; why != "" {
			seen = append(seen, host+" holds a copy of the installation")
			what := "holds an installation and a broker.conf that were copied here: " + why + ", and no broker runs on it"
			if len(m.Log) > 0 {
				what += fmt.Sprintf("; %s holds a copy of the commit log up to file %s", m.CommitLog, m.Log[len(m.Log)-1].Path)
			}
			r.add(diag.Warn, "adopt.copied", host, at(m.Conf, "brokerIP1"), what,
				"nothing: the plan takes this as a new host, keeps of the copied log what equals the master's, moves the rest aside and writes a broker.conf of its own; the one found is kept as "+d.BrokerConf+".found-RUN")
		}
		if m.Found != nil {
			line, _ := m.Found.Prepared()
			seen = append(seen, host+"'s broker.conf is edited")
			r.add(diag.Warn, "adopt.edited", host, fmt.Sprintf("%s:%d", d.BrokerConf, line),
				"the file was edited for DLedger and the broker goes on in the old mode, until something restarts it: "+strings.Join(m.Mended, "; "),
				"nothing: the plan takes what the running broker has, puts the old file right at its start and keeps the one found as "+d.BrokerConf+".found-RUN")
		}
		if m.Root == "" {
			continue
		}
		written := false
		if m.Store != nil {
			for _, l := range m.Store.Ledgers {
				seen = append(seen, fmt.Sprintf("%s holds %s", host, path.Base(l.Path)))
				written = written || l.Entries > 0
				r.leftover(m, l)
			}
		}
		if root := d.DLedgerRootFor(m.Root); m.Trees[root].Exists && !written {
			seen = append(seen, host+" has a "+path.Base(root))
			r.add(diag.Warn, "adopt.root", host, root, "is there already, with what was copied into it at some time: topics, groups and offsets have moved on since",
				"nothing: the plan moves it aside (to "+root+".mqlift-RUN) and fills it anew at the right moment")
		}
	}
	r.State, r.Line = OldMode, fmt.Sprintf("%d master, %d slave(s), %d new host(s); nothing is begun", count[Master], count[Slave], count[Fresh])
	if len(seen) > 0 {
		r.State, r.Line = Begun, "an upgrade was begun by hand and the old brokers still serve: "+strings.Join(seen, ", ")
	}
	for i := range r.f.Members {
		if m := &r.f.Members[i]; r.Kinds[m.Declared.Host] == Slave && down(m) {
			r.Line += "; the slave on " + m.Declared.Host + " is stopped"
		}
	}
}

// leftover is a dledger folder on a member of a group that serves in the old mode.
func (r *recogniser) leftover(m *observe.Member, l agent.Ledger) {
	const means = "a peer that started over it would believe the old log to end where its first file says, and not where it ends now"
	if l.Entries > 0 {
		aside := path.Join(path.Dir(l.Path), "old-"+path.Base(l.Path))
		r.add(diag.Fail, "store.dledger", m.Declared.Host, l.Path,
			fmt.Sprintf("a dledger folder of an earlier try holds %s, which the old brokers do not have; %s", held(l), means),
			"find out whether these messages are still needed (send them again to the group if so), then: mv "+l.Path+" "+aside)
		return
	}
	do := "nothing: the plan moves it aside with the folder that it is in"
	if path.Dir(l.Path) != m.Declared.DLedgerRootFor(m.Root) {
		do = "nothing: the new store root is another folder, no peer will look here; remove it when you like"
	}
	r.add(diag.Warn, "store.dledger", m.Declared.Host, l.Path, "a dledger folder of an earlier try, to which nothing was written; "+means, do)
}

// held is what a ledger has, in words.
func held(l agent.Ledger) string {
	text := fmt.Sprintf("%d message(s)", l.Entries)
	if !l.First.IsZero() && !l.Last.IsZero() {
		text += fmt.Sprintf(" stored from %s to %s", l.First.UTC().Format(time.RFC3339), l.Last.UTC().Format(time.RFC3339))
	}
	return text
}

// mixed: DLedger peers were started while old brokers serve.
func (r *recogniser) mixed(peers int) {
	var lines, writers, down []string
	most := int64(0)
	for i := range r.f.Members {
		m := &r.f.Members[i]
		host := m.Declared.Host
		switch kind := r.Kinds[host]; kind {
		case DLedger:
			l := ledgerOf(m)
			most = max(most, l.Entries)
			text := fmt.Sprintf("%s runs as DLedger peer %s", host, m.Live["dLegerSelfId"])
			if l.Entries > 0 {
				text += " and holds " + held(l)
				writers = append(writers, host)
			}
			lines = append(lines, text)
			again := r.oldAgain(m)
			if r.addressOf(m) != "" || r.master() != nil && m.Settings.Role != "SLAVE" {
				again = "leave it stopped, its files are a copy of another member's"
			}
			down = append(down, fmt.Sprintf("on %s: kill %d, then %s", host, pidOf(m), again))
		case Master, Slave:
			lines = append(lines, fmt.Sprintf("%s serves as %s in the old mode with a log of %d bytes", host, kind, m.LogMax()))
		default:
			lines = append(lines, host+" runs nothing")
		}
	}
	r.State = Mixed
	r.Line = fmt.Sprintf("%d of %d members run as DLedger and the others do not: %s", peers, len(r.f.Members), strings.Join(lines, "; "))
	const journal = "when a run of mqlift did this, `mqlift apply` where it was started knows how to go on or back; otherwise "
	if most == 0 {
		r.add(diag.Fail, "group.roles", "", "", r.Line+"; nothing has been written to the new group",
			journal+"bring the peers back to the old mode: "+strings.Join(down, "; ")+"; then `mqlift plan` again")
		return
	}
	r.add(diag.Fail, "group.roles", "", "", r.Line+"; the messages on "+strings.Join(writers, ", ")+" are in no old broker's log, and what the old ones took since is in no peer's: neither side may be copied over the other",
		journal+"stop the producers; keep the dledger folders; read these messages from the peers and send them to the old group; then "+strings.Join(down, "; ")+", move the dledger folders away, and `mqlift plan` again")
}

// dledger: no old broker answers, and at least one peer does.
func (r *recogniser) dledger(peers int) {
	for i := range r.f.Members {
		r.peer(&r.f.Members[i])
	}
	r.alike()
	r.routes()
	n := len(r.f.Members)
	switch {
	case peers == n && r.Findings.Count(diag.Fail) == 0:
		r.State, r.Line = Upgraded, "every member runs as DLedger"
	case peers == n:
		r.State, r.Line = Impaired, fmt.Sprintf("every member runs as DLedger, and %d thing(s) are not in order", r.Findings.Count(diag.Fail))
	default:
		r.State, r.Line = Impaired, fmt.Sprintf("%d of %d members run as DLedger and the others do not: they run nothing", peers, n)
	}
}

// peer checks one member of a group of which no old broker runs.
func (r *recogniser) peer(m *observe.Member) {
	host, d := m.Declared.Host, m.Declared
	if KindOf(m) != DLedger {
		r.add(diag.Fail, "adopt.peer", host, d.BrokerConf, "no broker runs here, and the others are a DLedger group already",
			"when a run of mqlift stopped here, `mqlift apply` where it was started goes on; otherwise see that this file makes it peer "+d.Peer+" with the same dLegerPeers as the others, and start it")
		return
	}
	if name := m.Live["brokerName"]; name != r.g.Name {
		what := fmt.Sprintf("the peer calls itself %s and not %s, so that clients see it as a group of its own", name, r.g.Name)
		if m.Conf != nil && m.Conf.Line("brokerName") == 0 {
			what += ": brokerName is missing, and a broker then takes its host's name"
		}
		r.add(diag.Fail, "broker.name", host, at(m.Conf, "brokerName"), what, "write brokerName="+r.g.Name+" and restart this peer")
	}
	if ip := m.Live["brokerIP1"]; ip != "" && ip != d.Address {
		what := fmt.Sprintf("brokerIP1=%s is not this host's address %s: clients are sent elsewhere", ip, d.Address)
		if owner := r.addressOf(m); owner != "" {
			what = fmt.Sprintf("brokerIP1=%s is %s's address: clients are sent there, and two members register at one place", ip, owner)
		}
		r.add(diag.Fail, "broker.address", host, at(m.Conf, "brokerIP1"), what, "write brokerIP1="+d.Address+" and restart this peer")
	}
	if id := m.Live["dLegerSelfId"]; id != d.Peer {
		r.add(diag.Fail, "broker.peer", host, at(m.Conf, "dLegerSelfId"), fmt.Sprintf("runs as peer %s, and the topology says %s", id, d.Peer), "mend whichever of the two is wrong")
	}
	if peers := m.Live["dLegerPeers"]; peers != r.g.Peers() {
		r.add(diag.Fail, "broker.peer", host, at(m.Conf, "dLegerPeers"), fmt.Sprintf("dLegerPeers is %s, and the topology says %s", peers, r.g.Peers()), "mend whichever of the two is wrong; it must be the same on all members")
	}
	if name := m.Live["dLegerGroup"]; name != r.f.Members[0].Live["dLegerGroup"] && r.f.Members[0].Live != nil {
		r.add(diag.Fail, "broker.peer", host, at(m.Conf, "dLegerGroup"), fmt.Sprintf("dLegerGroup is %q here and %q on %s: its votes fail", name, r.f.Members[0].Live["dLegerGroup"], r.f.Members[0].Declared.Host), "make it the same on all members")
	}
	if m.QueueFault != "" {
		r.add(diag.Fail, "store.queues", host, path.Join(m.Host.Home, "logs/rocketmqlogs/storeerror.log"),
			"its consume queues do not fit the leader's: it was started on an old log with fewer messages, and consumers that read from it get other messages: "+m.QueueFault,
			"this peer must get a good peer's store: stop it, move its store aside, copy a good peer's that is stopped, start it; do not let it become leader before")
	}
	if m.Conf == nil {
		return
	}
	for _, dup := range m.Conf.Duplicates() {
		v, _ := m.Conf.Get(dup.Key)
		if strings.HasPrefix(dup.Key, "storePath") {
			r.add(diag.Warn, "brokerconf.duplicate", host, at(m.Conf, dup.Key), fmt.Sprintf("%s stands there %d times, the last counts: %s", dup.Key, len(dup.Lines), v), "keep the line that is meant")
		}
	}
}

// alike compares what DLedger never repairs: where each peer believes the old log to end.
func (r *recogniser) alike() {
	var first *observe.Member
	for i := range r.f.Members {
		m := &r.f.Members[i]
		if KindOf(m) != DLedger {
			continue
		}
		l := ledgerOf(m)
		if first == nil {
			if l.Divided >= 0 {
				first = m
			}
			continue
		}
		if was := ledgerOf(first); l.Divided >= 0 && l.Divided != was.Divided {
			r.add(diag.Fail, "store.divided", m.Declared.Host, l.Path,
				fmt.Sprintf("this peer takes the old log to end at %d and %s's takes it to end at %d: they were started on commit logs that differ, and offsets mean other messages here", l.Divided, first.Declared.Host, was.Divided),
				"compare the old logs (`mqlift store compare`); the peer with the shorter one must get the other's store: stop it, move its store aside, copy a stopped good peer's, start it")
		}
		if lag := first.LogMax() - m.LogMax(); first.LogMax() >= 0 && m.LogMax() >= 0 && (lag > maxSlaveLag || lag < -maxSlaveLag) {
			r.add(diag.Fail, "store.lag", m.Declared.Host, m.Addr,
				fmt.Sprintf("its log ends at %d and %s's at %d", m.LogMax(), first.Declared.Host, first.LogMax()), "see whether it catches up (`mqlift status`); DLedger does not repair an old log that differs")
		}
	}
}

// routes checks that name servers give the group as one.
func (r *recogniser) routes() {
	for _, ns := range r.f.NameServers {
		if ns.Err != nil {
			continue
		}
		addrs := ns.Cluster.Brokers[r.g.Name].Addrs
		if addrs[0] == "" {
			r.add(diag.Fail, "nameserver", "", ns.Addr, "gives no brokerId 0 for "+r.g.Name+": it knows of no leader", "see which peer leads (`mqlift status`): without a quorum none does; right after an election look again")
		}
		for i := range r.f.Members {
			m := &r.f.Members[i]
			known := false
			for _, a := range addrs {
				known = known || a == m.Addr
			}
			if KindOf(m) == DLedger && !known {
				r.add(diag.Warn, "nameserver", m.Declared.Host, ns.Addr, fmt.Sprintf("does not give %s under %s", m.Addr, r.g.Name), "see that brokerName, brokerIP1 and listenPort of this peer are right; brokers register every 30 s")
			}
		}
	}
}

// stopped: nothing runs. Which member was master decides where to begin, and only files can tell.
func (r *recogniser) stopped() {
	var hosts, was []string
	for i := range r.f.Members {
		m := &r.f.Members[i]
		if m.Conf == nil {
			continue
		}
		hosts = append(hosts, m.Declared.Host)
		if role := m.Settings.Role; role != "SLAVE" && r.addressOf(m) == "" {
			was = append(was, m.Declared.Host)
		}
	}
	r.State, r.Line = Stopped, "no broker of the group runs"
	if len(hosts) == 0 {
		r.add(diag.Fail, "group.roles", "", "", "no member has a broker.conf or a broker: 0 members answer as master, not one", "see that installDir and brokerConf in the topology are right")
		return
	}
	var written []string
	for i := range r.f.Members {
		if m := &r.f.Members[i]; m.Store != nil {
			for _, l := range m.Store.Ledgers {
				if l.Entries > 0 {
					written = append(written, fmt.Sprintf("%s (%s)", l.Path, held(l)))
					r.add(diag.Fail, "store.dledger", m.Declared.Host, l.Path, "peer's folder holds "+held(l)+", which the old mode would not show",
						"this group has been DLedger: start all members on their DLedger broker.conf, then `mqlift verify`")
				}
			}
		}
	}
	if len(written) > 0 {
		r.Line += "; it has served as DLedger: " + strings.Join(written, ", ")
		r.add(diag.Fail, "group.roles", "", "", r.Line, "do not start the old brokers: start every member on its DLedger broker.conf, then `mqlift verify`")
		return
	}
	master, how := "", ""
	switch {
	case len(was) == 1:
		master, how = was[0], "its broker.conf says so, with its own address"
	default:
		master, how = r.furthest()
	}
	do := "start the old group again, the master first, and let the slave catch up: "
	if master == "" {
		do = "find out which member was master (brokerRole in backups of broker.conf, and whose log goes further), start it first, then the slave, and let it catch up: "
	} else {
		r.Line += fmt.Sprintf("; %s was master (%s)", master, how)
	}
	var steps []string
	for _, wanted := range []bool{true, false} {
		for i := range r.f.Members {
			m := &r.f.Members[i]
			switch isMaster := m.Declared.Host == master; {
			case m.Conf == nil || isMaster != wanted:
			case !isMaster && r.addressOf(m) != "":
				steps = append(steps, fmt.Sprintf("leave %s as it is, its files are a copy (brokerIP1=%s is %s's)", m.Declared.Host, m.Settings.IP1, r.addressOf(m)))
			default:
				steps = append(steps, fmt.Sprintf("on %s: %s", m.Declared.Host, r.oldAgain(m)))
			}
		}
	}
	for i := range r.f.Members {
		r.abort(&r.f.Members[i])
	}
	r.add(diag.Fail, "group.roles", "", "", r.Line+": 0 members answer as master, not one", do+strings.Join(steps, "; ")+"; then `mqlift plan` goes on from there")
}

// furthest is the stopped member whose commit log goes furthest, by the last file alone.
func (r *recogniser) furthest() (host, how string) {
	var last string
	for i := range r.f.Members {
		m := &r.f.Members[i]
		if m.Conf == nil || len(m.Log) == 0 || r.addressOf(m) != "" {
			continue
		}
		switch name := m.Log[len(m.Log)-1].Path; {
		case name > last:
			last, host = name, m.Declared.Host
		case name == last:
			host = ""
		}
	}
	return host, "its commit log goes furthest, to file " + last
}

// halfStopped says of members that are down how they come back.
func (r *recogniser) halfStopped() {
	for i := range r.f.Members {
		m := &r.f.Members[i]
		if m.Process == nil && m.Runtime == nil {
			r.abort(m)
		}
	}
}

// abort is a stopped broker's sign that it did not stop cleanly.
func (r *recogniser) abort(m *observe.Member) {
	if m.Store == nil || !m.Store.Abort || m.Process != nil || m.Store.LockedBy > 0 || r.copies[m.Declared.Host] != "" || r.addressOf(m) != "" || r.Kinds[m.Declared.Host] == Slave {
		return
	}
	r.add(diag.Fail, "store.abort", m.Declared.Host, path.Join(m.Store.Root, "abort"),
		"the broker that is down did not stop cleanly: in the old mode its next start walks the log again from the checkpoint and builds the index anew; started as DLedger it would throw the newer index files away, and messages would not be found by key any more (4.5.2 to 5.1.4)",
		"start it once more on its old broker.conf and let it serve: mqlift stops it cleanly itself")
}

// oldAgain is how a member's broker is started in the old mode, file and command.
func (r *recogniser) oldAgain(m *observe.Member) string {
	d := m.Declared
	start, err := d.StartCommand()
	if err != nil || m.Conf == nil {
		return "start the old broker"
	}
	text := fmt.Sprintf("start it in %s: %s", d.InstallDir, start)
	if words := m.Conf.OldLines(m.Host.Install.Release, m.Host.Home); words != "" {
		text = fmt.Sprintf("in %s %s; %s", d.BrokerConf, words, text)
	}
	return text
}

// ledgerOf is a member's own dledger folder; Divided is -1 where there is none.
func ledgerOf(m *observe.Member) agent.Ledger {
	if m.Store != nil {
		i := slices.IndexFunc(m.Store.Ledgers, func(l agent.Ledger) bool { return path.Base(l.Path) == "dledger-"+m.Live["dLegerSelfId"] })
		if i >= 0 {
			return m.Store.Ledgers[i]
		}
	}
	return agent.Ledger{Divided: -1}
}

func pidOf(m *observe.Member) int {
	if m.Process == nil {
		return 0
	}
	return m.Process.PID
}

// at is file:line of a key, or the file alone.
func at(f *brokerconf.File, key string) string {
	switch {
	case f == nil:
		return ""
	case f.Line(key) == 0:
		return f.Name()
	}
	return f.Name() + ":" + strconv.Itoa(f.Line(key))
}
