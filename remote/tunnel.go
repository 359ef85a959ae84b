package remote

import (
	"context"
	"net"
	"os"
	"sync"
	"time"
)

// Dial connects to addr as the machine sees it (direct-tcpip), without a listening port on this side. Deadlines work on
// the connection it returns: one that passes ends it for good.
func (c *Client) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	select {
	case <-c.closed:
		return nil, ErrClosed
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, c.conn.o.SessionTimeout)
	defer cancel()
	t, err := c.conn.ssh.DialContext(ctx, network, addr)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, c.conn.err("dial "+addr, err, "check that something listens there, and AllowTcpForwarding")
	}
	return &tunnel{Conn: t}, nil
}

// Listen listens on addr on the machine and hands its connections over here. ctx bounds the request, not the listener.
func (c *Client) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	select {
	case <-c.closed:
		return nil, ErrClosed
	default:
	}
	type opened struct {
		l   net.Listener
		err error
	}
	got := make(chan opened, 1)
	go func() {
		l, err := c.conn.ssh.Listen(network, addr)
		got <- opened{l, err}
	}()
	limit := time.NewTimer(c.conn.o.SessionTimeout)
	defer limit.Stop()
	err := context.DeadlineExceeded
	select {
	case o := <-got:
		if o.err != nil {
			return nil, c.conn.err("listen on "+addr, o.err, "check AllowTcpForwarding and that the port is free there")
		}
		return o.l, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-limit.C:
	}
	go func() {
		if o := <-got; o.err == nil {
			_ = o.l.Close()
		}
	}()
	return nil, c.conn.err("listen on "+addr, err, "allow it more time")
}

// tunnel gives an SSH channel the deadlines that net.Conn promises, by closing it when one passes.
type tunnel struct {
	net.Conn
	mu    sync.Mutex
	timer *time.Timer
	late  bool
}

// SetDeadline ends the connection at t; the zero time takes that back.
func (t *tunnel) SetDeadline(at time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	if at.IsZero() || t.late {
		return nil
	}
	t.timer = time.AfterFunc(time.Until(at), func() {
		t.mu.Lock()
		t.late = true
		t.mu.Unlock()
		_ = t.Conn.Close()
	})
	return nil
}

// SetReadDeadline is SetDeadline: an SSH channel ends as a whole.
func (t *tunnel) SetReadDeadline(at time.Time) error { return t.SetDeadline(at) }

// SetWriteDeadline is SetDeadline: an SSH channel ends as a whole.
func (t *tunnel) SetWriteDeadline(at time.Time) error { return t.SetDeadline(at) }

// Read is the channel's, with os.ErrDeadlineExceeded after a deadline.
func (t *tunnel) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	return n, t.explain(err)
}

// Write is the channel's, with os.ErrDeadlineExceeded after a deadline.
func (t *tunnel) Write(b []byte) (int, error) {
	n, err := t.Conn.Write(b)
	return n, t.explain(err)
}

// CloseWrite tells the other side that nothing more comes.
func (t *tunnel) CloseWrite() error {
	if h, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// Close ends the channel and the deadline.
func (t *tunnel) Close() error {
	_ = t.SetDeadline(time.Time{})
	return t.Conn.Close()
}

func (t *tunnel) explain(err error) error {
	if err == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.late {
		return os.ErrDeadlineExceeded
	}
	return err
}
