package remote

import (
	"context"
	"sync"
	"time"
)

// Pool keeps one connection for each account on each machine and shares it between Clients.
type Pool struct {
	o     Options
	known sync.Mutex // writes to known_hosts
	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup // dials under way

	mu      sync.Mutex
	entries map[string]*entry
	gates   map[string]*gate
	closed  bool
}

// entry is a connection, or one that is being made.
type entry struct {
	ready  chan struct{} // closed when conn or err is set
	cancel context.CancelFunc
	conn   *conn
	err    error
	refs   int
	idle   *time.Timer
}

// gate bounds the handshakes with one machine.
type gate struct {
	slots chan struct{}
	users int
}

// NewPool makes an empty pool; it connects to nothing yet.
func NewPool(o Options) *Pool {
	ctx, stop := context.WithCancel(context.Background())
	return &Pool{o: o.withDefaults(), ctx: ctx, stop: stop, entries: map[string]*entry{}, gates: map[string]*gate{}}
}

// Connect gives a Client for the target, over a live connection if there is one. Callers that come while a connection
// is being made wait for that attempt and share its outcome: one refusal is one attempt, however many ask. The errors
// are *TargetError, *KeyError, *AuthError, *HostKeyError, or *Error with the cause. Close the Client after use.
func (p *Pool) Connect(ctx context.Context, t Target) (*Client, error) {
	r, err := p.o.resolve(t)
	if err != nil {
		return nil, err
	}
	return p.connect(ctx, r)
}

func (p *Pool) connect(ctx context.Context, r *resolved) (*Client, error) {
	key := r.key()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	e := p.entries[key]
	if e != nil && e.conn != nil && (e.conn.lost() || e.conn.worn.Load()) {
		delete(p.entries, key) // its remaining Clients find out by themselves
		e = nil
	}
	if e == nil {
		dctx, cancel := context.WithCancel(p.ctx)
		e = &entry{ready: make(chan struct{}), cancel: cancel}
		p.entries[key] = e
		p.wg.Go(func() { p.dial(dctx, key, e, r) })
	}
	e.refs++
	if e.idle != nil {
		e.idle.Stop()
		e.idle = nil
	}
	p.mu.Unlock()
	select {
	case <-e.ready:
	case <-ctx.Done():
		p.release(key, e)
		return nil, &Error{Op: "connect", User: r.User, Host: r.addr(), Err: ctx.Err(), Remedy: "allow it more time"}
	}
	if e.err != nil {
		return nil, e.err
	}
	return &Client{conn: e.conn, free: sync.OnceFunc(func() { p.release(key, e) }), closed: make(chan struct{})}, nil
}

func (p *Pool) dial(ctx context.Context, key string, e *entry, r *resolved) {
	c, err := p.open(ctx, r)
	p.mu.Lock()
	e.conn, e.err = c, err
	switch {
	case err != nil:
		p.forget(key, e)
	case p.closed || e.refs == 0:
		p.forget(key, e)
		e.conn, e.err = nil, ErrClosed
		go c.close(ErrClosed)
	}
	close(e.ready)
	p.mu.Unlock()
}

// forget takes an entry out, unless a newer one has its place.
func (p *Pool) forget(key string, e *entry) {
	if p.entries[key] == e {
		delete(p.entries, key)
	}
}

// release gives up one reference; the last one starts the idle clock, or ends an attempt that nobody waits for.
func (p *Pool) release(key string, e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.refs--
	if e.refs > 0 {
		return
	}
	select {
	case <-e.ready:
	default:
		e.cancel()
		p.forget(key, e)
		return
	}
	if e.conn == nil {
		return
	}
	if p.closed || e.conn.lost() || e.conn.worn.Load() {
		p.forget(key, e)
		go e.conn.close(ErrClosed)
		return
	}
	e.idle = time.AfterFunc(p.o.IdleClose, func() {
		p.mu.Lock()
		if e.refs > 0 {
			p.mu.Unlock()
			return
		}
		p.forget(key, e)
		p.mu.Unlock()
		e.conn.close(ErrClosed)
	})
}

// Close ends every connection, also those that Clients still use.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	all := p.entries
	p.entries = map[string]*entry{}
	p.mu.Unlock()
	p.stop()
	p.wg.Wait()
	for _, e := range all {
		p.mu.Lock()
		if e.idle != nil {
			e.idle.Stop()
		}
		c := e.conn
		p.mu.Unlock()
		if c != nil {
			c.close(ErrClosed)
		}
	}
	return nil
}

// enter waits for a place among the handshakes with one machine.
func (p *Pool) enter(ctx context.Context, addr string) (leave func(), err error) {
	p.mu.Lock()
	g := p.gates[addr]
	if g == nil {
		g = &gate{slots: make(chan struct{}, p.o.MaxHandshakes)}
		p.gates[addr] = g
	}
	g.users++
	p.mu.Unlock()
	done := func() {
		p.mu.Lock()
		if g.users--; g.users == 0 {
			delete(p.gates, addr)
		}
		p.mu.Unlock()
	}
	select {
	case g.slots <- struct{}{}:
		return func() { <-g.slots; done() }, nil
	case <-ctx.Done():
		done()
		return nil, ctx.Err()
	}
}
