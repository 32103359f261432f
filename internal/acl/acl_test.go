package acl

import (
	"net/netip"
	"strings"
	"testing"
)

func TestAFileTellsWhomItTrusts(t *testing.T) {
	// As the release's conf/plain_acl.yml (4.5.2).
	file := []byte(`
globalWhiteRemoteAddresses:
- 10.10.103.*
- 192.168.0.*

accounts:
- accessKey: RocketMQ
  secretKey: 12345678
  whiteRemoteAddress:
  admin: false
  defaultTopicPerm: DENY
  topicPerms:
  - topicA=DENY

- accessKey: rocketmq2
  secretKey: 12345678
  whiteRemoteAddress: 192.168.1.*
  # if it is admin, it could access all resources
  admin: true
`)
	entries, err := WhiteLists(file)
	if err != nil {
		t.Fatal(err)
	}
	by := func(address string) string {
		var l []string
		for _, e := range entries {
			if e.Matches(netip.MustParseAddr(address)) {
				l = append(l, e.AccessKey+" "+e.Pattern)
			}
		}
		return strings.Join(l, ", ")
	}
	for address, want := range map[string]string{
		"192.168.0.220": " 192.168.0.*", "::ffff:192.168.0.220": " 192.168.0.*", "10.10.103.0": " 10.10.103.*",
		"192.168.1.7": "rocketmq2 192.168.1.*", "192.168.2.7": "", "10.10.10.3": "", "::1": "",
	} {
		if got := by(address); got != want {
			t.Errorf("%s is trusted by %q, want %q", address, got, want)
		}
	}
	if len(entries) != 3 {
		t.Errorf("%d entries", len(entries))
	}
	for _, empty := range []string{"", "# nothing\n", "accounts:\n", "globalWhiteRemoteAddresses: []\n", "globalWhiteRemoteAddresses:\n- \"\"\n"} {
		if entries, err := WhiteLists([]byte(empty)); err != nil || entries != nil {
			t.Errorf("%q: %v, %v", empty, entries, err)
		}
	}
}

