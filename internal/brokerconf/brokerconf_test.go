package brokerconf

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/magiconair/properties"
	"pgregory.net/rapid"

	"mqlift/internal/corpus"
	"mqlift/internal/diag"
)

func parse(t testing.TB, text string) *File {
	t.Helper()
	f, err := Parse("broker.conf", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestParseReadsAsJavaDoes(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"a=1":                         {"a": "1"},
		"a : 1":                       {"a": "1"},
		"a 1":                         {"a": "1"},
		"  a\t=\f 1 ":                 {"a": "1 "},
		"a==1":                        {"a": "=1"},
		"a":                           {"a": ""},
		"=1":                          {"": "1"},
		"# a=1\n!b=2\nc=3":            {"c": "3"},
		"a=1\rb=2\r\nc=3\n":           {"a": "1", "b": "2", "c": "3"},
		"a=1,\\\n   2,\\\r\n\t3\nb=4": {"a": "1,2,3", "b": "4"},
		"a=1\\\n#2":                   {"a": "1#2"},
		"a=1\\\n\nb=2":                {"a": "1", "b": "2"},
		"a\\\nb\\\n=\\\n1":            {"ab": "1"},
		"# c \\\na=1":                 {"a": "1"},
		"a=1\\\\\nb=2":                {"a": "1\\", "b": "2"},
		"a=\\t\\n\\r\\f\\u0041\\x":    {"a": "\t\n\r\fAx"},
		"a\\ b\\=c\\:d=1":             {"a b=c:d": "1"},
		"a=\xe9":                      {"a": "é"},
		"a=\\ud83d\\ude00":            {"a": "😀"},
		"a=${b}\nb=2":                 {"a": "${b}", "b": "2"},
		"a=1\na=2":                    {"a": "2"},
		"a=1\\":                       {"a": "1"},
		"\\\n# c\na=1":                {"a": "1"},
		"":                            {},
	} {
		if diff := cmp.Diff(want, parse(t, text).Map()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestMalformedEscapeIsRefusedWithItsPlace(t *testing.T) {
	for _, text := range []string{"a=1\n b=x\\u12g4", "a=1\n b=x\\u12", "a=1\r\n b=x\\u 123"} {
		_, err := Parse("broker.conf", []byte(text))
		var se *SyntaxError
		if !errors.As(err, &se) || se.Where != "broker.conf:2:5" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPlacesCountPhysicalLinesOfEveryKind(t *testing.T) {
	f := parse(t, "# c\r\na=1\\\r\n  2\rb=1\n\n b=2\n")
	if f.Line("a") != 2 || f.Line("b") != 6 || f.Line("c") != 0 {
		t.Errorf("lines %d %d %d", f.Line("a"), f.Line("b"), f.Line("c"))
	}
	if diff := cmp.Diff([]Duplicate{{"b", []int{4, 6}}}, f.Duplicates()); diff != "" {
		t.Error(diff)
	}
	if got := f.whereValue("b"); got != "broker.conf:6:4" {
		t.Error(got)
	}
	if diff := cmp.Diff([]string{"a", "b"}, f.Keys()); diff != "" {
		t.Error(diff)
	}
}

func TestApplyKeepsEveryOtherByte(t *testing.T) {
	set := func(kv ...string) (e Edit) {
		for i := 0; i < len(kv); i += 2 {
			e.Set = append(e.Set, KV{kv[i], kv[i+1]})
		}
		return e
	}
	for _, c := range []struct {
		what, old string
		edit      Edit
		want      string
	}{
		{"spacing around the separator stays", "# x\n  a = 1\nb:2\n", set("a", "9", "b", "8"), "# x\n  a = 9\nb:8\n"},
		{"CRLF stays, also for new lines", "a=1\r\n# é\xe9\r\n", set("a", "2", "b", "3"), "a=2\r\n# é\xe9\r\nb=3\r\n"},
		{"CR stays", "a=1\rb=2\r", set("c", "3"), "a=1\rb=2\rc=3\r"},
		{"a missing last line end is given before appending", "a=1", set("b", "2"), "a=1\nb=2\n"},
		{"and not given otherwise", "a=1\nb=1", set("b", "2"), "a=1\nb=2"},
		{"a comment without line end does not swallow the new line", "# x", set("b", "2"), "# x\nb=2\n"},
		{"an open continuation does not swallow the new line", "a=1\\", set("b", "2"), "a=1\\\n\nb=2\n"},
		{"nor does one with its line end", "a=1\\\r\n", set("b", "2"), "a=1\\\r\n\r\nb=2\r\n"},
		{"duplicates collapse to the effective line", "a=1\nb=1\na = 2\nc=1\n", set("a", "3"), "b=1\na = 3\nc=1\n"},
		{"also when the effective value stays", "a=1\na = 2\n", set("a", "2"), "a = 2\n"},
		{"other duplicates stay", "a=1\na=2\nb=1\n", set("b", "2"), "a=1\na=2\nb=2\n"},
		{"an equal value keeps its spelling", "a=\\u0031\\\n  2\n", set("a", "12"), "a=\\u0031\\\n  2\n"},
		{"continued values are replaced as a whole", "a=1,\\\n  2\nb=3\n", set("a", "9"), "a=9\nb=3\n"},
		{"a key that spans lines is written anew", "k\\\n  ey \\\n = 1\nb=3\n", set("key", "2"), "key=2\nb=3\n"},
		{"deleted keys go with their continuation lines", "a=1,\\\n  2,\\\n\t3\nb=3\na=4\n", Edit{Delete: []string{"a"}}, "b=3\n"},
		{"a key without a separator gets one", "a\nb\n", set("a", "1"), "a=1\nb\n"},
		{"a key that ends in an escaped blank too", "a\\ \n", set("a ", "1"), "a\\ =1\n"},
		{"values are escaped where Java needs it", "", set("a", " \\x\t=:#!é"), "a=\\ \\\\x\\t=:#!\\u00E9\n"},
		{"a leading = after a blank as separator", "a 1\n", set("a", "=1"), "a \\=1\n"},
		{"keys too", "", set("# k=:!", "1"), "\\#\\ k\\=\\:\\!=1\n"},
		{"peers are left readable", "", set("dLegerPeers", "n0-h:1;n1-h:2"), "dLegerPeers=n0-h:1;n1-h:2\n"},
		{"nothing to do", "a = 1 \n", Edit{}, "a = 1 \n"},
	} {
		got, err := parse(t, c.old).Apply(c.edit)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
		} else if string(got.Bytes()) != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.what, got.Bytes(), c.want)
		}
	}
}

func TestApplyRefusesWhatItCannotMean(t *testing.T) {
	f := parse(t, "a=1\n")
	for _, e := range []Edit{
		{Set: []KV{{"a", "1"}, {"a", "2"}}},
		{Set: []KV{{"a", "1"}}, Delete: []string{"a"}},
		{Set: []KV{{"", "1"}}},
		{Set: []KV{{"a", "\xff"}}},
	} {
		if _, err := f.Apply(e); err == nil {
			t.Errorf("%+v was applied", e)
		}
	}
	if _, err := parse(t, "\\").Apply(Edit{Set: []KV{{"a", "1"}}}); err == nil {
		t.Error("a lone backslash at the end is an empty key, which appending would take away unnoticed")
	}
}

func TestTheCheckAfterAnEditSeesOtherKeysDiffer(t *testing.T) {
	f := parse(t, "a=1\nb=2\nb=3\n")
	for what, want := range map[string]map[string]string{
		"another value": {"a": "1", "b": "2"},
		"a lost key":    {"a": "1", "b": "3", "c": "4"},
		"a new key":     {"b": "3"},
	} {
		if f.check(want, nil) == nil {
			t.Errorf("%s was not noticed", what)
		}
	}
	if err := f.check(f.Map(), map[string]string{"b": "3"}); err == nil {
		t.Error("a set key that stands there twice was not noticed")
	}
	if err := f.check(f.Map(), nil); err != nil {
		t.Error(err)
	}
}

// What is not touched stays, byte for byte: the old file without the edited keys' lines is the new
// one without them, give or take the line end that an appended line needs.
func TestAnyEditOfAnyFileTouchesNothingElse(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 2))
		data := randomFile(r)
		e := randomEdit(r)
		f, err := Parse("broker.conf", data)
		if err != nil {
			return
		}
		edited, err := f.Apply(e)
		if err != nil {
			if endsInLoneBackslash(f) {
				return
			}
			rt.Fatalf("%q with %q: %v", data, e, err)
		}
		touched := map[string]bool{}
		for _, kv := range e.Set {
			touched[kv.Key] = true
		}
		for _, k := range e.Delete {
			touched[k] = true
		}
		rest := func(f *File) string {
			var b bytes.Buffer
			at := 0
			for _, en := range f.entries {
				if touched[en.key] {
					b.Write(f.data[at:en.start])
					at = en.end
				}
			}
			b.Write(f.data[at:])
			return b.String()
		}
		old, new := rest(f), rest(edited)
		if !strings.HasPrefix(new, old) || strings.Trim(new[len(old):], "\r\n") != "" {
			rt.Fatalf("%q with %q became %q:\nelsewhere %q is now %q", data, e, edited.Bytes(), old, new)
		}
		again, err := edited.Apply(e)
		if err != nil || !bytes.Equal(again.Bytes(), edited.Bytes()) {
			rt.Fatalf("the same edit again changed %q to %q (%v)", edited.Bytes(), again.Bytes(), err)
		}
	})
}

