// Package remote reaches hosts over SSH: jump hosts, host keys, sudo, commands and files.
//
// Host keys are always checked; there is no way to turn that off. A Host is one connection, safe
// for concurrent use; when it is lost, everything that runs on it returns a *TransientError, and
// whether to dial again is the caller's decision.
package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kevinburke/ssh_config"
)

const (
	defaultConnectTimeout = 10 * time.Second
	defaultKeepAlive      = 5 * time.Second
	maxHops               = 8 // a longer chain in ~/.ssh/config is a mistake in it
)

// Target says where one host is and how to reach it. What is empty is taken from ~/.ssh/config
// (HostName, User, Port, IdentityFile, ProxyJump, UserKnownHostsFile, under the name in Address),
// and then from ssh's own defaults. What is set here wins.
type Target struct {
	Name    string // the topology's name of the host, used in every message
	Address string // IP, host name or alias in ~/.ssh/config; empty: Name
	Port    int    // 0: from ~/.ssh/config, else 22
	User    string // empty: from ~/.ssh/config, else the local user

	// IdentityFiles are private keys. A key that ssh-agent (SSH_AUTH_SOCK) holds is used from
	// there, and the agent's other keys are tried after these.
	IdentityFiles []string
	// KnownHosts are known_hosts files, which have to exist. Empty: from ~/.ssh/config, else
	// ~/.ssh/known_hosts, and /etc/ssh/ssh_known_hosts.
	KnownHosts []string
	// Jump are the jump hosts in the order in which they are passed. nil: ProxyJump of
	// ~/.ssh/config; empty but not nil: none, whatever ~/.ssh/config says.
	Jump []Hop

	// Sudo runs commands and the SFTP server through `sudo -n`.
	Sudo bool

	ConnectTimeout time.Duration // for each hop, from TCP to logged in; 0: 10 s
	KeepAlive      time.Duration // between keepalives; three unanswered end the connection; 0: 5 s
}

// Hop is a jump host. What is empty is taken from ~/.ssh/config, then (IdentityFiles, KnownHosts)
// from the Target.
type Hop struct {
	Address       string
	Port          int
	User          string
	IdentityFiles []string
	KnownHosts    []string
}

// station is one machine on the way to a host, the host itself being the last, with everything
// resolved.
type station struct {
	Place
	host string // what is dialled: IP or name, without the port
	user string

	identities []identity
	onlyThese  bool // IdentitiesOnly
	knownHosts []string
	mustExist  bool   // the known_hosts files were asked for by name
	note       string // something in ~/.ssh/config that is not followed, for messages
}

// identity is a private key file. Ssh's defaults and ~/.ssh/config may name files that do not
// exist; one that the operator declared has to.
type identity struct {
	file     string
	declared bool
}

// route resolves the target into the stations on the way to it.
func (t Target) route() ([]station, error) {
	home, err := Home()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	cfg, err := readClientConfig(filepath.Join(home, ".ssh", "config"), home)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	alias := t.Address
	if alias == "" {
		alias = t.Name
	}
	if alias == "" {
		return nil, errors.New("a target needs a name or an address")
	}
	hops := t.Jump
	if hops == nil {
		if hops, err = cfg.jumps(alias); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	var route []station
	for _, hop := range hops {
		st, err := cfg.station(t.Name, hop, t, true)
		if err != nil {
			return nil, fmt.Errorf("%s: jump host %s: %w", t.Name, hop.Address, err)
		}
		route = append(route, st)
	}
	last, err := cfg.station(t.Name, Hop{alias, t.Port, t.User, t.IdentityFiles, t.KnownHosts}, t, false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	if t.Jump != nil {
		last.note = ""
	}
	return append(route, last), nil
}

// Home is the operator's home directory: $HOME, or, where that is not set, as in a cron job or a bare
// service, what the user database says.
func Home() (string, error) {
	if home, err := os.UserHomeDir(); err == nil {
		return home, nil
	}
	me, err := user.Current()
	if err == nil && me.HomeDir == "" {
		err = fmt.Errorf("user %s has none", me.Username)
	}
	if err != nil {
		return "", fmt.Errorf("finding the home directory: HOME is not set, and the user database does not help: %w; set HOME", err)
	}
	return me.HomeDir, nil
}

// clientConfig is ~/.ssh/config.
type clientConfig struct {
	file, home string
	parsed     *ssh_config.Config // nil: there is no file
}

func readClientConfig(file, home string) (clientConfig, error) {
	c := clientConfig{file: file, home: home}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read the SSH client configuration: %w", err)
	}
	if c.parsed, err = ssh_config.DecodeBytes(data); err != nil {
		return c, fmt.Errorf("%s cannot be read: %w; mend the line, or give the hosts' SSH access in a file without it", file, err)
	}
	return c, nil
}

func (c clientConfig) get(alias, key string) (string, error) {
	if c.parsed == nil {
		return "", nil
	}
	v, err := c.parsed.Get(alias, key)
	if err != nil {
		return "", fmt.Errorf("%s: %s for %s: %w", c.file, key, alias, err)
	}
	return strings.Trim(v, `"`), nil
}

// station fills in what the hop leaves empty. t gives the fallbacks of jump hosts.
func (c clientConfig) station(name string, hop Hop, t Target, jump bool) (station, error) {
	st := station{Place: Place{Host: name, Jump: jump}, user: hop.User}
	alias := hop.Address

	hostName, err := c.get(alias, "HostName")
	if err != nil {
		return st, err
	}
	st.host = alias
	if hostName != "" {
		st.host = strings.NewReplacer("%%", "%", "%h", alias).Replace(hostName)
	}

	port := hop.Port
	if port == 0 {
		v, err := c.get(alias, "Port")
		if err != nil {
			return st, err
		}
		if port = 22; v != "" {
			if port, err = strconv.Atoi(v); err != nil {
				return st, fmt.Errorf("%s: Port for %s: %q is not a number", c.file, alias, v)
			}
		}
	}
	if port < 1 || port > 65535 {
		return st, fmt.Errorf("port %d is not between 1 and 65535", port)
	}
	st.Addr = net.JoinHostPort(st.host, strconv.Itoa(port))

	if st.user == "" {
		if st.user, err = c.get(alias, "User"); err != nil {
			return st, err
		}
	}
	if st.user == "" {
		me, err := user.Current()
		if err != nil {
			return st, fmt.Errorf("no user given, and the local one is unknown: %w", err)
		}
		st.user = me.Username
	}

	if err := c.identities(&st, alias, hop, t); err != nil {
		return st, err
	}
	if err := c.knownHosts(&st, alias, hop, t); err != nil {
		return st, err
	}
	command, err := c.get(alias, "ProxyCommand")
	if err != nil {
		return st, err
	}
	if jumps, _ := c.get(alias, "ProxyJump"); !jump && jumps == "" && command != "" && command != "none" {
		st.note = c.file + " has a ProxyCommand for it, which is not followed: declare a jump host"
	}
	return st, nil
}

func (c clientConfig) identities(st *station, alias string, hop Hop, t Target) error {
	declared := hop.IdentityFiles
	var configured []string
	if c.parsed != nil {
		var err error
		if configured, err = c.parsed.GetAll(alias, "IdentityFile"); err != nil {
			return fmt.Errorf("%s: IdentityFile for %s: %w", c.file, alias, err)
		}
	}
	configured = slices.DeleteFunc(configured, func(f string) bool { return f == "none" })
	if len(declared) == 0 && len(configured) == 0 {
		declared = t.IdentityFiles
	}
	only, err := c.get(alias, "IdentitiesOnly")
	if err != nil {
		return err
	}
	st.onlyThese = strings.EqualFold(only, "yes")
	switch {
	case len(declared) > 0:
		for _, f := range declared {
			st.identities = append(st.identities, identity{c.expand(f, st), true})
		}
	case len(configured) > 0:
		for _, f := range configured {
			st.identities = append(st.identities, identity{c.expand(strings.Trim(f, `"`), st), false})
		}
	default:
		for _, f := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			st.identities = append(st.identities, identity{filepath.Join(c.home, ".ssh", f), false})
		}
	}
	return nil
}

