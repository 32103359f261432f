package templates_test

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/magiconair/properties"

	"mqlift/internal/topology"
	"mqlift/templates"
)

func example(t *testing.T, text []byte) *topology.Topology {
	t.Helper()
	top, err := topology.Parse("topology.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if w := top.Warnings(); len(w) > 0 {
		t.Error(w)
	}
	return top
}

func TestTheExampleTopologyIsTheReferenceCase(t *testing.T) {
	top := example(t, templates.Topology())
	g, err := top.Group("broker-a")
	if err != nil {
		t.Fatal(err)
	}
	if got := g.Peers(); got != "n0-192.168.0.220:40911;n1-192.168.0.221:40911;n2-192.168.0.222:40911" {
		t.Error(got)
	}
	if got := g.Members[0].BrokerConf; got != "/opt/application/rocketmq-all-4.5.2-bin-release/conf/broker.conf" {
		t.Error(got)
	}
}

// optional is a key that the example shows behind a #.
var optional = regexp.MustCompile(`(?m)^( *)# ([a-zA-Z]+:( |$))`)

func TestEachCommentedLineOfTheExampleIsAcceptedAsItStands(t *testing.T) {
	text := string(templates.Topology())
	var found int
	// Two comments start with a key's name and explain it, and acl's fields are indented further.
	text = strings.Replace(text, "# peer: one", "# Peer, one", 1)
	text = regexp.MustCompile(`(?m)^#( {3}[a-zA-Z]+:)`).ReplaceAllString(text, "$1")
	text = optional.ReplaceAllStringFunc(text, func(line string) string {
		found++
		m := optional.FindStringSubmatch(line)
		return m[1] + m[2]
	})
	if found < 18 {
		t.Errorf("%d commented lines found", found)
	}
	// What is shown as a default is the default, where it is not an example for a field without one.
	all, plain := example(t, []byte(text)), example(t, templates.Topology())
	for i := range all.Groups[0].Members {
		m := &all.Groups[0].Members[i]
		m.JavaHome, m.DLedgerRoot, m.SSH = "", "", plain.SSH
		m.SSH.Address = m.Host
	}
	ignore := cmpopts.IgnoreFields(topology.Topology{}, "Cluster", "ACL", "SSH")
	unexported := cmpopts.IgnoreUnexported(topology.Topology{}, topology.Group{}, topology.Member{})
	all.Groups[0].Release = ""
	if diff := cmp.Diff(plain, all, ignore, unexported); diff != "" {
		t.Error(diff)
	}
}

func TestTheBrokerConfBlockFitsTheExampleTopology(t *testing.T) {
	data := templates.BrokerConf()
	if i := bytes.IndexFunc(data, func(c rune) bool { return c > '~' }); i >= 0 {
		t.Errorf("byte %d is not ASCII", i)
	}
	loader := properties.Loader{Encoding: properties.ISO_8859_1, DisableExpansion: true}
	p, err := loader.LoadBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	g, err := example(t, templates.Topology()).Group("")
	if err != nil {
		t.Fatal(err)
	}
	m := g.Members[1]
	want := map[string]string{
		"enableDLegerCommitLog": "true",
		"dLegerGroup":           g.Name,
		"dLegerPeers":           g.Peers(),
		"dLegerSelfId":          m.Peer,
		"storePathRootDir":      m.DLedgerRootFor(m.InstallDir + "/store"),
		"storePathCommitLog":    m.InstallDir + "/store/commitlog",
		"brokerRole":            "SLAVE",
		"brokerId":              strconv.Itoa(m.BrokerID()),
		"brokerName":            g.Name,
		"brokerIP1":             m.Address,
		"brokerPermission":      "4",
	}
	if diff := cmp.Diff(want, p.Map()); diff != "" {
		t.Error(diff)
	}
}
