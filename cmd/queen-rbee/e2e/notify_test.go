package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestServiceManager: the queen tells the service manager when she serves, that she is alive, and that she ends; nothing that
// she starts can speak in her name.
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
	t.Setenv("WATCHDOG_USEC", "200000")
	q := start(t, "")
	receive := func(want string) {
		t.Helper()
		b := make([]byte, 1024)
		for {
			if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			n, err := c.Read(b)
			if err != nil {
				t.Fatalf("no %s: %v", want, err)
			}
			switch got := string(b[:n]); {
			case strings.HasPrefix(got, want):
				return
			case got == "WATCHDOG=1" && want == "STOPPING=1":
			default:
				t.Fatalf("%q instead of %s", got, want)
			}
		}
	}
	receive("READY=1\nSTATUS=serves at " + q.url)
	for range 3 {
		receive("WATCHDOG=1")
	}
	var hive struct{ PID int }
	q.until("the hive runs", 20*time.Second, func() bool {
		data, err := os.ReadFile(filepath.Join(q.dir, "hives", "local", "hive.json"))
		return err == nil && json.Unmarshal(data, &hive) == nil && hive.PID > 0
	})
	environ, err := os.ReadFile("/proc/" + itoa(hive.PID) + "/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC"} {
		if strings.Contains(string(environ), v) {
			t.Errorf("the hive has %s", v)
		}
	}
	q.stop()
	receive("STOPPING=1") // the socket kept it
}
