//go:build !unix

package router

import "net"

// tries is for systems that can read without waiting.
type tries struct{}

// tryRead is never called: no poller watches connections here.
func (c *conn) tryRead([]byte) (int, error) { return 0, net.ErrClosed }

// tryWrite writes nothing: the ordinary way does.
func (c *conn) tryWrite([]byte) int { return 0 }