func FuzzTheTwoReadersAgreeOnPlainLines(f *testing.F) {
	for _, s := range []string{"a=1\n", "a\\\r\nb=1\\", "=1\n!x\r", "a=\\ud83d\\ude00", "\\\n\\\r\n", "a \\\n = b", "\xef\xbb\xbfa=1", "a=1\\\n  \\\n b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("broker.conf", data)
		if err != nil {
			return
		}
		for _, k := range file.Keys() {
			if n := file.Line(k); n < 1 || n > len(file.starts) {
				t.Fatalf("%q is said to be on line %d of %d", k, n, len(file.starts))
			}
		}
		plain, _ := file.plain()
		own, err := Parse("broker.conf", plain)
		if err != nil {
			t.Fatal(err)
		}
		loader := properties.Loader{Encoding: properties.ISO_8859_1, DisableExpansion: true}
		second, err := loader.LoadBytes(plain)
		if err != nil {
			t.Fatalf("%q of %q: %v", plain, data, err)
		}
		if diff := cmp.Diff(own.Map(), second.Map()); diff != "" {
			t.Fatalf("%q of %q (-own +second):\n%s", plain, data, diff)
		}
	})
}

// The values were printed by the real brokers of these releases, started with -p on these files;
// but from their sources: the commit log's place from 4.9.4 on (printed as null), and name and id
// on 5.x (not printed). SendThreads 0 stands for the number of cores.
func TestSettingsAreWhatRealBrokersPrint(t *testing.T) {
	type printed struct {
		Name                 string
		Port, HA             int
		ID                   int64
		Role                 string
		DLedger              bool
		Reserved             int
		Root, CommitLog      string
		Flush                string
		FileSize             int64
		Permission           int
		SendThreads          int
		AcceptFrom           int64
		TransientStorePool   bool
		DeleteWhen, DLedgeID string
	}
	odd := "brokerName=a \nlistenPort=10921\nhaListenPort=15000\nbrokerId=3\nenableDLegerCommitLog=true \nfileReservedTime=48 \n" +
		"storePathRootDir=/x/y/ \nflushDiskType=SYNC_FLUSH \nmappedFileSizeCommitLog=268435456\nbrokerPermission=+4\n"
	member := "brokerRole=SLAVE\nbrokerId=3\nenableDLegerCommitLog=TRUE\ndLegerSelfId=n1\nstartAcceptSendRequestTimeStamp=4102444800000\n" +
		"sendMessageThreadPoolNums=x\nbrokerName=\ntransientStorePoolEnable=true\n"
	oddOld := printed{"a ", 10921, 10922, 0, "ASYNC_MASTER", false, 72, "/x/y/ ", "/root/store/commitlog", "ASYNC_FLUSH", 268435456, 4, 1, 0, false, "04", ""}
	memberOld := printed{"", 10911, 10912, 3, "SLAVE", true, 72, "/root/store", "/root/store/commitlog", "ASYNC_FLUSH", 1 << 30, 6, 1, ClosedUntil, true, "04", "n1"}
	odd497, odd533, member497 := oddOld, oddOld, memberOld
	odd497.SendThreads, odd497.CommitLog = 0, "/x/y/ /commitlog"
	odd533.SendThreads, odd533.CommitLog, odd533.Name, odd533.Root, odd533.Flush, odd533.HA = 0, "/x/y/commitlog", "a", "/x/y/", "SYNC_FLUSH", 15000
	member497.SendThreads, member497.ID = 0, -1
	for _, c := range []struct {
		release, conf string
		want          printed
	}{
		{"4.5.2", odd, oddOld}, {"4.9.7", odd, odd497}, {"5.3.3", odd, odd533},
		{"4.5.2", member, memberOld}, {"4.9.7", member, member497}, {"5.3.3", member, member497},
	} {
		s := parse(t, c.conf).Settings(c.release, "/root")
		got := printed{s.BrokerName, s.ListenPort, s.HAListenPort, s.BrokerID, s.Role, s.DLedger, s.FileReservedHours, s.StoreRoot, s.StoreCommitLog,
			s.FlushDiskType, s.MappedFileSizeCommitLog, s.Permission, s.SendThreads, s.AcceptSendsFrom, s.TransientStorePool, s.DeleteWhen, s.SelfID}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s, %q (-broker +Settings):\n%s", c.release, c.conf, diff)
		}
	}
}

