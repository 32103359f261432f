// Package lab runs real RocketMQ on this machine, as the reference case has it: three hosts, of which
// host-a carries a name server and the master, host-b a name server and the slave, and host-c nothing
// yet. Each host is an SSH server in the lab's process with a home directory and ports of its own;
// what runs on it are real processes, so an upgrade of a lab does what it does in production.
//
// RocketMQ up to 5.x cannot be told to listen on one address alone, so its ports are open on all
// interfaces of the machine; everything in a lab talks to 127.0.0.1 (see Options.OwnAddresses).
package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"mqlift/internal/lab/sshhost"
	"mqlift/internal/rocketmq"
)

// DefaultRelease is the release of the reference case, and the default of Options.Release.
const DefaultRelease = "4.5.2"

// DefaultLogFileSize is the default of Options.LogFileSize, in bytes; RocketMQ's own is 1 GiB.
const DefaultLogFileSize = 64 << 20

// Options say which lab to start. The zero value is a lab of DefaultRelease in DefaultDir.
type Options struct {
	// OwnAddresses gives each host an address of its own, 127.0.0.1, 127.0.0.2 and so on, where a test is
	// about taking one for the other. Linux has all of 127.0.0.0/8 on its loopback interface.
	OwnAddresses bool
	// Dir is where everything of the lab is; it must not exist, be empty, or be a dead lab's.
	Dir string
	// Release of RocketMQ, such as 4.5.2.
	Release string
	// LogFileSize is mappedFileSizeCommitLog, in bytes.
	LogFileSize int64
	// BasePort is the first of 20 ports in a row; 0 finds some that are free.
	BasePort int
	// Cache keeps the releases; empty: DefaultCache.
	Cache string
}

// Lab is a running lab.
type Lab struct {
	dir    string
	state  state
	user   string
	path   string // PATH on the hosts
	jars   string
	cache  string
	family *family
	keeper *keeper
	client *rocketmq.Client
	unlock func()
	stop   context.CancelFunc // ends what runs as long as the lab
	hosts  map[string]*sshhost.Host

	mu     sync.Mutex
	faults map[string]Fault // the last of each host

	down sync.Mutex
	over bool // Down has succeeded
}

// Dir is the lab's directory.
func (l *Lab) Dir() string { return l.dir }

// Topology is the path of the topology file that the other commands take.
func (l *Lab) Topology() string { return filepath.Join(l.dir, topologyFile) }

// Release is the release that the lab began with.
func (l *Lab) Release() string { return l.state.Release }

// Hosts are the lab's hosts: host-a (master), host-b (slave), host-c (empty).
func (l *Lab) Hosts() []Host { return slices.Clone(l.state.Hosts) }

// NameServers are the addresses of the name servers, IP:port.
func (l *Lab) NameServers() []string { return slices.Clone(l.state.NameServers) }

// Up starts a lab in this process and returns when the name servers answer and both know the master
// and the slave. say gets a line for whatever takes time. ctx bounds the start only; Down ends the
// lab, and so does the end of this process. Whatever fails, nothing is left running, and the files
// stay to be looked at until the next Up in the directory.
//
// The main function, or TestMain, of a program that calls Up has to call KeeperMain first.
func Up(ctx context.Context, o Options, say func(string)) (*Lab, error) {
	if say == nil {
		say = func(string) {}
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	java, err := FindJava(ctx)
	if err != nil {
		return nil, err
	}
	account, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("finding out who runs the lab: %w", err)
	}
	jars, err := FetchRelease(ctx, o.Cache, o.Release, say)
	if err != nil {
		return nil, err
	}
	unlock, err := claim(ctx, o.Dir, say)
	if err != nil {
		return nil, err
	}

	id := rand.Text()
	alive, stop := context.WithCancel(context.Background())
	l := &Lab{
		dir: o.Dir, user: account.Username, jars: jars, cache: o.Cache,
		path:   java + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		family: newFamily(alive, id),
		client: rocketmq.NewClient(rocketmq.Options{DialTimeout: time.Second, RequestTimeout: 2 * time.Second}),
		unlock: unlock, stop: stop,
		hosts: map[string]*sshhost.Host{}, faults: map[string]Fault{},
	}
	if err := l.up(ctx, id, o, say); err != nil {
		// With ctx ended there is still everything to end.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, l.end(cleanup, 0, func(string) {}))
		if ctx.Err() != nil { // nobody wants to know why it did not start
			err = errors.Join(err, removeFiles(l.dir))
		}
		l.unlock()
		return nil, err
	}
	return l, nil
}

