// Package acl reads whom a broker with aclEnable trusts by address: the white lists of conf/plain_acl.yml, and,
// from 4.9.3 on, of those in conf/acl and below it. A broker that finds a request's sender in one asks for no signature and
// no permission (PlainPermissionManager.validate of 4.5.2 and 4.9.7; 5.3 reads those files only to take them over,
// and its own policies have sourceIps instead).
package acl

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// Entry is an address, or a pattern of some, that a broker trusts.
type Entry struct {
	// Pattern is as the file has it.
	Pattern string
	// AccessKey is the account whose key a request must name, which is no secret, to be trusted; empty: it need not
	// name any (globalWhiteRemoteAddresses).
	AccessKey string

	match func(netip.Addr) bool
}

// Matches tells whether the broker trusts that address. Where releases differ it is yes if it is of one of them:
// 4.5.2 takes no range in the second part, and no IPv6.
func (e Entry) Matches(a netip.Addr) bool { return e.match(a.Unmap().WithZone("")) }

// WhiteLists returns the entries of an ACL file, global ones first. An error is a file or a pattern that cannot be
// read: whom a broker trusts is not known then.
func WhiteLists(file []byte) ([]Entry, error) {
	var f struct {
		Global   []string `yaml:"globalWhiteRemoteAddresses"`
		Accounts []struct {
			AccessKey string `yaml:"accessKey"`
			White     string `yaml:"whiteRemoteAddress"`
		} `yaml:"accounts"`
	}
	if err := yaml.Unmarshal(file, &f); err != nil {
		// The library's own text shows the lines around, and those may hold secret keys.
		return nil, fmt.Errorf("it is no ACL file: %s", yaml.FormatError(err, false, false))
	}
	var all []Entry
	for _, pattern := range f.Global {
		all = append(all, Entry{Pattern: pattern})
	}
	for _, a := range f.Accounts {
		all = append(all, Entry{Pattern: a.White, AccessKey: a.AccessKey})
	}
	var entries []Entry
	for _, e := range all {
		if e.Pattern = strings.TrimSpace(e.Pattern); e.Pattern == "" {
			continue // trusts nobody
		}
		var err error
		if e.match, err = parse(e.Pattern); err != nil {
			return nil, fmt.Errorf("the white-listed address %q: %w", e.Pattern, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// parse reads a pattern as RemoteAddressStrategyFactory does (4.9.7; the same since 4.6.0 but for what it refuses).
func parse(pattern string) (func(netip.Addr) bool, error) {
	switch pattern {
	case "*", "*.*.*.*", "*:*:*:*:*:*:*:*":
		return func(netip.Addr) bool { return true }, nil
	}
	if body, ok := strings.CutSuffix(pattern, "}"); ok {
		head, last, ok := strings.Cut(body, "{")
		if !ok || !strings.HasSuffix(head, ".") && !strings.HasSuffix(head, ":") {
			return nil, fmt.Errorf("braces stand for the last part of an address only")
		}
		return oneOf(head, last)
	}
	if strings.Contains(pattern, ",") {
		return oneOf("", pattern)
	}
	if !strings.ContainsAny(pattern, "*-") {
		return oneOf("", pattern)
	}
	if strings.Contains(pattern, ":") {
		return range6(pattern)
	}
	return range4(pattern)
}

// oneOf are addresses that are separated by commas, each with the head before it.
func oneOf(head, list string) (func(netip.Addr) bool, error) {
	known := map[netip.Addr]bool{}
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(head + text)
		if err != nil {
			return nil, err
		}
		known[a.Unmap()] = true
	}
	return func(a netip.Addr) bool { return known[a] }, nil
}

// span is a part of an address that may be one of several.
type span struct{ first, last uint64 }

// parseSpan reads "*" and "3-9"; ok is false for a plain number, and for one that ends with 0, which RocketMQ
// passes over.
func parseSpan(text string, base int, most uint64) (s span, ok bool, err error) {
	text = strings.TrimSpace(text)
	if text == "*" {
		return span{0, most}, true, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		return span{}, false, nil
	}
	if s.first, err = strconv.ParseUint(from, base, 16); err != nil {
		return span{}, false, err
	}
	if s.last, err = strconv.ParseUint(to, base, 16); err != nil {
		return span{}, false, err
	}
	if s.first > s.last || s.last > most {
		return span{}, false, fmt.Errorf("%s is no range of 0 to %d", text, most)
	}
	return s, s.last > 0, nil
}

// range4 goes by the first of the last three parts that is a range and by those before it; what comes after it
// does not count.
func range4(pattern string) (func(netip.Addr) bool, error) {
	parts := strings.Split(pattern, ".")
	if len(parts) != 4 {
		return nil, fmt.Errorf("an IPv4 address has four parts")
	}
	var head []byte
	for i, part := range parts {
		if i > 0 {
			s, ok, err := parseSpan(part, 10, 255)
			if err != nil {
				return nil, err
			}
			if ok {
				return func(a netip.Addr) bool {
					if !a.Is4() {
						return false
					}
					got := a.As4()
					return string(got[:i]) == string(head) && s.first <= uint64(got[i]) && uint64(got[i]) <= s.last
				}, nil
			}
		}
		n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 8)
		if err != nil {
			return nil, err
		}
		head = append(head, byte(n))
	}
	return nil, fmt.Errorf("it has no range") // 10.0.0.0-0: RocketMQ fails at it
}

// range6 has a range in its last part, or in the one before when the last is *, which does not count then.
func range6(pattern string) (func(netip.Addr) bool, error) {
	front, star := strings.CutSuffix(pattern, ":*")
	last, groups := "*", 7
	if strings.Contains(front, "-") {
		at := strings.LastIndexByte(front, ':')
		if at < 0 {
			return nil, fmt.Errorf("it has no part before the range")
		}
		front, last = front[:at], front[at+1:]
		if star {
			groups = 6
		}
	}
	s, ok, err := parseSpan(last, 16, 0xffff)
	if err != nil {
		return nil, err
	}
	head, err := expand(front, groups)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("it has no range")
	}
	return func(a netip.Addr) bool {
		if !a.Is6() {
			return false
		}
		raw := a.As16()
		group := func(i int) uint64 { return uint64(raw[2*i])<<8 | uint64(raw[2*i+1]) }
		for i, want := range head {
			if group(i) != want {
				return false
			}
		}
		at := len(head)
		return s.first <= group(at) && group(at) <= s.last
	}, nil
}

// expand reads groups of an IPv6 address, :: filled up to so many (AclUtils.expandIP).
func expand(text string, count int) ([]uint64, error) {
	front, back, filled := strings.Cut(text, "::")
	read := func(text string) (l []uint64, err error) {
		if text == "" {
			return nil, nil
		}
		for part := range strings.SplitSeq(text, ":") {
			n := uint64(0)
			if part != "" { // "fe80::*" has lost one of its colons
				if n, err = strconv.ParseUint(part, 16, 16); err != nil {
					return nil, err
				}
			}
			l = append(l, n)
		}
		return l, nil
	}
	groups, err := read(front)
	if err != nil {
		return nil, err
	}
	if filled {
		rest, err := read(back)
		if err != nil {
			return nil, err
		}
		if len(groups)+len(rest) > count {
			return nil, fmt.Errorf("%s has more than %d parts", text, count)
		}
		groups = append(append(groups, make([]uint64, count-len(groups)-len(rest))...), rest...)
	}
	if len(groups) == 0 || len(groups) > count {
		return nil, fmt.Errorf("%s has not 1 to %d parts", text, count)
	}
	return groups, nil
}
