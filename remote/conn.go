package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxHandshakeBytes bounds what a server may send before it has let us in, banners included.
const maxHandshakeBytes = 256 << 10

// conn is one live SSH connection.
type conn struct {
	o        *Options
	r        *resolved
	ssh      *ssh.Client
	wire     *wire
	sessions chan struct{}
	done     chan struct{} // closed when the connection has ended
	worn     atomic.Bool   // the server takes no more sessions on it: the pool gives it to nobody else
	via      []*Client     // the jumps, the nearest last

	mu    sync.Mutex
	cause error
}

// wire is the network connection below SSH: it notes signs of life and bounds the handshake.
type wire struct {
	net.Conn
	limit atomic.Int64 // bytes that may still come; negative = no limit any more
	reads atomic.Uint64
}

// Read counts.
func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if n > 0 {
		w.reads.Add(1)
		if left := w.limit.Load(); left >= 0 {
			if left = w.limit.Add(-int64(n)); left < 0 {
				return 0, ErrBanner
			}
		}
	}
	return n, err
}

// open connects, through the jumps if there are any, and shakes hands within DialTimeout.
func (p *Pool) open(ctx context.Context, r *resolved) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.o.DialTimeout)
	defer cancel()
	oops := func(op string, err error, remedy string) error {
		return &Error{Op: op, User: r.User, Host: r.addr(), Err: err, Remedy: remedy}
	}
	signers, cred, err := p.o.signers(ctx, r)
	if err != nil {
		return nil, err
	}
	defer cred.close()
	accept, algos, err := hostKeys{r: r, write: &p.known}.callback()
	if err != nil {
		var te *TargetError
		if errors.As(err, &te) {
			return nil, err
		}
		return nil, oops("host key", err, "")
	}
	leave, err := p.enter(ctx, r.addr())
	if err != nil {
		return nil, oops("connect", err, "the machine has too many handshakes waiting; try again")
	}
	defer leave()
	raw, via, err := p.reach(ctx, r)
	if err != nil {
		var own interface{ Permanent() bool }
		if errors.As(err, &own) {
			return nil, err
		}
		return nil, oops("connect", err, "check that the machine is on, its name and port, and the firewall")
	}
	c, err := p.shake(ctx, raw, r, signers, cred, accept, algos)
	if err != nil {
		_ = raw.Close()
		for _, v := range via {
			_ = v.Close()
		}
		return nil, err
	}
	c.via = via
	go c.watch()
	go c.keepAlive()
	return c, nil
}

// reach makes the network connection: directly, or through the last of the jumps.
func (p *Pool) reach(ctx context.Context, r *resolved) (net.Conn, []*Client, error) {
	if len(r.Jump) == 0 {
		c, err := p.o.Dial(ctx, "tcp", r.addr())
		return c, nil, err
	}
	last := r.Jump[len(r.Jump)-1]
	last.Jump = r.Jump[:len(r.Jump)-1]
	if len(last.Jump) == 0 {
		last.Jump = nil
	}
	j, err := p.Connect(ctx, last)
	if err != nil {
		return nil, nil, fmt.Errorf("jump: %w", err)
	}
	c, err := j.Dial(ctx, "tcp", r.addr())
	if err != nil {
		_ = j.Close()
		return nil, nil, fmt.Errorf("jump %s: %w", last, err)
	}
	return c, []*Client{j}, nil
}

// shake does the SSH handshake on raw; it ends with ctx, whatever the server does.
func (p *Pool) shake(ctx context.Context, raw net.Conn, r *resolved, signers []ssh.Signer, cred *credentials,
	accept ssh.HostKeyCallback, algos []string) (*conn, error) {
	w := &wire{Conn: raw}
	w.limit.Store(maxHandshakeBytes)
	cut := context.AfterFunc(ctx, func() { _ = raw.Close() })
	var refused error // the handshake wraps errors as text in places
	var asked atomic.Bool
	cfg := &ssh.ClientConfig{
		User:              r.User,
		HostKeyAlgorithms: algos,
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			err := accept(host, remote, key)
			if err != nil {
				refused = err
			}
			return err
		},
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			asked.Store(true)
			return signers, nil
		})},
		BannerCallback: func(string) error { return nil },
	}
	sc, chans, reqs, err := ssh.NewClientConn(w, r.addr(), cfg)
	if !cut() && err == nil {
		_ = sc.Close()
		err = ctx.Err()
	}
	if err != nil {
		if refused == nil && ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return nil, p.handshakeError(r, err, refused, cred)
	}
	w.limit.Store(-1)
	return &conn{
		o: &p.o, r: r, ssh: ssh.NewClient(sc, chans, reqs), wire: w,
		sessions: make(chan struct{}, p.o.MaxSessions), done: make(chan struct{}),
	}, nil
}

