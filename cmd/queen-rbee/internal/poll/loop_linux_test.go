//go:build linux

package poll

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of a test: only a failure reaches it.
const patience = 20 * time.Second

func newLoop(t *testing.T) *Loop {
	t.Helper()
	l, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

// pair is a loopback connection: what the loop watches, and its other side.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// take reads what there is without waiting.
func take(c *net.TCPConn) (got []byte, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 512)
	rerr := raw.Read(func(fd uintptr) bool {
		n, e := syscall.Read(int(fd), buf)
		switch {
		case errors.Is(e, syscall.EAGAIN):
		case e != nil:
			err = e
		case n == 0:
			err = io.EOF
		default:
			got = buf[:n]
		}
		return true
	})
	return got, errors.Join(rerr, err)
}

func within[T any](t *testing.T, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for late := time.Now().Add(patience); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// settle returns when the loop has finished what it was asked for so far.
func settle(t *testing.T, l *Loop) {
	t.Helper()
	for range 3 {
		done := make(chan struct{})
		l.Later(func() { close(done) })
		within(t, done, "the loop's turn")
	}
}

func say(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func watch(t *testing.T, l *Loop, c net.Conn, fn func()) *Watch {
	t.Helper()
	w, ok := l.Readable(c, fn)
	if !ok {
		t.Fatal("the connection can't be watched")
	}
	return w
}
