package topology

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mqlift/internal/diag"
)

// The keys of the file. Where a key may stand decides also what an unknown one is answered with.
var (
	topKeys      = []string{"version", "cluster", "nameServers", "ssh", "acl", "defaults", "groups"}
	sshKeys      = []string{"user", "port", "identityFiles", "knownHosts", "jump", "sudo", "connectTimeout"}
	aclKeys      = []string{"accessKey", "secretKeyFile", "secretKeyEnv"}
	defaultsKeys = []string{"installDir", "brokerConf", "raftPort", "start", "stop", "javaHome", "env", "dledgerRoot", "workDir"}
	groupKeys    = []string{"name", "target", "release", "tracerTopic", "members"}
	memberKeys   = append([]string{"host", "peer", "address", "ssh", "listenPort"}, defaultsKeys...)
)

// homes names the mappings that a key may stand in.
func homes(key string) []string {
	var l []string
	for _, h := range []struct {
		name string
		keys []string
	}{
		{"the topology's top level", topKeys}, {"ssh", sshKeys}, {"acl", aclKeys},
		{"defaults", defaultsKeys}, {"a group", groupKeys}, {"a member", memberKeys},
	} {
		if slices.Contains(h.keys, key) {
			l = append(l, h.name)
		}
	}
	return l
}

// mostBytes is far more than a topology of a hundred groups has.
const mostBytes = 64 << 10

// Load reads and checks the file. All problems come at once, as a *diag.Error whose findings have
// Where = file:line:column in the order of the file. Relative names of local files (keys, known
// hosts, the secret key) are taken from the topology's folder.
func Load(name string) (*Topology, error) {
	data, err := read(name)
	if err != nil {
		return nil, diag.Findings{{
			Check: "topology.file", Severity: diag.Fail, Where: name,
			What: "the topology cannot be read: " + err.Error(),
			Do:   "name an existing file, or let `mqlift init` write one",
		}}.Err()
	}
	l := &loader{reader: reader{file: name}}
	t := l.topology(data)
	if t.ACL != nil {
		l.secret(t)
	}
	return l.result(t)
}

// Parse is Load without a look at this machine: nothing but the text decides. The name is used in
// messages and for relative file names.
func Parse(name string, data []byte) (*Topology, error) {
	l := &loader{reader: reader{file: name}}
	return l.result(l.topology(data))
}

func read(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, mostBytes+1)) // one more, for document to notice
}

// loader reads the keys into the types and remembers where each came from, for the checks.
type loader struct {
	reader
	top    places
	ssh    places
	groups []declaredGroup
}

// places are positions by key; "" is the mapping itself.
type places map[string]place

func (p places) of(key string) place {
	if at, ok := p[key]; ok {
		return at
	}
	return p[""]
}

func (p places) strings(r *reader) map[string]string {
	where := make(map[string]string, len(p))
	for key, at := range p {
		where[key] = r.where(at)
	}
	return where
}

type declaredGroup struct {
	*Group
	at      places
	members []declaredMember
}

type declaredMember struct {
	*Member
	at       places // of the member's keys, or of the same in defaults
	defaults places // those of defaults alone
	ssh      places
	unread   map[string]bool // keys that are there in some form and that could not be read
}

// inherited tells whether a key's value stands in defaults.
func (m declaredMember) inherited(key string) bool {
	at, ok := m.defaults[key]
	return ok && m.at[key] == at
}

func (l *loader) result(t *Topology) (*Topology, error) {
	found := l.findings()
	if err := found.Err(); err != nil {
		return nil, err
	}
	t.warnings = found
	return t, nil
}

