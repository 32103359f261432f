package topology

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mqlift/internal/diag"
)

// minMembers is the least with which one may fail and a quorum remains.
const minMembers = 3

// defaultListenPort is a broker's port when its broker.conf names none (BrokerStartup, 4.5.2 to 5.3.3).
const defaultListenPort = 10911

// check looks at what was read for what cannot work, everything in one go.
func (l *loader) check(t *Topology) {
	if t.Cluster != "" && !clusterOrGroup.MatchString(t.Cluster) {
		l.fail("cluster", l.top.of("cluster"),
			fmt.Sprintf("cluster %s is no valid name", show(t.Cluster)),
			"write the brokerClusterName as broker.conf has it: letters, digits and . _ - % |")
	}
	l.checkNameServers(t)
	for i, g := range l.groups {
		l.checkGroup(g)
		for _, earlier := range l.groups[:i] {
			if g.Name != "" && g.Name == earlier.Name {
				l.fail("group", g.at.of("name"),
					fmt.Sprintf("a second group has the name %s; the first is in line %d", g.Name, earlier.at.of("name").line),
					"give each broker group once, with all its members")
			}
		}
		l.checkMembers(g)
		l.checkRelease(g)
		for _, m := range g.members {
			l.checkPaths(m)
			l.checkCommands(m)
		}
	}
	l.checkLoopback(t)
	l.checkHosts()
	l.checkPorts(t)
}

var (
	// Names end up in broker.conf and in requests: no spaces, nothing that Java's properties escape.
	clusterOrGroup = regexp.MustCompile(`^[%|A-Za-z0-9._-]+$`)
	// What 4.5.2's Validators admit as a topic; 127 is the limit of 5.3.3's TopicValidator. A leading %
	// marks retry and dead-letter topics.
	topicName = regexp.MustCompile(`^[|A-Za-z0-9_-][%|A-Za-z0-9_-]{0,126}$`)
)

func (l *loader) checkNameServers(t *Topology) {
	seen := map[string]int{}
	for i, addr := range t.NameServers {
		at := l.top.of(nameServerKey(i))
		host, port, err := splitAddr(addr)
		if err != nil {
			do := "write host:port, like 192.168.0.220:9876"
			if strings.ContainsAny(addr, ";,") {
				do = "write each name server as an item of its own"
			}
			l.fail("nameservers", at, fmt.Sprintf("name server %s: %s", show(addr), err), do)
			continue
		}
		if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
			l.fail("nameservers", at,
				fmt.Sprintf("name server %s is no address to connect to", addr), "write the address of the host that it runs on")
		}
		key := portKey(host, port)
		if first, ok := seen[key]; ok {
			l.fail("nameservers", at,
				fmt.Sprintf("name server %s is there twice; the first is in line %d", addr, l.top.of(nameServerKey(first)).line),
				"keep one of them")
			continue
		}
		seen[key] = i
	}
}

// splitAddr takes host:port apart. IPv6 is refused: 4.5.2's brokers cut such an address at its first
// colon (RemotingUtil.string2SocketAddress), as DLedger does up to 0.3.1.2.
func splitAddr(addr string) (host string, port int, err error) {
	i := strings.LastIndexByte(addr, ':')
	if i < 0 {
		return "", 0, fmt.Errorf("the port is missing")
	}
	host = addr[:i]
	switch hostKind(strings.Trim(host, "[]")) {
	case badHost:
		return "", 0, fmt.Errorf("%s is neither an IPv4 address nor a host name", show(host))
	case ipv6:
		return "", 0, fmt.Errorf("brokers do not understand IPv6 here")
	}
	n, err := strconv.ParseUint(addr[i+1:], 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("%s is no TCP port", show(addr[i+1:]))
	}
	return host, int(n), nil
}

type hostForm int

const (
	badHost hostForm = iota
	ipv4
	ipv6
	named
)

