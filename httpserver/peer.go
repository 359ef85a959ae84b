package httpserver

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"
)

// peer is what the server knows of a connection that it accepted itself, so that it need not be found out with each request.
type peer struct {
	s        *Server
	conn     net.Conn
	door     *doorway // nil without a Poller
	loopback bool
	host     string // the Host that checkBrowser let through last; HTTP/1 has one request at a time
	try      tries  // likewise
}

type peerKey struct{}

// greet is the http.Server's ConnContext.
func (s *Server) greet(ctx context.Context, c net.Conn) context.Context {
	p := &peer{s: s, conn: c, loopback: isLoopback(c.LocalAddr())}
	p.door, _ = ctx.Value(doorKey{}).(*doorway)
	return context.WithValue(ctx, peerKey{}, p)
}

// meet finds out whose connection a request came over. On its own ones the server lets net/http bound the time of body and
// answer, where the protocol is HTTP/1: HTTP/2 would end a stream at that time, whatever deadline it has by then.
func (c *call) meet() {
	p, ok := c.r.Context().Value(peerKey{}).(*peer)
	if !ok || p.s != c.s {
		return
	}
	c.peer = p
	if c.r.ProtoMajor == 1 {
		c.own.limited, c.own.armed = true, time.Now()
		return
	}
	_ = http.NewResponseController(c.own.ResponseWriter).SetWriteDeadline(time.Time{})
}

// onLoopback reports whether the request came to a loopback address.
func (c *call) onLoopback() bool {
	if c.peer != nil {
		return c.peer.loopback
	}
	a, ok := c.r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && isLoopback(a)
}

func isLoopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// knownHost reports whether the request's Host is allowed on a loopback listener.
func (c *call) knownHost() bool {
	host := c.r.Host
	once := c.own.limited
	if once && c.peer.host == host && host != "" {
		return true
	}
	name := hostOnly(host)
	if !localName(name) && !contains(c.s.o.AllowedHosts, name) && !contains(c.s.o.AllowedHosts, host) {
		return false
	}
	if once {
		c.peer.host = strings.Clone(host)
	}
	return true
}
