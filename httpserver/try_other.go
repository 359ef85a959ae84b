//go:build !unix

package httpserver

import "net"

// tries is for systems that can write without waiting.
type tries struct{}

// write is never called: no poller watches connections here.
func (*tries) write(*net.TCPConn, []byte) (int, error) { return 0, net.ErrClosed }
