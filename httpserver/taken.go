package httpserver

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
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

// Taken is a connection whose answer is under way, in chunks as HTTP/1.1 has them (RFC 9112, section 7.1). One goroutine at
// a time may call Send and Drain.
type Taken struct {
	s           *Server
	door        *doorway
	conn        *net.TCPConn
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
	if c.peer == nil || c.peer.door == nil {
		return nil, false
	}
	conn, ok := c.peer.conn.(*net.TCPConn)
	if !ok || c.s.o.Poller == nil || w.status != http.StatusOK || c.r.ProtoMajor != 1 || c.r.ProtoMinor == 0 ||
		c.r.Method == http.MethodHead || len(w.Header()["Content-Length"]) > 0 || c.s.draining.Load() {
		return nil, false
	}
	t := &Taken{s: c.s, door: c.peer.door, conn: conn, route: c.route, method: c.r.Method, correlation: c.correlation, began: c.began, held: w.held}
	if !c.s.taken.add(t) {
		return nil, false
	}
	_, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		c.s.taken.drop(t)
		return nil, false
	}
	t.keep = !c.r.Close && rw.Reader.Buffered() == 0 // who sends the next request early connects again
	w.taken = t
	return t, true
}

var chunks = sync.Pool{New: func() any { return new([]byte) }} //nolint:gochecknoglobals // memory, not state

// Send writes p as one chunk as far as that is possible without waiting. all is false when a part is left for Drain.
func (t *Taken) Send(p []byte) (all bool, err error) {
	box, _ := chunks.Get().(*[]byte)
	b := strconv.AppendUint((*box)[:0], uint64(len(p)), 16)
	b = append(append(append(b, '\r', '\n'), p...), '\r', '\n')
	n, err := t.tryWrite(b)
	if err == nil && n < len(b) {
		t.left = append([]byte(nil), b[n:]...)
	}
	*box = b[:0]
	if cap(b) <= 64<<10 {
		chunks.Put(box)
	}
	return n == len(b), err
}

// Drain writes what is left, and waits for that until the deadline at most.
func (t *Taken) Drain(deadline time.Time) error {
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
	_ = t.conn.SetWriteDeadline(time.Now())
}

// OnGone has fn called when the client closes the connection.
func (t *Taken) OnGone(fn func()) {
	if w, ok := t.s.o.Poller.Gone(t.conn, fn); ok {
		t.gone = w
	}
}

// Finish ends the answer: well when err is nil, else the connection is cut so that the client can't take it for whole.
func (t *Taken) Finish(err error) {
	if t.gone != nil {
		t.gone.Stop()
	}
	t.s.bodies.Add(-t.held) // before the end is told, since the client may send its next request then
	if err == nil {
		err = t.end()
	}
	switch {
	case err != nil:
		_ = t.conn.Close()
	case t.keep && !t.s.draining.Load():
		t.door.keep(t.conn)
	default:
		// To close while the client's next request is unread would reset the connection, and what of the answer is still
		// on its way would be lost.
		_ = t.conn.CloseWrite()
		time.AfterFunc(lastWords, func() { _ = t.conn.Close() })
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		t.s.o.Log.Warn("answer ended with an error", "correlation_id", t.correlation, "err", logText(err))
	}
	t.s.taken.drop(t)
	if t.s.o.Observe != nil {
		t.s.o.Observe(t.route, t.method, http.StatusOK, t.s.o.Clock().Sub(t.began))
	}
}

// lastWords is how long a connection that is not kept stays open for the client to read the end of its answer.
const lastWords = 500 * time.Millisecond

// end writes the last chunk.
func (t *Taken) end() error {
	const last = "0\r\n\r\n"
	n, err := t.tryWrite([]byte(last))
	if err != nil || n == len(last) {
		return err
	}
	t.left = []byte(last[n:])
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
		_ = t.conn.CloseRead() // seen as the client's leaving
		t.Cut()
	}
}
