package router

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// exchange is one request and its answer.
type exchange struct {
	pool   *pool
	w      *Worker
	g      guard
	c      *conn
	reused bool
	req    wire
	job    *Job
	f      *frames // of an answer that is a stream
}

// post connects and writes the request.
func (x *exchange) post(fresh bool) error {
	c, reused, err := x.pool.get(x.g.ctx, x.w, fresh, x.g.started)
	if err != nil {
		return &dialError{err}
	}
	x.c, x.reused = c, reused
	if !x.g.hold(c) {
		return net.ErrClosed
	}
	return x.write()
}

// answer reads the header of the worker's answer. A kept connection that the worker had closed meanwhile is replaced,
// once: nothing of an answer was seen.
func (x *exchange) answer(posted error) (response, error) {
	resp, err := x.read(posted)
	if err == nil || !x.reused || x.c.got || x.g.ctx.Err() != nil {
		return resp, err
	}
	if x.c.stream {
		x.pool.learn(x.w)
	}
	_ = x.c.Close()
	return x.read(x.post(true))
}

// read reads the header even when writing failed: a worker may answer and close before it has read the whole body.
func (x *exchange) read(posted error) (response, error) {
	if posted != nil && x.c == nil {
		return response{}, posted
	}
	if posted != nil {
		_ = x.c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	}
	resp, err := x.c.response(x.req.stream)
	if posted != nil {
		if err != nil {
			return response{}, posted
		}
		_ = x.c.SetReadDeadline(time.Time{})
	}
	return resp, err
}

// end gives the connection back, or closes it.
func (x *exchange) end(keep bool) {
	ok := x.g.release()
	switch {
	case x.c == nil:
	case keep && ok:
		x.pool.put(x.w, x.c, x.g.ended())
	default:
		_ = x.c.Close()
	}
}

// endStream is end after a streamed answer, whose body may not have ended yet.
func (x *exchange) endStream(r *Router, err error) {
	f, ok := x.f, x.g.release()
	switch {
	case !ok || err != nil || f.state.Load() != framesDone || !f.keep || !x.pool.lasting(x.w):
		_ = x.c.Close()
	case f.over():
		x.c.stream = true
		x.pool.put(x.w, x.c, x.g.ended())
	default:
		r.enter()
		go r.recycle(x, f)
	}
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
		err = f.x.g.why(err)
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
	r.pool.put(x.w, x.c, time.Now())
}

// whole reads a whole answer, within a limit; over says that it ended as it should.
func (x *exchange) whole(resp *response, limit int64) (out []byte, over bool, err error) {
	tooLong := func() error {
		return refuse(CodeWorkerFailed, 0, nil, "the worker's answer is longer than %d bytes", limit)
	}
	if resp.length > limit {
		return nil, false, tooLong()
	}
	if resp.length >= 0 && !resp.chunked {
		out = make([]byte, resp.length)
		_, err = io.ReadFull(x.c.reader(), out)
		return out, err == nil, err
	}
	b := bodyOf(x.c, resp)
	out, err = io.ReadAll(io.LimitReader(&b, limit+1))
	if err == nil && int64(len(out)) > limit {
		err = tooLong()
	}
	return out, b.over(), err
}