var (
	nameOfHost = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$`)
	// 192.168.0.256 is a mistyped address and no name: no top-level domain is a number (RFC 3696).
	lastNumeric = regexp.MustCompile(`(^|\.)[0-9]+$`)
)

func hostKind(host string) hostForm {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Is4() {
			return ipv4
		}
		return ipv6
	}
	if len(host) > 253 || !nameOfHost.MatchString(host) || strings.Contains(host, "..") || lastNumeric.MatchString(host) {
		return badHost
	}
	return named
}

// addressKey makes spellings of one address equal. All loopback addresses are one: the broker's
// server and DLedger's listen on every address of the host (NettyRemotingServer, 4.5.2).
func addressKey(host string) string {
	if isLoopback(host) {
		return "loopback"
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String()
	}
	return strings.ToLower(host)
}

func isLoopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().IsLoopback()
	}
	return strings.EqualFold(host, "localhost")
}

func (l *loader) checkGroup(g declaredGroup) {
	if at, ok := g.at["name"]; ok && !clusterOrGroup.MatchString(g.Name) {
		l.fail("group", at,
			fmt.Sprintf("name %s is no valid name of a broker group", show(g.Name)),
			"write the brokerName as broker.conf has it: letters, digits and . _ - % |")
	}
	if g.Target != TargetDLedger {
		do := "write target: " + TargetDLedger + ", or leave it out"
		if strings.EqualFold(g.Target, "controller") {
			do = "Controller mode is not offered, and there is no way in place from DLedger to it; " + do
		}
		l.fail("target", g.at.of("target"), fmt.Sprintf("target %s is not known", show(g.Target)), do)
	}
	if !topicName.MatchString(g.TracerTopic) || g.TracerTopic == "TBW102" {
		l.fail("tracer", g.at.of("tracerTopic"),
			fmt.Sprintf("tracerTopic %s is no topic that messages can be sent to", show(g.TracerTopic)),
			"use up to 127 letters, digits, _ and -")
	}
	at, ok := g.at["members"]
	switch n := len(g.Members); {
	case !ok || g.Members == nil: // reported when it was read
	case n < minMembers:
		l.fail("members", at,
			fmt.Sprintf("%d of at least %d members are there: with fewer, one failure leaves no quorum", n, minMembers),
			"add a host for each that is missing; it needs no broker yet")
	case n%2 == 0:
		l.add(diag.Warn, "members", at, "",
			fmt.Sprintf("%d members survive no more failures than %d", n, n-1),
			"use an odd number unless one of them is to leave later")
	}
}

func (l *loader) checkMembers(g declaredGroup) {
	hosts, indexes := map[string]declaredMember{}, map[int]declaredMember{}
	var noDir []declaredMember
	for _, m := range g.members {
		// A value that is missing or of a wrong type was reported when it was read.
		if _, ok := m.at["host"]; ok {
			if hostKind(m.Host) == badHost {
				l.say("members", m, "host",
					fmt.Sprintf("host %s is neither an address nor a host name", show(m.Host)),
					"write it as the host is reached by SSH")
			} else if first, ok := hosts[m.Host]; ok {
				l.say("members", m, "host",
					fmt.Sprintf("%s is in the group twice; the first is in line %d", m.Host, first.at.of("host").line),
					"put each member on a host of its own: two on one fail together")
			} else {
				hosts[m.Host] = m
			}
			if _, ok := m.at["address"]; !ok {
				m.Address = m.Host
			}
			if _, ok := m.ssh["address"]; !ok {
				m.SSH.Address = m.Host
			}
		}
		if at, ok := m.ssh["address"]; ok && hostKind(m.SSH.Address) == badHost {
			l.add(diag.Fail, "ssh", at, m.Host,
				fmt.Sprintf("SSH address %s is neither an address nor a host name", show(m.SSH.Address)),
				"write it as the host is reached by SSH")
		}
		if _, ok := m.at["peer"]; ok {
			if index, ok := peerIndex(m.Peer); !ok {
				l.say("peer", m, "peer",
					fmt.Sprintf("peer %s is no DLedger peer id", show(m.Peer)),
					"write one letter and an integer, like n0; the integer + 1 becomes the brokerId")
			} else if first, ok := indexes[index]; ok {
				l.say("peer", m, "peer",
					fmt.Sprintf("peer %s would have the same brokerId %d as %s in line %d", m.Peer, index+1, first.Peer, first.at.of("peer").line),
					"give each member of a group another integer")
			} else {
				indexes[index] = m
			}
		}
		l.checkAddress(m)
		if _, ok := m.at["installDir"]; !ok && !m.unread["installDir"] {
			noDir = append(noDir, m)
		}
	}
	if len(noDir) > 0 {
		names := make([]string, len(noDir))
		for i, m := range noDir {
			names[i] = m.title()
		}
		l.fail("path", g.at.of("members"),
			"installDir is missing for "+strings.Join(names, ", "), "write it into defaults, or into those members")
	}
}

// badAt tells whether a check has failed at that place already.
func (l *loader) badAt(check string, at place) bool {
	return slices.ContainsFunc(l.found, func(p placed) bool { return p.at == at && p.Check == "topology."+check })
}

// title is how a member is called where its host may be missing.
func (m declaredMember) title() string {
	switch {
	case m.Host != "":
		return m.Host
	case m.Peer != "":
		return m.Peer
	}
	return fmt.Sprintf("the member in line %d", m.at[""].line)
}

// say fails at the place of a member's key. What stands in defaults is said without a host.
func (l *loader) say(check string, m declaredMember, key, what, do string) {
	l.add(diag.Fail, check, m.at.of(key), m.hostFor(key), what, do)
}

func (l *loader) warn(check string, m declaredMember, key, what, do string) {
	l.add(diag.Warn, check, m.at.of(key), m.hostFor(key), what, do)
}

func (m declaredMember) hostFor(key string) string {
	if m.inherited(key) {
		return ""
	}
	return m.Host
}

// addressField is the key that the address that peers use is written under.
func (m declaredMember) addressField() string {
	if _, ok := m.at["address"]; ok {
		return "address"
	}
	return "host"
}

// checkAddress looks at the address that goes into dLegerPeers and brokerIP1.
func (l *loader) checkAddress(m declaredMember) {
	field := m.addressField()
	spelled := field == "address"
	switch form := hostKind(m.Address); {
	case m.Address == "" && !spelled: // the host is missing, which was reported
	case form == badHost && !spelled: // and so was a bad one
	case form == badHost:
		l.say("address", m, field,
			fmt.Sprintf("address %s is neither an IPv4 address nor a host name", show(m.Address)),
			"write the address that peers and clients connect to")
	case form == ipv6:
		// DLedgerRpcNettyService takes the second part between colons as the port, 0.1 to 0.3.1.2.
		l.say("address", m, field,
			fmt.Sprintf("DLedger cannot listen for the IPv6 address %s: it takes what follows the first colon as the port", m.Address),
			"write an IPv4 address as address")
	case form == ipv4:
		a := netip.MustParseAddr(m.Address)
		if a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			l.say("address", m, field,
				fmt.Sprintf("%s is no address that peers and clients can connect to", m.Address), "write the host's own address")
		}
	}
}

// checkLoopback refuses a loopback address, unless the whole topology is on this one machine: peers
// and clients elsewhere would look for the broker on themselves.
func (l *loader) checkLoopback(t *Topology) {
	elsewhere := false
	for _, g := range t.Groups {
		for _, m := range g.Members {
			elsewhere = elsewhere || m.Address != "" && !isLoopback(m.Address)
		}
	}
	if !elsewhere {
		return
	}
	for _, g := range l.groups {
		for _, m := range g.members {
			if isLoopback(m.Address) {
				l.say("address", m, m.addressField(),
					fmt.Sprintf("%s is this address only on the host itself, and other members are elsewhere", m.Address),
					"write the address that peers and clients connect to as address")
			}
		}
	}
	for i, addr := range t.NameServers {
		if host, _, err := splitAddr(addr); err == nil && isLoopback(host) {
			l.add(diag.Warn, "nameservers", l.top.of(nameServerKey(i)), "",
				fmt.Sprintf("name server %s is on the machine that mqlift runs on, and the members are elsewhere", addr),
				"write the address that the brokers use, unless this is a tunnel to it")
		}
	}
}

// release is x.y.z.
type release [3]int

var (
	releaseForm = regexp.MustCompile(`^([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})$`)
	releaseIn   = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+`)

	// The tag rocketmq-all-4.5.0 brought DLedger.
	firstWithDLedger = release{4, 5, 0}
	// 4.5.1 to 4.7.1 have dledger 0.1; 4.8.0 has 0.2.2 (store/pom.xml).
	firstWithDashes = release{4, 8, 0}
	lastShown       = release{5, 3, 3}
	// Its bin/runbroker.sh puts the javac found in PATH over JAVA_HOME (find_java_home).
	firstIgnoringJavaHome = release{5, 1, 0}
)

