package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mqlift/internal/remote"
)

const sshdPath = "/usr/sbin/sshd"

// operator is somebody with a key, and with hosts that have OpenSSH's server: all on loopback, each with a
// port and an environment of its own.
type operator struct {
	dir   string
	user  string
	ports map[string]int // by host
	ended []<-chan error
	stop  context.CancelFunc
}

// newOperator makes the keys and starts a server for each host, as the user who runs this. The hosts'
// values are the environment of what runs there, as NAME=value without spaces.
func newOperator(ctx context.Context, dir string, hosts map[string][]string) (_ *operator, err error) {
	account, err := user.Current()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 { // where sshd as root goes to before the login
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	o := &operator{dir: dir, user: account.Username, ports: map[string]int{}, stop: stop}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	for _, name := range []string{"id", "host_key"} {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", o.path(name)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	for name, env := range hosts {
		if err := o.serve(ctx, serving, name, env); err != nil {
			return nil, fmt.Errorf("starting sshd for %s: %w", name, err)
		}
	}
	return o, o.write()
}

func (o *operator) path(name string) string { return filepath.Join(o.dir, name) }

// config is the client's: ssh -F.
func (o *operator) config() string { return o.path("ssh_config") }

// serve starts a host's server and returns when it listens.
func (o *operator) serve(ctx, serving context.Context, name string, env []string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	o.ports[name] = port
	text := fmt.Sprintf("ListenAddress %s\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nUsePAM no\nStrictModes no\nPrintMotd no\nSubsystem sftp internal-sftp\n",
		addr, o.path("host_key"), o.path("id.pub"))
	if len(env) > 0 {
		text += "SetEnv " + strings.Join(env, " ") + "\n"
	}
	file := o.path("sshd_config." + name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.Create(o.path("sshd." + name + ".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(serving, sshdPath, "-D", "-e", "-f", file)
	cmd.Stderr = log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	// It ends with this process, however that ends: with the thread that has started it, which therefore
	// stays with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	ended := make(chan error, 1)
	o.ended = append(o.ended, ended)
	go func() {
		runtime.LockOSThread()
		ended <- cmd.Run()
	}()
	for limit := time.Now().Add(10 * time.Second); ; {
		if c, err := net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		select {
		case err := <-ended:
			ended <- err
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(text))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(limit) {
			return errors.New("it does not listen after 10 s")
		}
	}
}

// write writes what the clients read: where the hosts are, and their keys.
func (o *operator) write() error {
	key, err := os.ReadFile(o.path("host_key.pub"))
	if err != nil {
		return err
	}
	var config, known strings.Builder
	for name, port := range o.ports {
		fmt.Fprintf(&known, "[127.0.0.1]:%d %s", port, key)
		fmt.Fprintf(&config, "Host %s\n  HostName 127.0.0.1\n  Port %d\n", name, port)
	}
	fmt.Fprintf(&config, "Host *\n  User %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  BatchMode yes\n  LogLevel ERROR\n",
		o.user, o.path("id"), o.path("known_hosts"))
	return errors.Join(os.WriteFile(o.path("known_hosts"), []byte(known.String()), 0o600), os.WriteFile(o.config(), []byte(config.String()), 0o600))
}

// target is a host for mqlift's own client.
func (o *operator) target(name string) remote.Target {
	return remote.Target{Name: name, Address: "127.0.0.1", Port: o.ports[name], User: o.user,
		IdentityFiles: []string{o.path("id")}, KnownHosts: []string{o.path("known_hosts")}, Jump: []remote.Hop{}}
}

// retarget makes a lab's topology lead to these servers instead of the lab's own.
func (o *operator) retarget(topology, labDir string, labPorts map[string]int) string {
	changes := []string{labDir + "/id_ed25519", o.path("id"), labDir + "/known_hosts", o.path("known_hosts")}
	for name, port := range labPorts {
		changes = append(changes, fmt.Sprintf("port: %d}", port), fmt.Sprintf("port: %d}", o.ports[name]))
	}
	return strings.NewReplacer(changes...).Replace(topology)
}

// script runs one of the scripts, in a process group of its own, with these variables; the error has what
// it said.
func (o *operator) script(ctx context.Context, name, text string, env map[string]string) error {
	if err := os.WriteFile(o.path(name), []byte(text), 0o700); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", o.path(name))
	cmd.Env = append(os.Environ(), "SSH_CONFIG="+o.config())
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// close ends the servers. Connections end with their clients.
func (o *operator) close() error {
	o.stop()
	for _, ended := range o.ended {
		<-ended // that it was stopped is no news
	}
	return nil
}

// missingTools names what cannot be called, and how to get it.
func missingTools(tools map[string]string) error {
	var missing []string
	for tool, pkg := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, filepath.Base(tool)+" (Debian: "+pkg+")")
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return errors.New("missing: " + strings.Join(missing, ", "))
}
