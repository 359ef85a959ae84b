package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// ErrTaken is returned by Job.Serve when it has taken the connection over (see Taker) and goes on by itself.
var ErrTaken = errors.New("the connection was taken over")

// Taker is what the ResponseWriter that Job.Serve gets also is. A long stream needs neither the request nor its goroutine
// any more once its headers are out: it takes the connection over, returns ErrTaken, and calls Finish at the end.
type Taker interface {
	// Take gives the connection away. ok is false where that can't be: then everything goes on as before. The
	// ResponseWriter must have been flushed, and is not used any more.
	Take() (t *Taken, ok bool)
}

// Poller watches connections, so that one that is silent needs no goroutine. Its callbacks come on one goroutine that
// must not be held up.
type Poller interface {
	// Readable has fn called when there is something to read from c or its other side is gone, after Resume and until Stop.
	Readable(c net.Conn, fn func()) (w Watch, ok bool)
	// Gone has fn called once when the other side of c closes it, until Stop.
	Gone(c net.Conn, fn func()) (w Watch, ok bool)
}

// Watch is one watched connection.
type Watch interface {
	Resume()
	Stop()
}

// Taken is a connection whose answer is under way: over HTTP/1.1 in chunks (RFC 9112, section 7.1), plain or over TLS, or one
// stream of HTTP/2, where Send leaves everything to Drain. One goroutine at a time may call Send and Drain.
type Taken struct {
	s           *Server
	door        *doorway
	conn        *net.TCPConn // nil on a connection that is shared
	secure      *tls.Conn    // over conn; nil without TLS
	quiet       *quietConn   // between them
	shared      *shared
	try         tries
	keep        bool   // the connection may carry another request
	left        []byte // of what Send was given
	gone        Watch
	cut         atomic.Bool
	route       string
	method      string
	correlation string
	began       time.Time
	held        int64 // bytes of the request's body that count until the end
}

type doorKey struct{}

// Take implements Taker.
func (w *response) Take() (*Taken, bool) {
	c := w.call
	if c.s.o.Poller == nil || w.status != http.StatusOK || c.r.ProtoMajor == 1 && c.r.ProtoMinor == 0 || c.r.Method == http.MethodHead ||
		len(w.Header()["Content-Length"]) > 0 || c.s.draining.Load() {
		return nil, false
	}
	t := &Taken{s: c.s, route: c.route, method: c.r.Method, correlation: c.correlation, began: c.began, held: w.held}
	switch {
	case c.over != nil:
		t.shared = newShared(w.ResponseWriter, c.r.Context(), c.over)
		if !c.s.taken.add(t) {
			return nil, false
		}
	case !t.hijack(c):
		return nil, false
	}
	w.taken = t
	return t, true
}

// hijack takes the connection of an HTTP/1.1 request.
func (t *Taken) hijack(c *call) bool {
	if c.peer == nil || c.peer.door == nil {
		return false
	}
	var ok bool
	if t.conn, t.quiet, ok = wire(c.peer.conn); !ok || !c.s.taken.add(t) {
		return false
	}
	_, rw, err := http.NewResponseController(c.w.ResponseWriter).Hijack()
	if err != nil {
		c.s.taken.drop(t)
		return false
	}
	t.door = c.peer.door
	t.keep = !c.r.Close && rw.Reader.Buffered() == 0 // who sends the next request early connects again
	if t.quiet != nil {
		t.secure, _ = c.peer.conn.(*tls.Conn)
		t.quiet.quiet = true
	}
	return true
}

// Send writes p as one chunk as far as that is possible without waiting. all is false when a part is left for Drain.
func (t *Taken) Send(p []byte) (all bool, err error) {
	if t.shared != nil {
		t.shared.keep(p)
		return false, nil
	}
	box, _ := chunks.Get().(*[]byte)
	b := appendChunk((*box)[:0], p)
	err = t.put(b)
	*box = b[:0]
	if cap(b) <= 64<<10 {
		chunks.Put(box)
	}
	return err == nil && len(t.left) == 0, err
}

// put writes what can be written without waiting; the rest is left, as it is to go out.
func (t *Taken) put(b []byte) error {
	if t.secure != nil {
		_, err := t.secure.Write(b)
		t.left, t.quiet.left = t.quiet.left, nil
		return err
	}
	n, err := t.try.write(t.conn, b)
	if err == nil && n < len(b) {
		t.left = append([]byte(nil), b[n:]...)
	}
	return err
}