// complete fills in what was left open and refuses what cannot work.
func (o *Options) complete() error {
	var err error
	if o.Dir == "" {
		if o.Dir, err = DefaultDir(); err != nil {
			return err
		}
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	// RocketMQ's scripts and a start line in a topology take paths unquoted.
	if !regexp.MustCompile(`^[A-Za-z0-9/._+@-]+$`).MatchString(o.Dir) {
		return fmt.Errorf("the lab's directory %q: choose one of letters, digits and /._+@- only", o.Dir)
	}
	if o.Release == "" {
		o.Release = DefaultRelease
	}
	if o.LogFileSize == 0 {
		o.LogFileSize = DefaultLogFileSize
	}
	// mappedFileSizeCommitLog is an int; below a few message sizes (4 MiB at most) nothing works.
	if o.LogFileSize < 8<<20 || o.LogFileSize > 1<<30 {
		return fmt.Errorf("log file size %d: it must be between 8 MiB and 1 GiB", o.LogFileSize)
	}
	return nil
}

// ErrRunning says that a lab already runs in the directory.
var ErrRunning = errors.New("a lab is running there already")

// claim makes the directory a lab's own for as long as the lock is held. A dead lab's remains go.
func claim(ctx context.Context, dir string, say func(string)) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the lab's directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the lab's directory: %w", err)
	}
	strange := slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.Name() != stateFile && e.Name() != lockFile
	})
	if _, err := os.Stat(filepath.Join(dir, stateFile)); err != nil && strange {
		return nil, fmt.Errorf("%s has files in it and is no lab's: choose another directory with --dir", dir)
	}
	unlock, err = lock(filepath.Join(dir, lockFile))
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("%s: %w: see mqlift lab status, end it with mqlift lab down, or choose another directory with --dir", dir, ErrRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("locking the lab's directory: %w", err)
	}
	old, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return unlock, nil
	}
	if err == nil && old.Kept {
		unlock()
		return nil, fmt.Errorf("%s holds the files of a lab that were to be kept: remove them with mqlift lab down, or choose another directory with --dir", dir)
	}
	say("clearing away a dead lab")
	if err == nil {
		err = end(ctx, old.ID, time.Second, nil)
	}
	if err == nil {
		err = os.RemoveAll(filepath.Join(dir, hostsDir))
	}
	if err != nil {
		unlock()
		return nil, fmt.Errorf("clearing away a dead lab: %w", err)
	}
	return unlock, nil
}

