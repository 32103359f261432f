package netlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"mqlift/e2e/wait"
	"mqlift/internal/lab"
	"mqlift/internal/rocketmq"
)

// The reference case.
const (
	Cluster    = "DefaultCluster"
	Group      = "broker-a"
	InstallDir = "/opt/application/rocketmq-all-4.5.2-bin-release"

	// DefaultRelease is Options.Release when nobody says otherwise. InstallDir is the same for every
	// release that a lab begins with.
	DefaultRelease = "4.5.2"

	listenPort     = 10911
	nameServerPort = 9876
)

// DefaultDiskSize is the default of Options.DiskSize, in bytes. Only what is written takes memory.
const DefaultDiskSize = 4 << 30

// Options say which lab to start. The zero value is the reference case.
type Options struct {
	// Release of RocketMQ on the hosts; it has to be among those that Enter was given.
	Release string
	// LogFileSize is mappedFileSizeCommitLog, in bytes; 0 leaves it out: RocketMQ's own is 1 GiB.
	LogFileSize int64
	// DiskSize is the size of each host's disk, in bytes; 0 is DefaultDiskSize.
	DiskSize int64
	// Empty leaves all name servers and brokers to be started by the caller.
	Empty bool
}

// Lab is a running lab. Its methods may be called from several goroutines at once, but not Snapshot, Reset
// and Down together with any other.
type Lab struct {
	dir     string
	options Options
	java    string
	client  *rocketmq.Client

	mu    sync.Mutex
	hosts []*host
}

// Host is one host of a lab.
type Host struct {
	Name    string // its address, as in the reference case
	Address string
	// Role and BrokerID are as in broker.conf, ASYNC_MASTER with 0 or SLAVE with 1; Role is empty on
	// the host that has nothing yet.
	Role     string
	BrokerID int
	// NameServer is the address of the host's name server, empty where there is none.
	NameServer string
	// Disk is the folder on the bastion below which the host's own files are, also while it is down:
	// see Path.
	Disk string
}

// BrokerAddr is the IP:port of the host's broker.
func (h Host) BrokerAddr() string { return fmt.Sprintf("%s:%d", h.Address, listenPort) }

// Path is where a file of the host is found on the bastion: path is absolute, and on the host's disk,
// that is below /opt, /home, /root or /tmp.
func (h Host) Path(path string) string { return filepath.Join(h.Disk, path) }

// Logs is the folder on the bastion that has the broker's logs.
func (h Host) Logs() string { return h.Path(userDir + "/logs/rocketmqlogs") }

// host is a Host with what keeps it going.
type host struct {
	Host
	image string
	index int
	init  *exec.Cmd // nil when the host is down
	link  Link
	pump  *pump
}

// Up starts a lab and returns when the name servers answer and both know the master and the slave. say
// gets a line for whatever takes time. ctx bounds the start only. Down ends the lab, and so does the end
// of the program. There can be one lab at a time, since the addresses are the case's.
func Up(ctx context.Context, o Options, say func(string)) (_ *Lab, err error) {
	if say == nil {
		say = func(string) {}
	}
	if o.Release == "" {
		o.Release = DefaultRelease
	}
	if o.DiskSize == 0 {
		o.DiskSize = DefaultDiskSize
	}
	l := &Lab{options: o, client: rocketmq.NewClient(rocketmq.Options{DialTimeout: time.Second, RequestTimeout: 2 * time.Second})}
	if l.java, err = javaBin(ctx); err != nil {
		return nil, err
	}
	if l.dir, err = os.MkdirTemp(runDir, "lab-"); err != nil {
		return nil, fmt.Errorf("starting a network lab: %w (has Enter been called?)", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Down())
		}
	}()
	if err := l.makeOperator(); err != nil {
		return nil, err
	}
	for i := range 3 {
		address := fmt.Sprintf("192.168.0.%d", 220+i)
		h := &host{index: i, Host: Host{Name: address, Address: address}}
		switch i {
		case 0:
			h.Role = "ASYNC_MASTER"
		case 1:
			h.Role, h.BrokerID = "SLAVE", 1
		}
		if h.Role != "" {
			h.NameServer = fmt.Sprintf("%s:%d", address, nameServerPort)
		}
		h.image, h.Disk = filepath.Join(l.dir, address+".img"), filepath.Join(l.dir, address)
		l.hosts = append(l.hosts, h)
	}
	for _, h := range l.hosts {
		say("making the disk of " + h.Name)
		if err := l.makeDisk(ctx, h, say); err != nil {
			return nil, fmt.Errorf("making the disk of %s: %w", h.Name, err)
		}
	}
	if err := l.writeOperator(); err != nil {
		return nil, err
	}
	for _, h := range l.hosts {
		if err := l.Boot(ctx, h.Name); err != nil {
			return nil, err
		}
	}
	if !o.Empty {
		return l, l.StartGroup(ctx, say)
	}
	return l, nil
}

