package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// A lab takes a block of ports. Blocks begin at multiples of blockPorts, so that two labs have the
// same block or nothing in common.
const (
	blockPorts   = 20
	firstBlock   = 20000
	nameServerAt = 0  // 2
	sshAt        = 2  // 3
	raftAt       = 5  // 3
	brokerAt     = 10 // listenPort; next to it -2 (VIP channel) and +1 (replication), as brokers have it
	brokerEvery  = 4
)

func brokerPort(base, host int) int { return base + brokerAt + host*brokerEvery }

// javaPorts are the ports of a block that name servers and brokers will open, on all interfaces.
func javaPorts(base int) []int {
	ports := []int{base + nameServerAt, base + nameServerAt + 1}
	for host := range hostCount {
		listen := brokerPort(base, host)
		ports = append(ports, base+raftAt+host, listen-2, listen, listen+1)
	}
	return ports
}

// choosePorts finds a block in which everything is free and calls take with it, which opens the SSH
// ports: having them is having the block. base 0 tries all blocks below the ephemeral range, whose
// ports any outgoing connection may hold.
func choosePorts(base int, take func(base int) error) (int, error) {
	if base != 0 {
		if base < 1024 || base+blockPorts > 65536 {
			return 0, fmt.Errorf("base port %d: a lab needs %d ports between 1024 and 65535", base, blockPorts)
		}
		if err := probe(base, take); err != nil {
			return 0, fmt.Errorf("ports %d to %d are not free: %w", base, base+blockPorts-1, err)
		}
		return base, nil
	}
	limit := ephemeralStart()
	// By pid, so that labs that start side by side do not queue up at the same block.
	blocks := max((limit-firstBlock)/blockPorts, 1)
	for i := range blocks {
		base := firstBlock + (os.Getpid()+i)%blocks*blockPorts
		err := probe(base, take)
		if err == nil {
			return base, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return 0, err
		}
	}
	return 0, fmt.Errorf("no %d free ports in a row between %d and %d: end other labs, or choose --base-port", blockPorts, firstBlock, limit)
}

// probe takes the SSH ports first and then sees whether the others can be opened.
func probe(base int, take func(base int) error) error {
	if err := free(javaPorts(base)); err != nil { // before take: it is cheap and leaves no trace
		return err
	}
	if err := take(base); err != nil {
		return err
	}
	return free(javaPorts(base))
}

func free(ports []int) error {
	for _, port := range ports {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		l.Close()
	}
	return nil
}

// ephemeralStart is the first port that the kernel gives to outgoing connections.
func ephemeralStart() int {
	const usual = 32768
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usual
	}
	fields := strings.Fields(string(data))
	if len(fields) == 0 {
		return usual
	}
	if n, err := strconv.Atoi(fields[0]); err == nil && n > firstBlock+blockPorts {
		return min(n, usual)
	}
	return usual
}
