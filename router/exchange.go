package router

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// guard closes the connection of an attempt when the job's context ends or the worker is silent for too long. It costs
// one timer and one callback an attempt, nothing per token but a store.
type guard struct {
	first, inter time.Duration
	started      time.Time
	last         atomic.Int64 // of the last byte, since started; 0 = none yet
	firstAt      atomic.Int64 // of the first

	mu      sync.Mutex
	c       *conn
	over    bool
	expired error
	timer   *time.Timer
	unhook  func() bool
}

func newGuard(ctx context.Context, first, inter time.Duration) *guard {
	g := &guard{first: first, inter: inter, started: time.Now()}
	g.unhook = context.AfterFunc(ctx, g.shut)
	g.mu.Lock()
	g.timer = time.AfterFunc(first, g.check)
	g.mu.Unlock()
	return g
}

// hold puts the guard over a connection; it reports false, and closes it, when the attempt is already over.
func (g *guard) hold(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.c = c
	if g.over {
		_ = c.Close()
	}
	return !g.over
}

// shut ends the attempt.
func (g *guard) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	if g.c != nil {
		_ = g.c.Close()
	}
}

// check runs when a limit may have passed.
func (g *guard) check() {
	limit, why := g.first, errFirstToken
	var left time.Duration
	if last := time.Duration(g.last.Load()); last > 0 {
		limit, why = g.inter, errInterToken
		left = limit - (time.Since(g.started) - last)
	} else {
		left = limit - time.Since(g.started)
	}
	g.mu.Lock()
	if g.over {
		g.mu.Unlock()
		return
	}
	if left > 0 {
		g.timer.Reset(left)
		g.mu.Unlock()
		return
	}
	g.expired = why
	g.mu.Unlock()
	g.shut()
}

// touch notes that the worker spoke.
func (g *guard) touch() {
	now := int64(time.Since(g.started)) + 1
	if g.last.Swap(now) == 0 {
		g.firstAt.Store(now)
		g.mu.Lock()
		if !g.over {
			g.timer.Reset(g.inter)
		}
		g.mu.Unlock()
	}
}

// release ends the watch; it reports whether the connection is still good.
func (g *guard) release() bool {
	g.unhook()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.timer.Stop()
	ok := !g.over
	g.over, g.c = true, nil
	return ok
}

// why explains an error: the guard's own reason, where it has one, is the cause.
func (g *guard) why(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	g.mu.Lock()
	expired := g.expired
	g.mu.Unlock()
	if expired != nil {
		return expired
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// exchange is one request and its answer.
type exchange struct {
	ctx    context.Context
	pool   *pool
	w      *Worker
	g      *guard
	c      *conn
	reused bool
	header []byte
	req    *wire
	job    *Job
}

// post connects and writes the request.
func (x *exchange) post(fresh bool) error {
	c, reused, err := x.pool.get(x.ctx, x.w, fresh)
	if err != nil {
		return &dialError{err}
	}
	x.c, x.reused = c, reused
	if !x.g.hold(c) {
		return net.ErrClosed
	}
	if x.header == nil {
		x.header = x.head()
	}
	if len(x.req.body) <= 16<<10 {
		_, err = c.Write(append(x.header, x.req.body...)) // head left room for it; a second time writes the same
		return err
	}
	if _, err = c.Write(x.header); err == nil {
		_, err = c.Write(x.req.body)
	}
	return err
}

// answer reads the header of the worker's answer. A kept connection that the worker had closed meanwhile is replaced,
// once: nothing of an answer was seen.
func (x *exchange) answer(posted error) (*http.Response, error) {
	resp, err := x.read(posted)
	if err == nil || !x.reused || x.c.got || x.ctx.Err() != nil {
		return resp, err
	}
	if x.c.stream {
		x.pool.learn(x.w)
	}
	_ = x.c.Close()
	return x.read(x.post(true))
}

// read reads the header even when writing failed: a worker may answer and close before it has read the whole body.
func (x *exchange) read(posted error) (*http.Response, error) {
	if posted != nil && x.c == nil {
		return nil, posted
	}
	if posted != nil {
		_ = x.c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	}
	resp, err := x.c.response()
	if posted != nil {
		if err != nil {
			return nil, posted
		}
		_ = x.c.SetReadDeadline(time.Time{})
	}
	return resp, err
}

// end gives the connection back, or closes it.
func (x *exchange) end(keep bool) {
	if ok := x.g.release(); x.c == nil {
		return
	} else if keep && ok {
		x.pool.put(x.w, x.c)
		return
	}
	_ = x.c.Close()
}

// endStream is end after a streamed answer, whose body may not have ended yet.
func (x *exchange) endStream(r *Router, f *frames, err error) {
	ok := x.g.release()
	switch {
	case !ok || err != nil || f.state.Load() != framesDone || !f.keep || !x.pool.lasting(x.w):
		_ = x.c.Close()
	case f.over():
		x.c.stream = true
		x.pool.put(x.w, x.c)
	default:
		r.enter()
		go r.recycle(x, f)
	}
}

// head writes the request's header.
func (x *exchange) head() []byte {
	b := make([]byte, 0, 512+min(len(x.req.body), 16<<10))
	b = append(b, "POST "...)
	b = append(append(b, prefixOf(x.w.Address)...), x.req.path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, hostOf(x.w.Address)...)
	b = append(b, "\r\nContent-Type: "...)
	b = append(b, clean(x.req.contentType)...)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(x.req.body)), 10)
	if x.req.stream {
		b = append(b, "\r\nAccept: text/event-stream"...)
	}
	if x.w.APIKey != "" {
		b = appendHeader(b, "Authorization", "Bearer "+x.w.APIKey)
	}
	b = appendHeader(b, "traceparent", x.job.Traceparent)
	b = appendHeader(b, "X-Correlation-Id", x.job.CorrelationID)
	return append(b, "\r\n\r\n"...)
}

