package netlab

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The operator's account on the hosts; its number is only to be nobody else's.
const (
	User    = "rocketmq"
	userID  = 10911
	userDir = "/home/" + User
)

// ownDirs are the directories that a host has on a disk of its own. All else is the machine's, and
// cannot be written to.
var ownDirs = []string{"/opt", "/home", "/root", "/tmp", "/etc/ssh"}

// ownFiles are the files of /etc that a host has on its disk.
var ownFiles = []string{"/etc/passwd", "/etc/group", "/etc/hosts"}

// boot is what a host's first process is told.
type boot struct {
	Name, Address string
	Disk          string // where its disk is mounted on the bastion
	SSHD          string
}

// hostMain is the first process of a host: it makes the host out of the namespaces that it is in, starts
// the SSH server, and buries the dead. What it says at the end of the preparation is on stdout. Its own
// end is the host's: the kernel ends everything in it.
func hostMain() {
	var b boot
	if err := json.NewDecoder(os.Stdin).Decode(&b); err != nil { // once the link is there
		fatal(fmt.Errorf("a host of the network lab is not told what it is: %w", err))
	}
	if err := b.prepare(); err != nil {
		fatal(fmt.Errorf("booting %s: %w", b.Name, err))
	}
	sshd := exec.Command(b.SSHD, "-D", "-e", "-f", "/etc/ssh/sshd_config")
	sshd.Stderr, sshd.Dir = os.Stderr, "/"
	sshd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	if err := sshd.Start(); err != nil {
		fatal(fmt.Errorf("booting %s: %w", b.Name, err))
	}
	io.WriteString(os.Stdout, "up\n")
	os.Stdout.Close()
	bury(func(pid int, status syscall.WaitStatus) {
		if pid == sshd.Process.Pid {
			fmt.Fprintf(os.Stderr, "%s: the SSH server has ended: status %d\n", b.Name, status)
		}
	})
}

func (b boot) prepare() error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", b.Address + "/24", "dev", nic},
		{"link", "set", nic, "up"},
	} {
		if err := tool("ip", args...); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(b.Name)); err != nil {
		return fmt.Errorf("naming it: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	// For this namespace alone.
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("protecting the machine's files: %w", err)
	}
	for _, path := range append(append([]string{}, ownDirs...), ownFiles...) {
		if err := unix.Mount(filepath.Join(b.Disk, path), path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting its disk at %s: %w", path, err)
		}
	}
	// The other hosts' disks, too, were in there.
	if err := unix.Unmount("/run", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the bastion's files: %w", err)
	}
	for dir, mode := range map[string]string{"/run": "0755", "/dev/shm": "1777", "/var/log": "0755", "/var/tmp": "1777"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64m,mode="+mode); err != nil {
			return fmt.Errorf("mounting %s: %w", dir, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	// No outgoing connection may take a broker's port while the broker is not there, as check advises.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_reserved_ports", []byte("40911"), 0); err != nil {
		return fmt.Errorf("reserving ports: %w", err)
	}
	return os.Mkdir("/run/sshd", 0o755) // where sshd shuts itself in
}

// furnish puts on a fresh disk what every host has: accounts, and the SSH server's keys and settings.
// javaBin is where java is.
func furnish(disk, name, address, javaBin, authorizedKey string) error {
	for _, dir := range append([]string{filepath.Join(userDir, ".ssh")}, ownDirs...) {
		if err := os.MkdirAll(filepath.Join(disk, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(disk, "tmp"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(disk, "root"), 0o700); err != nil {
		return err
	}
	files := map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\n" +
			"sshd:x:74:65534::/run/sshd:/usr/sbin/nologin\n" +
			fmt.Sprintf("%s:*:%d:%d::%s:/bin/bash\n", User, userID, userID, userDir) +
			"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"/etc/group": fmt.Sprintf("root:x:0:\ntty:x:5:\n%s:x:%d:\nnogroup:x:65534:\n", User, userID),
		"/etc/hosts": "127.0.0.1 localhost\n" + address + " " + name + "\n",
		"/etc/ssh/sshd_config": strings.Join([]string{
			"ListenAddress " + address,
			"HostKey /etc/ssh/ssh_host_ed25519_key",
			"AuthenticationMethods publickey",
			"PasswordAuthentication no",
			"KbdInteractiveAuthentication no",
			"UsePAM no",
			"PrintMotd no",
			"PidFile none",
			"Subsystem sftp internal-sftp",
			"SetEnv PATH=" + javaBin + ":/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
			"",
		}, "\n"),
		filepath.Join(userDir, ".ssh/authorized_keys"): authorizedKey,
	}
	for path, text := range files {
		if err := os.WriteFile(filepath.Join(disk, path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return giveToUser(filepath.Join(disk, userDir))
}

// giveToUser makes a directory and all in it the operator's.
func giveToUser(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, userID, userID)
	})
}
