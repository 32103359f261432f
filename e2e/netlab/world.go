package netlab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// BastionAddress is where the program itself is, and every command that it starts.
const BastionAddress = "192.168.0.200"

// The bastion's files are on a file system in memory, which covers the machine's own /run.
const (
	runDir  = "/run/netlab"
	tempDir = runDir + "/tmp"
)

const bridge = "br0"

// worldMain is the first process of the bastion's namespaces: it prepares them, starts the program
// itself, and buries whatever loses its parent. With its end the kernel ends everything in there.
func worldMain() {
	if err := makeWorld(); err != nil {
		fatal(fmt.Errorf("preparing the network lab: %w", err))
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	program := again(roleBastion, 0)
	program.Env = append(program.Env, "TMPDIR="+tempDir)
	program.Stdin, program.Stdout, program.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := program.Start(); err != nil {
		fatal(fmt.Errorf("entering the network lab: %w", err))
	}
	go func() {
		for s := range signals {
			syscall.Kill(program.Process.Pid, s.(syscall.Signal))
		}
	}()
	bury(func(pid int, status syscall.WaitStatus) {
		switch {
		case pid != program.Process.Pid:
		case status.Signaled():
			os.Exit(128 + int(status.Signal()))
		default:
			os.Exit(status.ExitStatus())
		}
	})
}

func makeWorld() error {
	// Nothing that is mounted in here is to be seen outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := unix.Mount("netlab", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	if err := os.MkdirAll(tempDir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(tempDir, 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("bastion")); err != nil {
		return fmt.Errorf("naming the bastion: %w", err)
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		// Without forward delay a port is open at once. Of its own accord the bridge would take a port's
		// hardware address, and another one when that goes.
		{"link", "add", bridge, "address", hardware(200), "type", "bridge", "forward_delay", "0", "stp_state", "0", "mcast_snooping", "0"},
		{"addr", "add", BastionAddress + "/24", "dev", bridge},
		{"link", "set", bridge, "up"},
	} {
		if err := tool("ip", args...); err != nil {
			return err
		}
	}
	return nil
}

// hardware is the hardware address of the device with 192.168.0.n: the same again after a boot, as a
// real one's.
func hardware(n int) string { return fmt.Sprintf("02:00:c0:a8:00:%02x", n) }

// bury waits for children for ever, those of dead parents included, and tells of each.
func bury(dead func(pid int, status syscall.WaitStatus)) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			// A process that came in from outside may yet become one.
			time.Sleep(100 * time.Millisecond)
		case err == nil:
			dead(pid, status)
		}
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// tool runs a program of the system; what it prints is in the error.
func tool(name string, args ...string) error {
	path, err := lookTool(name)
	if err != nil {
		return err
	}
	cmd := exec.Command(path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", filepath.Base(name), args, err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}