func TestCommitLogDefaultDependsOnTheRelease(t *testing.T) {
	f := parse(t, "storePathRootDir=/data/store\n")
	for _, r := range Releases() {
		want := "/home/mq/store/commitlog"
		if since(r, "4.9.4") {
			want = "/data/store/commitlog"
		}
		if got := f.Settings(r, "/home/mq").StoreCommitLog; got != want {
			t.Errorf("%s: %s, want %s", r, got, want)
		}
	}
	if got := parse(t, "mappedFileSizeCommitLog=1048576").Settings("4.5.1", "").MappedFileSizeCommitLog; got != 1<<30 {
		t.Errorf("4.5.1 spells it maped and ignores mapped, got %d", got)
	}
}

func TestPeers(t *testing.T) {
	const good = "n0-192.168.0.220:40911;n1-192.168.0.221:40911;n2-mq3:40912"
	peers, err := ParsePeers(good, "4.5.2")
	if err != nil || FormatPeers(peers) != good || peers[2] != (Peer{"n2", "mq3", 40912}) {
		t.Errorf("%v %v", peers, err)
	}
	if _, err := ParsePeers(good+";", "4.5.2"); err != nil {
		t.Errorf("Java drops empty parts at the end: %v", err)
	}
	if _, err := ParsePeers("n0-mq-a.example:1", "4.8.0"); err != nil {
		t.Errorf("from dledger 0.2 on host names may have hyphens: %v", err)
	}
	for s, words := range map[string]string{
		"":                            "no peers",
		"n0-mq-a.example:1":           "cuts the host name off",
		"n0-10.0.0.1:1; n1-h:1":       "blanks",
		"n0-10.0.0.1:1;;n1-h:1":       "not id-host:port",
		"n0-10.0.0.1":                 "not id-host:port",
		"n0-10.0.0.1:65536":           "not id-host:port",
		"n0-[::1]:40911":              "IPv6",
		"node0-10.0.0.1:1":            "one letter and an integer",
		"n-1-10.0.0.1:1":              "one letter and an integer",
		"n0-10.0.0.1:1;n0-10.0.0.2:1": "same number",
		"n0-10.0.0.1:1;b0-10.0.0.2:1": "same number",
		"n0-10.0.0.1:1;n1-10.0.0.1:1": "same address",
	} {
		if _, err := ParsePeers(s, "4.7.1"); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, want %q", s, err, words)
		}
	}
	if _, err := ParsePeers("x;y", "4.7.1"); err == nil || len(strings.Split(err.Error(), "\n")) != 2 {
		t.Errorf("all problems at once: %v", err)
	}
}

