//go:build !unix

package httpserver

import "net"

// tries is for systems that can write without waiting.
type tries struct{}

// tryWrite is never called: no poller watches connections here.
func (t *Taken) tryWrite([]byte) (int, error) { return 0, net.ErrClosed }