// Drain writes what is left, and waits for that until the deadline at most.
func (t *Taken) Drain(deadline time.Time) error {
	if t.shared != nil {
		if t.cut.Load() {
			return context.Canceled
		}
		return t.shared.drain(deadline)
	}
	b := t.left
	t.left = nil
	if err := t.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if t.cut.Load() {
		return context.Canceled
	}
	if _, err := t.conn.Write(b); err != nil {
		return err
	}
	return t.conn.SetWriteDeadline(time.Time{})
}

// Cut makes a Drain that is under way fail, and every later one.
func (t *Taken) Cut() {
	t.cut.Store(true)
	if t.shared != nil {
		t.shared.cut()
		return
	}
	_ = t.conn.SetWriteDeadline(time.Now())
}

// OnGone has fn called when the client closes the connection.
func (t *Taken) OnGone(fn func()) {
	if t.shared != nil {
		t.shared.still = context.AfterFunc(t.shared.ctx, fn)
		return
	}
	if w, ok := t.s.o.Poller.Gone(t.conn, fn); ok {
		t.gone = w
	}
}

// Finish ends the answer: well when err is nil, else the connection is cut so that the client can't take it for whole.
func (t *Taken) Finish(err error) {
	t.s.bodies.Add(-t.held) // before the end is told, since the client may send its next request then
	if t.shared != nil {
		if t.shared.still != nil {
			t.shared.still()
		}
		t.shared.finish(err)
	} else {
		err = t.part(err)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		t.s.o.Log.Warn("answer ended with an error", "correlation_id", t.correlation, "err", logText(err))
	}
	t.s.taken.drop(t)
	if t.s.o.Observe != nil {
		t.s.o.Observe(t.route, t.method, http.StatusOK, t.s.o.Clock().Sub(t.began))
	}
}

// part ends an answer over HTTP/1.1, and keeps or closes its connection.
func (t *Taken) part(err error) error {
	if t.gone != nil {
		t.gone.Stop()
	}
	if err == nil {
		err = t.end()
	}
	switch {
	case err != nil:
		_ = t.conn.Close()
	case t.keep && !t.s.draining.Load():
		t.back()
	default:
		// To close while the client's next request is unread would reset the connection, and what of the answer is still
		// on its way would be lost.
		if t.secure != nil {
			_ = t.secure.CloseWrite()
		}
		_ = t.conn.CloseWrite()
		time.AfterFunc(lastWords, func() { _ = t.conn.Close() })
	}
	return err
}

// back gives the connection to the server again.
func (t *Taken) back() {
	if t.secure == nil {
		t.door.keep(t.conn, t.conn)
		return
	}
	t.quiet.quiet = false
	t.door.keep(t.secure, t.conn)
}

// lastWords is how long a connection that is not kept stays open for the client to read the end of its answer.
const lastWords = 500 * time.Millisecond

// end writes the last chunk.
func (t *Taken) end() error {
	const last = "0\r\n\r\n"
	if err := t.put([]byte(last)); err != nil || len(t.left) == 0 {
		return err
	}
	return t.Drain(time.Now().Add(5 * time.Second))
}

// takenSet is the connections that were taken over and have not ended.
type takenSet struct {
	mu     sync.Mutex
	m      map[*Taken]struct{}
	closed bool
	empty  chan struct{} // closed when m is empty; nil when nobody waits
}

func (s *takenSet) add(t *Taken) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.m == nil {
		s.m = make(map[*Taken]struct{})
	}
	s.m[t] = struct{}{}
	return true
}

func (s *takenSet) drop(t *Taken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, t)
	if len(s.m) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// wait returns when there is none, or cuts those that are there when the context ends.
func (s *takenSet) wait(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	if len(s.m) == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty := s.empty
	s.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		s.cutAll()
		return ctx.Err()
	}
}

// cutAll closes the connections; their streams see that the client has gone.
func (s *takenSet) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for t := range s.m {
		if t.conn != nil {
			_ = t.conn.CloseRead() // seen as the client's leaving
		}
		t.Cut()
	}
}
