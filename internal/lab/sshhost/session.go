package sshhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// session serves one session channel: env, then one of exec, shell or subsystem, then signals.
func (h *Host) session(ctx context.Context, request ssh.NewChannel) {
	channel, requests, err := request.Accept()
	if err != nil {
		return
	}
	defer channel.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the channel is closed: the command's pipes go
	var (
		env     []string
		running *command
		begun   bool
	)
	for r := range requests {
		ok, answered := false, make(chan struct{})
		switch r.Type {
		case "env":
			var v struct{ Name, Value string }
			// What Debian's sshd_config accepts; anything else is refused there too.
			if ssh.Unmarshal(r.Payload, &v) == nil && (v.Name == "LANG" || strings.HasPrefix(v.Name, "LC_")) {
				env, ok = append(env, v.Name+"="+v.Value), true
			}
		case "exec", "shell":
			var v struct{ Command string }
			if begun || (r.Type == "exec" && ssh.Unmarshal(r.Payload, &v) != nil) {
				break
			}
			if h.conf.Run != nil {
				begun, ok = true, true
				go func() {
					<-answered // a client that hears of the end before the answer misses it
					status := h.conf.Run(ctx, v.Command, channel, channel, channel.Stderr())
					channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
					channel.Close()
				}()
				break
			}
			argv := []string{"/bin/sh", "-c", v.Command}
			if r.Type == "shell" {
				argv = []string{"/bin/sh"}
			}
			if running, err = h.start(ctx, channel, argv, env); err != nil {
				fmt.Fprintln(channel.Stderr(), err)
				break
			}
			begun, ok = true, true
			go func() { // not waited for: a command may outlive its connection
				running.wait(channel)
				channel.Close() // ends the requests as well
			}()
		case "subsystem":
			var v struct{ Name string }
			if begun || ssh.Unmarshal(r.Payload, &v) != nil || v.Name != "sftp" {
				break
			}
			begun, ok = true, true
			go func() {
				status := h.sftp(channel)
				channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
				channel.Close()
			}()
		case "signal":
			var v struct{ Name string }
			if running != nil && ssh.Unmarshal(r.Payload, &v) == nil {
				ok = running.signal(v.Name) == nil
			}
		}
		if r.WantReply {
			r.Reply(ok, nil)
		}
		close(answered)
	}
}

// sftp serves the SFTP subsystem and returns its exit status. pkg/sftp's server offers
// posix-rename@openssh.com and statvfs@openssh.com, and not fsync@openssh.com.
func (h *Host) sftp(channel ssh.Channel) uint32 {
	server, err := sftp.NewServer(channel, sftp.WithServerWorkingDirectory(h.conf.Home))
	if err != nil {
		return 1
	}
	defer server.Close()
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return 1
	}
	return 0
}

// command is a running command of a session, the leader of a process group of its own.
type command struct {
	cmd            *exec.Cmd
	await          func(*exec.Cmd) error
	stdout, stderr *os.File
	copied         sync.WaitGroup
	release        func()

	mu   sync.Mutex
	over bool // waited for: its pid may be somebody else's by now
}

// start runs argv with its pipes on the channel. When ctx ends, the pipes are closed and nothing is
// killed: the command reads EOF, or gets SIGPIPE or EPIPE when it writes, as under sshd.
func (h *Host) start(ctx context.Context, channel ssh.Channel, argv, env []string) (*command, error) {
	c := &command{cmd: exec.Command(argv[0], argv[1:]...), await: h.conf.Wait}
	c.cmd.Dir = h.conf.Home
	c.cmd.Env = append(append([]string{}, h.conf.Env...), env...)
	// sshd does the same: signals are for the whole group, and a terminal's are for none of it.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}

	var pipes [6]*os.File
	for i := 0; i < len(pipes); i += 2 {
		var err error
		if pipes[i], pipes[i+1], err = os.Pipe(); err != nil {
			closeAll(pipes[:]...)
			return nil, fmt.Errorf("%s: opening pipes: %w", h.conf.Name, err)
		}
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = pipes[0], pipes[3], pipes[5]
	stdin := pipes[1]
	c.stdout, c.stderr = pipes[2], pipes[4]
	err := h.conf.Start(c.cmd)
	closeAll(pipes[0], pipes[3], pipes[5])
	if err != nil {
		closeAll(stdin, c.stdout, c.stderr)
		return nil, fmt.Errorf("%s: starting %s: %w", h.conf.Name, argv[0], err)
	}

	stop := context.AfterFunc(ctx, func() { closeAll(stdin, c.stdout, c.stderr) })
	c.release = func() {
		stop()
		closeAll(stdin, c.stdout, c.stderr)
	}
	go func() {
		io.Copy(stdin, channel)
		stdin.Close()
	}()
	c.copied.Go(func() { io.Copy(channel, c.stdout) })
	c.copied.Go(func() { io.Copy(channel.Stderr(), c.stderr) })
	return c, nil
}

// wait tells the client how the command ended as soon as it has, and returns when the last process
// that holds its output has let go of it: `sleep 60 &` keeps a session open under sshd, too.
func (c *command) wait(channel ssh.Channel) {
	err := c.await(c.cmd)
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	var status syscall.WaitStatus
	if c.cmd.ProcessState != nil {
		status, _ = c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	} else {
		fmt.Fprintf(channel.Stderr(), "how %s ended is not known: %v\n", c.cmd.Path, err)
		status = 255 << 8
	}
	if status.Signaled() {
		channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}{signalName(status.Signal()), status.CoreDump(), status.Signal().String(), ""}))
	} else {
		channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status.ExitStatus())}))
	}
	c.copied.Wait()
	channel.CloseWrite()
	c.release()
}

// signal sends a signal, named as in RFC 4254 (without SIG), to the command's process group.
func (c *command) signal(name string) error {
	for _, s := range signals {
		if s.name != name {
			continue
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.over {
			return os.ErrProcessDone
		}
		return syscall.Kill(-c.cmd.Process.Pid, s.signal)
	}
	return fmt.Errorf("unknown signal %q", name)
}

// signals are those of RFC 4254, 6.10.
var signals = [...]struct {
	name   string
	signal syscall.Signal
}{
	{"ABRT", syscall.SIGABRT}, {"ALRM", syscall.SIGALRM}, {"FPE", syscall.SIGFPE},
	{"HUP", syscall.SIGHUP}, {"ILL", syscall.SIGILL}, {"INT", syscall.SIGINT},
	{"KILL", syscall.SIGKILL}, {"PIPE", syscall.SIGPIPE}, {"QUIT", syscall.SIGQUIT},
	{"SEGV", syscall.SIGSEGV}, {"TERM", syscall.SIGTERM}, {"USR1", syscall.SIGUSR1},
	{"USR2", syscall.SIGUSR2},
}

func signalName(signal syscall.Signal) string {
	for _, s := range signals {
		if s.signal == signal {
			return s.name
		}
	}
	return fmt.Sprintf("SIG%d@mqlift", int(signal))
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
