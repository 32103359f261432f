package hostinfo

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listener is a TCP socket that takes connections.
type Listener struct {
	// Address is where it listens; 0.0.0.0 or :: for all addresses of the host.
	Address netip.AddrPort `json:"address"`
	// PID is the process that holds it, 0 when this user may not see whose it is.
	PID int `json:"pid"`
	// UID is the user the socket belongs to, always known.
	UID int `json:"uid"`

	inode uint64
}

// Listeners returns the listening TCP sockets of the network namespace of this process: those on
// one of the ports, or all when none are given.
func Listeners(ports ...int) ([]Listener, error) {
	wanted := map[int]bool{}
	for _, p := range ports {
		wanted[p] = true
	}
	var found []Listener
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a host without IPv6
		}
		if err != nil {
			return nil, err
		}
		list, err := parseListeners(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", table, err)
		}
		for _, l := range list {
			if len(ports) == 0 || wanted[int(l.Address.Port())] {
				found = append(found, l)
			}
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	return found, fillOwners(found)
}

// parseListeners reads /proc/net/tcp or tcp6 (Documentation/networking/proc_net_tcp.rst).
func parseListeners(r io.Reader) ([]Listener, error) {
	const listening = "0A"
	var list []Listener
	lines := bufio.NewScanner(r)
	lines.Scan() // the header
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			return nil, fmt.Errorf("line with %d fields: %q", len(f), lines.Text())
		}
		if f[3] != listening {
			continue
		}
		address, err := parseAddress(f[1])
		if err != nil {
			return nil, err
		}
		uid, err := strconv.Atoi(f[7])
		if err != nil {
			return nil, fmt.Errorf("uid %q: %w", f[7], err)
		}
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("inode %q: %w", f[9], err)
		}
		list = append(list, Listener{Address: address, UID: uid, inode: inode})
	}
	return list, lines.Err()
}

// parseAddress reads "0100007F:1F90": the address is in words of 32 bits, each in the byte order of
// the host, the port a plain number.
func parseAddress(s string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if !ok || err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %q is not as expected", s)
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q: %w", s, err)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), nil
}

// fillOwners finds the process of each socket by its inode. What this user may not see stays 0.
func fillOwners(list []Listener) error {
	pids, err := pids()
	if err != nil {
		return err
	}
	owner := map[string]int{}
	for _, l := range list {
		owner[fmt.Sprintf("socket:[%d]", l.inode)] = 0
	}
	left := len(owner)
	for _, pid := range pids {
		if left == 0 {
			break
		}
		dir := filepath.Join(procDir(pid), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			target, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if err != nil {
				continue
			}
			if known, wanted := owner[target]; wanted && known == 0 {
				owner[target] = pid
				left--
			}
		}
	}
	for i := range list {
		list[i].PID = owner[fmt.Sprintf("socket:[%d]", list[i].inode)]
	}
	return nil
}

// CanBind tells whether a server could take the port on all addresses now: nil, or the system's
// error. A port is also taken when an outgoing connection happens to have it as its own end, which
// no table of listeners shows. Nothing listens on it meanwhile, so nobody can notice.
func CanBind(port int) error {
	syscall.ForkLock.RLock() // no broker that is started meanwhile gets it
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// As a JVM on Linux does: remains of closed connections do not stand in the way.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrInet4{Port: port})
}

// EphemeralPorts returns the first and last port that outgoing connections are given; 0, 0 when
// unknown.
func EphemeralPorts() (first, last int) {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, 0
	}
	if n, _ := fmt.Sscan(string(data), &first, &last); n != 2 {
		return 0, 0
	}
	return first, last
}
