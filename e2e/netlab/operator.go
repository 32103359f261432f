package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Dir is the operator's folder on the bastion.
func (l *Lab) Dir() string { return filepath.Join(l.dir, "operator") }

// Topology is the path of the operator's topology file, which `mqlift -t` takes.
func (l *Lab) Topology() string { return filepath.Join(l.Dir(), "topology.yaml") }

func (l *Lab) keyFile() string    { return filepath.Join(l.Dir(), "id_ed25519") }
func (l *Lab) knownHosts() string { return filepath.Join(l.Dir(), "known_hosts") }

// makeOperator makes the operator's key.
func (l *Lab) makeOperator() error {
	if err := os.Mkdir(l.Dir(), 0o700); err != nil {
		return err
	}
	return tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator@bastion", "-f", l.keyFile())
}

// writeOperator writes what the operator has beside the key: the hosts' keys and the topology.
func (l *Lab) writeOperator() error {
	var known, members strings.Builder
	for i, h := range l.hosts {
		key, err := os.ReadFile(h.Path("/etc/ssh/ssh_host_ed25519_key.pub"))
		if err != nil {
			return err
		}
		fmt.Fprintf(&known, "%s %s", h.Address, key)
		fmt.Fprintf(&members, "      - {host: %s, peer: n%d}\n", h.Name, i)
	}
	topology := fmt.Sprintf(`# The reference case in the network lab: the broker group %[1]s before its upgrade.
version: 1
cluster: %[2]s
nameServers: [%[3]s]
ssh:
  user: %[4]s
  identityFiles: [%[5]s]
  knownHosts: [%[6]s]
defaults:
  installDir: %[7]s
groups:
  - name: %[1]s
    target: dledger
    members:
%[8]s`, Group, Cluster, strings.Join(l.NameServers(), ", "), User, l.keyFile(), l.knownHosts(), InstallDir, members.String())
	return errors.Join(
		os.WriteFile(l.knownHosts(), []byte(known.String()), 0o644),
		os.WriteFile(l.Topology(), []byte(topology), 0o644))
}

// Shell runs a shell line on a host over SSH, as the operator does, and returns what it prints on stdout.
// What it puts into the background with its output redirected stays.
func (l *Lab) Shell(ctx context.Context, name, line string) (string, error) {
	h, err := l.host(name)
	if err != nil {
		return "", err
	}
	return output(exec.CommandContext(ctx, "ssh", "-F", "none", "-i", l.keyFile(), "-o", "UserKnownHostsFile="+l.knownHosts(),
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR", User+"@"+h.Address, line), name, line)
}

// Console runs a shell line on a host as root, past the network: also while the host's link is cut.
func (l *Lab) Console(ctx context.Context, name, line string) (string, error) {
	pid, err := l.initPID(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "nsenter", "-t", fmt.Sprint(pid), "-m", "-u", "-i", "-n", "-p", "/bin/sh", "-c", line)
	cmd.Dir = "/"
	return output(cmd, name, line)
}

func (l *Lab) initPID(name string) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.host(name)
	if err != nil {
		return 0, err
	}
	if h.init == nil {
		return 0, fmt.Errorf("%s is down", name)
	}
	return h.init.Process.Pid, nil
}

func output(cmd *exec.Cmd, name, line string) (string, error) {
	var out, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &trouble, time.Second
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", name, line, err, bytes.TrimSpace(trouble.Bytes()))
	}
	return out.String(), nil
}