// list is findings in short: severity, check, place, words.
func list(found diag.Findings) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%s %s %s: %s; %s\n", f.Severity, f.Check, f.Where, f.What, f.Do)
	}
	return b.String()
}

func TestFindings(t *testing.T) {
	const classic = "brokerName=a\nnamesrvAddr=h:9876\nstorePathRootDir=/s\nstorePathCommitLog=/s/commitlog\n"
	const member = classic + "enableDLegerCommitLog=true\nbrokerRole=SLAVE\nbrokerId=1\ndLegerGroup=a\n" +
		"dLegerPeers=n0-10.0.0.1:40911;n1-10.0.0.2:40911;n2-10.0.0.3:40911\ndLegerSelfId=n0\nbrokerIP1=10.0.0.1\n"
	without := func(s, key string) string {
		var b strings.Builder
		for l := range strings.Lines(s) {
			if !strings.HasPrefix(l, key+"=") {
				b.WriteString(l)
			}
		}
		return b.String()
	}
	for _, c := range []struct{ what, conf, release, want string }{
		{"a good classic file", classic, "4.5.2", ""},
		{"a good member", member, "4.5.2", ""},
		{"a good member of today", member, "5.3.3", ""},
		{"unknown release", classic, "5.9.0", "warn brokerconf.release broker.conf"},
		{"no release", classic, "latest", "fail brokerconf.release broker.conf"},
		{"too old", classic, "4.4.0", "fail brokerconf.release broker.conf: release 4.4.0 has no DLedger"},
		{"duplicate", "brokerName=b\n" + classic, "4.5.2", `warn brokerconf.duplicate broker.conf:2:1: brokerName stands on lines 1 and 2, the last counts: "a"`},
		{"secret duplicate", classic + "x.secretKey=1\nx.secretKey=2\n", "4.5.2", `the last counts: <hidden>`},
		{"byte order mark", "\xef\xbb\xbf" + classic, "4.5.2", "fail brokerconf.bytes broker.conf:1:1"},
		{"UTF-8 value", classic + "brokerIP1=10.0.0.1\nmessageStorePlugIn=\xe4\xbd\xa0\n", "4.5.2", "warn brokerconf.bytes broker.conf:6:20"},
		{"misspelt", classic + "enableDLedgerCommitLog=true\n", "4.5.2", "warn brokerconf.key broker.conf:5:1: the broker of release 4.5.2 does not know enableDLedgerCommitLog"},
		{"4.5.1's own spelling", classic + "mappedFileSizeCommitLog=1\n", "4.5.1", "it is spelt mapedFileSizeCommitLog"},
		{"no property", classic + "fastListenPort=1\n", "4.5.2", "warn brokerconf.key broker.conf:5:1: fastListenPort"},
		{"number with a blank", classic + "listenPort=10921 \n", "4.5.2", "fail brokerconf.value broker.conf:5:12: listenPort=\"10921 \" is not a number (blanks count), the broker takes 10911"},
		{"boolean with a blank", classic + "enableDLegerCommitLog=true \n", "5.3.3", "fail brokerconf.value broker.conf:5:23"},
		{"unimportant number", classic + "fileReservedTime=48h\n", "4.5.2", "warn brokerconf.value broker.conf:5:18"},
		{"unknown role", classic + "brokerRole=MASTER\n", "4.5.2", "fail brokerconf.value broker.conf:5:12"},
		{"blank after a name", classic + "brokerClusterName=c \n", "4.9.7", "warn brokerconf.value broker.conf:5:19"},
		{"trimmed from 5.2.0", classic + "brokerClusterName=c \n", "5.2.0", ""},
		{"no name", without(classic, "brokerName"), "4.5.2", "warn brokerconf.name broker.conf: brokerName is missing, the broker takes its host's name"},
		{"no name in a member", without(member, "brokerName"), "4.5.2", "fail brokerconf.name broker.conf"},
		{"empty name", classic + "brokerClusterName=c\n" + "brokerName=\n", "4.5.2", "brokerconf.name broker.conf:6:1: brokerName is empty"},
		{"another host's address", classic + "brokerIP1=10.0.0.9\n", "4.5.2", "warn brokerconf.address broker.conf:5:11"},
		{"another host's address in a member", without(member, "brokerIP1") + "brokerIP1=10.0.0.9\n", "4.5.2", "fail brokerconf.address broker.conf:11:11"},
		{"slave as 0", classic + "brokerRole=SLAVE\n", "4.5.2", "fail brokerconf.role broker.conf: brokerRole=SLAVE with brokerId 0"},
		{"master as 1", classic + "brokerId=1\n", "4.5.2", "warn brokerconf.role broker.conf:5:10"},
		{"no name server", without(classic, "namesrvAddr"), "4.5.2", "warn brokerconf.namesrv broker.conf"},
		{"blank in name servers", classic + "namesrvAddr=h:1; i:1\n", "4.5.2", "fail brokerconf.namesrv broker.conf:5:13"},
		{"name server without port", without(classic, "namesrvAddr") + "namesrvAddr=h:1;i\n", "4.5.2", "fail brokerconf.namesrv broker.conf:4:13"},
		{"root and log the same", classic + "storePathRootDir=/s/commitlog/\n", "4.5.2", "fail brokerconf.paths broker.conf:5:18"},
		{"root in the log", classic + "storePathRootDir=/s/commitlog/dledger\n", "4.5.2", "fail brokerconf.paths broker.conf:5:18: storePathRootDir is within"},
		{"log not written out", without(classic, "storePathCommitLog"), "4.9.3", "warn brokerconf.paths broker.conf:3:18: storePathCommitLog is missing: up to 4.9.3 the commit log is then in /root/store/commitlog"},
		{"which is right from 4.9.4", without(classic, "storePathCommitLog"), "4.9.4", ""},
		{"but not for a member", without(member, "storePathCommitLog"), "4.9.4", "fail brokerconf.paths broker.conf:3:18: storePathCommitLog is missing: the old commit log is then looked for in /s/commitlog"},
		{"unexpanded path", classic + "storePathRootDir=${user.home}/s\n", "4.5.2", "warn brokerconf.paths broker.conf:5:18"},
		{"relative path", classic + "storePathRootDir=s\n", "4.5.2", "warn brokerconf.paths broker.conf:5:18"},
		{"several log folders", classic + "storePathCommitLog=/a,/b\n", "4.9.2", "fail brokerconf.paths broker.conf:5:20"},
		{"left closed", classic + "brokerPermission=4\n", "4.5.2", "warn brokerconf.writes broker.conf:5:18"},
		{"left fenced", classic + "startAcceptSendRequestTimeStamp=4102444800000\n", "4.5.2", "until 2100-01-01 00:00:00 UTC"},
		{"controller and DLedger", member + "enableControllerMode=true\n", "5.3.3", "fail brokerconf.dledger broker.conf:12:1"},
		{"half prepared", classic + "dLegerSelfId=n0\n", "4.5.2", "warn brokerconf.dledger broker.conf:5:1: dLegerSelfId is set, but"},
		{"no group", without(member, "dLegerGroup"), "4.5.2", "fail brokerconf.dledger broker.conf: dLegerGroup is missing"},
		{"no self id", without(member, "dLegerSelfId"), "4.5.2", "fail brokerconf.dledger broker.conf: dLegerSelfId is missing"},
		{"bad self id", member + "dLegerSelfId=node0\n", "4.5.2", "fail brokerconf.dledger broker.conf:12:14"},
		{"self id not a peer", member + "dLegerSelfId=n7\n", "4.5.2", "fail brokerconf.peers broker.conf:12:14: dLegerSelfId=n7 is not in dLegerPeers"},
		{"another member's id", member + "dLegerSelfId=n1\n", "4.5.2", "fail brokerconf.peers broker.conf:9:13: member n1 is at 10.0.0.2"},
		{"no peers", without(member, "dLegerPeers"), "4.5.2", "fail brokerconf.peers broker.conf: dLegerPeers is missing"},
		{"blank in peers", member + "dLegerPeers=n0-10.0.0.1:1; n1-10.0.0.2:1\n", "4.5.2", "fail brokerconf.peers broker.conf:12:13"},
		{"even number", member + "dLegerPeers=n0-10.0.0.1:1;n1-10.0.0.2:1\n", "4.5.2", "has 2 members, of which 0 may fail"},
		{"Raft port taken", member + "dLegerPeers=n0-10.0.0.1:10909;n1-10.0.0.2:1;n2-10.0.0.3:1\n", "4.5.2", "fail brokerconf.peers broker.conf:12:13: the Raft port 10909 of n0 is listenPort-2"},
		{"preferred leader unknown", member + "preferredLeaderId=n9\n", "4.9.7", "warn brokerconf.peers broker.conf:12:19"},
		{"left-over role", member + "brokerRole=ASYNC_MASTER\n", "4.5.2", "warn brokerconf.role broker.conf:12:12: brokerRole=ASYNC_MASTER is left over from master and slave: this member registers as master before it is elected"},
		{"left-over id", member + "brokerId=4\n", "4.5.2", "warn brokerconf.role broker.conf:12:10: brokerId=4 is left over: member n0 registers as 1"},
		{"member as SLAVE 0", member + "brokerId=0\n", "5.3.3", "fail brokerconf.role broker.conf:12:1"},
		{"empty pool", member + "transientStorePoolEnable=true\n", "4.5.2", "fail brokerconf.transient broker.conf:12:26"},
	} {
		found := parse(t, c.conf).Findings(Site{Host: "mq1", Release: c.release, Home: "/root", Addresses: []string{"10.0.0.1"}})
		got := list(found)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: want %q in\n%s", c.what, c.want, got)
		}
		for _, f := range found {
			if f.Host != "mq1" || f.Where == "" || f.Do == "" || f.Severity == diag.Pass {
				t.Errorf("%s: incomplete %+v", c.what, f)
			}
		}
	}
}

