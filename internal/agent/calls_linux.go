package agent

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// renameNoReplace renames unless something has the new name.
func renameNoReplace(from, to string) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
}

// changed is the ctime.
func changed(st *syscall.Stat_t) time.Time { return time.Unix(st.Ctim.Unix()) }
