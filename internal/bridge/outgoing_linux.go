package bridge

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// onOutgoing sets what Dialer has no field for. The kernel chooses the connection's own port, and it may be the
// one that the Raft peer of this host is to listen on (40911 is among those): SO_REUSEADDR lets a server take it
// none the less, while the connection is there and in the minute after it.
func onOutgoing(_, _ string, raw syscall.RawConn) error {
	var reuse, timeout error
	err := raw.Control(func(fd uintptr) {
		reuse = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		timeout = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(vanished/time.Millisecond))
	})
	return errors.Join(err, reuse, timeout)
}