func (l *loader) topology(data []byte) *Topology {
	t := &Topology{
		File:    l.file,
		Version: Version,
		SSH:     SSH{ConnectTimeout: DefaultConnectTimeout},
	}
	root, ok := l.document(data)
	if !ok {
		return t
	}
	m, ok := l.mapping(root, "the example that `mqlift init` prints", topKeys)
	if !ok {
		return t
	}
	l.top = places{"": m.at}
	for key := range m.values {
		l.top[key] = m.place(key)
	}

	l.version(m)
	if v, ok := m.values["cluster"]; ok {
		t.Cluster, _ = l.text(v, "cluster: DefaultCluster")
	}
	l.nameServers(m, t)
	l.ssh = places{"": m.at}
	if v, ok := m.values["ssh"]; ok {
		l.ssh[""] = v.at
		l.readSSH(v, &t.SSH, l.ssh, sshKeys)
	}
	if v, ok := m.values["acl"]; ok {
		t.ACL = l.readACL(v)
	}
	defaults := declaredMember{
		Member: &Member{RaftPort: DefaultRaftPort, BrokerConf: DefaultBrokerConf, Start: DefaultStart, WorkDir: DefaultWorkDir},
		at:     places{},
	}
	if v, ok := m.values["defaults"]; ok {
		if d, ok := l.mapping(v, "defaults: {installDir: /opt/rocketmq}", defaultsKeys); ok {
			l.readMember(d, &defaults)
		}
	}
	if m.missing("groups") {
		l.fail("group", m.at, "groups is missing", "declare the broker group to upgrade below groups:")
	}
	v, ok := m.values["groups"]
	if !ok {
		return t
	}
	const example = "groups: [{name: broker-a, members: [...]}]"
	items, ok := l.list(v, example)
	if ok && len(items) == 0 {
		l.fail("group", v.at, "groups is empty", "declare the broker group to upgrade below groups:")
	}
	// Both slices have their length first, since pointers into them are kept.
	t.Groups, l.groups = make([]Group, len(items)), make([]declaredGroup, len(items))
	for i, item := range items {
		l.groups[i] = declaredGroup{Group: &t.Groups[i], at: places{"": item.at}}
		if g, ok := l.mapping(item, example, groupKeys); ok {
			l.readGroup(g, t, &l.groups[i], defaults)
		}
	}
	l.check(t)
	t.where = l.top.strings(&l.reader)
	for _, g := range l.groups {
		g.Group.where = g.at.strings(&l.reader)
		for _, m := range g.members {
			m.Member.where = m.at.strings(&l.reader)
		}
	}
	return t
}

func (l *loader) version(m mapping) {
	if m.missing("version") {
		l.fail("version", m.at, "version is missing", "write version: 1 at the top")
	}
	v, ok := m.values["version"]
	if !ok {
		return
	}
	if n, ok := l.number(v, "version: 1"); ok && n != Version {
		l.fail("version", v.at,
			fmt.Sprintf("version %d of the topology format is not known here", n),
			"write version: 1, or use the mqlift that the file was written for")
	}
}

func (l *loader) nameServers(m mapping, t *Topology) {
	const example = "nameServers: [192.168.0.220:9876, 192.168.0.221:9876]"
	if m.missing("nameServers") {
		l.fail("nameservers", m.at, "nameServers is missing", "name at least one, like "+example)
	}
	v, ok := m.values["nameServers"]
	if !ok {
		return
	}
	items, ok := l.list(v, example)
	if ok && len(items) == 0 {
		l.fail("nameservers", v.at, "nameServers is empty", "name at least one, like "+example)
	}
	for _, item := range items {
		if addr, ok := l.text(item, example); ok {
			l.top[nameServerKey(len(t.NameServers))] = item.at
			t.NameServers = append(t.NameServers, addr)
		}
	}
}

func nameServerKey(i int) string { return fmt.Sprintf("nameServers[%d]", i) }

