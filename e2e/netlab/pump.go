package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// headerSize is the size of a virtio_net_hdr: with it a frame is carried as the sender's kernel had it,
// of up to 64 KiB and with its checksum still to be made.
const headerSize = 10

// pump carries frames between a device and a TAP device that takes its place in the bridge, late and
// not all of them.
type pump struct {
	device, tap *os.File
	carriers    sync.WaitGroup

	mu    sync.Mutex
	delay time.Duration
	lost  []traffic
}

// traffic is Traffic, parsed: an invalid peer is any, port 0 is any.
type traffic struct {
	peer netip.Addr
	port uint16
}

// newPump opens a packet socket on device and makes the TAP device.
func newPump(device, tap string, delay time.Duration, lost []traffic) (*pump, error) {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	p := &pump{delay: delay, lost: lost}
	if p.device, err = openDevice(link); err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	if p.tap, err = openTap(tap); err != nil {
		p.device.Close()
		return nil, fmt.Errorf("%s: %w", tap, err)
	}
	for _, way := range [][2]*os.File{{p.device, p.tap}, {p.tap, p.device}} {
		queue := make(chan frame, 8192)
		p.carriers.Go(func() { p.take(way[0], queue) })
		p.carriers.Go(func() { give(queue, way[1]) })
	}
	return p, nil
}

func openDevice(link *net.Interface) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(link.Index), Type: unix.PACKET_MR_PROMISC}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), link.Name), nil
}

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// close ends the pump and the TAP device; what is on its way is lost.
func (p *pump) close() {
	p.device.Close()
	p.tap.Close()
	p.carriers.Wait()
}

// set changes what happens to the frames that come from now on.
func (p *pump) set(delay time.Duration, lost []traffic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay, p.lost = delay, lost
}

func (p *pump) settings() (time.Duration, []traffic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delay, p.lost
}

// frame is a virtio_net_hdr and an Ethernet frame.
type frame struct {
	due  time.Time
	data []byte
}

// take reads frames until its end is closed, or gone with the host.
func (p *pump) take(from *os.File, queue chan<- frame) {
	defer close(queue)
	buffer := make([]byte, headerSize+18+64<<10)
	for {
		n, err := from.Read(buffer)
		if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EIO) { // the plug is pulled, for now
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return
		}
		delay, lost := p.settings()
		if n < headerSize || isAmong(lost, buffer[headerSize:n]) {
			continue
		}
		select {
		case queue <- frame{due: time.Now().Add(delay), data: append([]byte(nil), buffer[:n]...)}:
		default: // as a switch whose queue is full
		}
	}
}

// give writes frames when they are due.
func give(queue <-chan frame, to *os.File) {
	for f := range queue {
		time.Sleep(time.Until(f.due))
		to.Write(f.data) // a frame that cannot be sent is lost: that is what frames are like
	}
}

// isAmong says whether an Ethernet frame is traffic of one of the kinds.
func isAmong(kinds []traffic, ethernet []byte) bool {
	if len(kinds) == 0 || len(ethernet) < 14+20 || binary.BigEndian.Uint16(ethernet[12:]) != unix.ETH_P_IP {
		return false
	}
	ip := ethernet[14:]
	from, to := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	var ports [2]uint16
	if size := int(ip[0]&0xf) * 4; ip[9] == unix.IPPROTO_TCP && len(ip) >= size+4 {
		ports = [2]uint16{binary.BigEndian.Uint16(ip[size:]), binary.BigEndian.Uint16(ip[size+2:])}
	}
	for _, kind := range kinds {
		peer := !kind.peer.IsValid() || kind.peer == from || kind.peer == to
		port := kind.port == 0 || kind.port == ports[0] || kind.port == ports[1]
		if peer && port {
			return true
		}
	}
	return false
}
