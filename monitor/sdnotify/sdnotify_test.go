package sdnotify_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/monitor/sdnotify"
)

// manager is the socket of a service manager.
func manager(t *testing.T, watchdog time.Duration) *net.UnixConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	name := filepath.Join(dir, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	return c
}

func receive(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1024)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestStates(t *testing.T) {
	c := manager(t, 0)
	n := sdnotify.FromEnv()
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if v, ok := os.LookupEnv(name); ok {
			t.Errorf("%s=%s stays for children", name, v)
		}
	}
	if err := n.Ready("serves\nhere"); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, c); got != "READY=1\nSTATUS=serves here" {
		t.Errorf("%q", got)
	}
	if err := n.Stopping("drains"); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, c); got != "STOPPING=1\nSTATUS=drains" {
		t.Errorf("%q", got)
	}
	n.Watch(t.Context(), func(context.Context) error { t.Error("checked without a watchdog"); return nil }, nil)
}

// TestWatchdog: nothing is sent while the check fails or hangs.
func TestWatchdog(t *testing.T) {
	c := manager(t, 20*time.Millisecond)
	n := sdnotify.FromEnv()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	hang := make(chan struct{})
	var checks, missed atomic.Int64
	go func() {
		defer close(done)
		n.Watch(ctx, func(context.Context) error {
			switch k := checks.Add(1); {
			case k <= 3:
				return errors.New("stuck")
			case k == 4:
				<-hang
			}
			return nil
		}, func(error) { missed.Add(1) })
	}()
	if got := receive(t, c); got != "WATCHDOG=1" {
		t.Errorf("%q", got)
	}
	if checks.Load() < 5 || missed.Load() != 4 {
		t.Errorf("alive after %d checks, %d of them missed; want it from the fifth on, after four misses", checks.Load(), missed.Load())
	}
	if got := receive(t, c); got != "WATCHDOG=1" { // and again and again
		t.Errorf("%q", got)
	}
	close(hang)
	cancel()
	<-done
}

func TestAnotherProcessIsWatched(t *testing.T) {
	manager(t, time.Second)
	t.Setenv("WATCHDOG_PID", "1")
	n := sdnotify.FromEnv()
	n.Watch(t.Context(), func(context.Context) error { t.Error("checked for somebody else"); return nil }, nil)
}

func TestAnswers(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	check := sdnotify.Answers(s.URL+"/health", nil)
	if err := check(t.Context()); err != nil {
		t.Error(err)
	}
	s.Close()
	if check(t.Context()) == nil {
		t.Error("nobody listens, and that is alive")
	}
}

func TestNobody(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := sdnotify.FromEnv()
	if err := n.Ready(""); err != nil {
		t.Error(err)
	}
	var none *sdnotify.Notifier
	if err := none.Stopping(""); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "missing"))
	if err := sdnotify.FromEnv().Ready(""); err == nil {
		t.Error("a manager that does not listen is no error")
	}
}
