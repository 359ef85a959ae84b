package app

import (
	"net"
	"testing"
)

func TestShown(t *testing.T) {
	all, one := &net.TCPAddr{IP: net.IPv6unspecified, Port: 7833}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7833}
	for _, c := range []struct {
		configured string
		got        net.Addr
		want       string
	}{
		{"0.0.0.0:0", all, "0.0.0.0:7833"}, {"[::]:0", all, "[::]:7833"}, {":0", all, "[::]:7833"},
		{"localhost:0", one, "127.0.0.1:7833"}, {"127.0.0.1:7833", one, "127.0.0.1:7833"},
	} {
		if got := shown(c.configured, c.got); got != c.want {
			t.Errorf("%s: %s, want %s", c.configured, got, c.want)
		}
	}
}
