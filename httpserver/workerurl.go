package httpserver

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// checkWorkerURL refuses addresses that no worker has, but that whoever reports one might want the queen to ask in its
// place: metadata services and other link-local addresses, also hidden in IPv6, and spellings of an IPv4 address that
// differ from how it is checked elsewhere. A name is checked where it is dialled.
func checkWorkerURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil {
		return invalid("url", "url must be an http or https address without user and password")
	}
	if u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1") {
		return invalid("url", "url is where the worker's /v1 stands: leave out what comes from there on")
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); u.Port() != "" && (err != nil || n == 0) {
		return invalid("url", "the port must be from 1 to 65535")
	}
	host := strings.TrimSuffix(u.Hostname(), ".")
	a, err := netip.ParseAddr(host)
	if err != nil {
		if last := host[strings.LastIndexByte(host, '.')+1:]; last == "" || last[0] >= '0' && last[0] <= '9' {
			return invalid("url", "write the address as four decimal numbers, or as a name")
		}
		return nil
	}
	a = a.WithZone("")
	b := a.As16()
	if !a.Is4() && (nat64(a) || netip.MustParsePrefix("::/96").Contains(a) && !a.IsLoopback()) {
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if a = a.Unmap(); a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a == netip.MustParseAddr("fd00:ec2::254") {
		return invalid("url", "%s is a link-local, metadata or multicast address: no worker is there", clip(host, 64))
	}
	return nil
}

func nat64(a netip.Addr) bool {
	return netip.MustParsePrefix("64:ff9b::/96").Contains(a) || netip.MustParsePrefix("64:ff9b:1::/48").Contains(a)
}