// readSSH lets the keys that are there override what s already holds.
func (l *loader) readSSH(v value, s *SSH, at places, known []string) {
	m, ok := l.mapping(v, "ssh: {user: rocketmq, port: 22}", known)
	if !ok {
		return
	}
	for key, v := range m.values {
		at[key] = v.at
		switch key {
		case "address":
			if text, ok := l.text(v, "address: 192.168.0.220"); ok {
				s.Address = text
			}
		case "port":
			if n, ok := l.port(v); ok {
				s.Port = n
			}
		case "user":
			if text, ok := l.text(v, "user: rocketmq"); ok && !userName.MatchString(text) {
				l.fail("ssh", v.at, fmt.Sprintf("user %s is no login name", show(text)), "write the name alone, without a host")
			} else if ok {
				s.User = text
			}
		case "identityFiles":
			if names, at, ok := l.texts(v, "identityFiles: [~/.ssh/id_ed25519]"); ok {
				s.IdentityFiles = l.localFiles(key, names, at)
			}
		case "knownHosts":
			names, places, ok := l.texts(v, "knownHosts: [~/.ssh/known_hosts]")
			if ok && len(names) == 0 {
				l.fail("ssh", v.at,
					"knownHosts is empty, and a host with an unknown key is never trusted",
					"name a file, or remove the key for ssh's own")
			} else if ok {
				s.KnownHosts = l.localFiles(key, names, places)
			}
		case "jump":
			if hops, at, ok := l.texts(v, "jump: [user@bastion:22]"); ok {
				s.Jump = l.hops(hops, at)
			}
		case "sudo":
			if b, ok := l.boolean(v); ok {
				s.Sudo = b
			}
		case "connectTimeout":
			if d, ok := l.duration(v, "connectTimeout: 10s"); ok {
				s.ConnectTimeout = d
			}
		}
	}
}