func appendHeader(b []byte, name, value string) []byte {
	if value = clean(value); value == "" {
		return b
	}
	b = append(b, "\r\n"...)
	b = append(b, name...)
	b = append(b, ": "...)
	return append(b, value...)
}

// clean keeps a value within its line.
func clean(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

// hostOf is the Host header's value: the address without a scheme or path.
func hostOf(addr string) string {
	if _, rest, ok := strings.Cut(addr, "://"); ok {
		addr = rest
	}
	addr, _, _ = strings.Cut(addr, "/")
	if addr = clean(addr); addr == "" {
		return "worker"
	}
	return addr
}

// prefixOf is the path of an address that is a URL: some servers stand behind one.
func prefixOf(addr string) string {
	if _, rest, ok := strings.Cut(addr, "://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return clean(strings.TrimRight(rest[i:], "/"))
		}
	}
	return ""
}

// dialError is a worker that can't be reached.
type dialError struct{ err error }

// Error is for the log; clients are told less.
func (e *dialError) Error() string { return "connect: " + e.err.Error() }

// Unwrap gives the dialer's error.
func (e *dialError) Unwrap() error { return e.err }

// frames is the body of a streamed answer as the Stream sees it. Closing it closes the connection: what the worker has
// not said by then nobody wants.
type frames struct {
	streamBody
	x     *exchange
	keep  bool // the worker did not say that it closes the connection
	poll  Poll
	state atomic.Uint32
}

var _ PolledBody = (*frames)(nil)

// The states of frames: whichever comes first, a Close or the end of what the Stream wants, wins.
const (
	framesOpen = iota
	framesClosed
	framesDone
)

func (f *frames) Read(p []byte) (int, error) {
	n, err := f.streamBody.Read(p)
	if n > 0 {
		f.x.g.touch()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = f.x.g.why(f.x.ctx, err)
	}
	return n, err
}

// Done tells that the Stream has seen its protocol's end: the connection may carry another request.
func (f *frames) Done() { f.state.CompareAndSwap(framesOpen, framesDone) }

func (f *frames) Close() error {
	if f.state.CompareAndSwap(framesOpen, framesClosed) {
		return f.x.c.Close()
	}
	return nil
}

// Poll implements PolledBody.
func (f *frames) Poll(fn func()) bool {
	p, c := f.x.pool.poller, f.x.c
	if p == nil {
		return false
	}
	var ok bool
	if f.poll, ok = p.Readable(c.Conn, fn); !ok {
		return false
	}
	f.polled = true
	c.poll.Store(&f.poll)
	return true
}

// TryRead implements PolledBody.
func (f *frames) TryRead(p []byte) (int, error) {
	if f.polled || f.x.pool.poller == nil {
		return 0, nil // Read does not wait, or this may be no connection of the system
	}
	f.polled, f.dry = true, false
	n, err := f.streamBody.Read(p)
	f.polled, f.dry = false, false
	if n > 0 {
		f.x.g.touch()
	}
	return n, err
}

// Pause implements PolledBody.
func (f *frames) Pause() { f.poll.Pause() }

// Resume implements PolledBody.
func (f *frames) Resume() { f.poll.Resume() }

// Later implements PolledBody.
func (f *frames) Later(fn func()) { f.x.pool.poller.Later(fn) }

// Unpoll implements PolledBody.
func (f *frames) Unpoll() {
	f.x.c.poll.Store(nil)
	f.poll.Stop()
	f.polled, f.dry = false, false
}

// endOfBody is how long a worker has, after the last frame, to end the body.
const endOfBody = 200 * time.Millisecond

// recycle gives the connection of a streamed answer back once the body has ended as it should. Nobody waits for that.
func (r *Router) recycle(x *exchange, f *frames) {
	defer r.leave()
	var b [1]byte
	_ = x.c.SetReadDeadline(time.Now().Add(endOfBody))
	n, err := f.streamBody.Read(b[:])
	if n != 0 || !errors.Is(err, io.EOF) || !f.over() || x.c.SetReadDeadline(time.Time{}) != nil {
		_ = x.c.Close()
		return
	}
	x.c.stream = true
	r.pool.put(x.w, x.c)
}

// whole reads a whole answer, within a limit.
func (x *exchange) whole(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, refuse(CodeWorkerFailed, 0, nil, "the worker's answer is longer than %d bytes", limit)
	}
	var out []byte
	if resp.ContentLength > 0 {
		out = make([]byte, resp.ContentLength)
		_, err := io.ReadFull(resp.Body, out)
		return out, err
	}
	out, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(out)) > limit {
		err = refuse(CodeWorkerFailed, 0, nil, "the worker's answer is longer than %d bytes", limit)
	}
	return out, err
}
