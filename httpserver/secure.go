package httpserver

import (
	"crypto/tls"
	"net"
)

// quietConn is the connection under TLS. Once its answer was taken over, nothing waits for the client: of what TLS has
// sealed, the part that can't be written at once is left for Drain.
type quietConn struct {
	*net.TCPConn
	try   tries
	quiet bool
	left  []byte
}

// Write implements net.Conn. TLS seals what it is given into one record or more and expects each to be taken whole.
func (q *quietConn) Write(p []byte) (int, error) {
	if !q.quiet {
		return q.TCPConn.Write(p)
	}
	n := 0
	if len(q.left) == 0 {
		var err error
		if n, err = q.try.write(q.TCPConn, p); err != nil {
			return n, err
		}
	}
	q.left = append(q.left, p[n:]...)
	return len(p), nil
}

// secure speaks TLS on an accepted connection.
func secure(c net.Conn, config *tls.Config) net.Conn {
	if t, ok := c.(*net.TCPConn); ok {
		c = &quietConn{TCPConn: t}
	}
	return tls.Server(c, config)
}

// wire finds the system's connection below an accepted one; q is nil where there is no TLS between.
func wire(c net.Conn) (t *net.TCPConn, q *quietConn, ok bool) {
	if t, ok = c.(*net.TCPConn); ok {
		return t, nil, true
	}
	s, ok := c.(*tls.Conn)
	if !ok {
		return nil, nil, false
	}
	if q, ok = s.NetConn().(*quietConn); !ok {
		return nil, nil, false
	}
	return q.TCPConn, q, true
}
