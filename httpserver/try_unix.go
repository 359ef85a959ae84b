//go:build unix

package httpserver

import (
	"errors"
	"net"
	"syscall"
	"unsafe"
)

// tries is what writing without waiting needs; it is kept so that a write allocates nothing.
type tries struct {
	raw syscall.RawConn
	fn  func(fd uintptr) bool
	p   []byte
	n   int
	err error
}

// writeNow is write(2) on a descriptor that never blocks. The scheduler need not hear of it: telling it costs more than
// the call.
func writeNow(fd uintptr, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// write writes what can be written to conn, always the same one, without waiting.
func (y *tries) write(conn *net.TCPConn, p []byte) (int, error) {
	if y.raw == nil {
		raw, err := conn.SyscallConn()
		if err != nil {
			return 0, err
		}
		y.raw = raw
		y.fn = func(fd uintptr) bool {
			y.n, y.err = writeNow(fd, y.p)
			return true
		}
	}
	y.p = p
	err := y.raw.Write(y.fn)
	n, werr := y.n, y.err
	y.p, y.n, y.err = nil, 0, nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(werr, syscall.EAGAIN) || errors.Is(werr, syscall.EINTR):
		return 0, nil
	case werr != nil:
		return 0, werr
	}
	return n, nil
}
