package hostinfo

import (
	"time"

	"golang.org/x/sys/unix"
)

// statfs fills in what the kernel says of the mounted file system that holds a path.
func (f *Filesystem) statfs(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	f.Total, f.Free = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	f.Inodes, f.InodesFree = int64(st.Files), int64(st.Ffree)
	// The kernel's word on the mount itself: mountinfo could be of a mount that another one hides.
	f.ReadOnly = st.Flags&unix.ST_RDONLY != 0
	f.NoExec = st.Flags&unix.ST_NOEXEC != 0
	return nil
}

func sinceBoot() (time.Duration, error) {
	var up unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	return time.Duration(up.Nano()), err
}

func pidfdOpen(pid int) (fd int, err error) { return unix.PidfdOpen(pid, 0) }

func pidfdSignal(fd int, sig unix.Signal) error { return unix.PidfdSendSignal(fd, sig, nil, 0) }
