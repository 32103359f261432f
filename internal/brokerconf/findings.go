package brokerconf

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"mqlift/internal/diag"
)

// Site is what must be known about the host to judge its file.
type Site struct {
	Host      string   // the topology's name of the host, for the findings
	Release   string   // the release that runs, or will run, on the file
	Home      string   // home folder of the broker's user
	Addresses []string // all addresses of the host; empty: brokerIP1 and brokerIP2 are not judged
}

// Findings says what is wrong or odd with the file for a broker on that host. Fail is what
// stops the broker or breaks the group; Warn is what the broker takes otherwise than it reads, or
// what ToDLedger mends. Where is file:line:column, or the file alone for a key that is missing.
func (f *File) Findings(at Site) diag.Findings {
	s, ignored := f.settings(at.Release, at.Home)
	j := &judge{f: f, at: at, s: s}
	j.release()
	j.bytes()
	j.duplicates()
	j.spelling()
	j.swallowed()
	j.ignored(ignored)
	j.identity()
	j.nameServers()
	j.paths()
	j.writes()
	j.dledger()
	return j.found
}

type judge struct {
	f     *File
	at    Site
	s     Settings
	found diag.Findings
}

func (j *judge) add(check string, severity diag.Severity, where, what, do string) {
	j.found.Add(diag.Finding{Check: "brokerconf." + check, Severity: severity, Host: j.at.Host, Where: where, What: what, Do: do})
}

// strict is Fail where the broker is, or is about to be, a member of a DLedger group.
func (j *judge) strict() diag.Severity {
	if j.s.DLedger {
		return diag.Fail
	}
	return diag.Warn
}

func (j *judge) release() {
	r := j.at.Release
	switch known := Releases(); {
	case Known(r):
	case !since(r, "0.0.0-0"):
		j.add("release", diag.Fail, j.f.name, fmt.Sprintf("release %q is no version, defaults were taken as of %s", r, known[0]),
			"give the release as in "+known[1])
	case !since(r, known[0]):
		j.add("release", diag.Fail, j.f.name, "release "+r+" has no DLedger", "upgrade the brokers to 4.5.2 or later first")
	default:
		j.add("release", diag.Warn, j.f.name, "release "+r+" is not one whose defaults are known, the nearest older one's were taken",
			"compare the broker's own configuration (mqadmin getBrokerConfig) with what is shown here")
	}
}

// bytes looks at what Java's ISO-8859-1 reading makes of the file.
func (j *judge) bytes() {
	if strings.HasPrefix(string(j.f.data), "\xef\xbb\xbf") {
		sev, what := diag.Warn, "the file begins with a UTF-8 byte order mark"
		if len(j.f.entries) > 0 && j.f.entries[0].keyAt == 0 {
			sev, what = diag.Fail, what+", which Java takes for a part of the first key"
		}
		j.add("bytes", sev, j.f.where(0), what, "save the file without a byte order mark")
	}
	for i, e := range j.f.entries {
		raw := j.f.data[e.valueAt : e.end-len(e.tail)]
		if j.f.last[e.key] == i && slices.ContainsFunc(raw, func(c byte) bool { return c >= 0x80 }) {
			j.add("bytes", diag.Warn, j.f.where(e.valueAt),
				"the value of "+shownKey(e.key)+" has bytes beyond ASCII, which Java reads as ISO-8859-1 and not as UTF-8",
				`write such characters as \uXXXX`)
		}
	}
}

func shownKey(key string) string {
	if key == "" {
		return "an empty key"
	}
	return printable(key)
}

// shownValue is a value for a message, without what may be a credential.
func shownValue(key, value string) string {
	if secret(key) {
		return "<hidden>"
	}
	return strconv.Quote(value)
}

func (j *judge) duplicates() {
	for _, d := range j.f.Duplicates() {
		var lines []string
		for _, n := range d.Lines {
			lines = append(lines, strconv.Itoa(n))
		}
		n := len(lines)
		v, _ := j.f.Get(d.Key)
		j.add("duplicate", diag.Warn, j.f.whereKey(d.Key),
			fmt.Sprintf("%s stands on lines %s and %s, the last counts: %s", shownKey(d.Key),
				strings.Join(lines[:n-1], ", "), lines[n-1], shownValue(d.Key, v)),
			"keep the line that is meant")
	}
}

