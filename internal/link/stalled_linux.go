package link

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// stalled is for how long data may stay unacknowledged, or the other end take none: keep-alives get through
// where full packets do not, and the kernel by itself gives up after a quarter of an hour (tcp_retries2).
const stalled = time.Minute

func setUserTimeout(t *net.TCPConn) {
	raw, err := t.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stalled/time.Millisecond))
	})
}
