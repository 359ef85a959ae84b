package router

import (
	"net"
	"syscall"
)

// hungUp reports whether the other side has closed an idle connection, or said something that nobody asked for. It looks
// without waiting and without taking anything.
func hungUp(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	up := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		up = n < 0 && (err == syscall.EAGAIN || err == syscall.EINTR)
		return true
	})
	return err != nil || !up
}