func parseRelease(text string) (release, bool) {
	m := releaseForm.FindStringSubmatch(text)
	if m == nil {
		return release{}, false
	}
	var r release
	for i := range r {
		r[i], _ = strconv.Atoi(m[i+1])
	}
	return r, true
}

func (r release) before(o release) bool { return slices.Compare(r[:], o[:]) < 0 }

func (l *loader) checkRelease(g declaredGroup) {
	at, spelled := g.at["release"]
	var known *release
	if spelled {
		r, ok := parseRelease(g.Release)
		if ok {
			known = &r
		}
		switch {
		case !ok:
			do := "write it like release: 4.5.2, or leave it out to stay on the one that runs"
			if inner := releaseIn.FindString(g.Release); inner != "" {
				do = "write release: " + inner
			}
			l.fail("release", at, fmt.Sprintf("release %s is no RocketMQ release", show(g.Release)), do)
		case r.before(firstWithDLedger):
			l.fail("release", at, fmt.Sprintf("release %s has no DLedger", g.Release), "choose 4.5.1 or newer")
		case lastShown.before(r):
			l.add(diag.Warn, "release", at, "",
				fmt.Sprintf("release %s is newer than any that mqlift was tried on (up to 5.3.3)", g.Release),
				"rehearse with it first")
		}
	}
	for _, m := range g.members {
		l.checkNamedAddress(m, known, spelled)
		if _, ok := m.at["javaHome"]; ok && m.JavaHome != "" && known != nil && !known.before(firstIgnoringJavaHome) && m.Start == DefaultStart {
			l.warn("java", m, "javaHome",
				fmt.Sprintf("the start scripts of %s replace JAVA_HOME by the javac they find in PATH", g.Release),
				"put that Java first in PATH in env as well")
		}
	}
}

