package router

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
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
	try    tries
	poll   atomic.Pointer[Poll] // while it is watched
	closed atomic.Bool
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
	c.closed.Store(true)
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

// response reads the header of the answer.
func (c *conn) response() (*http.Response, error) {
	c.budget = maxHeader
	defer func() { c.budget = -1 }()
	for range 8 { // informational answers come before the real one
		resp, err := http.ReadResponse(c.reader(), nil)
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) && !c.got {
				err = io.EOF
			}
			return nil, err
		}
		if resp.StatusCode >= 200 {
			return resp, nil
		}
	}
	return nil, errHeaderTooLong
}

// pool keeps idle connections to workers.
type pool struct {
	dialer  Dialer
	poller  Poller // nil: every stream has a goroutine
	timeout time.Duration
	max     int

	mu     sync.Mutex
	idle   map[workerKey][]*conn
	curt   map[workerKey]bool // workers that close the connection after a stream though they promise to keep it
	closed bool
}

func newPool(d Dialer, p Poller, timeout time.Duration, max int) *pool {
	return &pool{dialer: d, poller: p, timeout: timeout, max: max, idle: make(map[workerKey][]*conn), curt: make(map[workerKey]bool)}
}

// workerKey names a worker's process: an id may come back at another address.
type workerKey struct{ id, address string }

func poolKey(w *Worker) workerKey { return workerKey{w.ID, w.Address} }

// get gives a kept connection, or a new one. fresh asks for a new one.
func (p *pool) get(ctx context.Context, w *Worker, fresh bool) (c *conn, reused bool, err error) {
	if !fresh {
		if c := p.take(poolKey(w)); c != nil {
			return c, true, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	nc, err := p.dialer.DialWorker(ctx, *w)
	if err != nil {
		return nil, false, err
	}
	return newConn(nc), false, nil
}

func (p *pool) take(key workerKey) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[key]
	for len(list) > 0 {
		c := list[len(list)-1]
		list[len(list)-1] = nil
		list = list[:len(list)-1]
		p.idle[key] = list
		if c.stream && hungUp(c.Conn) {
			p.curt[key] = true
			_ = c.Close()
			continue
		}
		if time.Since(c.idle) < idleLife {
			c.got = false
			return c
		}
		_ = c.Close() // too old to trust
	}
	return nil
}

// put keeps a connection whose answer was read to its end.
func (p *pool) put(w *Worker, c *conn) {
	key := poolKey(w)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.unread() || p.closed || len(p.idle[key]) >= p.max || c.stream && p.curt[key] {
		_ = c.Close()
		return
	}
	c.idle = time.Now()
	p.idle[key] = append(p.idle[key], c)
}

// lasting reports whether a connection to the worker is worth keeping after a stream.
func (p *pool) lasting(w *Worker) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.curt[poolKey(w)]
}

// learn notes that the worker closes connections after a stream.
func (p *pool) learn(w *Worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.curt[poolKey(w)] = true
}

// forget closes the kept connections of a worker that failed.
func (p *pool) forget(w *Worker) {
	key := poolKey(w)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle[key] {
		_ = c.Close()
	}
	delete(p.idle, key)
	delete(p.curt, key)
}

// sweep closes what has been idle too long.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, list := range p.idle {
		keep := list[:0]
		for _, c := range list {
			if time.Since(c.idle) < idleLife {
				keep = append(keep, c)
				continue
			}
			_ = c.Close()
		}
		clear(list[len(keep):])
		if len(keep) == 0 {
			delete(p.idle, key)
			continue
		}
		p.idle[key] = keep
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for key, list := range p.idle {
		for _, c := range list {
			_ = c.Close()
		}
		delete(p.idle, key)
	}
}
