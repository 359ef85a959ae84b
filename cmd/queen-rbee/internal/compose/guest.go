package compose

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"

	"github.com/queen-rbee/queen-rbee/provisioner/fetch"
	"github.com/queen-rbee/queen-rbee/registry"
)

// guest says that somebody else started a hive: it reports by itself and takes no commands.
func guest(h *registry.Hive) bool {
	return h.Mode == registry.ModeNetwork && h.SSH == nil && h.Address == ""
}

// dialGuest connects to a worker at the address that its report gave. The address is checked in the dialer: what a token
// of scope hive names must not be a metadata service, nor this machine, unless everybody who can reach the queen is on it.
func (f *fleet) dialGuest(ctx context.Context, address string) (net.Conn, error) {
	host, secure := address, false
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		host, secure = u.Host, u.Scheme == "https"
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), map[bool]string{false: "80", true: "443"}[secure])
		}
	}
	d := net.Dialer{Timeout: f.dialer.Timeout, Control: fetch.PeerControl(f.nearGuests)}
	if secure {
		name, _, _ := net.SplitHostPort(host)
		td := tls.Dialer{NetDialer: &d, Config: &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}}
		return td.DialContext(ctx, "tcp", host)
	}
	return d.DialContext(ctx, "tcp", host)
}