// checkNamedAddress looks at an address that is a name: it goes into dLegerPeers as it is.
func (l *loader) checkNamedAddress(m declaredMember, known *release, spelled bool) {
	if hostKind(m.Address) != named || isLoopback(m.Address) {
		return
	}
	field := m.addressField()
	dash := strings.Contains(m.Address, "-")
	switch {
	case dash && known != nil && known.before(firstWithDashes):
		l.say("address", m, field, dashes(m.Address), "write the host's IP as address")
	case dash && !spelled:
		l.warn("address", m, field, dashes(m.Address), "write the host's IP as address, or a release from 4.8.0 on")
	default:
		l.warn("address", m, field,
			fmt.Sprintf("peers and clients are given the name %s, and each must resolve it to the same host", m.Address),
			"write the host's IP as address")
	}
}

// dashes: MemberState of dledger 0.1 takes what is between the first and the second dash.
func dashes(name string) string {
	return fmt.Sprintf("DLedger 0.1, which RocketMQ up to 4.7.1 has, cuts the peer address %s at its -", name)
}

// CheckRelease repeats the checks that depend on the release once it is known from the hosts: a group
// without a declared release stays on the one that runs.
func (g *Group) CheckRelease(running string) diag.Findings {
	var found diag.Findings
	r, ok := parseRelease(running)
	if !ok {
		return nil
	}
	if r.before(firstWithDLedger) {
		found.Add(diag.Finding{
			Check: "topology.release", Severity: diag.Fail, Where: g.Where("release"),
			What: fmt.Sprintf("broker group %s runs release %s, which has no DLedger", g.Name, running),
			Do:   "declare a release from 4.5.1 on",
		})
	}
	for i := range g.Members {
		m := &g.Members[i]
		if hostKind(m.Address) == named && strings.Contains(m.Address, "-") && r.before(firstWithDashes) {
			found.Add(diag.Finding{
				Check: "topology.address", Severity: diag.Fail, Host: m.Host, Where: m.Where("address"),
				What: dashes(m.Address), Do: "write the host's IP as address",
			})
		}
	}
	return found
}

