package grouplock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"mqlift/internal/hostinfo"
)

// Process names one process of one machine for good.
type Process struct {
	hostinfo.ProcessID
	// Namespace is the PID namespace: two containers on one machine share the boot, and give the same
	// numbers to different processes.
	Namespace string `json:"namespace,omitempty"`
}

// Self is this process; zero when the machine does not say.
func Self() Process {
	p, err := hostinfo.ReadProcess(os.Getpid())
	if err != nil {
		return Process{}
	}
	return Process{ProcessID: p.ProcessID, Namespace: namespace()}
}

func namespace() string {
	name, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return name
}

// Near tells whether the process is one that this machine can look at.
func (p Process) Near() bool {
	self := Self()
	return p.PID > 0 && p.Boot != "" && p.Boot == self.Boot && p.Namespace == self.Namespace
}

// Ended tells whether a near process has ended. One that is stopped has not: it may go on any moment.
func (p Process) Ended() bool {
	if errors.Is(unix.Kill(p.PID, 0), unix.ESRCH) {
		return true
	}
	now, err := hostinfo.ReadProcess(p.PID)
	if err != nil {
		return errors.Is(unix.Kill(p.PID, 0), unix.ESRCH) // otherwise /proc hides it from this user
	}
	return now.Start != p.Start || len(now.Argv) == 0 // the number was given again, or a zombie
}
