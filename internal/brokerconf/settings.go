package brokerconf

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

// Releases lists the RocketMQ releases that this package's defaults were read from, oldest first:
// all that have DLedger in the broker (rocketmq tags rocketmq-all-4.5.1 to -5.3.3).
func Releases() []string {
	return []string{"4.5.1", "4.5.2", "4.6.0", "4.6.1", "4.7.0", "4.7.1", "4.8.0",
		"4.9.0", "4.9.1", "4.9.2", "4.9.3", "4.9.4", "4.9.5", "4.9.6", "4.9.7", "4.9.8",
		"5.0.0", "5.1.0", "5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.2.0", "5.3.0", "5.3.1", "5.3.2", "5.3.3"}
}

// Known tells whether the release is one of Releases.
func Known(release string) bool { return slices.Contains(Releases(), release) }

// since tells whether release is other or a later one; what is not a version is taken for the
// oldest.
func since(release, other string) bool { return semver.Compare("v"+release, "v"+other) >= 0 }

// Settings is what a broker of one release runs with when it is started on a file: the file's
// values as the broker's setters take them, and that release's defaults. The environment
// (NAMESRV_ADDR, ROCKETMQ_HOME) and command line options are not in it.
type Settings struct {
	Cluster    string
	BrokerName string // empty: not in the file, the broker takes its host's name
	BrokerID   int64  // 0 for any master role; -1 with DLedger from 4.6.0 on, until a role is won
	Role       string // ASYNC_MASTER, SYNC_MASTER or SLAVE; the role at start with DLedger

	ListenPort     int
	FastListenPort int // always ListenPort-2, no property
	HAListenPort   int
	IP1, IP2       string   // empty: not in the file, the broker picks one of its addresses
	NameServers    []string // host:port, blanks around them taken off

	StoreRoot               string // as written; below the broker's working folder when relative
	StoreCommitLog          string // several folders separated by commas are possible from 4.9.2 on
	MappedFileSizeCommitLog int64  // bytes
	FileReservedHours       int
	DeleteWhen              string // hours of the day, separated by ;
	FlushDiskType           string // ASYNC_FLUSH or SYNC_FLUSH
	TransientStorePool      bool   // transientStorePoolEnable
	CheckCRCOnRecover       bool

	Permission      int   // brokerPermission: 2 write, 4 read, 6 both
	AcceptSendsFrom int64 // startAcceptSendRequestTimeStamp, ms since 1970; sends before are refused

	SlaveRead          bool  // slaveReadEnable
	OffsetCheckInSlave bool  // offsetCheckInSlave
	TransactionTimeOut int64 // transactionTimeOut, ms until a half transaction is asked about

	ACL                         bool // aclEnable
	AutoCreateTopic             bool
	AutoCreateSubscriptionGroup bool
	SendThreads                 int // sendMessageThreadPoolNums; 0: by the number of cores, at most 4

	DLedger         bool // enableDLegerCommitLog
	Group           string
	Peers           string
	SelfID          string
	PreferredLeader string
	Controller      bool // enableControllerMode
}

// Writable tells whether the broker would take messages as soon as it is master.
func (s Settings) Writable() bool {
	return s.Permission&2 != 0 && s.AcceptSendsFrom <= time.Now().UnixMilli()
}

// Settings gives the effective values for a release. A release that is not known is read like the
// nearest older one that is. home is the home folder of the broker's user, for the default storage
// paths: Java's user.home, which is the one of the user database whatever $HOME says; with an
// empty home these paths begin with ~. Values that the broker cannot read are the
// defaults here, as they are in the broker; Findings names them.
func (f *File) Settings(release, home string) Settings {
	s, _ := f.settings(release, home)
	return s
}

// ignored is a value that the broker cannot read and silently replaces by its default: every
// setter's exception is swallowed (MixAll.properties2Object, the same in all Releases).
type ignored struct{ key, value, kind, instead string }

// setters reads values like the broker's setters.
type setters struct {
	f       *File
	trims   bool // from 5.2.0 on properties2Object trims strings (only strings)
	ignored []ignored
}

func (r *setters) text(key, otherwise string) string {
	v, ok := r.f.Get(key)
	if !ok {
		return otherwise
	}
	if r.trims {
		v = strings.TrimFunc(v, func(c rune) bool { return c <= ' ' }) // as String.trim
	}
	return v
}

func (r *setters) number(key string, bits int, otherwise int64) int64 {
	v, ok := r.f.Get(key)
	if !ok {
		return otherwise
	}
	n, err := strconv.ParseInt(v, 10, bits) // no blanks allowed, like Integer.parseInt
	if err != nil {
		r.ignored = append(r.ignored, ignored{key, v, "a number", strconv.FormatInt(otherwise, 10)})
		return otherwise
	}
	return n
}

func (r *setters) yes(key string, otherwise bool) bool {
	v, ok := r.f.Get(key)
	if !ok {
		return otherwise
	}
	is := strings.EqualFold(v, "true") // as Boolean.parseBoolean: anything else is false
	if !is && !strings.EqualFold(v, "false") {
		r.ignored = append(r.ignored, ignored{key, v, "true or false", "false"})
	}
	return is
}

