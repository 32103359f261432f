package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mqlift/internal/hostinfo"
)

// Hello is what an agent says of itself.
type Hello struct {
	SHA256 string    `json:"sha256"` // of its binary
	Clock  time.Time `json:"clock"`
}

func hello(context.Context, struct{}, *session) (Hello, error) {
	exe, err := os.Executable()
	if err != nil {
		return Hello{}, err
	}
	sum, err := sha256File(context.Background(), exe)
	return Hello{SHA256: sum, Clock: time.Now()}, err
}

// Skew estimates how far the host's clock is ahead of this machine's (negative: behind), and by how
// much that may be off.
func (a *Agent) Skew(ctx context.Context) (ahead, uncertain time.Duration, err error) {
	before := time.Now()
	h, err := call[Hello](ctx, a, "hello", struct{}{}, nil)
	if err != nil {
		return 0, 0, err
	}
	trip := time.Since(before)
	return h.Clock.Sub(before.Add(trip / 2)), trip / 2, nil
}

// FactsRequest says what to look at beside the host itself. Everything may be left empty.
type FactsRequest struct {
	// InstallDir is RocketMQ's folder: its release is read from the jars in lib, and JVMs are looked
	// for and asked for their versions.
	InstallDir string `json:"installDir,omitempty"`
	// BrokerConf is read if it exists. Processes that were started with that file, perhaps through
	// links, are reported with this name of it.
	BrokerConf string `json:"brokerConf,omitempty"`
	// StoreRoots are storePathRootDir folders.
	StoreRoots []string `json:"storeRoots,omitempty"`
	// Paths are looked at with their file system and the size of the tree below.
	Paths []string `json:"paths,omitempty"`
	// List are directories to list, not recursively.
	List []string `json:"list,omitempty"`
	// Ports are TCP ports to look at. Listeners are reported in any case.
	Ports []int `json:"ports,omitempty"`
	// Env and Login make the environment in which Java is looked for: as in StartRequest.
	Env   map[string]string `json:"env,omitempty"`
	Login bool              `json:"login,omitempty"`
}

// Facts is what is true on a host. What could not be read is in Problems, never silently missing.
type Facts struct {
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	Kernel   string `json:"kernel"`
	Hostname string `json:"hostname"`
	User     string `json:"user"` // that the agent runs as
	UID      int    `json:"uid"`
	Home     string `json:"home"`
	// Clock is the host's time when the facts were ready. See Agent.Skew for comparing clocks.
	Clock  time.Time       `json:"clock"`
	CPUs   int             `json:"cpus"`
	Memory hostinfo.Memory `json:"memory"`
	// MaxMapCount is vm.max_map_count, OpenFiles the limit for processes that the agent starts;
	// 0: unknown. RocketMQ maps every store file.
	MaxMapCount int64 `json:"maxMapCount"`
	OpenFiles   int64 `json:"openFiles"`

	// Java are the JVMs that RocketMQ's scripts may come upon; see JavaFor. Empty without InstallDir.
	Java []Java `json:"java,omitempty"`

	Install     *Install   `json:"install,omitempty"`
	BrokerConf  *File      `json:"brokerConf,omitempty"` // nil: there is none
	Stores      []Store    `json:"stores,omitempty"`
	Paths       []Path     `json:"paths,omitempty"`
	Lists       []Listing  `json:"lists,omitempty"`
	Ports       []Port     `json:"ports,omitempty"`
	NameServers []RocketMQ `json:"nameServers,omitempty"`
	Brokers     []RocketMQ `json:"brokers,omitempty"`
	// Listeners are all listening TCP sockets.
	Listeners []hostinfo.Listener `json:"listeners,omitempty"`

	Problems []string `json:"problems,omitempty"`
}

// Java is a JVM found on a host.
type Java struct {
	Path    string  `json:"path"`
	Version string  `json:"version"` // "1.8.0_392", "17.0.15"
	Found   JavaWay `json:"found"`
}

// JavaWay is how a start script comes upon a JVM.
type JavaWay string

const (
	JavaHome     JavaWay = "$JAVA_HOME"
	JavaByJavac  JavaWay = "javac in $PATH" // bin/runbroker.sh from 5.1.0 on
	JavaPath     JavaWay = "java in $PATH"  // no script of RocketMQ, but operators' own ones
	JavaUserHome JavaWay = "$HOME/jdk/java" // fallback of all scripts
	JavaUsr      JavaWay = "/usr/java"      // fallback of all scripts
)

// Major is 8 for "1.8.0_392" and 17 for "17.0.15"; 0 when unknown.
func (j Java) Major() int {
	var a, b int
	n, _ := fmt.Sscanf(j.Version, "%d.%d", &a, &b)
	if n == 2 && a == 1 {
		return b
	}
	return a
}

