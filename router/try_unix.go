//go:build unix

package router

import (
	"errors"
	"io"
	"net"
	"syscall"
	"unsafe"
)

// tries is what reading, or writing, without waiting needs; it is kept so that neither allocates anything.
type tries struct {
	raw syscall.RawConn
	fn  func(fd uintptr) bool
	p   []byte
	n   int
	err error
}

// readNow is read(2) on a descriptor that never blocks. The scheduler need not hear of it: telling it costs more than the call.
func readNow(fd uintptr, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, syscall.EAGAIN
	}
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// tryRead reads what there is; 0 and no error when there is nothing. Only one goroutine at a time may call it.
func (c *conn) tryRead(p []byte) (int, error) {
	t := &c.try
	if t.raw == nil {
		sc, ok := c.Conn.(syscall.Conn)
		if !ok {
			return 0, net.ErrClosed
		}
		raw, err := sc.SyscallConn()
		if err != nil {
			return 0, err
		}
		t.raw = raw
		t.fn = func(fd uintptr) bool {
			t.n, t.err = readNow(fd, t.p)
			return true
		}
	}
	t.p = p
	err := t.raw.Read(t.fn)
	n, rerr := t.n, t.err
	t.p, t.n, t.err = nil, 0, nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(rerr, syscall.EAGAIN) || errors.Is(rerr, syscall.EINTR):
		return 0, nil
	case rerr != nil:
		return 0, rerr
	case n <= 0:
		return 0, io.EOF
	}
	c.got = true
	return n, nil
}

// tryWrite writes what the connection takes at once, and returns how much that was: what is left, and why, is for Write. A write that
// wakes the worker may cost this thread its processor, and Go's scheduler, had it been told of the call, would then look for another.
func (c *conn) tryWrite(p []byte) int {
	t := &c.put
	if t.raw == nil {
		sc, ok := c.Conn.(syscall.Conn)
		if !ok {
			return 0
		}
		raw, err := sc.SyscallConn()
		if err != nil {
			return 0
		}
		t.raw = raw
		t.fn = func(fd uintptr) bool {
			n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&t.p[0])), uintptr(len(t.p)))
			if t.n = int(n); errno != 0 {
				t.n = 0
			}
			return true
		}
	}
	t.p, t.n = p, 0
	if err := t.raw.Write(t.fn); err != nil {
		t.n = 0
	}
	t.p = nil
	return t.n
}