// keys are the properties that this package reads, for the check of spelling.
func keys(release string) []string {
	return []string{"brokerClusterName", "brokerName", "brokerId", "brokerRole", "brokerIP1", "brokerIP2", "listenPort",
		"haListenPort", "namesrvAddr", "storePathRootDir", "storePathCommitLog", fileSizeKey(release), "fileReservedTime",
		"deleteWhen", "flushDiskType", "transientStorePoolEnable", "checkCRCOnRecover", "brokerPermission",
		"startAcceptSendRequestTimeStamp", "aclEnable", "autoCreateTopicEnable", "autoCreateSubscriptionGroup",
		"sendMessageThreadPoolNums", "enableDLegerCommitLog", "dLegerGroup", "dLegerPeers", "dLegerSelfId",
		"preferredLeaderId", "enableControllerMode"}
}

// spelling finds keys that look like one the broker knows and are not: it ignores them in silence.
// RocketMQ writes "DLeger" in most of them, and 4.5.1 "maped".
func (j *judge) spelling() {
	fold := func(k string) string {
		k = strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(k))
		return strings.NewReplacer("dledger", "dleger", "mapped", "maped", "nameserver", "namesrv").Replace(k)
	}
	right := map[string]string{}
	for _, k := range keys(j.at.Release) {
		right[fold(k)] = k
	}
	for _, k := range j.f.Keys() {
		switch r := right[fold(k)]; {
		case k == "fastListenPort":
			j.add("key", diag.Warn, j.f.whereKey(k), "fastListenPort is no property of the broker: that port is always listenPort-2",
				"delete the line")
		case r != "" && r != k:
			j.add("key", diag.Warn, j.f.whereKey(k),
				fmt.Sprintf("the broker of release %s does not know %s and ignores it in silence; it is spelt %s", j.at.Release, k, r),
				"write "+r)
		}
	}
}

// swallowed finds properties that a backslash at the end of the line before makes a part of its value.
func (j *judge) swallowed() {
	known := map[string]bool{}
	for _, k := range keys(j.at.Release) {
		known[k] = true
	}
	for _, e := range j.f.entries {
		for line := j.f.lineOf(e.keyAt) + 1; e.joined && line <= len(j.f.starts) && j.f.starts[line-1] < e.end; line++ {
			start, end := j.f.starts[line-1], e.end
			if line < len(j.f.starts) {
				end = min(end, j.f.starts[line])
			}
			text := strings.TrimLeft(string(j.f.data[start:end]), " \t\f")
			k, _, ok := strings.Cut(text, "=")
			if k = strings.TrimSpace(k); ok && known[k] {
				j.add("key", diag.Fail, j.f.where(start+(end-start)-len(text)),
					fmt.Sprintf("%s is no property here but a part of the value of %s: the line before it ends in a backslash", k, shownKey(e.key)),
					"take the backslash off the end of that line")
			}
		}
	}
}

// ignored reports values that the broker replaced by a default without a word.
func (j *judge) ignored(values []ignored) {
	for _, v := range values {
		sev := diag.Warn
		switch v.key {
		case "enableDLegerCommitLog", "brokerRole", "brokerId", "listenPort", "brokerPermission", fileSizeKey(j.at.Release):
			sev = diag.Fail
		}
		j.add("value", sev, j.f.whereValue(v.key),
			fmt.Sprintf("%s=%q is not %s (blanks count), the broker takes %s in silence", v.key, v.value, v.kind, v.instead),
			"write what is meant")
	}
	if since(j.at.Release, "5.2.0") {
		return // strings are trimmed
	}
	for _, k := range []string{"brokerClusterName", "brokerName", "brokerIP1", "brokerIP2", "storePathRootDir", "storePathCommitLog", "dLegerGroup"} {
		if v, _ := j.f.Get(k); v != strings.TrimSpace(v) {
			j.add("value", j.strict(), j.f.whereValue(k), fmt.Sprintf("%s=%q has blanks around it, which belong to the value", k, v),
				"take the blanks off")
		}
	}
}

