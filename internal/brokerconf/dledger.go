package brokerconf

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// ClosedUntil is the startAcceptSendRequestTimeStamp of a broker that takes no sends: the year
// 2100, in ms since 1970. It is a long compared with the clock before each send (SendMessageProcessor
// of 4.5.2, 4.9.7 and 5.3.3: sendMessage, sendBatchMessage, preSend), 0 by default.
const ClosedUntil int64 = 4102444800000

// RefuseSends is what refuses sends and leaves reads, and says nothing of it in the routes. What consumers send
// back and what the broker writes by itself is not refused by it: see Silence.
func RefuseSends() []KV {
	return []KV{{"startAcceptSendRequestTimeStamp", strconv.FormatInt(ClosedUntil, 10)}}
}

// CloseWrites is RefuseSends for a broker that may make itself a master: with brokerPermission=4 it takes nothing
// back from consumers either, also in the moment until it is silenced. Its routes say so. A client that asks for
// its route just then does not send for 30 s, when it asks again (seen: 33 s for an application in Go).
func CloseWrites() []KV { return append(RefuseSends(), KV{permissionKey, "4"}) }

const permissionKey = "brokerPermission"

// RoleKey is the property that decides whether a message store takes anything at all.
const RoleKey = "brokerRole"

// Silence is what keeps a running broker from writing by itself: delayed messages that come due, ends
// and checks of transactions, events about consumer offsets. The message store of a SLAVE refuses
// whatever would be put into it (DefaultMessageStore.putMessage of 4.5.2 and 4.9.7,
// HookUtils.checkBeforePutMessage of 5.3.3), and the role is taken at run time. Delayed messages and
// transactions wait for the next master then: the first are tried again 10 s later, the second checked
// again. The others make such a broker serve pulls as before, and keep its transaction check from
// trying the same write over and over (TransactionalMessageServiceImpl.check).
func Silence() []KV { return append(silentFile(), KV{RoleKey, "SLAVE"}) }

// silentFile is Silence without the role, which a member's file has its own reasons for.
func silentFile() []KV {
	return []KV{
		{"slaveReadEnable", "true"},
		{"offsetCheckInSlave", "true"},
		{"transactionTimeOut", strconv.FormatInt(ClosedUntil, 10)}, // ms: no transaction is ever old enough
	}
}

// ShortPull is for how long a broker with ShortPulls holds a pull for which it has nothing; it looks after those
// it holds as often (PullRequestHoldService, 4.5.2 to 5.3.3).
const ShortPull = 500 * time.Millisecond

// ShortPulls makes a running broker hold pulls for ShortPull, and not for as long as consumers ask it to.
func ShortPulls() []KV {
	return []KV{{"longPollingEnable", "false"}, {"shortPollingTimeMills", strconv.FormatInt(ShortPull.Milliseconds(), 10)}}
}

// LongPulls is what ShortPulls must be replaced by so that it is as this file has it.
func (f *File) LongPulls() []KV {
	l := []KV{{"longPollingEnable", "true"}, {"shortPollingTimeMills", "1000"}} // BrokerConfig, 4.5.2 to 5.3.3
	for i := range l {
		if v, ok := f.Get(l[i].Key); ok {
			l[i].Value = v
		}
	}
	return l
}

// IDKey is the property under whose number a broker stands in the routes; 0 is the master.
const IDKey = "brokerId"

// RetiredID is the brokerId that the old master registers with while it waits for its end. A stopping
// broker unregisters its id whatever address stands there by then (RouteInfoManager.unregisterBroker,
// 4.5.2), so that an old master stopped as id 0 takes the new leader out of the routes; and its 30 s
// heartbeat as id 0 would put its closed port back in. Registered under another id it can do neither.
const RetiredID = "1000"

// Retire is what makes the old master one that takes nothing, writes nothing, and answers no pulls, in a running
// broker and in the file on which something might start it again.
func Retire() []KV {
	l := append(append(CloseWrites(), Silence()...), KV{IDKey, RetiredID})
	for i := range l {
		if l[i].Key == permissionKey {
			l[i].Value = "0"
		}
	}
	return l
}

// Slave tells from the configuration in effect whether a broker is a slave. A master under Silence calls
// itself one, but no real slave has mqlift's timestamp.
func Slave(live map[string]string) bool {
	return live[RoleKey] == "SLAVE" && live["startAcceptSendRequestTimeStamp"] != strconv.FormatInt(ClosedUntil, 10)
}

// OpenWrites is what CloseWrites and Silence must be replaced by in a running broker so that it is as
// this file has it.
func (f *File) OpenWrites(release string) []KV {
	s := f.Settings(release, "")
	return []KV{
		{permissionKey, strconv.Itoa(s.Permission)},
		{"startAcceptSendRequestTimeStamp", strconv.FormatInt(s.AcceptSendsFrom, 10)},
		{"slaveReadEnable", strconv.FormatBool(s.SlaveRead)},
		{"offsetCheckInSlave", strconv.FormatBool(s.OffsetCheckInSlave)},
		{"transactionTimeOut", strconv.FormatInt(s.TransactionTimeOut, 10)},
		{RoleKey, s.Role},
	}
}