func TestPatternsMatchAsInRocketMQ(t *testing.T) {
	for pattern, test := range map[string]struct{ yes, no string }{
		"*":                     {"10.0.0.1 fe80::1", ""},
		"*.*.*.*":               {"10.0.0.1 fe80::1", ""},
		"*:*:*:*:*:*:*:*":       {"10.0.0.1 fe80::1", ""},
		"10.0.0.1":              {"10.0.0.1", "10.0.0.10 10.0.0.11 110.0.0.1"},
		"10.0.0.1,10.0.0.3":     {"10.0.0.1 10.0.0.3", "10.0.0.2"},
		"10.0.0.1, 10.0.0.3,":   {"10.0.0.1 10.0.0.3", "10.0.0.2"},
		"10.0.0.{1,12}":         {"10.0.0.1 10.0.0.12", "10.0.0.2 10.0.0.112"},
		"10.0.0.*":              {"10.0.0.0 10.0.0.255", "10.0.1.0 10.10.0.0 ::"},
		"10.0.*":                {"", ""},
		"10.0.*.*":              {"10.0.3.4", "10.1.3.4"},
		"10.0.*.7":              {"10.0.3.4", "10.1.3.7"}, // what follows a range does not count
		"10.*.*.*":              {"10.4.3.2", "11.4.3.2"}, // nobody to 4.5.2
		"10.2-4.1.1":            {"10.2.9.9 10.4.0.0", "10.1.1.1 10.5.1.1"},
		"10.0.0.10-20":          {"10.0.0.10 10.0.0.20", "10.0.0.9 10.0.0.21 10.0.0.2 ::a"},
		"10.0.2-3.10-20":        {"10.0.2.1 10.0.3.99", "10.0.1.15 10.0.4.15"},
		"fe80::7":               {"fe80::7 fe80:0:0::7", "fe80::8"},
		"FE80::7,10.0.0.1":      {"fe80::7 10.0.0.1", "fe80::1"},
		"fe80::1:{7,A}":         {"fe80::1:7 fe80::1:a", "fe80::1:8"},
		"5::7:6:1-200:*":        {"5::7:6:1:9 5::7:6:200:0", "5::7:6:0:9 5::7:6:201:1 5::7:7:1:1 10.0.0.1"},
		"2::ac5:78:1-200":       {"2::ac5:78:1 2::ac5:78:200", "2::ac5:78:201 2::ac5:78:0"},
		"2::ac5:78:*":           {"2::ac5:78:0 2::ac5:78:ffff", "2::ac5:79:0"},
		"1:2:3:4:5:6:7:*":       {"1:2:3:4:5:6:7:8", "1:2:3:4:5:6:8:8"},
		"fe80:1:*":              {"fe80:1::9 fe80:1:2:3:4:5:6:7", "fe80:2::"},
		"fe80::*":               {"fe80:0:2::", "fe80:1::"},
		"10.0.0.0-0":            {"", ""},
		"10.0.0":                {"", ""},
		"broker-a":              {"", ""},
		"10.0.0.300":            {"", ""},
		"10.0.0.20-10":          {"", ""},
		"10.0.0.-5":             {"", ""},
		"10.0.0.5-256":          {"", ""},
		"*.0.0.1":               {"", ""},
		"10.0.0.1{1,2}":         {"", ""},
		"10.0.0.{1-3}":          {"", ""},
		"10.0.0.}":              {"", ""},
		"1:2:3:4:5:6:7:8:9:*":   {"", ""},
		"1-5":                   {"", ""},
		":*":                    {"", ""},
		"fe80:x:*":              {"", ""},
		"10.0.0.1,10.0.0.*":     {"", ""}, // refused by RocketMQ as well
		"10.0.0.{1,2},10.0.0.5": {"", ""},
	} {
		entries, err := WhiteLists([]byte("globalWhiteRemoteAddresses:\n- \"" + pattern + "\"\n"))
		if known := test.yes != ""; (err == nil) != known {
			t.Errorf("%s: %v", pattern, err)
		}
		if err != nil {
			if !strings.Contains(err.Error(), pattern) {
				t.Errorf("%s is not said: %v", pattern, err)
			}
			continue
		}
		for list, want := range map[string]bool{test.yes: true, test.no: false} {
			for address := range strings.FieldsSeq(list) {
				if got := entries[0].Matches(netip.MustParseAddr(address)); got != want {
					t.Errorf("%s matches %s: %v", pattern, address, got)
				}
			}
		}
	}
}

func TestAFileThatCannotBeReadShowsNoSecret(t *testing.T) {
	for _, file := range []string{
		"accounts:\n- accessKey: RocketMQ\n  secretKey: hush-hush\n  whiteRemoteAddress: [1, {2: 3}]\n",
		"accounts:\n- accessKey: RocketMQ\n  secretKey: hush-hush\n whiteRemoteAddress: *\n",
		"accounts: hush-hush\n",
		"globalWhiteRemoteAddresses: {a: hush-hush}\n",
	} {
		if _, err := WhiteLists([]byte(file)); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func FuzzWhiteLists(f *testing.F) {
	for _, seed := range []string{"*", "10.0.0.{1,2}", "10.1-3.0.1", "5::7:6:1-200:*", "fe80::*", "{}", ":-*", "10.0.0.1,::1"} {
		f.Add("globalWhiteRemoteAddresses:\n- \""+seed+"\"\n", "10.0.0.1")
	}
	f.Fuzz(func(t *testing.T, file, address string) {
		entries, err := WhiteLists([]byte(file))
		a, addressErr := netip.ParseAddr(address)
		if err != nil || addressErr != nil {
			return
		}
		for _, e := range entries {
			e.Matches(a)
		}
	})
}
