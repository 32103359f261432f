//go:build !linux

package agent

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Agents run on Linux; another system is only where mqlift itself runs.

func renameNoReplace(string, string) error { return unix.ENOSYS }

func changed(*syscall.Stat_t) time.Time { return time.Time{} }