// Paths on the hosts go into broker.conf, which Java reads as ISO-8859-1 with backslash escapes, and
// through the release's own scripts, which do not quote ($@ in bin/mqbroker, 4.5.2 to 5.3.3).
var hostPath = regexp.MustCompile(`^[A-Za-z0-9._/+@=,:%-]+$`)

func (l *loader) checkPaths(m declaredMember) {
	for _, p := range []struct {
		key      string
		field    *string
		relative bool
		optional bool
	}{
		{"installDir", &m.InstallDir, false, false},
		{"javaHome", &m.JavaHome, false, true},
		{"brokerConf", &m.BrokerConf, true, false},
		{"dledgerRoot", &m.DLedgerRoot, true, true},
		{"workDir", &m.WorkDir, true, false},
	} {
		at, spelled := m.at[p.key]
		// A value of defaults is wrong for all members at once and reported with the first.
		if spelled && l.badAt("path", at) {
			continue
		}
		switch name := *p.field; {
		case name == "" && (p.optional || !spelled):
			continue
		case name == "":
			l.say("path", m, p.key, p.key+" is empty", "write a path, or remove the key")
		case strings.HasPrefix(name, "~"):
			l.say("path", m, p.key,
				fmt.Sprintf("%s %s starts with ~, which broker.conf and SFTP take as it is", p.key, show(name)),
				"write the whole path")
		case !hostPath.MatchString(name):
			l.say("path", m, p.key,
				fmt.Sprintf("%s %s has characters that the start scripts or broker.conf do not carry", p.key, show(name)),
				"use letters, digits and . _ / + @ = , : % -, and no spaces")
		case !p.relative && !path.IsAbs(name):
			l.say("path", m, p.key, fmt.Sprintf("%s %s is not absolute", p.key, show(name)), "write it from / on")
		case path.IsAbs(name):
			*p.field = path.Clean(name)
		case path.IsAbs(m.InstallDir):
			*p.field = below(m.InstallDir, name)
		}
	}
	if path.IsAbs(m.InstallDir) {
		l.checkFolders(m)
	}
}

func (l *loader) checkFolders(m declaredMember) {
	root, work := m.DLedgerRoot, m.WorkDir
	bad := func(key, folder, what, do string) { l.say("path", m, key, key+" "+folder+" "+what, do) }
	const inLog = "is in a commit log's folder, where a file of any other length stops the broker"
	rootFine := path.IsAbs(root) && !l.badAt("path", m.at.of("dledgerRoot"))
	switch {
	case !rootFine:
	case root == "/" || root == m.InstallDir:
		bad("dledgerRoot", root, "would mix the store with other things", "give it a folder of its own, like store/dledger_store")
		rootFine = false
	case hasFolder(root, "commitlog"):
		bad("dledgerRoot", root, inLog, "choose a folder beside it, like store/dledger_store")
	}
	switch {
	case !path.IsAbs(work) || l.badAt("path", m.at.of("workDir")):
	case work == "/" || work == m.InstallDir:
		bad("workDir", work, "would mix mqlift's backups with other things", "give it a folder of its own")
	case hasFolder(work, "commitlog"):
		bad("workDir", work, inLog, "choose a folder outside the store")
	case rootFine && (within(work, root) || within(root, work)):
		key := "dledgerRoot"
		if _, ok := m.at["workDir"]; ok {
			key = "workDir"
		}
		l.say("path", m, key,
			fmt.Sprintf("workDir %s and dledgerRoot %s are one inside the other", work, root),
			"keep mqlift's folder outside the store")
	}
}

func hasFolder(name, folder string) bool { return slices.Contains(strings.Split(name, "/"), folder) }

