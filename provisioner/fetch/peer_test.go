package fetch

import (
	"net"
	"testing"
)

// TestPeerControl checks what a machine that reports by itself may name: private networks, but no metadata service in
// any form, and this machine only when asked to.
func TestPeerControl(t *testing.T) {
	far, near := PeerControl(false), PeerControl(true)
	for _, a := range []string{"10.0.0.5", "192.168.1.2", "172.16.0.1", "100.64.0.7", "fd12::1", "8.8.8.8", "::ffff:10.0.0.5"} {
		if err := far("tcp", net.JoinHostPort(a, "80"), nil); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, a := range []string{"169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1",
		"::a9fe:a9fe", "2001:0:a9fe:a9fe::1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "255.255.255.255"} {
		if near("tcp", net.JoinHostPort(a, "80"), nil) == nil {
			t.Errorf("%s is let through", a)
		}
	}
	for _, a := range []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"} {
		if far("tcp", net.JoinHostPort(a, "80"), nil) == nil || near("tcp", net.JoinHostPort(a, "80"), nil) != nil {
			t.Errorf("%s: this machine is for near peers only", a)
		}
	}
}