// identity is who the broker is to name servers and clients.
func (j *judge) identity() {
	if name, ok := j.f.Get("brokerName"); strings.TrimSpace(name) == "" {
		what := "brokerName is missing, the broker takes its host's name"
		if ok {
			what = "brokerName is empty"
		}
		j.add("name", j.strict(), j.f.whereKey("brokerName"), what,
			"write brokerName, the same for all members of the group")
	}

	for _, k := range []string{"brokerIP1", "brokerIP2"} {
		ip, ok := j.f.Get(k)
		ip = strings.TrimSpace(ip)
		switch {
		case len(j.at.Addresses) == 0 || !ok && k == "brokerIP2":
		case !ok && len(j.at.Addresses) > loopbacks(j.at.Addresses)+1:
			j.add("address", diag.Warn, j.f.name, // RemotingUtil.getLocalAddress
				"brokerIP1 is missing, the broker picks one of its addresses: the first that does not begin with 127.0 or 192.168",
				"write brokerIP1, the address that clients and name servers are to use")
		case ok && !slices.Contains(j.at.Addresses, ip):
			sev := j.strict()
			if k == "brokerIP2" {
				sev = diag.Warn
			}
			j.add("address", sev, j.f.whereValue(k),
				fmt.Sprintf("%s=%s is none of this host's addresses (%s): clients are sent to another host", k, printable(ip), strings.Join(j.at.Addresses, ", ")),
				"write this host's address")
		}
	}

	if s := j.s; !s.DLedger && !s.Controller {
		id, _ := j.f.Get("brokerId")
		switch n, err := strconv.ParseInt(id, 10, 64); {
		case s.Role == "SLAVE" && s.BrokerID <= 0:
			j.add("role", diag.Fail, j.f.whereKey("brokerId"), "brokerRole=SLAVE with brokerId 0 or none: the broker does not start (exit -3)",
				"write a brokerId above 0")
		case s.Role != "SLAVE" && err == nil && n != 0:
			j.add("role", diag.Warn, j.f.whereValue("brokerId"),
				fmt.Sprintf("brokerId=%d is not looked at: with brokerRole %s the broker registers as 0, the master", n, s.Role),
				"write brokerRole=SLAVE if this is a slave")
		}
	}
}

func loopbacks(addresses []string) (n int) {
	for _, a := range addresses {
		if strings.HasPrefix(a, "127.") || a == "::1" {
			n++
		}
	}
	return n
}

func (j *judge) nameServers() {
	v, ok := j.f.Get("namesrvAddr")
	where := j.f.whereValue("namesrvAddr")
	if !ok || v == "" {
		j.add("namesrv", diag.Warn, j.f.name, "namesrvAddr is missing, the broker needs it from NAMESRV_ADDR or -n to register anywhere",
			"write namesrvAddr, or make sure that the start command gives it")
		return
	}
	if since(j.at.Release, "5.2.0") {
		v = strings.TrimSpace(v)
	}
	if strings.ContainsAny(v, " \t\f\r\n") {
		j.add("namesrv", diag.Fail, where, "namesrvAddr has blanks in it, which the broker does not trim: it exits with -3 or registers with a part of the name servers",
			"separate the addresses by ; alone")
		return
	}
	if strings.Contains(v, ",") { // up to 4.9.x a port that is no number; later a host name that is none
		j.add("namesrv", diag.Fail, where, "namesrvAddr has a comma in it: the broker exits with -3 or registers with none of these name servers",
			"separate the addresses by ; alone")
		return
	}
	for a := range strings.SplitSeq(strings.TrimRight(v, ";"), ";") {
		i := strings.LastIndex(a, ":")
		if i < 1 {
			j.add("namesrv", diag.Fail, where, fmt.Sprintf("name server %q is not host:port, the broker exits with -3", a), "write host:port;host:port")
		} else if n, err := strconv.Atoi(a[i+1:]); err != nil || n < 0 || n > 65535 {
			j.add("namesrv", diag.Fail, where, fmt.Sprintf("name server %q has no valid port, the broker exits with -3", a), "write host:port;host:port")
		}
	}
}