// JavaFor returns the JVM that the release's own scripts take: up to 5.0.0 $JAVA_HOME, from 5.1.0
// on the one beside javac, whatever $JAVA_HOME says; then two fixed places (bin/runbroker.sh of
// 4.5.2, 4.9.4, 5.3.3).
func (f *Facts) JavaFor(release string) (Java, bool) {
	ways := []JavaWay{JavaHome, JavaUserHome, JavaUsr}
	if !releaseBefore(release, 5, 1) {
		ways[0] = JavaByJavac
	}
	for _, way := range ways {
		for _, j := range f.Java {
			if j.Found == way {
				return j, true
			}
		}
	}
	return Java{}, false
}

func releaseBefore(release string, major, minor int) bool {
	var a, b int
	fmt.Sscanf(release, "%d.%d", &a, &b)
	return a < major || a == major && b < minor
}

// Install is a RocketMQ folder.
type Install struct {
	Dir    string `json:"dir"`
	Exists bool   `json:"exists"`
	// Release and DLedger are the versions of lib/rocketmq-broker-*.jar and lib/dledger-*.jar;
	// empty when there is none, or more than one.
	Release string `json:"release,omitempty"`
	DLedger string `json:"dledger,omitempty"`
}

// Store is a store's root folder.
type Store struct {
	Root   string `json:"root"`
	Exists bool   `json:"exists"`
	// Abort: the file that a broker makes at start and removes at a clean stop is there.
	Abort bool `json:"abort"`
	// LockedBy is the process that has the store open for writing, 0 for none.
	LockedBy int `json:"lockedBy"`
	// Ledgers are the dledger-* folders, which a new group's first start must not find. Those that mqlift
	// itself has moved aside are none.
	Ledgers []Ledger `json:"ledgers,omitempty"`
}

// Path is a path and the file system that it is on, or would be on.
type Path struct {
	Path   string      `json:"path"`
	Exists bool        `json:"exists"`
	IsDir  bool        `json:"isDir"`
	Mode   fs.FileMode `json:"mode"`
	Owner
	// Nearest is the path, or the nearest folder above that exists: Filesystem is that one's, and
	// Writable says whether this user may write to it.
	Nearest    string              `json:"nearest"`
	Writable   bool                `json:"writable"`
	Filesystem hostinfo.Filesystem `json:"filesystem"`
	Size       hostinfo.TreeSize   `json:"size"`
	Problem    string              `json:"problem,omitempty"`
}

// Owner is whose a file is.
type Owner struct {
	UID   int    `json:"uid"`
	GID   int    `json:"gid"`
	User  string `json:"user"`
	Group string `json:"group"`
}

// Listing is a directory's entries.
type Listing struct {
	Dir     string  `json:"dir"`
	Exists  bool    `json:"exists"`
	Entries []Entry `json:"entries,omitempty"`
}

// Port is a TCP port of a host.
type Port struct {
	Port int `json:"port"`
	// Listeners are the sockets on it, with their processes.
	Listeners []hostinfo.Listener `json:"listeners,omitempty"`
	// Free: a server could take the port on all addresses now; otherwise Problem says why not.
	Free    bool   `json:"free"`
	Problem string `json:"problem,omitempty"`
	// Ephemeral: outgoing connections may be given this port, so that a server that is not always
	// up may find it taken.
	Ephemeral bool `json:"ephemeral"`
}

// Facts looks at the host. It changes nothing.
func (a *Agent) Facts(ctx context.Context, r FactsRequest) (*Facts, error) {
	return call[*Facts](ctx, a, "facts", r, nil)
}

