package topology

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// YAML writes the topology as a file that Load reads back to the same: what all members share goes
// into defaults, and what is a default anyway is left out. In a topology that was built by hand,
// fields left zero are left out too, and so take their defaults when the file is loaded; a member's
// SSH without a ConnectTimeout counts as built by hand. The error is what Load would say.
func (t *Topology) YAML() ([]byte, error) {
	var w writer
	w.line(0, "version", strconv.Itoa(Version))
	w.text(0, "cluster", t.Cluster)
	w.line(0, "nameServers", flowList(t.NameServers))
	if ssh := t.SSH.pairs(SSH{}, true); len(ssh) > 0 {
		w.block(0, "ssh", ssh)
	}
	if t.ACL != nil {
		w.open(0, "acl")
		w.text(1, "accessKey", t.ACL.AccessKey)
		w.text(1, "secretKeyFile", t.ACL.SecretKeyFile)
		w.text(1, "secretKeyEnv", t.ACL.SecretKeyEnv)
	}
	shared, env := t.shared(), t.sharedEnv()
	if defaults := withEnv(shared, env); len(defaults) > 0 {
		w.block(0, "defaults", defaults)
	}
	w.open(0, "groups")
	for _, g := range t.Groups {
		fmt.Fprintf(&w, "  - name: %s\n", quote(g.Name))
		w.line(2, "target", quote(orElse(g.Target, TargetDLedger)))
		w.text(2, "release", g.Release)
		if g.TracerTopic != DefaultTracerTopic {
			w.text(2, "tracerTopic", g.TracerTopic)
		}
		w.open(2, "members")
		items := make([][]pair, len(g.Members))
		for i := range g.Members {
			items[i] = g.Members[i].pairs(t.SSH, shared, env)
		}
		w.items(3, items)
	}
	if _, err := Parse(orElse(t.File, "topology.yaml"), w.Bytes()); err != nil {
		return nil, fmt.Errorf("the topology as written would not load:\n%w", err)
	}
	return w.Bytes(), nil
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// pair is a key with its value as YAML on one line.
type pair struct{ key, value string }

// shared are the fields of defaults: those that every member has alike.
func (t *Topology) shared() []pair {
	var shared []pair
	first := true
	for _, g := range t.Groups {
		for _, m := range g.Members {
			fields := m.fields()
			if first {
				shared, first = fields, false
			}
			shared = slices.DeleteFunc(shared, func(p pair) bool { return !slices.Contains(fields, p) })
		}
	}
	return shared
}

// sharedEnv are the variables that every member has alike.
func (t *Topology) sharedEnv() map[string]string {
	var env map[string]string
	first := true
	for _, g := range t.Groups {
		for _, m := range g.Members {
			if first {
				env, first = maps.Clone(m.Env), false
			}
			maps.DeleteFunc(env, func(k, v string) bool {
				own, ok := m.Env[k]
				return !ok || own != v
			})
		}
	}
	return env
}

// withEnv adds the variables, if there are any.
func withEnv(pairs []pair, env map[string]string) []pair {
	if len(env) == 0 {
		return pairs
	}
	var vars []pair
	for _, k := range slices.Sorted(maps.Keys(env)) {
		vars = append(vars, pair{k, quote(env[k])})
	}
	return append(pairs, pair{"env", flow(vars)})
}

// fields are the member's values of defaultsKeys but env, without those that are defaults anyway.
func (m *Member) fields() []pair {
	unlessDefault := func(value, otherwise string) string {
		if value == "" || value == otherwise {
			return ""
		}
		return quote(value)
	}
	raftPort := ""
	if m.RaftPort != 0 && m.RaftPort != DefaultRaftPort {
		raftPort = strconv.Itoa(m.RaftPort)
	}
	fields := []pair{
		{"installDir", unlessDefault(m.InstallDir, "")},
		{"brokerConf", unlessDefault(m.relative(m.BrokerConf), DefaultBrokerConf)},
		{"raftPort", raftPort},
		{"start", unlessDefault(m.Start, DefaultStart)},
		{"stop", unlessDefault(m.Stop, "")},
		{"javaHome", unlessDefault(m.JavaHome, "")},
		{"dledgerRoot", unlessDefault(m.relative(m.DLedgerRoot), "")},
		{"workDir", unlessDefault(m.relative(m.WorkDir), DefaultWorkDir)},
	}
	return slices.DeleteFunc(fields, func(p pair) bool { return p.value == "" })
}

func (m *Member) relative(name string) string {
	if m.InstallDir != "" && name != m.InstallDir && within(name, m.InstallDir) {
		return strings.TrimPrefix(strings.TrimPrefix(name, m.InstallDir), "/")
	}
	return name
}

// pairs are what the member's own item has, beside what it takes from ssh and defaults.
func (m *Member) pairs(base SSH, shared []pair, env map[string]string) []pair {
	pairs := []pair{{"host", quote(m.Host)}, {"peer", quote(m.Peer)}}
	if m.Address != "" && m.Address != m.Host {
		pairs = append(pairs, pair{"address", quote(m.Address)})
	}
	if m.ListenPort != 0 {
		pairs = append(pairs, pair{"listenPort", strconv.Itoa(m.ListenPort)})
	}
	for _, p := range m.fields() {
		if !slices.Contains(shared, p) {
			pairs = append(pairs, p)
		}
	}
	own := maps.Clone(m.Env)
	maps.DeleteFunc(own, func(k, _ string) bool { _, ok := env[k]; return ok })
	pairs = withEnv(pairs, own)
	ssh := m.SSH
	if ssh.Address == m.Host {
		ssh.Address = ""
	}
	if ssh := ssh.pairs(base, ssh.ConnectTimeout == 0); len(ssh) > 0 {
		pairs = append(pairs, pair{"ssh", flow(ssh)})
	}
	return pairs
}

// pairs are the fields that differ from base, or, with onlySet, those of them that are not zero.
func (s SSH) pairs(base SSH, onlySet bool) []pair {
	var pairs []pair
	add := func(key, value string, differs, set bool) {
		if differs && (set || !onlySet) {
			pairs = append(pairs, pair{key, value})
		}
	}
	hops := make([]string, len(s.Jump))
	for i, h := range s.Jump {
		hops[i] = h.String()
	}
	add("address", quote(s.Address), s.Address != "", true)
	add("port", strconv.Itoa(s.Port), s.Port != base.Port, s.Port != 0)
	add("user", quote(s.User), s.User != base.User, s.User != "")
	add("identityFiles", flowList(s.IdentityFiles), !slices.Equal(s.IdentityFiles, base.IdentityFiles), len(s.IdentityFiles) > 0)
	add("knownHosts", flowList(s.KnownHosts), !slices.Equal(s.KnownHosts, base.KnownHosts), len(s.KnownHosts) > 0)
	add("jump", flowList(hops), !slices.Equal(s.Jump, base.Jump) || (s.Jump == nil) != (base.Jump == nil), s.Jump != nil)
	add("sudo", strconv.FormatBool(s.Sudo), s.Sudo != base.Sudo, s.Sudo)
	timeout := s.ConnectTimeout != base.ConnectTimeout && (base.ConnectTimeout != 0 || s.ConnectTimeout != DefaultConnectTimeout)
	add("connectTimeout", s.ConnectTimeout.String(), timeout, s.ConnectTimeout != 0)
	return pairs
}

// writer collects the lines; depth counts indents of two spaces.
type writer struct{ bytes.Buffer }

func (w *writer) line(depth int, key, value string) {
	fmt.Fprintf(w, "%s%s: %s\n", strings.Repeat("  ", depth), key, value)
}

func (w *writer) text(depth int, key, value string) {
	if value != "" {
		w.line(depth, key, quote(value))
	}
}

func (w *writer) open(depth int, key string) {
	fmt.Fprintf(w, "%s%s:\n", strings.Repeat("  ", depth), key)
}

func (w *writer) block(depth int, key string, pairs []pair) {
	w.open(depth, key)
	for _, p := range pairs {
		w.line(depth+1, p.key, p.value)
	}
}

// items writes a list's items on one line each where that is readable for all of them.
func (w *writer) items(depth int, items [][]pair) {
	const width = 130
	indent := strings.Repeat("  ", depth)
	long := slices.ContainsFunc(items, func(pairs []pair) bool { return len(indent)+len("- ")+len(flow(pairs)) > width })
	for _, pairs := range items {
		if !long {
			fmt.Fprintf(w, "%s- %s\n", indent, flow(pairs))
			continue
		}
		for i, p := range pairs {
			dash := "- "
			if i > 0 {
				dash = "  "
			}
			fmt.Fprintf(w, "%s%s%s: %s\n", indent, dash, p.key, p.value)
		}
	}
}

func flow(pairs []pair) string {
	items := make([]string, len(pairs))
	for i, p := range pairs {
		items[i] = p.key + ": " + p.value
	}
	return "{" + strings.Join(items, ", ") + "}"
}

func flowList(texts []string) string {
	items := make([]string, len(texts))
	for i, s := range texts {
		items[i] = quote(s)
	}
	return "[" + strings.Join(items, ", ") + "]"
}

var (
	plain = regexp.MustCompile(`^([A-Za-z_/~][A-Za-z0-9_./~@-]*[A-Za-z0-9_/]|[A-Za-z/]|[0-9]+\.[0-9]+\.[0-9]+(\.[0-9]+)?)$`)
	// What some reader of YAML takes for something else than text.
	reserved = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|true|false|null)$`)
)

// quote writes a text bare where no reader of YAML takes it for anything else, and otherwise as JSON,
// whose strings are YAML's double-quoted ones.
func quote(s string) string {
	if plain.MatchString(s) && !reserved.MatchString(s) {
		return s
	}
	if !utf8.ValidString(s) {
		return `"` + s + `"` // JSON would replace the bytes; like this, YAML's caller is told
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return `""`
	}
	return strings.TrimSuffix(b.String(), "\n")
}
