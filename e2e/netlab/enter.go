// Package netlab runs the reference case's broker group on hosts that are as real as one machine allows:
// 192.168.0.220, .221 and .222 and a bastion, each a network namespace with an address of its own, a
// process tree of its own and, but for the bastion, disks of its own and an OpenSSH server. Every host
// has the same ports and the same paths. Links can be cut, delayed, limited, and made to lose what goes
// between two addresses or to one port; disks can fill; hosts can be killed and booted again.
//
// It needs Linux and root. Everything is inside namespaces that the program enters when it starts, see
// Enter, and the files are in memory: when the program ends, however it ends, nothing is left of it, and
// nothing in there reaches any network outside.
package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"mqlift/internal/lab"
)

// What a process of the network lab is, when it is started: see Enter.
const (
	roleVariable = "MQLIFT_NETLAB"
	roleWorld    = "world"   // the first process of the bastion's namespaces
	roleBastion  = "bastion" // the program itself, inside
	roleHost     = "host"    // the first process of a host
)

// ErrUnprivileged is returned by Enter where the network lab cannot be: to make namespaces and mounts
// takes Linux and root, and a container's root may not be allowed to.
var ErrUnprivileged = errors.New("the network lab needs root that may make namespaces and mounts")

// tools are the programs that the lab calls, and the packages that hold them.
var tools = [][2]string{
	{"ip", "iproute2"}, {"tc", "iproute2"}, {"mkfs.ext4", "e2fsprogs"}, {"mount", "mount"}, {"fsfreeze", "util-linux"},
	{"nsenter", "util-linux"}, {"ssh-keygen", "openssh-client"}, {"ssh", "openssh-client"}, {"sshd", "openssh-server"},
}

// Enter has to be the first call in the main function, or TestMain, of a program that calls Up. It starts
// the program again, with the same arguments and files, as root of namespaces of its own; in there Enter
// returns nil, and the program is on the bastion. Outside it does not return: it passes signals on, waits,
// and exits with what the program inside exited with. What needs a network is done before: the releases
// are fetched, those of RocketMQ that Up and Install are to find.
//
// It returns ErrUnprivileged where there can be no network lab, and other errors for what is missing and
// can be installed.
func Enter(releases ...string) error {
	switch os.Getenv(roleVariable) {
	case roleWorld:
		worldMain()
	case roleHost:
		hostMain()
	case roleBastion:
		return os.Unsetenv(roleVariable)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: this is user %d", ErrUnprivileged, os.Geteuid())
	}
	if err := findTools(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if _, err := javaBin(ctx); err != nil {
		return err
	}
	for _, release := range releases {
		if _, err := lab.FetchRelease(ctx, "", release, func(s string) { fmt.Fprintln(os.Stderr, s) }); err != nil {
			return err
		}
	}
	stop()
	cmd := again(roleWorld, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS|syscall.CLONE_NEWPID|syscall.CLONE_NEWUTS|syscall.CLONE_NEWIPC)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The signal comes at the end of the thread that started the process.
	runtime.LockOSThread()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// A terminal's Ctrl-C goes to a whole process group, and would come twice.
	cmd.SysProcAttr.Setpgid = true
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if err := cmd.Start(); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		return fmt.Errorf("%w: %w", ErrUnprivileged, err)
	} else if err != nil {
		return fmt.Errorf("entering the network lab: %w", err)
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	cmd.Wait()
	code := cmd.ProcessState.ExitCode()
	if code < 0 { // by a signal
		code = 128 + int(cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
	}
	os.Exit(code)
	return nil
}

// Entered tells whether this process was started by Enter or by the lab, and has to call Enter whatever its
// arguments say: a host's first process has none of the program's.
func Entered() bool { return os.Getenv(roleVariable) != "" }

// again is this program once more, in a role and in new namespaces.
func again(role string, namespaces uintptr) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	return cmd
}

// findTools finds all programs that are missing at once.
func findTools() error {
	var missing, packages []string
	for _, tool := range tools {
		if _, err := lookTool(tool[0]); err != nil {
			missing, packages = append(missing, tool[0]), append(packages, tool[1])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("the network lab needs %s: on Debian: apt-get install --no-install-recommends %s", strings.Join(missing, ", "), strings.Join(packages, " "))
}

// lookTool finds a program, also where a user's PATH does not look.
func lookTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", name)
}

// javaBin is the folder of the java that hosts run.
func javaBin(ctx context.Context) (string, error) {
	bin, err := lab.FindJava(ctx)
	if err != nil {
		return "", err
	}
	for _, dir := range ownDirs {
		if strings.HasPrefix(bin, dir+"/") {
			return "", fmt.Errorf("java is in %s, and the network lab's hosts have a %s of their own: install one elsewhere (Debian: apt install openjdk-17-jre-headless) and unset JAVA_HOME", bin, dir)
		}
	}
	return bin, nil
}