func (r *setters) oneOf(key string, names ...string) string {
	v := r.text(key, names[0])
	if !slices.Contains(names, v) {
		r.ignored = append(r.ignored, ignored{key, v, strings.Join(names, " or "), names[0]})
		return names[0]
	}
	return v
}

// fileSizeKey is how the release spells mappedFileSizeCommitLog.
func fileSizeKey(release string) string {
	if since(release, "4.5.2") {
		return "mappedFileSizeCommitLog"
	}
	return "mapedFileSizeCommitLog" // MessageStoreConfig of 4.5.1
}

// settings follows BrokerConfig, MessageStoreConfig, NettyServerConfig and BrokerStartup of the
// releases; where a value depends on the release, the comment says so.
func (f *File) settings(release, home string) (Settings, []ignored) {
	if home == "" {
		home = "~"
	}
	r := &setters{f: f, trims: since(release, "5.2.0")}
	port := func(key string, otherwise int) int { return int(r.number(key, 32, int64(otherwise))) }
	s := Settings{
		Cluster:    r.text("brokerClusterName", "DefaultCluster"),
		BrokerName: r.text("brokerName", ""),
		BrokerID:   r.number("brokerId", 64, 0),
		Role:       r.oneOf("brokerRole", "ASYNC_MASTER", "SYNC_MASTER", "SLAVE"),
		ListenPort: port("listenPort", 10911), // set by BrokerStartup over NettyServerConfig's own
		IP1:        r.text("brokerIP1", ""),
		IP2:        r.text("brokerIP2", ""),

		StoreRoot:               r.text("storePathRootDir", path.Join(home, "store")),
		MappedFileSizeCommitLog: r.number(fileSizeKey(release), 32, 1<<30),
		FileReservedHours:       int(r.number("fileReservedTime", 32, 72)),
		DeleteWhen:              r.text("deleteWhen", "04"),
		FlushDiskType:           r.oneOf("flushDiskType", "ASYNC_FLUSH", "SYNC_FLUSH"),
		TransientStorePool:      r.yes("transientStorePoolEnable", false),
		CheckCRCOnRecover:       r.yes("checkCRCOnRecover", true),

		Permission:      int(r.number("brokerPermission", 32, 6)),
		AcceptSendsFrom: r.number("startAcceptSendRequestTimeStamp", 64, 0),

		SlaveRead:          r.yes("slaveReadEnable", false),
		OffsetCheckInSlave: r.yes("offsetCheckInSlave", false),
		TransactionTimeOut: r.number("transactionTimeOut", 64, 6000),

		ACL:                         r.yes("aclEnable", false),
		AutoCreateTopic:             r.yes("autoCreateTopicEnable", true),
		AutoCreateSubscriptionGroup: r.yes("autoCreateSubscriptionGroup", true),

		DLedger: r.yes("enableDLegerCommitLog", false),
		Group:   r.text("dLegerGroup", ""),
		Peers:   r.text("dLegerPeers", ""),
		SelfID:  r.text("dLegerSelfId", ""),
	}

	// Up to 4.9.3 a fixed default, whatever the root is; from 4.9.4 null, which getStorePathCommitLog
	// answers with <root>/commitlog (MessageStoreConfig).
	commitLog := path.Join(home, "store", "commitlog")
	if since(release, "4.9.4") {
		commitLog = strings.TrimSuffix(s.StoreRoot, "/") + "/commitlog"
	}
	s.StoreCommitLog = r.text("storePathCommitLog", commitLog)

	// BrokerStartup overwrites haListenPort with listenPort+1 up to 5.1.0; from 5.1.1 only where
	// the file gives none.
	s.HAListenPort = port("haListenPort", s.ListenPort+1)
	if !since(release, "5.1.1") || s.HAListenPort <= 0 {
		s.HAListenPort = s.ListenPort + 1
	}
	s.FastListenPort = s.ListenPort - 2 // BrokerController, all Releases

	threads := int64(1) // BrokerConfig up to 4.9.0; min(cores, 4) from 4.9.1
	if since(release, "4.9.1") {
		threads = 0
	}
	s.SendThreads = int(r.number("sendMessageThreadPoolNums", 32, threads))

	if since(release, "4.8.0") {
		s.PreferredLeader = r.text("preferredLeaderId", "")
	}
	if since(release, "5.0.0") {
		s.Controller = r.yes("enableControllerMode", false)
	}
	if s.Role != "SLAVE" && !s.Controller {
		s.BrokerID = 0 // BrokerStartup, all Releases
	}
	if s.DLedger && since(release, "4.6.0") {
		s.BrokerID = -1
	}
	for _, a := range strings.Split(r.text("namesrvAddr", ""), ";") {
		if a = strings.TrimSpace(a); a != "" {
			s.NameServers = append(s.NameServers, a)
		}
	}
	return s, r.ignored
}