// The files of the case and of its write-up: what is said about them, and what they become.
func TestTheCasesFilesAreJudgedAndTurnedIntoMembers(t *testing.T) {
	const install = "/opt/application/rocketmq-all-4.5.2-bin-release"
	for _, c := range []struct{ dir, host, address, selfID string }{
		{"master", "mq1", "192.168.0.220", "n0"},
		{"slave", "mq2", "192.168.0.221", "n1"},
		{"windows", "mq1", "192.168.0.220", "n0"},
		{"writeup-221", "mq2", "192.168.0.221", "n1"},
		{"writeup-222", "mq3", "192.168.0.222", "n2"},
	} {
		t.Run(c.dir, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", c.dir, "broker.conf"))
			if err != nil {
				t.Fatal(err)
			}
			f := parse(t, string(data))
			site := Site{Host: c.host, Release: "4.5.2", Home: "/root", Addresses: []string{"127.0.0.1", c.address}}
			target := DLedgerTarget{BrokerName: "broker-a", Group: "broker-a", SelfID: c.selfID,
				Peers:     "n0-192.168.0.220:40911;n1-192.168.0.221:40911;n2-192.168.0.222:40911",
				StoreRoot: install + "/store/dledger_store", StoreCommitLog: install + "/store/commitlog",
				IP1: c.address, ListenPort: 10911}
			e, why := f.ToDLedger(target, "4.5.2")
			edited, err := f.Apply(e)
			if err != nil {
				t.Fatal(err)
			}
			if bad := edited.Findings(site); len(bad) > 0 {
				t.Errorf("what it becomes is not good either:\n%s", list(bad))
			}
			got := "# findings\n" + list(f.Findings(site)) + "# changes\n" + strings.Join(why, "\n") + "\n# diff\n" +
				Diff("broker.conf", "broker.conf.dledger", f.Bytes(), edited.Bytes())
			golden := filepath.Join("testdata", c.dir, "golden")
			if corpus.Update() {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}

			target.Closed = true
			closed, _ := f.ToDLedger(target, "4.5.2")
			shut, err := f.Apply(closed)
			if err != nil {
				t.Fatal(err)
			}
			if s := shut.Settings("4.5.2", ""); s.Writable() || s.Permission != 4 || s.AcceptSendsFrom != ClosedUntil {
				t.Errorf("closed, but %+v", s)
			}
			open, err := shut.Apply(Edit{Delete: []string{"brokerPermission", "startAcceptSendRequestTimeStamp", "slaveReadEnable", "offsetCheckInSlave", "transactionTimeOut"}})
			if err != nil || !bytes.Equal(open.Bytes(), edited.Bytes()) {
				t.Errorf("the closed file is the final one and five lines more: %v\n%s", err, Diff("final", "opened", edited.Bytes(), open.Bytes()))
			}
			if diff := cmp.Diff([]KV{{"brokerPermission", "6"}, {"startAcceptSendRequestTimeStamp", "0"}, {"slaveReadEnable", "false"}, {"offsetCheckInSlave", "false"},
				{"transactionTimeOut", "6000"}, {"brokerRole", "SLAVE"}}, edited.OpenWrites("4.5.2")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDeriveMakesTheNewHostsFileFromTheMasters(t *testing.T) {
	master := parse(t, "brokerName=b\nlistenPort=10921\nhaListenPort=10922\nbrokerIP2=10.0.0.1\nmessageDelayLevel=1s\ntransientStorePoolEnable=true\n"+
		"mapedFileSizeCommitLog=1048576\nnamesrvAddr=h:1\n")
	f, why, err := master.Derive("new/broker.conf", DLedgerTarget{BrokerName: "b", Group: "g", SelfID: "n2",
		Peers: "n0-10.0.0.1:40911;n1-10.0.0.2:40911;n2-10.0.0.3:40911", StoreRoot: "/r", StoreCommitLog: "/c",
		MappedFileSizeCommitLog: 1 << 20, IP1: "10.0.0.3", ListenPort: 10931}, "5.3.3")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"brokerName": "b", "enableDLegerCommitLog": "true", "dLegerGroup": "g", "dLegerSelfId": "n2",
		"dLegerPeers": "n0-10.0.0.1:40911;n1-10.0.0.2:40911;n2-10.0.0.3:40911", "storePathRootDir": "/r", "storePathCommitLog": "/c",
		"brokerRole": "SLAVE", "brokerId": "3", "brokerIP1": "10.0.0.3", "brokerIP2": "10.0.0.3", "listenPort": "10931", "haListenPort": "10932",
		"messageDelayLevel": "1s", "transientStorePoolEnable": "false", "mapedFileSizeCommitLog": "1048576", "mappedFileSizeCommitLog": "1048576", "namesrvAddr": "h:1"}
	if diff := cmp.Diff(want, f.Map()); diff != "" {
		t.Error(diff)
	}
	if len(why) != 14 || f.Name() != "new/broker.conf" {
		t.Errorf("%s: %d reasons:\n%s", f.Name(), len(why), strings.Join(why, "\n"))
	}
	if bad := f.Findings(Site{Release: "5.3.3", Addresses: []string{"10.0.0.3"}}); bad.Err() != nil {
		t.Error(list(bad))
	}
}

func TestToDLedgerLeavesThisHostsOtherAddressAlone(t *testing.T) {
	f := parse(t, "brokerIP1=203.0.113.7\n")
	e, _ := f.ToDLedger(DLedgerTarget{SelfID: "n0", IP1: "10.0.0.1", Addresses: []string{"203.0.113.7"}}, "4.5.2")
	for _, kv := range e.Set {
		if kv.Key == "brokerIP1" {
			t.Errorf("set to %s", kv.Value)
		}
	}
}

// patched applies a unified diff and fails on any line or number that does not fit.
func patched(t interface{ Fatalf(string, ...any) }, diff, old string) string {
	from := strings.SplitAfter(old, "\n")
	var b strings.Builder
	at, newLine := 0, 0
	lines := strings.SplitAfter(diff, "\n")
	for i := 2; i < len(lines); i++ {
		l := lines[i]
		text := ""
		if len(l) > 1 {
			text = l[1:]
			if i+1 < len(lines) && strings.HasPrefix(lines[i+1], "\\ No newline") {
				text = strings.TrimSuffix(text, "\n")
			}
		}
		switch {
		case l == "" || strings.HasPrefix(l, "\\"):
		case strings.HasPrefix(l, "@@ "):
			header := strings.Fields(l)
			var o, n int
			fmt.Sscanf(header[1], "-%d", &o)
			fmt.Sscanf(header[2], "+%d", &n)
			if strings.HasSuffix(header[1], ",0") {
				o++
			}
			if strings.HasSuffix(header[2], ",0") {
				n++
			}
			for ; at < o-1; at++ {
				b.WriteString(from[at])
				newLine++
			}
			if newLine != n-1 {
				t.Fatalf("%q: the hunk begins on line %d of the new file:\n%s", l, newLine+1, diff)
			}
		case l[0] == '+':
			b.WriteString(text)
			newLine++
		default:
			if from[at] != text {
				t.Fatalf("line %d of the old file is %q, not %q:\n%s", at+1, from[at], text, diff)
			}
			at++
			if l[0] == ' ' {
				b.WriteString(text)
				newLine++
			}
		}
	}
	for ; at < len(from); at++ {
		b.WriteString(from[at])
	}
	return b.String()
}

func TestDiffLeadsFromTheOldFileToTheNew(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		line := rapid.SampledFrom([]string{"a=1\n", "b=2\n", "\n", "# c\n", "d"})
		file := func(label string) string {
			return strings.Join(rapid.SliceOfN(line, 0, 40).Draw(rt, label), "")
		}
		old := file("old")
		new := file("new")
		if rapid.Bool().Draw(rt, "similar") {
			lines := make([]string, 60) // room for several hunks of several edits
			for i := range lines {
				lines[i] = fmt.Sprintf("k%d=1\n", i)
			}
			old = strings.Join(lines, "")
			for i := range lines {
				if rapid.IntRange(0, 9).Draw(rt, "line") == 0 {
					lines[i] = file("instead")
				}
			}
			new = strings.Join(lines, "")
		}
		diff := Diff("o", "n", []byte(old), []byte(new))
		if diff == "" && old != new {
			rt.Fatalf("%q and %q are not equal", old, new)
		}
		if got := patched(rt, diff, old); diff != "" && got != new {
			rt.Fatalf("%q leads to %q:\n%s", old, got, diff)
		}
	})
}

func TestDiffShowsWhatATerminalWouldHide(t *testing.T) {
	for _, c := range []struct{ what, old, new, want string }{
		{"equal", "a=1\n", "a=1\n", ""},
		{"missing line end", "a=1", "a=2\n", "--- o\n+++ n\n@@ -1 +1 @@\n-a=1\n\\ No newline at end of file\n+a=2\n"},
		{"only the line end", "a=1", "a=1\n", "--- o\n+++ n\n@@ -1 +1 @@\n-a=1\n\\ No newline at end of file\n+a=1\n"},
		{"CRLF", "a=1\r\n", "a=1\n", "--- o\n+++ n\n@@ -1 +1 @@\n-a=1␍\n+a=1\n"},
		{"CR alone", "a=1\rb=1\r", "a=1\rb=2\r", "--- o\n+++ n\n@@ -1,2 +1,2 @@\n a=1␍\n-b=1␍\n+b=2␍\n"},
		{"bytes and controls", "a=\xe9\x1b[2J\u202e\n", "a=é\n", "--- o\n+++ n\n@@ -1 +1 @@\n-a=\\xe9\\x1b[2J\\xe2\\x80\\xae\n+a=é\n"},
		{"shown the same", "a=\\xe9\n", "a=\xe9\n", "--- o\n+++ n\n@@ -1,2 +1,2 @@\n-\"a=\\\\xe9\\n\"\n+\"a=\\xe9\\n\"\n \"\"\n"},
		{"secrets", "b=1\nx.secretKey=swordfish\n", "b=2\nx.secretKey=sworddog\n", "--- o\n+++ n\n@@ -1,2 +1,2 @@\n-b=1\n-x.secretKey=<hidden>\n+b=2\n+x.secretKey=<hidden, value 2>\n"},
		{"secrets in a broken file", "password=a\\u1\n", "", "--- o\n+++ n\n@@ -1 +0,0 @@\n-<hidden line>\n"},
	} {
		if got := Diff("o", "n", []byte(c.old), []byte(c.new)); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.what, got, c.want)
		}
	}
}