// up is the order of a lab's start.
func (l *Lab) up(ctx context.Context, id string, o Options, say func(string)) error {
	// First of all: it tells whose the other files are.
	l.state = state{ID: id, PID: os.Getpid(), Begun: time.Now(), Release: o.Release}
	if err := l.state.write(l.dir); err != nil {
		return err
	}
	client, err := newKey(filepath.Join(l.dir, clientKeyFile), "mqlift lab")
	if err != nil {
		return err
	}
	if err := l.openHosts(id, o, client.PublicKey()); err != nil {
		return err
	}
	if err := l.state.write(l.dir); err != nil {
		return err
	}
	for _, h := range l.state.Hosts {
		if err := l.furnish(h, o.LogFileSize); err != nil {
			return err
		}
	}
	text, err := l.state.topology(l.dir, l.user)
	if err == nil {
		err = os.WriteFile(l.Topology(), []byte(text), 0o600)
	}
	if err != nil {
		return fmt.Errorf("writing the topology: %w", err)
	}
	if l.keeper, err = startKeeper(ctx, l.family, id, l.dir); err != nil {
		return err
	}

	master, slave := l.state.Hosts[0], l.state.Hosts[1]
	say("starting two name servers")
	for _, h := range []Host{master, slave} {
		if err := l.startNameServer(ctx, h); err != nil {
			return err
		}
	}
	for _, h := range []Host{master, slave} {
		if err := l.awaitNameServer(ctx, h, say); err != nil {
			return err
		}
	}
	// One after the other: a broker that finds no name server registers only ten seconds later, and a
	// slave that registers before its master learns only then where to replicate from
	// (BrokerController.start, 4.5.2).
	for _, h := range []Host{master, slave} {
		say(fmt.Sprintf("starting the %s on %s", h.Role, h.Name))
		if err := l.startBroker(ctx, h); err != nil {
			return err
		}
		if err := l.awaitBroker(ctx, h, say); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) startNameServer(ctx context.Context, h Host) error {
	_, err := l.Shell(ctx, h.Name, "cd "+h.InstallDir+" && nohup bin/mqnamesrv -c conf/namesrv.conf >logs/namesrv_default.log 2>&1 </dev/null &")
	return err
}

func (l *Lab) startBroker(ctx context.Context, h Host) error {
	_, err := l.Shell(ctx, h.Name, "cd "+h.InstallDir+" && nohup bin/mqbroker -c conf/broker.conf >logs/broker_default.log 2>&1 </dev/null &")
	return err
}

func (l *Lab) awaitNameServer(ctx context.Context, h Host, say func(string)) error {
	return l.await(ctx, h, kindNameServer, "the name server on "+h.Name, say, func(ctx context.Context) bool {
		return l.registered(ctx, h.NameServer) != nil
	})
}

func (l *Lab) awaitBroker(ctx context.Context, h Host, say func(string)) error {
	what := fmt.Sprintf("the %s on %s to be known to both name servers", h.Role, h.Name)
	return l.await(ctx, h, kindBroker, what, say, func(ctx context.Context) bool {
		for _, ns := range l.state.NameServers {
			if id, ok := l.registered(ctx, ns)[h.BrokerAddr()]; !ok || id != int64(h.BrokerID) {
				return false
			}
		}
		return true
	})
}

// openHosts chooses the ports and opens the hosts' SSH servers on them.
func (l *Lab) openHosts(id string, o Options, authorized ssh.PublicKey) error {
	keys := map[string]ssh.Signer{}
	_, err := choosePorts(o.BasePort, func(base int) error {
		s := newState(id, l.dir, o.Release, base, o.OwnAddresses)
		opened := map[string]*sshhost.Host{}
		for _, h := range s.Hosts {
			if keys[h.Name] == nil {
				if err := os.MkdirAll(h.Dir, 0o755); err != nil {
					return fmt.Errorf("creating %s: %w", h.Name, err)
				}
				key, err := newKey(filepath.Join(h.Dir, "ssh_host_ed25519_key"), h.Name)
				if err != nil {
					return err
				}
				keys[h.Name] = key
			}
			host, err := sshhost.Listen(sshhost.Config{
				Name: h.Name, Address: h.SSHAddr(), User: l.user, Authorized: authorized, HostKey: keys[h.Name],
				Home: h.Home(), Env: l.environment(id, h), Start: l.family.start, Wait: l.family.wait,
			})
			if err != nil {
				for _, host := range opened {
					host.Close()
				}
				return err
			}
			opened[h.Name] = host
		}
		l.state, l.hosts = s, opened
		return nil
	})
	if err != nil {
		return err
	}
	var known bytes.Buffer
	for _, h := range l.state.Hosts {
		fmt.Fprintln(&known, knownhosts.Line([]string{h.SSHAddr()}, keys[h.Name].PublicKey()))
	}
	if err := os.WriteFile(filepath.Join(l.dir, knownHostsFile), known.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the hosts' keys: %w", err)
	}
	return nil
}

// environment is what commands on a host find: what sshd gives, and the marker.
func (l *Lab) environment(id string, h Host) []string {
	return []string{
		"PATH=" + l.path,
		"HOME=" + h.Home(),
		"TMPDIR=" + filepath.Join(h.Dir, "tmp"),
		"USER=" + l.user,
		"LOGNAME=" + l.user,
		"SHELL=/bin/sh",
		"LANG=C.UTF-8",
		markerVariable + "=" + id,
		hostVariable + "=" + h.Name,
	}
}

// furnish makes a host's directories, and its installation where something is to run.
func (l *Lab) furnish(h Host, logFileSize int64) error {
	for _, dir := range []string{h.Home(), filepath.Join(h.Dir, "tmp"), filepath.Dir(h.InstallDir)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("creating %s: %w", h.Name, err)
		}
	}
	if h.Role == "" {
		return nil
	}
	if err := LayOut(h.InstallDir, l.jars); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(h.NameServer)
	for name, text := range map[string]string{
		"namesrv.conf": "listenPort=" + port + "\n",
		"broker.conf":  brokerConf(h, l.state.NameServers, logFileSize),
	} {
		if err := os.WriteFile(filepath.Join(h.InstallDir, "conf", name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("configuring %s: %w", h.Name, err)
		}
	}
	return nil
}

// Install puts another release on a host, beside what is there and without a broker.conf, and returns
// its directory, as an operator who unpacks an archive. It may fetch the release first.
func (l *Lab) Install(ctx context.Context, host, release string, say func(string)) (string, error) {
	h, err := l.state.host(host)
	if err != nil {
		return "", err
	}
	if say == nil {
		say = func(string) {}
	}
	jars, err := FetchRelease(ctx, l.cache, release, say)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(h.Dir, "opt", "rocketmq-"+release)
	if _, err := os.Stat(dir); err == nil {
		return "", fmt.Errorf("%s has %s already", host, dir)
	}
	return dir, LayOut(dir, jars)
}

// Shell runs a shell line on a host as its user would, in the home directory, and returns what it
// prints. What it puts into the background with its output redirected stays.
func (l *Lab) Shell(ctx context.Context, host, line string) (string, error) {
	h, err := l.state.host(host)
	if err != nil {
		return "", err
	}
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir, cmd.Env = h.Home(), l.environment(l.state.ID, h)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var out, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &trouble
	cmd.WaitDelay = time.Second
	if err := l.family.start(cmd); err != nil {
		return "", fmt.Errorf("%s: starting a shell: %w", host, err)
	}
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err = l.family.wait(cmd)
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", host, line, err, strings.TrimSpace(trouble.String()))
	}
	return out.String(), nil
}