var userName = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.-]*)?$`)

// localFiles makes names of files on this machine independent of the folder mqlift runs in.
func (l *loader) localFiles(key string, names []string, at []place) []string {
	var files []string
	for i, name := range names {
		switch {
		case name == "" || strings.ContainsAny(name, "\n\t"):
			l.fail("path", at[i], fmt.Sprintf("%s has %s, which is no file name", key, show(name)), "write a path")
		case strings.HasPrefix(name, "~") && !strings.HasPrefix(name, "~/"):
			l.fail("path", at[i], fmt.Sprintf("%s has %s, and only ~/ is understood", key, show(name)), "write the whole path")
		case filepath.IsAbs(name) || strings.HasPrefix(name, "~/"):
			files = append(files, name)
		default:
			files = append(files, filepath.Join(l.folder(), name))
		}
	}
	return files
}

func (l *loader) folder() string {
	if abs, err := filepath.Abs(l.file); err == nil {
		return filepath.Dir(abs)
	}
	return filepath.Dir(l.file)
}

func (l *loader) hops(texts []string, at []place) []Hop {
	hops := []Hop{} // jump: [] means none, whatever ~/.ssh/config says
	for i, text := range texts {
		hop, err := parseHop(text)
		if err != nil {
			l.fail("ssh", at[i],
				fmt.Sprintf("jump host %s: %s", show(text), err), "write user@host:port, where user and port may be left out")
			continue
		}
		hops = append(hops, hop)
	}
	return hops
}

func parseHop(text string) (Hop, error) {
	hop, rest := Hop{}, text
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		hop.User, rest = text[:i], text[i+1:]
		if hop.User == "" || !userName.MatchString(hop.User) {
			return hop, fmt.Errorf("%s is no login name", show(hop.User))
		}
	}
	host, port, hasPort := rest, "", false
	if inner, ok := strings.CutPrefix(rest, "["); ok {
		host, rest, ok = strings.Cut(inner, "]")
		if !ok {
			return hop, fmt.Errorf("the [ is not closed")
		}
		if rest != "" {
			if port, hasPort = strings.CutPrefix(rest, ":"); !hasPort {
				return hop, fmt.Errorf("only :port may follow the ]")
			}
		}
	} else if strings.Count(rest, ":") == 1 {
		host, port, hasPort = strings.Cut(rest, ":")
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || !decimal.MatchString(port) {
			return hop, fmt.Errorf("%s is no TCP port", show(port))
		}
		hop.Port = int(n)
	}
	if hostKind(host) == badHost {
		return hop, fmt.Errorf("%s is no host", show(host))
	}
	hop.Host = host
	return hop, nil
}

func (l *loader) readACL(v value) *ACL {
	m, ok := l.mapping(v, "acl: {accessKey: mqlift, secretKeyFile: mqlift.secret}", aclKeys)
	if !ok {
		return nil
	}
	acl := &ACL{}
	l.top["acl"] = m.at
	for key, v := range m.values {
		l.top["acl."+key] = v.at
		text, ok := l.text(v, key+": …")
		if !ok {
			continue
		}
		switch key {
		case "accessKey":
			acl.AccessKey = text
			if text == "" || strings.ContainsAny(text, " \t\n") {
				l.fail("acl", v.at, "accessKey is empty or has spaces in it", "write the access key as plain_acl.yml has it")
			}
		case "secretKeyFile":
			if files := l.localFiles(key, []string{text}, []place{v.at}); len(files) == 1 {
				acl.SecretKeyFile = files[0]
			}
		case "secretKeyEnv":
			acl.SecretKeyEnv = text
			if !envName.MatchString(text) {
				// What stands here by mistake may be the secret itself, so it is not shown.
				l.fail("acl", v.at, "secretKeyEnv is no name of an environment variable", "write the variable's name, not its value")
			}
		}
	}
	_, file := m.values["secretKeyFile"]
	_, env := m.values["secretKeyEnv"]
	if m.missing("accessKey") {
		l.fail("acl", m.at, "accessKey is missing", "write the access key as plain_acl.yml has it")
	}
	if file && env {
		l.fail("acl", m.place("secretKeyEnv"), "both secretKeyFile and secretKeyEnv are given", "keep one of them")
	} else if m.missing("secretKeyFile") && m.missing("secretKeyEnv") {
		l.fail("acl", m.at,
			"neither secretKeyFile nor secretKeyEnv is given",
			"name the file with mode 0600, or the environment variable, that holds the secret key")
	}
	return acl
}

// secret looks whether the secret key can be read now: in the change window is too late.
func (l *loader) secret(t *Topology) {
	if _, file := l.top["acl.secretKeyFile"]; !file && t.ACL.SecretKeyEnv == "" || l.bad("acl") {
		return
	}
	if _, err := t.ACL.SecretKey(); err != nil {
		at := l.top.of("acl.secretKeyFile")
		do := "put the secret key alone into that file and chmod 600 it"
		if t.ACL.SecretKeyEnv != "" {
			at, do = l.top.of("acl.secretKeyEnv"), "export it before mqlift is started"
		}
		l.fail("acl", at, "the secret key cannot be read: "+err.Error(), do)
	}
}

// bad tells whether a check has failed already.
func (l *loader) bad(check string) bool {
	return slices.ContainsFunc(l.found, func(p placed) bool {
		return p.Check == "topology."+check && p.Severity == diag.Fail
	})
}

func (l *loader) readGroup(m mapping, t *Topology, g *declaredGroup, defaults declaredMember) {
	g.Target, g.TracerTopic = TargetDLedger, DefaultTracerTopic
	texts := map[string]textField{
		"name":        {&g.Name, "name: broker-a"},
		"target":      {&g.Target, "target: " + TargetDLedger},
		"release":     {&g.Release, "release: 4.5.2"},
		"tracerTopic": {&g.TracerTopic, "tracerTopic: " + DefaultTracerTopic},
	}
	for key, v := range m.values {
		t, ok := texts[key]
		if !ok {
			g.at[key] = v.at
		} else if text, ok := l.text(v, t.example); ok {
			*t.field, g.at[key] = text, v.at
		}
	}
	if m.missing("name") {
		l.fail("group", m.at, "name is missing", "write the group's brokerName as name")
	}
	if m.missing("members") {
		l.fail("members", m.at, "members is missing", "list at least 3 members, as a Raft group needs")
	}
	v, ok := m.values["members"]
	if !ok {
		return
	}
	const example = "members: [{host: 192.168.0.220, peer: n0}, …]"
	items, ok := l.list(v, example)
	if !ok {
		return
	}
	g.Members, g.members = make([]Member, len(items)), make([]declaredMember, len(items))
	for i, item := range items {
		member := &g.Members[i]
		*member = *defaults.Member
		member.Env = maps.Clone(defaults.Env)
		member.SSH = t.SSH.clone()
		d := declaredMember{
			Member: member, at: maps.Clone(defaults.at), defaults: defaults.at, ssh: maps.Clone(l.ssh), unread: maps.Clone(defaults.unread),
		}
		d.at[""] = item.at
		if m, ok := l.mapping(item, example, memberKeys); ok {
			if m.missing("host") {
				l.fail("members", m.at, "host is missing", "write the host's name or address")
			}
			if m.missing("peer") {
				l.fail("members", m.at, "peer is missing", "write the member's peer id, like peer: n0")
			}
			l.readMember(m, &d)
			if v, ok := m.values["ssh"]; ok {
				l.readSSH(v, &member.SSH, d.ssh, append([]string{"address"}, sshKeys...))
			}
		} else {
			d.unread = map[string]bool{"installDir": true}
		}
		g.members[i] = d
	}
}

func (s SSH) clone() SSH {
	s.IdentityFiles, s.KnownHosts, s.Jump = slices.Clone(s.IdentityFiles), slices.Clone(s.KnownHosts), slices.Clone(s.Jump)
	return s
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// textField is where a text goes, and how it is written when it is not one.
type textField struct {
	field   *string
	example string
}

// readMember reads the keys of a member or of defaults over what is there already. Only a value that
// was read gets a place, so that the checks leave alone what was refused here.
func (l *loader) readMember(m mapping, d *declaredMember) {
	into, at := d.Member, d.at
	texts := map[string]textField{
		"host":        {&into.Host, "host: 192.168.0.220"},
		"peer":        {&into.Peer, "peer: n0"},
		"address":     {&into.Address, "address: 192.168.0.220"},
		"installDir":  {&into.InstallDir, "installDir: /opt/rocketmq"},
		"brokerConf":  {&into.BrokerConf, "brokerConf: " + DefaultBrokerConf},
		"start":       {&into.Start, "start: " + DefaultStart},
		"stop":        {&into.Stop, "stop: bin/stop-broker"},
		"javaHome":    {&into.JavaHome, "javaHome: /usr/lib/jvm/java-8"},
		"dledgerRoot": {&into.DLedgerRoot, "dledgerRoot: store/dledger_store"},
		"workDir":     {&into.WorkDir, "workDir: /var/lib/mqlift"},
	}
	unread := maps.Clone(m.guessed)
	for key, v := range m.values {
		ok := true
		switch key {
		case "raftPort":
			var n int
			if n, ok = l.port(v); ok {
				into.RaftPort, at[key] = n, v.at
			}
		case "listenPort":
			var n int
			if n, ok = l.port(v); ok {
				into.ListenPort, at[key] = n, v.at
			}
		case "env":
			l.readEnv(v, into, at)
		case "ssh":
		default:
			var text string
			if text, ok = l.text(v, texts[key].example); ok {
				*texts[key].field, at[key] = text, v.at
			}
		}
		if !ok {
			unread[key] = true
		}
	}
	if d.unread == nil {
		d.unread = map[string]bool{}
	}
	maps.Copy(d.unread, unread)
}

// readEnv adds to the variables of defaults, so that a member overrides one without repeating all.
func (l *loader) readEnv(v value, into *Member, at places) {
	m, ok := l.mapping(v, "env: {JAVA_OPT: -Xmx4g}", nil)
	if !ok {
		return
	}
	at["env"] = m.at
	for _, key := range m.keys {
		if !envName.MatchString(key) {
			l.fail("env", m.values[key].key,
				fmt.Sprintf("%s is no name of an environment variable", show(key)), "use letters, digits and _")
			continue
		}
		if text, ok := l.text(m.values[key], key+`: "value"`); ok {
			if into.Env == nil {
				into.Env = map[string]string{}
			}
			into.Env[key], at["env."+key] = text, m.place(key)
		}
	}
}

// below resolves a path of the host against its installation.
func below(installDir, name string) string {
	if name == "" || path.IsAbs(name) {
		return cleanPath(name)
	}
	return path.Join(installDir, name)
}

func cleanPath(name string) string {
	if name == "" {
		return ""
	}
	return path.Clean(name)
}