func TestAMasterUnderSilenceIsNotTakenForASlave(t *testing.T) {
	live := map[string]string{"brokerRole": "ASYNC_MASTER", "startAcceptSendRequestTimeStamp": "0"}
	if Slave(live) {
		t.Error("a master is taken for a slave")
	}
	for _, kv := range append(CloseWrites(), Silence()...) {
		live[kv.Key] = kv.Value
	}
	if live["brokerRole"] != "SLAVE" || Slave(live) {
		t.Errorf("a fenced master is taken for a slave, or is not fenced: %v", live)
	}
	if !Slave(map[string]string{"brokerRole": "SLAVE", "startAcceptSendRequestTimeStamp": "0"}) {
		t.Error("a slave is not seen as one")
	}
}

func TestWhatSilenceSetsIsPutBackAsTheFileHasIt(t *testing.T) {
	f := parse(t, "brokerName=b\nbrokerRole=SYNC_MASTER\nslaveReadEnable=true\ntransactionTimeOut=9000\n")
	back := map[string]string{}
	for _, kv := range f.OpenWrites("4.5.2") {
		back[kv.Key] = kv.Value
	}
	for _, kv := range append(CloseWrites(), Silence()...) {
		if _, ok := back[kv.Key]; !ok {
			t.Errorf("%s is never put back", kv.Key)
		}
	}
	want := map[string]string{"brokerPermission": "6", "startAcceptSendRequestTimeStamp": "0", "slaveReadEnable": "true", "offsetCheckInSlave": "false", "transactionTimeOut": "9000", "brokerRole": "SYNC_MASTER"}
	if diff := cmp.Diff(want, back); diff != "" {
		t.Error(diff)
	}
}
