package compose

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/provisioner/fetch"
)

// TestDialGuest: what a hive that reports by itself names as a worker's address is judged by where it leads, in every
// spelling, and before a byte is sent.
func TestDialGuest(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	far, near := &fleet{dialer: net.Dialer{Timeout: 2 * time.Second}}, &fleet{dialer: net.Dialer{Timeout: 2 * time.Second}, nearGuests: true}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, address := range []string{"169.254.169.254:80", "http://169.254.169.254/latest/meta-data", "https://169.254.169.254", "[::ffff:169.254.169.254]:80",
		"http://[64:ff9b::a9fe:a9fe]", "http://[fd00:ec2::254]", "[fe80::1%lo]:80", "0.0.0.0:" + port, "[::]:" + port, "224.0.0.1:80"} {
		c, err := near.dialGuest(ctx, address)
		var blocked *fetch.BlockedError
		if !errors.As(err, &blocked) {
			t.Errorf("%s: %v %v", address, c, err)
		}
	}
	for _, address := range []string{"localhost:" + port, "http://localhost:" + port, "http://127.0.0.1:" + port + "/v1", "127.1:" + port, "2130706433:" + port, "[::ffff:127.0.0.1]:" + port} {
		c, err := far.dialGuest(ctx, address) // a name, too, is judged by what it resolves to
		if err == nil {
			_ = c.Close()
			t.Errorf("%s: a guest's worker on the queen's own machine was dialled", address)
		}
	}
	c, err := near.dialGuest(ctx, "http://localhost:"+port)
	if err != nil {
		t.Fatalf("where everybody is on this machine: %v", err)
	}
	_ = c.Close()
}