func (c clientConfig) knownHosts(st *station, alias string, hop Hop, t Target) error {
	files := hop.KnownHosts
	st.mustExist = true
	if len(files) == 0 {
		configured, err := c.get(alias, "UserKnownHostsFile")
		if err != nil {
			return err
		}
		if configured != "" {
			files, st.mustExist = strings.Fields(configured), false
		}
	}
	if len(files) == 0 {
		files, st.mustExist = t.KnownHosts, true
	}
	if len(files) == 0 {
		files, st.mustExist = []string{"~/.ssh/known_hosts"}, false
	}
	if !st.mustExist {
		files = append(slices.Clone(files), "/etc/ssh/ssh_known_hosts")
	}
	for _, f := range files {
		st.knownHosts = append(st.knownHosts, c.expand(f, st))
	}
	return nil
}

// expand resolves ~ and the tokens of ssh_config(5) that name a file: %d %h %r %u %%.
func (c clientConfig) expand(file string, st *station) string {
	if file == "~" || strings.HasPrefix(file, "~/") {
		file = c.home + file[1:]
	}
	if strings.Contains(file, "%") {
		local := ""
		if me, err := user.Current(); err == nil {
			local = me.Username
		}
		file = strings.NewReplacer("%%", "%", "%d", c.home, "%h", st.host, "%r", st.user, "%u", local).Replace(file)
	}
	return file
}

// jumps is the chain of ProxyJump for the alias. The first hop's own ProxyJump comes before it, as
// in ssh, and a hop that is already on the way is not taken twice (`Host *` matches the jump host
// too).
func (c clientConfig) jumps(alias string) ([]Hop, error) {
	var chain []Hop
	seen := []string{alias}
	for first := alias; ; {
		v, err := c.get(first, "ProxyJump")
		if err != nil {
			return nil, err
		}
		if v == "" || strings.EqualFold(v, "none") {
			return chain, nil
		}
		var part []Hop
		for s := range strings.SplitSeq(v, ",") {
			hop, err := parseHop(strings.TrimSpace(s))
			if err != nil {
				return nil, fmt.Errorf("%s: ProxyJump for %s: %w", c.file, first, err)
			}
			if slices.Contains(seen, hop.Address) {
				continue
			}
			seen = append(seen, hop.Address)
			part = append(part, hop)
		}
		if len(part) == 0 {
			return chain, nil
		}
		chain = append(part, chain...)
		if len(chain) > maxHops {
			return nil, fmt.Errorf("%s: ProxyJump for %s: more than %d jump hosts", c.file, alias, maxHops)
		}
		first = chain[0].Address
	}
}

// parseHop reads one hop of ProxyJump: [user@]host[:port] or ssh://[user@]host[:port].
func parseHop(s string) (Hop, error) {
	var hop Hop
	rest := strings.TrimSuffix(strings.TrimPrefix(s, "ssh://"), "/")
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		hop.User, rest = rest[:i], rest[i+1:]
	}
	hop.Address = rest
	if host, port, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 {
			return hop, fmt.Errorf("%q: port %q is not between 1 and 65535", s, port)
		}
		hop.Address, hop.Port = host, n
	}
	hop.Address = strings.Trim(hop.Address, "[]")
	if hop.Address == "" {
		return hop, fmt.Errorf("%q names no host", s)
	}
	return hop, nil
}
