package httpserver

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// doorway is a listener to which connections come back that were taken over for a stream: one more request on them is
// served as on any kept connection. Until it comes, nobody waits for it but the poller and a timer.
type doorway struct {
	net.Listener
	poller Poller
	tls    *tls.Config // nil: what comes is not spoken TLS to
	idle   time.Duration
	start  sync.Once
	conns  chan net.Conn
	errs   chan error
	closed chan struct{}

	mu   sync.Mutex
	kept map[*keptConn]struct{}
	shut bool
	last bool // nothing is kept any more
}

// keptConn is a connection between two requests.
type keptConn struct {
	conn  net.Conn
	watch Watch
	timer *time.Timer
}

func newDoorway(l net.Listener, o *Options) *doorway {
	return &doorway{Listener: l, poller: o.Poller, tls: o.TLS, idle: o.IdleTimeout, conns: make(chan net.Conn), errs: make(chan error), closed: make(chan struct{}),
		kept: make(map[*keptConn]struct{})}
}

// Accept implements net.Listener.
func (d *doorway) Accept() (net.Conn, error) {
	d.start.Do(func() { go d.accept() })
	select {
	case c := <-d.conns:
		return c, nil
	case err := <-d.errs:
		return nil, err
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *doorway) accept() {
	for {
		c, err := d.Listener.Accept()
		if err == nil {
			if d.tls != nil {
				c = secure(c, d.tls)
			}
			d.give(c)
			continue
		}
		select {
		case d.errs <- err:
		case <-d.closed:
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// give hands a connection to the server.
func (d *doorway) give(c net.Conn) {
	select {
	case d.conns <- c:
	case <-d.closed:
		_ = c.Close()
	}
}

// Close implements net.Listener: connections that wait for a request are closed, too.
func (d *doorway) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return nil
	}
	d.shut = true
	close(d.closed)
	d.dismiss()
	return d.Listener.Close()
}

// retire closes the connections that wait for a request, and from now on each that would.
func (d *doorway) retire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = true
	d.dismiss()
}

// dismiss closes what waits; the caller holds mu.
func (d *doorway) dismiss() {
	for k := range d.kept {
		k.drop()
		_ = k.conn.Close()
	}
	clear(d.kept)
}

// keep waits for the next request of a connection, which the system sees as raw.
func (d *doorway) keep(c, raw net.Conn) {
	k := &keptConn{conn: c}
	d.mu.Lock()
	defer d.mu.Unlock()
	var ok bool
	if !d.shut && !d.last {
		k.watch, ok = d.poller.Readable(raw, func() {
			if d.take(k) {
				go d.give(c)
			}
		})
	}
	if !ok {
		_ = c.Close()
		return
	}
	d.kept[k] = struct{}{}
	k.timer = time.AfterFunc(d.idle, func() {
		if d.take(k) {
			_ = c.Close()
		}
	})
	k.watch.Resume()
}

// take ends the waiting; false when somebody else has.
func (d *doorway) take(k *keptConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.kept[k]; !ok {
		return false
	}
	delete(d.kept, k)
	k.drop()
	return true
}

func (k *keptConn) drop() {
	k.watch.Stop()
	k.timer.Stop()
}