// within tells whether name is dir or below it; both are clean.
func within(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// CheckStore compares the new store root with the old store as the host's broker.conf has it: the old
// root and commit log stay untouched, since they are the way back.
func (m *Member) CheckStore(storeRoot, commitLog string) diag.Findings {
	var found diag.Findings
	root := path.Clean(m.DLedgerRootFor(storeRoot))
	fail := func(what string) {
		found.Add(diag.Finding{
			Check: "topology.path", Severity: diag.Fail, Host: m.Host, Where: m.Where("dledgerRoot"),
			What: what, Do: "declare another dledgerRoot, like " + path.Join(storeRoot, DefaultDLedgerRoot),
		})
	}
	switch {
	case within(root, path.Clean(commitLog)):
		fail(fmt.Sprintf("dledgerRoot %s is in the old commit log's folder %s, where a file of any other length stops the broker", root, commitLog))
	case root == path.Clean(storeRoot):
		fail(fmt.Sprintf("dledgerRoot %s is the old store itself, which must stay as it is for the way back", root))
	}
	if within(path.Clean(m.WorkDir), path.Clean(commitLog)) {
		found.Add(diag.Finding{
			Check: "topology.path", Severity: diag.Fail, Host: m.Host, Where: m.Where("workDir"),
			What: fmt.Sprintf("workDir %s is in the old commit log's folder %s, where a file of any other length stops the broker", m.WorkDir, commitLog),
			Do:   "declare a workDir outside the store",
		})
	}
	return found
}

func (l *loader) checkCommands(m declaredMember) {
	for _, c := range []struct{ key, line string }{{"start", m.Start}, {"stop", m.Stop}} {
		at, spelled := m.at[c.key]
		if !spelled || l.badAt("command", at) {
			continue
		}
		if c.key == "start" && strings.TrimSpace(c.line) == "" {
			l.say("command", m, c.key, "start is empty", "write the line that starts the broker, or remove the key for "+DefaultStart)
		}
		if _, err := m.fill(c.line); err != nil {
			l.say("command", m, c.key, c.key+": "+err.Error(), "use no other; the line is run by sh in installDir")
		}
		if c.key == "stop" && strings.Contains(c.line, "mqshutdown") {
			l.warn("command", m, c.key,
				"mqshutdown stops every broker on the host", "leave stop out: the one broker's process gets a SIGTERM")
		}
	}
	if at, ok := m.at["env.JAVA_HOME"]; ok && m.JavaHome != "" && !l.badAt("env", at) {
		l.say("env", m, "env.JAVA_HOME", "JAVA_HOME is given in env and as javaHome", "keep javaHome")
	}
}

// checkHosts looks for one machine under two names in a group, one name for two machines, and two
// brokers in one place.
func (l *loader) checkHosts() {
	type grouped struct {
		declaredMember
		group string
	}
	var all []grouped
	for _, g := range l.groups {
		for _, m := range g.members {
			if m.Host == "" || hostKind(m.Host) == badHost {
				continue
			}
			for _, o := range all {
				same := o.group == g.Name
				switch {
				case o.Host == m.Host && same: // reported with the group's members
				case o.Host == m.Host && o.sshKey() != m.sshKey():
					l.say("ssh", m, "host",
						fmt.Sprintf("%s is reached in another way in line %d", m.Host, o.at.of("host").line),
						"write the same ssh for it in each group, or give different hosts different names")
				case o.Host != m.Host && o.endpoint() == m.endpoint() && !isLoopback(m.Address): // one machine is what a lab has
					l.say("members", m, "host",
						fmt.Sprintf("%s is the same machine as %s in line %d: %s by SSH", m.Host, o.Host, o.at.of("host").line, m.SSH.Address+":"+strconv.Itoa(m.sshPort())),
						"declare each machine under one name")
				}
				if o.endpoint() != m.endpoint() || same && o.Host == m.Host {
					continue
				}
				for _, p := range []struct{ key, a, b string }{
					{"brokerConf", o.BrokerConf, m.BrokerConf},
					{"dledgerRoot", o.DLedgerRoot, m.DLedgerRoot},
					{"workDir", o.WorkDir, m.WorkDir},
				} {
					if p.a != "" && p.a == p.b && path.IsAbs(p.a) {
						l.say("path", m, m.ownKey(p.key),
							fmt.Sprintf("%s has the same %s %s as %s of group %s in line %d", m.title(), p.key, p.a, o.title(), o.group, o.at[""].line),
							"give each broker on a host its own")
					}
				}
			}
			all = append(all, grouped{m, g.Name})
		}
	}
}

// ownKey is the key where it is the member's own, or else host: a value that two members share in
// defaults is right for the others.
func (m declaredMember) ownKey(key string) string {
	if _, ok := m.at[key]; ok && !m.inherited(key) {
		return key
	}
	return "host"
}

// endpoint identifies a machine by what SSH connects to; behind different jump hosts the same address
// is another machine.
func (m declaredMember) endpoint() string {
	return fmt.Sprint(strings.ToLower(m.SSH.Address), ":", m.sshPort(), m.SSH.Jump)
}

func (m declaredMember) sshPort() int {
	if m.SSH.Port == 0 {
		return 22
	}
	return m.SSH.Port
}

func (m declaredMember) sshKey() string {
	return fmt.Sprintf("%s %+v", m.endpoint(), m.SSH)
}

// claim is one port on one machine.
type claim struct {
	port   string // which of the member's ports
	what   string
	member *Member // nil for name servers and SSH
}

// checkPorts looks for two things on one port. A broker takes listenPort, two less for the VIP
// channel, and one more for the old replication.
func (l *loader) checkPorts(t *Topology) {
	taken := map[string]claim{}
	for i, addr := range t.NameServers {
		if host, port, err := splitAddr(addr); err == nil {
			taken[portKey(host, port)] = claim{"", fmt.Sprintf("the name server in line %d", l.top.of(nameServerKey(i)).line), nil}
		}
	}
	for _, g := range l.groups {
		for _, m := range g.members {
			key := portKey(m.SSH.Address, m.sshPort())
			if _, ok := taken[key]; !ok && m.SSH.Address != "" {
				taken[key] = claim{"", "SSH", nil}
			}
		}
	}
	for _, g := range l.groups {
		for _, m := range g.members {
			if hostKind(m.Address) != badHost {
				l.checkMemberPorts(m, taken)
			}
		}
	}
}

func portKey(host string, port int) string { return addressKey(host) + ":" + strconv.Itoa(port) }

func (l *loader) checkMemberPorts(m declaredMember, taken map[string]claim) {
	use := func(port int, key, what string) {
		at := portKey(m.Address, port)
		first, ok := taken[at]
		switch {
		case !ok:
			taken[at] = claim{what, fmt.Sprintf("%s of %s in line %d", what, m.title(), m.at.of(m.ownKey(key)).line), m.Member}
		case first.member == m.Member:
			l.say("port", m, m.ownKey(key),
				fmt.Sprintf("%s %d is also %s", what, port, first.port),
				"choose a Raft port away from listenPort, listenPort+1 and listenPort-2")
		default:
			l.say("port", m, m.ownKey(key),
				fmt.Sprintf("%s %d on %s is also %s", what, port, m.Address, first.what), "choose another port")
		}
	}
	at, declared := m.at["listenPort"]
	switch {
	case declared && (m.ListenPort < 3 || m.ListenPort > 65534):
		l.add(diag.Fail, "port", at, m.Host,
			fmt.Sprintf("listenPort %d leaves no room for listenPort-2 and listenPort+1", m.ListenPort),
			"choose one from 3 to 65534")
	case declared:
		use(m.ListenPort, "listenPort", "listenPort")
		use(m.ListenPort+1, "listenPort", "listenPort+1 (replication)")
		use(m.ListenPort-2, "listenPort", "listenPort-2 (VIP channel)")
	case slices.Contains([]int{defaultListenPort, defaultListenPort + 1, defaultListenPort - 2}, m.RaftPort):
		l.warn("port", m, "raftPort",
			fmt.Sprintf("raftPort %d is a port of a broker with the default listenPort %d", m.RaftPort, defaultListenPort),
			fmt.Sprintf("choose another one, like %d", DefaultRaftPort))
	}
	if !m.unread["raftPort"] {
		use(m.RaftPort, "raftPort", "raftPort")
	}
}
