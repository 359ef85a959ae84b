package fetch

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
)

// BlockedError says that an address is not one to connect to.
type BlockedError struct{ Address, Why string }

// Error implements error.
func (e *BlockedError) Error() string {
	return fmt.Sprintf("address %s is refused: %s; an operator may allow the host by name", e.Address, e.Why)
}

// Code is the error code of the queen's API.
func (e *BlockedError) Code() string { return "FORBIDDEN" }

// blockedRanges are what netip's own predicates don't cover.
func blockedRanges() []struct{ prefix, why string } {
	return []struct{ prefix, why string }{
		{"0.0.0.0/8", "this network"},
		{"100.64.0.0/10", "carrier-grade NAT"},
		{"192.0.0.0/24", "protocol assignments"},
		{"192.0.2.0/24", "documentation"},
		{"192.88.99.0/24", "6to4 relays"},
		{"198.18.0.0/15", "benchmarking"},
		{"198.51.100.0/24", "documentation"},
		{"203.0.113.0/24", "documentation"},
		{"240.0.0.0/4", "reserved"},
		{"::/96", "IPv4-compatible"},
		{"64:ff9b::/96", "NAT64"},
		{"64:ff9b:1::/48", "local NAT64"},
		{"100::/64", "discard"},
		{"2001::/23", "protocol assignments and Teredo"},
		{"2001:db8::/32", "documentation"},
		{"2002::/16", "6to4"},
		{"3fff::/20", "documentation"},
		{"5f00::/16", "segment routing"},
		{"fec0::/10", "site-local"},
	}
}

// Check refuses addresses that are not of the public internet: loopback, private, link-local and
// metadata, multicast, carrier-grade NAT, and forms that hide an IPv4 address in IPv6.
func Check(addr netip.Addr) error {
	whole := addr
	addr = addr.WithZone("").Unmap()
	why := ""
	switch {
	case !addr.IsValid():
		why = "not an address"
	case addr.IsLoopback():
		why = "loopback"
	case addr.IsPrivate():
		why = "private"
	case addr.IsLinkLocalUnicast():
		why = "link-local or metadata"
	case addr.IsMulticast():
		why = "multicast"
	case addr.IsUnspecified():
		why = "unspecified"
	}
	if why == "" {
		for _, r := range blockedRanges() {
			if netip.MustParsePrefix(r.prefix).Contains(addr) {
				why = r.why
				break
			}
		}
	}
	if why == "" {
		return nil
	}
	return &BlockedError{Address: whole.String(), Why: why}
}

// checkPeer is Check for addresses that the operator's own queen named: private networks are theirs,
// but metadata services and multicast are not.
func checkPeer(addr netip.Addr) error {
	plain := addr.WithZone("").Unmap()
	if plain.IsLinkLocalUnicast() || plain.IsMulticast() || plain.IsUnspecified() || plain == netip.MustParseAddr("fd00:ec2::254") {
		return &BlockedError{Address: addr.String(), Why: "link-local, metadata or multicast"}
	}
	for _, prefix := range []string{"0.0.0.0/8", "240.0.0.0/4", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"} {
		if !plain.IsLoopback() && netip.MustParsePrefix(prefix).Contains(plain) { // could lead to any IPv4 address, or to this machine
			return &BlockedError{Address: addr.String(), Why: "reserved, or an IPv4 address hidden in IPv6"}
		}
	}
	return nil
}

// PeerControl is a net.Dialer.Control that refuses link-local, metadata, multicast and unspecified addresses, and loopback
// unless near is true, after the name was resolved: for addresses that another machine gave.
func PeerControl(near bool) func(network, address string, _ syscall.RawConn) error {
	return control(func(a netip.Addr) error {
		if !near && a.WithZone("").Unmap().IsLoopback() {
			return &BlockedError{Address: a.String(), Why: "loopback"}
		}
		return checkPeer(a)
	})
}

// control checks the address that is really dialled, after the name was resolved.
func control(check func(netip.Addr) error) func(network, address string, _ syscall.RawConn) error {
	return func(network, address string, _ syscall.RawConn) error {
		if !strings.HasPrefix(network, "tcp") {
			return &BlockedError{Address: address, Why: "not TCP"}
		}
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return &BlockedError{Address: address, Why: "not an address"}
		}
		return check(ap.Addr())
	}
}