func (p *Pool) handshakeError(r *resolved, err, refused error, cred *credentials) error {
	text := err.Error()
	oops := func(err error, remedy string) error {
		return &Error{Op: "handshake", User: r.User, Host: r.addr(), Err: err, Remedy: remedy}
	}
	var hk *HostKeyError
	switch {
	case errors.As(refused, &hk):
		return hk
	case refused != nil:
		return oops(refused, "check the known_hosts file")
	case strings.Contains(text, "no common algorithm for host key"):
		return &HostKeyError{User: r.User, Host: joinPort(r.alias, r.Port), KeyType: "another kind of", Changed: true, Fingerprint: "(not shown)", Known: []string{"known_hosts"}}
	case strings.Contains(text, "unable to authenticate"), strings.Contains(text, "Too many authentication failures"):
		return &AuthError{User: r.User, Host: r.addr(), Keys: cred.names(), Err: err}
	case errors.Is(err, ErrBanner), strings.Contains(text, ErrBanner.Error()), strings.Contains(text, "overflow reading version string"):
		return oops(fmt.Errorf("%w (%w)", ErrBanner, err), "check that it is an SSH server")
	case errors.Is(err, context.DeadlineExceeded):
		return oops(err, "the machine is reached but its SSH server does not answer in time; check its load and MaxStartups")
	}
	return oops(err, "check that an SSH server listens there")
}

// watch waits for the connection's end.
func (c *conn) watch() {
	err := c.ssh.Wait()
	c.close(fmt.Errorf("%w: %w", ErrLost, err))
}

// close ends the connection; the first cause stays.
func (c *conn) close(cause error) {
	c.mu.Lock()
	first := c.cause == nil
	if first {
		c.cause = cause
	}
	c.mu.Unlock()
	if !first {
		return
	}
	_ = c.wire.Close() // not ssh.Close first: that writes, and a dead link may block a write for minutes
	_ = c.ssh.Close()
	close(c.done)
	for _, v := range c.via {
		_ = v.Close()
	}
}

func (c *conn) lost() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// err wraps what went wrong in an operation; a broken connection is ErrLost with its cause.
func (c *conn) err(op string, err error, remedy string) error {
	if dubious(err) { // its cause may be known in a moment
		t := time.NewTimer(200 * time.Millisecond)
		select {
		case <-c.done:
		case <-t.C:
		}
		t.Stop()
	}
	c.mu.Lock()
	cause := c.cause
	c.mu.Unlock()
	if cause != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		err = cause
		remedy = "connect again"
	}
	return &Error{Op: op, User: c.r.User, Host: c.r.addr(), Err: err, Remedy: remedy}
}

// dubious says whether an error may be the first sign of a broken connection: it is none of ours, no refusal by the
// server and no end of a context.
func dubious(err error) bool {
	for _, known := range []error{context.Canceled, context.DeadlineExceeded, ErrLost, ErrClosed, ErrOutput, ErrChecksum, errRefused} {
		if errors.Is(err, known) {
			return false
		}
	}
	var refused *ssh.OpenChannelError
	var exit *ExitError
	if errors.As(err, &exit) {
		return exit.Signal == ""
	}
	return !errors.As(err, &refused)
}

// keepAlive probes the link. Any byte that comes in while a probe is out is a sign of life, so that a link that is
// merely busy is not given up.
func (c *conn) keepAlive() {
	misses := 0
	var answer chan struct{}
	t := time.NewTicker(c.o.KeepAlive)
	defer t.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-t.C:
		}
		seen := c.wire.reads.Load()
		if answer == nil {
			answer = make(chan struct{})
			go func(done chan struct{}) {
				// An error means that the connection has ended, which watch sees as well.
				_, _, _ = c.ssh.SendRequest("keepalive@openssh.com", true, nil)
				close(done)
			}(answer)
		}
		limit := time.NewTimer(c.o.KeepAlive)
		select {
		case <-c.done:
			limit.Stop()
			return
		case <-answer:
			limit.Stop()
			answer, misses = nil, 0
			continue
		case <-limit.C:
		}
		if c.wire.reads.Load() != seen {
			misses = 0
			continue
		}
		if misses++; misses >= c.o.KeepAliveMisses {
			c.close(fmt.Errorf("%w: no sign of life for %s", ErrLost, time.Duration(misses)*c.o.KeepAlive))
			return
		}
	}
}
