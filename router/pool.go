package router

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxHeader bounds what a worker may say before its body.
const maxHeader = 64 << 10

// idleLife is how long a connection is kept unused: shorter than any engine's own limit is known to be.
const idleLife = 30 * time.Second

var errHeaderTooLong = errors.New("the worker's header is too long")

// conn is one connection to a worker, with its reader.
type conn struct {
	net.Conn
	br     *bufio.Reader // nil while nothing is read, or without waiting: see reader
	budget int64         // bytes still allowed before the body; negative = no limit
	got    bool          // something was read since the last request
	stream bool          // its last answer was a stream
	idle   time.Time
	lane   *lane // nil: of no worker that is known
	dog    watchdog
	try    tries
	put    tries
	peek   peek
	poll   atomic.Pointer[Poll] // while it is watched
}

func newConn(nc net.Conn) *conn { return &conn{Conn: nc, budget: -1} }

// readers are kept for the next connection: one that waits holds none.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4096) }} //nolint:gochecknoglobals // memory, not state

// reader gives the connection its buffer.
func (c *conn) reader() *bufio.Reader {
	if c.br == nil {
		c.br, _ = readers.Get().(*bufio.Reader)
		c.br.Reset(readerOf{c})
	}
	return c.br
}

// unread gives the buffer back unless there is something in it; it reports whether there is none now.
func (c *conn) unread() bool {
	if c.br != nil && c.br.Buffered() == 0 {
		c.br.Reset(nil)
		readers.Put(c.br)
		c.br = nil
	}
	return c.br == nil
}

// Close closes the connection, and tells whoever watches it.
func (c *conn) Close() error {
	c.dog.close()
	err := c.Conn.Close()
	if p := c.poll.Load(); p != nil {
		(*p).Kick()
	}
	return err
}

// readerOf counts what a worker says before its body.
type readerOf struct{ c *conn }

func (r readerOf) Read(p []byte) (int, error) {
	c := r.c
	if c.budget == 0 {
		return 0, errHeaderTooLong
	}
	if c.budget > 0 && int64(len(p)) > c.budget {
		p = p[:c.budget]
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.got = true
	}
	if c.budget > 0 {
		c.budget -= int64(n)
	}
	return n, err
}

// pool keeps idle connections to workers.
type pool struct {
	dialer  Dialer
	poller  Poller // nil: every stream has a goroutine
	timeout time.Duration
	max     int

	mu     sync.Mutex
	lanes  map[workerKey]*lane
	closed bool

	texts sync.Pool // *[]byte: memory for requests on their way out
}

func newPool(d Dialer, p Poller, timeout time.Duration, max int) *pool {
	return &pool{dialer: d, poller: p, timeout: timeout, max: max, lanes: make(map[workerKey]*lane), texts: sync.Pool{New: func() any { return new([]byte) }}}
}

// workerKey names a worker's process: an id may come back at another address.
type workerKey struct{ id, address string }

func poolKey(w *Worker) workerKey { return workerKey{w.ID, w.Address} }

// lane is what is kept of a worker's process. The pool's mu guards idle and curt.
type lane struct {
	idle []*conn
	curt bool // it closes the connection after a stream though it promises to keep it

	openings [2]atomic.Pointer[opening] // of requests for a whole answer and for a stream
	headers  [2]atomic.Pointer[fields]  // of the last such answers
}

// which is the place in a pair for one of the two kinds of exchange.
func which(stream bool) int {
	if stream {
		return 1
	}
	return 0
}

// at gives the worker's lane. The caller holds mu.
func (p *pool) at(key workerKey) *lane {
	l := p.lanes[key]
	if l == nil {
		l = &lane{}
		p.lanes[key] = l
	}
	return l
}

// get gives a kept connection, or a new one. fresh asks for a new one.
func (p *pool) get(ctx context.Context, w *Worker, fresh bool, now time.Time) (c *conn, reused bool, err error) {
	l, c := p.take(poolKey(w), fresh, now)
	if c != nil {
		return c, true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	nc, err := p.dialer.DialWorker(ctx, *w)
	if err != nil {
		return nil, false, err
	}
	c = newConn(nc)
	c.lane = l
	return c, false, nil
}

// take gives the worker's lane and, unless none is wanted, a kept connection where there is one.
func (p *pool) take(key workerKey, none bool, now time.Time) (*lane, *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.at(key)
	for len(l.idle) > 0 && !none {
		last := len(l.idle) - 1
		c := l.idle[last]
		l.idle[last] = nil
		l.idle = l.idle[:last]
		if c.stream && c.hungUp() {
			l.curt = true
			_ = c.Close()
			continue
		}
		if now.Sub(c.idle) < idleLife {
			c.got = false
			return l, c
		}
		_ = c.Close() // too old to trust
	}
	return l, nil
}

// put keeps a connection whose answer was read to its end.
func (p *pool) put(w *Worker, c *conn, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.at(poolKey(w)) // c's own may have been forgotten
	if !c.unread() || p.closed || len(l.idle) >= p.max || c.stream && l.curt {
		_ = c.Close()
		return
	}
	c.idle, c.lane = now, l
	l.idle = append(l.idle, c)
}

// lasting reports whether a connection to the worker is worth keeping after a stream.
func (p *pool) lasting(w *Worker) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.at(poolKey(w)).curt
}

// learn notes that the worker closes connections after a stream.
func (p *pool) learn(w *Worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at(poolKey(w)).curt = true
}

// forget closes the kept connections of a worker that failed.
func (p *pool) forget(w *Worker) {
	key := poolKey(w)
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.lanes[key]; l != nil {
		for _, c := range l.idle {
			_ = c.Close()
		}
		delete(p.lanes, key)
	}
}

// sweep closes what has been idle too long, and forgets workers that nobody talks to.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, l := range p.lanes {
		keep := l.idle[:0]
		for _, c := range l.idle {
			if time.Since(c.idle) < idleLife {
				keep = append(keep, c)
				continue
			}
			_ = c.Close()
		}
		clear(l.idle[len(keep):])
		l.idle = keep
		if len(keep) == 0 && !l.curt {
			delete(p.lanes, key)
		}
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for key, l := range p.lanes {
		for _, c := range l.idle {
			_ = c.Close()
		}
		delete(p.lanes, key)
	}
}