// await waits until something that was started on a host is there. It says so now and then, and gives
// up with the log's end when the process has ended instead.
func (l *Lab) await(ctx context.Context, h Host, kind, what string, say func(string), there func(context.Context) bool) error {
	const limit = 2 * time.Minute
	begun, said := time.Now(), time.Now().Add(-time.Second) // other waits may just have been silent
	seen := false
	for !there(ctx) {
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
		found, err := processes(l.state.ID)
		if err != nil {
			return err
		}
		running := slices.ContainsFunc(found, func(p Process) bool { return p.Host == h.Name && p.Kind == kind })
		seen = seen || running
		waited := time.Since(begun)
		if !running && (seen || waited > 5*time.Second) {
			return fmt.Errorf("waiting for %s: it ended\n%s", what, lastLines(l.consoleLog(h, kind)))
		}
		if waited > limit {
			return fmt.Errorf("waiting for %s: not there after %s\n%s", what, limit, lastLines(l.consoleLog(h, kind)))
		}
		if time.Since(said) > 2*time.Second {
			said = time.Now()
			say(fmt.Sprintf("waiting for %s (%d s)", what, int(waited.Seconds())))
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

func (l *Lab) consoleLog(h Host, kind string) string {
	if kind == kindBroker {
		return filepath.Join(h.InstallDir, "logs", "broker_default.log")
	}
	return filepath.Join(h.InstallDir, "logs", "namesrv_default.log")
}

// lastLines is the end of a log, with its name, for an error.
func lastLines(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return name + ":\n" + strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// registered is the group as a name server sees it: brokerId by address; nil when it does not answer.
func (l *Lab) registered(ctx context.Context, nameServer string) map[string]int64 {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	info, err := l.client.NameServers([]string{nameServer}).ClusterInfoAt(ctx, nameServer)
	if err != nil {
		return nil
	}
	ids := map[string]int64{}
	for id, addr := range info.Brokers[groupName].Addrs {
		ids[addr] = id
	}
	return ids
}

// Down ends the lab: no new connections, brokers stopped as an operator stops them, then everything
// else. The files go unless keepFiles. Once it has succeeded, further calls do nothing.
func (l *Lab) Down(ctx context.Context, keepFiles bool, say func(string)) error {
	if say == nil {
		say = func(string) {}
	}
	l.down.Lock()
	defer l.down.Unlock()
	if l.over {
		return nil
	}
	if err := l.end(ctx, 20*time.Second, say); err != nil {
		return err
	}
	var err error
	if keepFiles {
		// Only now: a lab that was killed on the way here is a dead one and may be cleared away.
		l.state.Kept = true
		err = l.state.write(l.dir)
	} else {
		err = removeFiles(l.dir)
	}
	if err == nil {
		l.over = true
		l.unlock()
	}
	return err
}

// end ends every process of the lab, brokers within the grace.
func (l *Lab) end(ctx context.Context, grace time.Duration, say func(string)) error {
	for _, host := range l.hosts {
		host.Close()
	}
	if l.state.ID != "" { // else not even the directory was there
		if grace > 0 {
			say("stopping the brokers")
			if err := end(ctx, l.state.ID, grace, func(p Process) bool { return p.Kind == kindBroker }); err != nil {
				return err
			}
			say("stopping the name servers")
		}
		if err := end(ctx, l.state.ID, min(grace, 3*time.Second), nil); err != nil {
			return err
		}
	}
	if l.keeper != nil {
		if err := l.keeper.close(ctx); err != nil {
			return err
		}
	}
	l.client.Close()
	l.stop()
	return nil
}
