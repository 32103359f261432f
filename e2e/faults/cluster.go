package main

import (
	"context"

	"mqlift/internal/lab"
)

// role is a host by what it begins as.
type role int

const (
	master role = iota
	slave
	empty
	roles // how many there are
)

// place names a kind of lab.
type place string

const (
	loopback place = "loopback" // processes of one machine, SSH servers in this one
	network  place = "network"  // hosts with addresses, cables, disks and sshd of their own
)

// member is one host of a lab.
type member struct {
	Name, Peer string
	// Addr is the broker's, RaftAddr the peer's, NameServer the name server's ip:port; empty without one.
	Addr, RaftAddr, NameServer string
	// InstallDir, Logs (RocketMQ's own) and Tmp are where this process finds them.
	InstallDir, Logs, Tmp string
}

// cluster is a lab as rows need it.
type cluster interface {
	place() place
	Topology() string
	NameServers() []string
	member(role) member

	// keep keeps all files as they are, no broker running; reset puts them back, and heals all hosts.
	keep(context.Context) error
	reset(context.Context) error
	startBroker(context.Context, role) error
	startNameServer(context.Context, role) error
	// pids are processes of a kind, "broker" or "name server", by the numbers they have here.
	pids(r role, kind string) ([]int, error)

	ssh(role, lab.Fault) error
	// kill ends everything on a host; boot brings SSH back, and /tmp is empty.
	kill(context.Context, role) error
	boot(context.Context, role) error
	// smallDisk gives a host a disk of its own, fillDisk leaves nothing free on it.
	smallDisk(role) error
	fillDisk(role) error
	freeDisk(role) error

	// plain takes what says nothing out of a line: where the lab is.
	plain(line string) string
	close(context.Context) error
}
