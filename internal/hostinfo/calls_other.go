//go:build !linux

package hostinfo

import (
	"time"

	"golang.org/x/sys/unix"
)

// Hosts are Linux. What is asked of another system, which only mqlift itself runs on, is refused.

func (*Filesystem) statfs(string) error { return unix.ENOTSUP }

func sinceBoot() (time.Duration, error) { return 0, unix.ENOTSUP }

func pidfdOpen(int) (fd int, err error) { return -1, unix.ENOSYS }

func pidfdSignal(int, unix.Signal) error { return unix.ENOTSUP }
