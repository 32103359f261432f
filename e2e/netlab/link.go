package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// nic is the name of a host's network device.
const nic = "eth0"

// SSHPort is where the hosts' SSH servers listen, for Traffic.
const SSHPort = 22

// Link is what is wrong with a host's cable; the zero value is a good one. It belongs to the cable: a
// host that is killed and booted finds it as it was.
type Link struct {
	// Cut pulls the plug: the host sees that it has no carrier, and nothing goes through.
	Cut bool
	// Delay is added to every frame, each way.
	Delay time.Duration
	// Rate limits what goes through, in bytes per second each way; 0 is no limit. At least 1000.
	Rate int64
	// Lost is traffic that vanishes without a word, both ways: its connections stall.
	Lost []Traffic
}

// Traffic is a part of what a host sends and receives.
type Traffic struct {
	// Peer is the other side's address, BastionAddress for instance; empty for any.
	Peer string
	// Port is the TCP port, on either side; 0 for any, and for what is not TCP.
	Port int
}

func (k Link) whole() bool { return !k.Cut && k.Delay == 0 && k.Rate == 0 && len(k.Lost) == 0 }

// hides says whether the host's SSH server may be out of the bastion's reach.
func (k Link) hides() bool { return k.Cut || len(k.Lost) > 0 }

// SetLink changes a host's link, at once.
func (l *Lab) SetLink(name string, link Link) error {
	if _, err := parseLost(link.Lost); err != nil {
		return err
	}
	if link.Rate != 0 && link.Rate < 1000 || link.Delay < 0 {
		return fmt.Errorf("the link of %s: rate %d bytes/s, delay %s: that is no link", name, link.Rate, link.Delay)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.host(name)
	if err != nil {
		return err
	}
	h.link = link
	if h.init == nil {
		return nil
	}
	return h.applyLink()
}

// Restore makes a host's link whole again.
func (l *Lab) Restore(name string) error { return l.SetLink(name, Link{}) }

// Cut pulls the plug of a host.
func (l *Lab) Cut(name string) error { return l.SetLink(name, Link{Cut: true}) }

// StallSSH lets a host's SSH connections, old and new, stall without a word, while its brokers and
// name servers still talk to everyone.
func (l *Lab) StallSSH(name string) error {
	return l.SetLink(name, Link{Lost: []Traffic{{Port: SSHPort}}})
}

// Stall lets everything between a host and an address vanish.
func (l *Lab) Stall(name, address string) error {
	return l.SetLink(name, Link{Lost: []Traffic{{Peer: address}}})
}

// Delay makes everything that a host sends and receives late.
func (l *Lab) Delay(name string, each time.Duration) error {
	return l.SetLink(name, Link{Delay: each})
}

// Limit lets a host send, and receive, no more than so many bytes per second.
func (l *Lab) Limit(name string, bytesPerSecond int64) error {
	return l.SetLink(name, Link{Rate: bytesPerSecond})
}

// port is the bastion's end of the host's cable, and tap takes its place in the bridge while frames pass
// through this process.
func (h *host) port() string { return fmt.Sprintf("h%d", 220+h.index) }
func (h *host) tap() string  { return fmt.Sprintf("d%d", 220+h.index) }

// plug connects a host that has just been born.
func (h *host) plug() error {
	pid := strconv.Itoa(h.init.Process.Pid)
	if err := tool("ip", "link", "add", h.port(), "type", "veth", "peer", "name", nic, "address", hardware(220+h.index), "netns", pid); err != nil {
		return err
	}
	if err := tool("ip", "link", "set", h.port(), "master", bridge, "up"); err != nil {
		return err
	}
	return h.applyLink()
}

// unplug takes the cable away; the kernel may have done so already, with the host.
func (h *host) unplug() error {
	h.stopPump()
	err := tool("ip", "link", "del", h.port())
	if err != nil && (strings.Contains(err.Error(), "Cannot find device") || strings.Contains(err.Error(), "No such device")) {
		return nil
	}
	return err
}

func (h *host) applyLink() error {
	if err := h.limit(); err != nil {
		return err
	}
	if err := h.divert(); err != nil {
		return err
	}
	state := "up"
	if h.link.Cut {
		state = "down"
	}
	return tool("ip", "link", "set", h.port(), state)
}

// limit makes the kernel hold back what leaves either end of the cable. The host's side is reached
// through its network namespace.
func (h *host) limit() error {
	inside := []string{"-t", strconv.Itoa(h.init.Process.Pid), "-n", "tc", "qdisc"}
	if h.link.Rate == 0 {
		errs := []error{tool("tc", "qdisc", "del", "dev", h.port(), "root"), tool("nsenter", append(inside, "del", "dev", nic, "root")...)}
		for _, err := range errs {
			// There was none.
			if err != nil && !strings.Contains(err.Error(), "handle of zero") && !strings.Contains(err.Error(), "No such file") && !strings.Contains(err.Error(), "Invalid argument") {
				return err
			}
		}
		return nil
	}
	filter := []string{"root", "tbf", "rate", strconv.FormatInt(8*h.link.Rate, 10) + "bit", "burst", "16kb", "latency", "300ms"}
	return errors.Join(
		tool("tc", append([]string{"qdisc", "replace", "dev", h.port()}, filter...)...),
		tool("nsenter", append(append(inside, "replace", "dev", nic), filter...)...))
}

// divert lets all frames pass through this process while there is something to be done to them that
// takes more than tc: not every kernel has netem.
func (h *host) divert() error {
	if h.link.Delay == 0 && len(h.link.Lost) == 0 {
		if h.pump == nil {
			return nil
		}
		h.stopPump()
		return tool("ip", "link", "set", h.port(), "arp", "on", "master", bridge)
	}
	lost, err := parseLost(h.link.Lost)
	if err != nil {
		return err
	}
	if h.pump != nil {
		h.pump.set(h.link.Delay, lost)
		return nil
	}
	p, err := newPump(h.port(), h.tap(), h.link.Delay, lost)
	if err != nil {
		return fmt.Errorf("diverting the link of %s: %w", h.Name, err)
	}
	h.pump = p
	// The bastion itself would answer for its addresses on a device that is no bridge's port.
	if err := tool("ip", "link", "set", h.port(), "arp", "off", "nomaster"); err != nil {
		return err
	}
	return tool("ip", "link", "set", h.tap(), "master", bridge, "up")
}

func (h *host) stopPump() {
	if h.pump != nil {
		h.pump.close()
		h.pump = nil
	}
}

// parseLost makes traffic comparable with what frames have.
func parseLost(all []Traffic) ([]traffic, error) {
	var parsed []traffic
	for _, t := range all {
		one := traffic{port: uint16(t.Port)}
		if t.Peer != "" {
			addr, err := netip.ParseAddr(t.Peer)
			if err != nil || !addr.Is4() {
				return nil, fmt.Errorf("traffic with %q: an IPv4 address is wanted", t.Peer)
			}
			one.peer = addr
		}
		if t.Port < 0 || t.Port > 65535 {
			return nil, fmt.Errorf("traffic with port %d: there is none", t.Port)
		}
		parsed = append(parsed, one)
	}
	return parsed, nil
}