// makeDisk makes a host's disk with everything that the case has on it.
func (l *Lab) makeDisk(ctx context.Context, h *host, say func(string)) error {
	if err := h.format(l.options.DiskSize); err != nil {
		return err
	}
	key, err := os.ReadFile(l.keyFile() + ".pub")
	if err != nil {
		return err
	}
	if err := furnish(h.Disk, h.Name, h.Address, l.java, string(key)); err != nil {
		return err
	}
	if err := tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", h.Name, "-f", h.Path("/etc/ssh/ssh_host_ed25519_key")); err != nil {
		return err
	}
	if err := os.MkdirAll(h.Path("/opt/application"), 0o755); err != nil {
		return err
	}
	if h.Role != "" {
		jars, err := lab.FetchRelease(ctx, "", l.options.Release, say)
		if err != nil {
			return err
		}
		if err := lab.LayOut(h.Path(InstallDir), jars); err != nil {
			return err
		}
		if err := os.WriteFile(h.Path(InstallDir+"/conf/broker.conf"), []byte(l.brokerConf(h.Host)), 0o644); err != nil {
			return err
		}
	}
	return giveToUser(h.Path("/opt/application"))
}

// brokerConf is a host's broker.conf as the reference case has it.
func (l *Lab) brokerConf(h Host) string {
	lines := []string{
		"brokerClusterName=" + Cluster,
		"brokerName=" + Group,
		fmt.Sprintf("brokerId=%d", h.BrokerID),
		"deleteWhen=04",
		"fileReservedTime=48",
		"brokerRole=" + h.Role,
		"flushDiskType=ASYNC_FLUSH",
		"brokerIP1=" + h.Address,
		"brokerIP2=" + h.Address,
		"namesrvAddr=" + strings.Join(l.NameServers(), ";"),
		"storePathRootDir=" + InstallDir + "/store",
		"storePathCommitLog=" + InstallDir + "/store/commitlog",
		"autoCreateTopicEnable=false",
		"autoCreateSubscriptionGroup=false",
	}
	if l.options.LogFileSize != 0 {
		lines = append(lines, fmt.Sprintf("mappedFileSizeCommitLog=%d", l.options.LogFileSize))
	}
	return strings.Join(lines, "\n") + "\n"
}

// Install puts another release on a host, beside what is there and without a broker.conf, as an operator
// who unpacks an archive, and returns its directory on the host. The release has to be among those that
// Enter was given.
func (l *Lab) Install(ctx context.Context, name, release string) (string, error) {
	h, err := l.host(name)
	if err != nil {
		return "", err
	}
	jars, err := lab.FetchRelease(ctx, "", release, func(string) {})
	if err != nil {
		return "", err
	}
	dir := "/opt/application/rocketmq-all-" + release + "-bin-release"
	if _, err := os.Stat(h.Path(dir)); err == nil {
		return "", fmt.Errorf("%s has %s already", name, dir)
	}
	if err := lab.LayOut(h.Path(dir), jars); err != nil {
		return "", err
	}
	return dir, giveToUser(h.Path(dir))
}

