package hive

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServiceManager: a hive in a unit of its own says when it serves, that it is alive, and that it ends.
func TestServiceManager(t *testing.T) {
	dir, err := os.MkdirTemp("", "sd") // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	name := filepath.Join(dir, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "100000")
	r := startHive(t, t.TempDir())
	for _, want := range []string{"READY=1\nSTATUS=serves at " + r.addr, "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"} {
		if want == "STOPPING=1" {
			if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		for got := ""; !strings.HasPrefix(got, want); {
			if got != "" && got != "WATCHDOG=1" {
				t.Fatalf("%q instead of %q", got, want)
			}
			if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 1024)
			n, err := c.Read(b)
			if err != nil {
				t.Fatalf("no %q: %v\n%s", want, err, r.text())
			}
			got = string(b[:n])
		}
	}
	<-r.done
}
