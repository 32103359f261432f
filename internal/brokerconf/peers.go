package brokerconf

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
)

// Peer is one member of a DLedger group.
type Peer struct {
	ID   string // one letter and an integer, such as n0
	Host string // IPv4 address or host name
	Port int    // the Raft port, not the broker's
}

// String is the peer as dLegerPeers has it: id-host:port.
func (p Peer) String() string { return p.ID + "-" + p.Host + ":" + strconv.Itoa(p.Port) }

// FormatPeers writes peers as dLegerPeers.
func FormatPeers(peers []Peer) string {
	s := make([]string, len(peers))
	for i, p := range peers {
		s[i] = p.String()
	}
	return strings.Join(s, ";")
}

var selfID = regexp.MustCompile(`^[A-Za-z][0-9]{1,9}$`)

// BrokerIDOf is the brokerId as which the member registers while it follows: the integer of its
// id and one (DLedgerCommitLog's constructor, all Releases).
func BrokerIDOf(id string) (int, error) {
	if !selfID.MatchString(id) {
		return 0, fmt.Errorf("member id %q is not one letter and an integer, such as n0", id)
	}
	n, err := strconv.Atoi(id[1:])
	return n + 1, err
}

// ParsePeers reads dLegerPeers as the release's DLedger does (MemberState: split on ; and then on
// -) and refuses what that would read otherwise than it looks: blanks, which are not trimmed;
// ids that make the same brokerId; IPv6 addresses, since the port is what follows the first colon
// (DLedgerRpcNettyService); and up to 4.7.1 host names with a hyphen, which dledger 0.1 cuts off
// there. All problems are in the error.
func ParsePeers(s, release string) ([]Peer, error) {
	var peers []Peer
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if s == "" {
		bad("no peers")
	}
	ids, addrs := map[int]string{}, map[string]string{}
	for part := range strings.SplitSeq(strings.TrimRight(s, ";"), ";") { // as Java's split: no empty parts at the end
		if s == "" {
			break
		}
		if strings.ContainsAny(part, " \t\f\r\n") {
			bad("peer %q has blanks, which DLedger does not trim", part)
			continue
		}
		id, addr, _ := strings.Cut(part, "-")
		host, p, ok := strings.Cut(addr, ":")
		port, err := strconv.Atoi(p)
		if !ok || err != nil || port < 1 || port > 65535 || host == "" || strings.HasPrefix(p, "+") {
			if strings.Count(addr, ":") > 1 {
				bad("peer %q: DLedger does not take IPv6 addresses", part)
			} else {
				bad("peer %q is not id-host:port", part)
			}
			continue
		}
		n, err := BrokerIDOf(id)
		switch {
		case err != nil:
			bad("peer %q: %w", part, err)
		case ids[n] != "":
			bad("peers %s and %s have the same number", ids[n], id)
		}
		ids[n] = id
		if strings.Contains(host, "-") && !isIP(host) && !since(release, "4.8.0") {
			bad("peer %q: DLedger of release %s cuts the host name off at its hyphen; give the address", part, release)
		}
		if other := addrs[addr]; other != "" {
			bad("peers %s and %s have the same address %s", other, id, addr)
		}
		addrs[addr] = id
		peers = append(peers, Peer{id, host, port})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return peers, nil
}

func isIP(host string) bool { return net.ParseIP(host) != nil }