func facts(ctx context.Context, r FactsRequest, _ *session) (*Facts, error) {
	f := &Facts{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), UID: os.Geteuid()}
	problem := func(what string, err error) {
		if err != nil {
			f.Problems = append(f.Problems, what+": "+err.Error())
		}
	}
	var err error
	f.User = hostinfo.UserName(f.UID)
	f.Hostname, err = os.Hostname()
	problem("host name", err)
	f.Home, err = os.UserHomeDir()
	problem("home directory", err)
	f.Kernel = firstWord("/proc/sys/kernel/osrelease")
	f.MaxMapCount, _ = strconv.ParseInt(firstWord("/proc/sys/vm/max_map_count"), 10, 64)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		f.OpenFiles = int64(min(limit.Max, 1<<62)) // the soft limit is raised by the JVM itself
	}
	f.Memory, err = hostinfo.ReadMemory()
	problem("memory", err)

	if r.InstallDir != "" {
		i := installOf(r.InstallDir)
		f.Install = &i
		env, err := environment(ctx, r.Env, r.Login)
		problem("environment of a login shell", err)
		f.Java = findJava(ctx, env)
	}
	if r.BrokerConf != "" {
		conf, err := readFile(r.BrokerConf)
		if err == nil {
			f.BrokerConf = conf
		} else if !errors.Is(err, fs.ErrNotExist) {
			problem("broker configuration", err)
		}
	}
	for _, root := range r.StoreRoots {
		s, err := storeOf(root)
		problem("store root", err)
		f.Stores = append(f.Stores, s)
	}
	for _, path := range r.Paths {
		p, err := pathOf(ctx, path)
		if err != nil {
			return nil, err
		}
		f.Paths = append(f.Paths, p)
	}
	for _, dir := range r.List {
		l := Listing{Dir: dir, Exists: true}
		l.Entries, err = listTree(ctx, ListRequest{Dir: dir, Depth: 1}, nil)
		if errors.Is(err, fs.ErrNotExist) {
			l.Exists, err = false, nil
		}
		problem("listing", err)
		f.Lists = append(f.Lists, l)
	}

	f.Listeners, err = hostinfo.Listeners()
	problem("listening sockets", err)
	for _, port := range r.Ports {
		p := portOf(port, f.Listeners)
		for end := time.Now().Add(settle); !p.Free && heldByAgent(p) && time.Now().Before(end) && ctx.Err() == nil; {
			time.Sleep(settle / 30)
			if l, err := hostinfo.Listeners(); err == nil {
				f.Listeners = l
			}
			p = portOf(port, f.Listeners)
		}
		f.Ports = append(f.Ports, p)
	}
	processes, err := hostinfo.Processes()
	problem("processes", err)
	for _, p := range rocketMQProcesses(processes) {
		if samePath(p.Conf, r.BrokerConf) {
			p.Conf = r.BrokerConf
		}
		if p.Kind == NameServer {
			f.NameServers = append(f.NameServers, p)
		} else {
			f.Brokers = append(f.Brokers, p)
		}
	}
	f.Clock = time.Now()
	return f, ctx.Err()
}

func firstWord(path string) string {
	data, _ := os.ReadFile(path)
	word, _, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	return word
}

func installOf(dir string) Install {
	i := Install{Dir: dir}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return i
	}
	i.Exists = true
	i.Release = jarVersion(dir, "rocketmq-broker")
	i.DLedger = jarVersion(dir, "dledger")
	return i
}

func jarVersion(dir, name string) string {
	entries, err := os.ReadDir(filepath.Join(dir, "lib"))
	if err != nil {
		return ""
	}
	jar := regexp.MustCompile("^" + name + `-(\d[\w.]*(?:-\w+)*)\.jar$`)
	version := ""
	for _, e := range entries {
		if m := jar.FindStringSubmatch(e.Name()); m != nil {
			if version != "" {
				return ""
			}
			version = m[1]
		}
	}
	return version
}

func storeOf(root string) (Store, error) {
	s := Store{Root: root}
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.Exists = true
	for _, e := range entries {
		switch {
		case e.Name() == "abort":
			s.Abort = true
		case e.IsDir() && strings.HasPrefix(e.Name(), "dledger-") && !strings.Contains(e.Name(), ".mqlift-"):
			l, err := readLedger(filepath.Join(root, e.Name()))
			if err != nil {
				return s, err
			}
			s.Ledgers = append(s.Ledgers, l)
		}
	}
	s.LockedBy, err = hostinfo.LockHolder(filepath.Join(root, "lock"))
	return s, err
}