// paths looks at where the store is.
func (j *judge) paths() {
	for _, k := range []string{"storePathRootDir", "storePathCommitLog"} {
		v, ok := j.f.Get(k)
		switch {
		case !ok:
		case strings.Contains(v, "${") || strings.HasPrefix(v, "~"):
			j.add("paths", diag.Warn, j.f.whereValue(k), fmt.Sprintf("%s=%q is taken as it stands: Java expands neither ${} nor ~", k, v),
				"write the whole path")
		case !path.IsAbs(strings.TrimSpace(v)):
			j.add("paths", diag.Warn, j.f.whereValue(k), fmt.Sprintf("%s=%q depends on the folder that the broker is started in", k, v),
				"write the whole path")
		}
	}
	if strings.Contains(j.s.StoreCommitLog, ",") && since(j.at.Release, "4.9.2") {
		j.add("paths", diag.Fail, j.f.whereValue("storePathCommitLog"), "storePathCommitLog has several folders; stores spread over several are not moved",
			"bring the commit log into one folder first")
		return
	}
	root, commitLog := path.Clean(j.s.StoreRoot), path.Clean(j.s.StoreCommitLog)
	where := j.f.whereValue("storePathRootDir")
	switch {
	case root == commitLog:
		j.add("paths", diag.Fail, where, "storePathRootDir and storePathCommitLog are the same folder, "+root+
			": anything in it that is not a commit log file of full length stops the start", "give them folders of their own")
	case strings.HasPrefix(root, strings.TrimSuffix(commitLog, "/")+"/"):
		j.add("paths", diag.Fail, where, "storePathRootDir is within storePathCommitLog, "+commitLog+
			": anything in that which is not a commit log file of full length stops the start", "give the root a folder outside it")
	}
	_, hasRoot := j.f.Get("storePathRootDir")
	_, hasLog := j.f.Get("storePathCommitLog")
	if hasRoot && !hasLog && !since(j.at.Release, "4.9.4") {
		j.add("paths", j.strict(), where, fmt.Sprintf("storePathCommitLog is missing: up to 4.9.3 the commit log is then in %s, whatever storePathRootDir says", j.s.StoreCommitLog),
			"write storePathCommitLog with the place where the commit log is")
	}
	if hasRoot && !hasLog && since(j.at.Release, "4.9.4") && j.s.DLedger {
		j.add("paths", diag.Fail, where, "storePathCommitLog is missing: the old commit log is then looked for in "+j.s.StoreCommitLog,
			"write storePathCommitLog with the place where the old commit log is")
	}
}

// writes finds what a closed start, or someone, has left behind.
func (j *judge) writes() {
	if j.s.Permission&2 == 0 {
		j.add("writes", diag.Warn, j.f.whereValue("brokerPermission"), fmt.Sprintf("brokerPermission=%d: started on this file the broker is not written to", j.s.Permission),
			"delete the line, or set 6, unless this is meant")
	}
	if t := time.UnixMilli(j.s.AcceptSendsFrom); t.After(time.Now()) {
		j.add("writes", diag.Warn, j.f.whereValue("startAcceptSendRequestTimeStamp"),
			"startAcceptSendRequestTimeStamp: started on this file the broker refuses every send until "+t.UTC().Format(time.DateTime)+" UTC",
			"delete the line unless this is meant")
	}
}

