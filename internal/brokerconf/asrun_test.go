package brokerconf

import (
	"slices"
	"strings"
	"testing"
)

const edited = `# ours
brokerClusterName=DefaultCluster
brokerId=0
brokerRole=ASYNC_MASTER
brokerIP1 = 192.168.0.221
listenPort=10911
storePathRootDir=/mq/store
storePathCommitLog=/mq/store/commitlog
maxMessageSize=65536
enableDLegerCommitLog=true
dLegerGroup=broker-a
dLegerPeers=n0-192.168.0.220:40911
dLegerSelfId=n0
storePathRootDir=/mq/store/dledger_store
`

func TestAFileIsTakenBackToWhatTheBrokerRunsOn(t *testing.T) {
	f, err := Parse("broker.conf", []byte(edited))
	if err != nil {
		t.Fatal(err)
	}
	if line, ok := f.Prepared(); !ok || line != 10 {
		t.Errorf("prepared on line %d, %v", line, ok)
	}
	live := map[string]string{"brokerClusterName": "DefaultCluster", "brokerName": "broker-a", "brokerId": "0", "brokerRole": "ASYNC_MASTER",
		"brokerIP1": "192.168.0.220", "brokerIP2": "192.168.0.220", "listenPort": "10911", "storePathRootDir": "/mq/store",
		"storePathCommitLog": "/mq/store/commitlog", "mappedFileSizeCommitLog": "1073741824", "maxMessageSize": "4194304"}
	was, why, err := f.AsRun(live, "4.5.2")
	if err != nil {
		t.Fatal(err)
	}
	const want = `# ours
brokerClusterName=DefaultCluster
brokerId=0
brokerRole=ASYNC_MASTER
brokerIP1 = 192.168.0.220
listenPort=10911
storePathCommitLog=/mq/store/commitlog
maxMessageSize=65536
storePathRootDir=/mq/store
brokerName=broker-a
`
	if got := string(was.Bytes()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, s := range []string{
		"dLegerSelfId=n0 on line 13", "brokerName is missing: the running broker has broker-a", "brokerIP1=192.168.0.221 on line 5: the running broker has 192.168.0.220",
		"storePathRootDir stands on lines 7, 14 and the last one, /mq/store/dledger_store, would count at the next start: the running broker has /mq/store",
	} {
		if !slices.ContainsFunc(why, func(w string) bool { return strings.Contains(w, s) }) {
			t.Errorf("%q is not said: %q", s, why)
		}
	}
	if len(why) != 7 {
		t.Errorf("%d changes: %q", len(why), why)
	}
	again, why, err := was.AsRun(live, "4.5.2")
	if err != nil || again != was || why != nil {
		t.Errorf("what is right already is changed again: %q, %v", why, err)
	}
}

func TestTheOldLinesOfAFileWhoseBrokerIsDown(t *testing.T) {
	for name, test := range map[string]struct{ text, root, words string }{
		"never edited":        {"storePathRootDir=/mq/store\n", "/mq/store", ""},
		"the old line stands": {edited, "/mq/store", "take out enableDLegerCommitLog (line 10), dLegerGroup (line 11), dLegerPeers (line 12), dLegerSelfId (line 13), write storePathRootDir=/mq/store (line 14)"},
		"the line was replaced": {"storePathRootDir=/mq/store/dledger_store\nstorePathCommitLog=/mq/store/commitlog\nenableDLegerCommitLog=true\n",
			"/mq/store", "take out enableDLegerCommitLog (line 3), write storePathRootDir=/mq/store (line 1)"},
		"nothing tells": {"storePathRootDir=/new\nstorePathCommitLog=/log\nenableDLegerCommitLog=true\n", "/new", "take out enableDLegerCommitLog (line 3)"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Parse("broker.conf", []byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if root := f.OldRoot("4.5.2", "/home/mq"); root != test.root {
				t.Errorf("root %s, want %s", root, test.root)
			}
			if words := f.OldLines("4.5.2", "/home/mq"); words != test.words {
				t.Errorf("%q, want %q", words, test.words)
			}
		})
	}
}