// pathOf returns an error only for the end of the context.
func pathOf(ctx context.Context, path string) (Path, error) {
	p := Path{Path: path, Nearest: filepath.Clean(path)}
	if !filepath.IsAbs(path) {
		p.Problem = "the path is not absolute"
		return p, nil
	}
	for {
		st, err := os.Stat(p.Nearest)
		if err == nil {
			if p.Nearest == filepath.Clean(path) {
				p.Exists, p.IsDir, p.Mode = true, st.IsDir(), st.Mode()
				p.Owner = ownerOf(st)
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || p.Nearest == "/" {
			p.Problem = err.Error()
			return p, nil
		}
		p.Nearest = filepath.Dir(p.Nearest)
	}
	p.Writable = unix.Faccessat(unix.AT_FDCWD, p.Nearest, unix.W_OK, unix.AT_EACCESS) == nil
	var err error
	if p.Filesystem, err = hostinfo.FilesystemOf(p.Nearest); err != nil {
		p.Problem = err.Error()
		return p, nil
	}
	if p.Exists {
		// A link is followed at the root, as a broker that opens the path does.
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			p.Size, err = hostinfo.SizeOf(ctx, real)
		}
		if err != nil {
			p.Problem = err.Error()
		}
	}
	return p, ctx.Err()
}

func portOf(port int, all []hostinfo.Listener) Port {
	p := Port{Port: port, Free: true}
	for _, l := range all {
		if int(l.Address.Port()) == port {
			p.Listeners = append(p.Listeners, l)
		}
	}
	if err := hostinfo.CanBind(port); err != nil {
		p.Free, p.Problem = false, err.Error()
	}
	first, last := hostinfo.EphemeralPorts()
	p.Ephemeral = port >= first && port <= last
	return p
}

// settle is for how long a port may be held by an agent, as by another run's that sees which hosts reach one
// another, before it is called taken.
const settle = 10 * time.Second

func heldByAgent(p Port) bool {
	for _, l := range p.Listeners {
		if of, err := hostinfo.ReadProcess(l.PID); err == nil && len(of.Argv) == 3 && of.Argv[1] == "agent" {
			return true
		}
	}
	return false
}

// findJava looks where start scripts look, in that environment, and asks each JVM for its version.
func findJava(ctx context.Context, env []string) []Java {
	var places []Java
	if home := valueOf(env, "JAVA_HOME"); home != "" {
		places = append(places, Java{Path: filepath.Join(home, "bin/java"), Found: JavaHome})
	}
	search := valueOf(env, "PATH")
	if javac := lookPath("javac", search); javac != "" {
		if real, err := filepath.EvalSymlinks(javac); err == nil {
			places = append(places, Java{Path: filepath.Join(filepath.Dir(real), "java"), Found: JavaByJavac})
		}
	}
	if java := lookPath("java", search); java != "" {
		places = append(places, Java{Path: java, Found: JavaPath})
	}
	if home := valueOf(env, "HOME"); home != "" {
		places = append(places, Java{Path: filepath.Join(home, "jdk/java/bin/java"), Found: JavaUserHome})
	}
	places = append(places, Java{Path: "/usr/java/bin/java", Found: JavaUsr})

	var found []Java
	versions := map[string]string{}
	for _, j := range places {
		real, err := filepath.EvalSymlinks(j.Path)
		if err != nil {
			continue
		}
		version, asked := versions[real]
		if !asked {
			version = javaVersion(ctx, j.Path, env)
			versions[real] = version
		}
		j.Version = version
		found = append(found, j)
	}
	return found
}

func javaVersion(ctx context.Context, java string, env []string) string {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, java, "-version")
	cmd.Env, cmd.WaitDelay = env, time.Second
	out, _ := cmd.CombinedOutput()
	if m := regexp.MustCompile(`version "([^"]+)"`).FindSubmatch(out); m != nil {
		return string(m[1])
	}
	return ""
}

// lookPath is exec.LookPath for another PATH than this process's own.
func lookPath(name, path string) string {
	for _, dir := range filepath.SplitList(path) {
		full := filepath.Join(dir, name)
		if !filepath.IsAbs(full) {
			continue
		}
		if st, err := os.Stat(full); err == nil && st.Mode().IsRegular() && unix.Access(full, unix.X_OK) == nil {
			return full
		}
	}
	return ""
}

func valueOf(env []string, name string) string {
	value := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}

// environment is that of a command line of the operator: this process's, which is what sshd gives
// to a command, or that of a login shell, with env on top.
func environment(ctx context.Context, env map[string]string, login bool) ([]string, error) {
	base := os.Environ()
	var err error
	if login {
		var fromShell []string
		if fromShell, err = loginEnvironment(ctx); err == nil {
			base = fromShell
		}
	}
	for name, value := range env {
		base = append(base, name+"="+value)
	}
	return base, err
}

// loginEnvironment asks the user's login shell for the environment after its profile files: the
// place where JAVA_HOME is usually set, and which a command over SSH does not get to see.
func loginEnvironment(ctx context.Context) ([]string, error) {
	shell := os.Getenv("SHELL")
	if u, err := user.Current(); shell == "" && err == nil {
		shell = shellOf(u.Username)
	}
	if shell == "" || strings.HasSuffix(shell, "nologin") || strings.HasSuffix(shell, "/false") {
		shell = "/bin/sh"
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	// The path needs no quotes in any shell but for a parent directory with strange characters.
	cmd := exec.CommandContext(ctx, shell, "-lc", "'"+strings.ReplaceAll(exe, "'", `'\''`)+"' agent environment </dev/null")
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	answer := &answer{}
	cmd.Stdout = answer
	runErr := cmd.Run()
	var env []string
	if err := answer.decide(shell, "environment", runErr, &env); err != nil {
		return nil, fmt.Errorf("%w %s", err, strings.TrimSpace(stderr.String()))
	}
	return env, nil
}

func printEnvironment(context.Context, struct{}, *session) ([]string, error) {
	return os.Environ(), nil
}

// shellOf reads the user's shell from /etc/passwd; empty when it is not there.
func shellOf(name string) string {
	data, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) == 7 && f[0] == name {
			return f[6]
		}
	}
	return ""
}