// Hosts are the lab's hosts: 192.168.0.220 (master), .221 (slave), .222 (nothing yet).
func (l *Lab) Hosts() []Host {
	var all []Host
	for _, h := range l.hosts {
		all = append(all, h.Host)
	}
	return all
}

// Host finds a host by its name.
func (l *Lab) Host(name string) (Host, error) {
	h, err := l.host(name)
	if err != nil {
		return Host{}, err
	}
	return h.Host, nil
}

func (l *Lab) host(name string) (*host, error) {
	var names []string
	for _, h := range l.hosts {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return nil, fmt.Errorf("the network lab has no host %q; it has %s", name, strings.Join(names, ", "))
}

// NameServers are the addresses of the name servers, IP:port.
func (l *Lab) NameServers() []string {
	var all []string
	for _, h := range l.hosts {
		if h.NameServer != "" {
			all = append(all, h.NameServer)
		}
	}
	return all
}

// Boot starts a host that is down, with the disk and the link that it had: see SetLink. It returns when
// its SSH server is there. Nothing else runs on it then.
func (l *Lab) Boot(ctx context.Context, name string) error {
	h, err := l.host(name)
	if err != nil {
		return err
	}
	hidden, err := l.boot(h)
	if err != nil {
		return fmt.Errorf("booting %s: %w", name, err)
	}
	if hidden { // nobody can see whether it is there
		return nil
	}
	return wait.Until(ctx, 30*time.Second, "the SSH server of "+name, func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(h.Address, strconv.Itoa(SSHPort)))
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// boot starts a host, and says whether its link hides it from the bastion.
func (l *Lab) boot(h *host) (hidden bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.init != nil {
		return false, errors.New("it is up already")
	}
	sshd, err := lookTool("sshd")
	if err != nil {
		return false, err
	}
	console, err := os.OpenFile(h.Disk+".console", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return false, err
	}
	defer console.Close()
	cmd := again(roleHost, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS|syscall.CLONE_NEWPID|syscall.CLONE_NEWUTS|syscall.CLONE_NEWIPC)
	cmd.Args = []string{"init"} // this program's arguments are nothing that a host knows
	cmd.Stderr = console
	cmd.SysProcAttr.Setsid = true
	orders, err := cmd.StdinPipe()
	if err != nil {
		return false, err
	}
	up, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	h.init = cmd
	fail := func(err error) (bool, error) {
		err = errors.Join(err, h.kill())
		said, _ := os.ReadFile(console.Name())
		return false, fmt.Errorf("%w\n%s", err, said)
	}
	if err := h.plug(); err != nil {
		return fail(err)
	}
	if err := json.NewEncoder(orders).Encode(boot{Name: fmt.Sprintf("host-%c", 'a'+h.index), Address: h.Address, Disk: h.Disk, SSHD: sshd}); err != nil {
		return fail(err)
	}
	if word, err := io.ReadAll(up); err != nil || string(word) != "up\n" {
		return fail(errors.Join(errors.New("it did not come up"), err))
	}
	return h.link.hides(), nil
}

// Kill ends a host as when its power goes: everything that runs on it is gone when Kill returns. What its
// programs have written is on the disk, though, flushed or not.
func (l *Lab) Kill(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.host(name)
	if err != nil {
		return err
	}
	if h.init == nil {
		return fmt.Errorf("%s is down already", name)
	}
	return h.kill()
}

// kill ends the host's first process, and with it the kernel all others, before it can be waited for.
func (h *host) kill() error {
	if h.init == nil {
		return nil
	}
	err := h.init.Process.Signal(syscall.SIGKILL)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	h.init.Wait()
	h.init = nil
	return h.unplug()
}

// IsUp says whether a host is up.
func (l *Lab) IsUp(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.host(name)
	return err == nil && h.init != nil
}

// Down ends the lab at once: hosts, links and disks. Once it has succeeded, further calls do nothing.
func (l *Lab) Down() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.kill(), h.unmount())
	}
	errs = append(errs, l.client.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ending the network lab: %w", err)
	}
	return os.RemoveAll(l.dir)
}