// DLedgerTarget is what one member's broker.conf is to say.
type DLedgerTarget struct {
	Cluster    string // brokerClusterName; empty: left as it is
	BrokerName string // the group's broker name, the same on all members; empty: left as it is
	Group      string // dLegerGroup
	Peers      string // dLegerPeers, see FormatPeers
	SelfID     string // dLegerSelfId

	StoreRoot      string // storePathRootDir: the new root
	StoreCommitLog string // storePathCommitLog: where the old commit log is
	// MappedFileSizeCommitLog is the length of the commit log's files in bytes; 0: left as it is.
	MappedFileSizeCommitLog int64

	BrokerID   int      // brokerId at start; 0: the integer of SelfID and one
	IP1        string   // the address clients are to use; empty: brokerIP1 and brokerIP2 are left
	IP2        string   // empty: IP1
	Addresses  []string // this host's further addresses: a brokerIP1 or brokerIP2 among them stays
	ListenPort int      // 0: left as it is

	Closed bool // for a start with writes closed
}

// ToDLedger is the edit that makes this file the member's, for a broker of the given release, and
// for each key that changes one line that says from what, to what and why. Keys that have their
// value already are not in it, unless they stand there twice. What else is wrong with the file,
// Findings of the applied edit says.
func (f *File) ToDLedger(t DLedgerTarget, release string) (Edit, []string) {
	return f.toDLedger(t, release, false)
}

// Derive makes the file of a new host's member from this one, another member's: ToDLedger's edit,
// applied, and brokerIP1 written in any case.
func (f *File) Derive(name string, t DLedgerTarget, release string) (*File, []string, error) {
	e, why := f.toDLedger(t, release, true)
	from := *f
	from.name = name
	derived, err := from.Apply(e)
	return derived, why, err
}

func (f *File) toDLedger(t DLedgerTarget, release string, otherHost bool) (Edit, []string) {
	var e Edit
	var why []string
	s := f.Settings(release, "")
	dup := map[string]bool{}
	for _, d := range f.Duplicates() {
		dup[d.Key] = true
	}
	set := func(key, value, reason string) {
		old, there := f.Get(key)
		switch {
		case there && old == value && !dup[key]:
			return
		case !there:
			why = append(why, fmt.Sprintf("%s = %s (new): %s", key, value, reason))
		case old == value:
			why = append(why, fmt.Sprintf("%s = %s (once instead of several times): %s", key, value, reason))
		default:
			why = append(why, fmt.Sprintf("%s = %s (was %s): %s", key, value, old, reason))
		}
		e.Set = append(e.Set, KV{key, value})
	}

	if t.Cluster != "" && (s.Cluster != t.Cluster || dup["brokerClusterName"]) {
		set("brokerClusterName", t.Cluster, "all members are of one cluster")
	}
	if t.BrokerName != "" {
		set("brokerName", t.BrokerName, "all members register as one broker group; without it each takes its host's name")
	}

	set("enableDLegerCommitLog", "true", "turns DLedger on")
	set("dLegerGroup", t.Group, "the Raft group; without it no vote succeeds and there is no leader")
	set("dLegerPeers", t.Peers, "the members, the same on all of them")
	set("dLegerSelfId", t.SelfID, "which of the members this is")
	set("storePathRootDir", t.StoreRoot, "DLedger's data, consume queues, index and config are below it, apart from the old store")
	set("storePathCommitLog", t.StoreCommitLog, "the old commit log stays where it is; the default depends on release and root")
	if key := fileSizeKey(release); t.MappedFileSizeCommitLog != 0 && t.MappedFileSizeCommitLog != s.MappedFileSizeCommitLog {
		set(key, strconv.FormatInt(t.MappedFileSizeCommitLog, 10), "the old files have this length; any other stops the start")
	}

	id := t.BrokerID
	if id == 0 {
		id, _ = BrokerIDOf(t.SelfID) // Findings names a bad one
	}
	role := "no member registers as master before it is elected"
	if since(release, "4.6.0") {
		role = "the election gives the role; SLAVE is the one that cannot be taken for an old master's"
	}
	set("brokerRole", "SLAVE", role)
	set("brokerId", strconv.Itoa(id), "a SLAVE must have one above 0; the member's number and one is what it registers as")
	if s.TransientStorePool {
		// Started as SLAVE the pool is never filled, and once elected the empty pool has every send
		// rejected (SendMessageProcessor.rejectRequest). Measured on 4.5.2, 4.9.7 and 5.3.3: code 2,
		// "[REJECTREQUEST]system busy", for good.
		set("transientStorePoolEnable", "false", "DLedger does not use the pool, and a member that started as SLAVE would reject every send once elected, because its pool is empty")
	}

	here := append(slices.Clone(t.Addresses), t.IP1)
	ip2 := t.IP2
	if ip2 == "" {
		ip2 = t.IP1
	} else {
		here = append(here, ip2)
	}
	if t.IP1 != "" {
		if s.IP1 != "" && !slices.Contains(here, s.IP1) || s.IP1 == "" && otherHost || dup["brokerIP1"] {
			set("brokerIP1", t.IP1, "this host's address, which clients get from the name servers")
		}
		if s.IP2 != "" && !slices.Contains(here, s.IP2) || dup["brokerIP2"] {
			set("brokerIP2", ip2, "this host's address")
		}
	}
	if t.ListenPort != 0 && (t.ListenPort != s.ListenPort || dup["listenPort"]) {
		set("listenPort", strconv.Itoa(t.ListenPort), "this broker's port")
		if _, there := f.Get("haListenPort"); there && since(release, "5.1.1") { // before, it is not read
			set("haListenPort", strconv.Itoa(t.ListenPort+1), "goes with listenPort")
		}
	}
	if t.Closed {
		for _, kv := range append(CloseWrites(), silentFile()...) {
			set(kv.Key, kv.Value, "writes stay closed until the group is proven; reads work")
		}
	}
	return e, why
}
