package router

import (
	"syscall"
)

// peek is what looking needs; it is kept so that a look allocates nothing.
type peek struct {
	raw syscall.RawConn
	fn  func(fd uintptr) bool
	up  bool
	b   [1]byte
}

// hungUp reports whether the other side has closed an idle connection, or said something that nobody asked for. It looks
// without waiting and without taking anything. Only one goroutine at a time may call it.
func (c *conn) hungUp() bool {
	k := &c.peek
	if k.raw == nil {
		sc, ok := c.Conn.(syscall.Conn)
		if !ok {
			return false
		}
		raw, err := sc.SyscallConn()
		if err != nil {
			return true
		}
		k.raw = raw
		k.fn = func(fd uintptr) bool {
			n, _, err := syscall.Recvfrom(int(fd), k.b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			k.up = n < 0 && (err == syscall.EAGAIN || err == syscall.EINTR)
			return true
		}
	}
	k.up = false
	err := k.raw.Read(k.fn)
	return err != nil || !k.up
}