// dledger judges the settings of a member: none, or all and fitting.
func (j *judge) dledger() {
	s, f := j.s, j.f
	if s.Controller {
		sev, what := diag.Warn, "enableControllerMode=true: this group has failover by controller already"
		if s.DLedger {
			sev, what = diag.Fail, "enableControllerMode and enableDLegerCommitLog are both true: the broker does not start (exit -4)"
		}
		j.add("dledger", sev, f.whereKey("enableControllerMode"), what, "keep one of them")
	}
	if !s.DLedger {
		for _, k := range []string{"dLegerGroup", "dLegerPeers", "dLegerSelfId"} {
			if _, ok := f.Get(k); ok {
				j.add("dledger", diag.Warn, f.whereKey(k), k+" is set, but enableDLegerCommitLog is not true: it is not looked at",
					"delete the line, or find out who has begun to prepare this broker")
			}
		}
		return
	}

	role, hasRole := f.Get("brokerRole")
	if s.Role != "SLAVE" {
		what, where := fmt.Sprintf("brokerRole=%s is left over from master and slave", printable(role)), f.whereValue("brokerRole")
		if !hasRole {
			what, where = "brokerRole is missing, which is ASYNC_MASTER", f.name
		}
		if !since(j.at.Release, "4.6.0") {
			what += ": this member registers as master before it is elected"
		}
		j.add("role", diag.Warn, where, what, "write brokerRole=SLAVE and brokerId, the number in dLegerSelfId and one; the election makes the master")
	} else {
		id, _ := f.Get("brokerId")
		n, err := strconv.ParseInt(id, 10, 64)
		want, idErr := BrokerIDOf(s.SelfID)
		switch {
		case err != nil || n <= 0:
			j.add("role", diag.Fail, f.whereKey("brokerId"), "brokerRole=SLAVE with brokerId 0 or none: the broker does not start (exit -3)",
				"write brokerId, the number in dLegerSelfId and one")
		case idErr == nil && n != int64(want):
			j.add("role", diag.Warn, f.whereValue("brokerId"), fmt.Sprintf("brokerId=%d is left over: member %s registers as %d", n, s.SelfID, want),
				fmt.Sprintf("write brokerId=%d", want))
		}
	}

	if s.Group == "" {
		j.add("dledger", diag.Fail, f.whereKey("dLegerGroup"), "dLegerGroup is missing: the broker runs, its votes fail, and there is never a leader", "write dLegerGroup")
	}
	if _, err := BrokerIDOf(s.SelfID); s.SelfID == "" {
		j.add("dledger", diag.Fail, f.whereKey("dLegerSelfId"), "dLegerSelfId is missing: the broker does not start", "write dLegerSelfId, one of the ids in dLegerPeers")
	} else if err != nil {
		j.add("dledger", diag.Fail, f.whereValue("dLegerSelfId"), err.Error()+": the broker does not start", "write dLegerSelfId, one of the ids in dLegerPeers")
	}
	j.peers()
	if s.TransientStorePool && s.Role == "SLAVE" {
		j.add("transient", diag.Fail, f.whereValue("transientStorePoolEnable"),
			"transientStorePoolEnable with DLedger and brokerRole=SLAVE: the pool is not filled at the start, and once elected this member rejects every send because it is empty",
			"write transientStorePoolEnable=false; DLedger does not use the pool")
	}
}

func (j *judge) peers() {
	s, where := j.s, j.f.whereValue("dLegerPeers")
	if s.Peers == "" {
		j.add("peers", diag.Fail, j.f.whereKey("dLegerPeers"), "dLegerPeers is missing: the broker does not start", "write dLegerPeers, the same on all members")
		return
	}
	peers, err := ParsePeers(s.Peers, j.at.Release)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			j.add("peers", diag.Fail, where, "dLegerPeers: "+line, "write id-host:port;id-host:port;…, the same on all members, without blanks")
		}
		return
	}
	if len(peers) < 3 || len(peers)%2 == 0 {
		j.add("peers", diag.Warn, where, fmt.Sprintf("dLegerPeers has %d members, of which %d may fail", len(peers), (len(peers)-1)/2),
			"use three members or five")
	}
	self := slices.IndexFunc(peers, func(p Peer) bool { return p.ID == s.SelfID })
	if self < 0 {
		if s.SelfID != "" {
			j.add("peers", diag.Fail, j.f.whereValue("dLegerSelfId"), fmt.Sprintf("dLegerSelfId=%s is not in dLegerPeers: the broker does not start", printable(s.SelfID)),
				"write one of its ids")
		}
		return
	}
	p := peers[self]
	used := ""
	switch p.Port {
	case s.ListenPort:
		used = "listenPort"
	case s.FastListenPort:
		used = "listenPort-2, the port for fast requests,"
	case s.HAListenPort:
		used = "the HA port"
	}
	if used != "" {
		j.add("peers", diag.Fail, where, fmt.Sprintf("the Raft port %d of %s is %s of this broker", p.Port, p.ID, used), "give the members a Raft port of their own, such as 40911")
	}
	if len(j.at.Addresses) > 0 && !slices.Contains(j.at.Addresses, p.Host) && isIP(p.Host) {
		j.add("peers", diag.Fail, where, fmt.Sprintf("member %s is at %s, which is none of this host's addresses (%s)", p.ID, p.Host, strings.Join(j.at.Addresses, ", ")),
			"write this host's own id into dLegerSelfId")
	}
	if s.PreferredLeader != "" && !slices.ContainsFunc(peers, func(p Peer) bool { return p.ID == s.PreferredLeader }) {
		j.add("peers", diag.Warn, j.f.whereValue("preferredLeaderId"), fmt.Sprintf("preferredLeaderId=%s is not in dLegerPeers", printable(s.PreferredLeader)), "write one of its ids, or delete the line")
	}
}
