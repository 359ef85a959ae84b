package sserelay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeConn is a reader's connection after it was taken over.
type fakeConn struct {
	mu       sync.Mutex
	out      bytes.Buffer
	room     int // bytes that can be sent without waiting; negative = any number
	left     []byte
	shut     bool // Drain writes nothing either
	busy     bool // somebody is in Send or Drain
	drains   int
	misused  string
	gone     func()
	cut      chan struct{}
	cutOnce  sync.Once
	finished chan error
	ends     atomic.Int32
	panics   bool
	expire   chan struct{} // closed: the deadline of a Drain has passed
	deadline time.Time     // of the last Drain
}

func newConn(room int) *fakeConn {
	return &fakeConn{room: room, cut: make(chan struct{}), finished: make(chan error, 4), expire: make(chan struct{})}
}

func (c *fakeConn) Send(p []byte) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.panics {
		panic("connection")
	}
	if c.busy || len(c.left) > 0 {
		c.misused = fmt.Sprintf("Send while %d bytes are left", len(c.left))
	}
	n := len(p)
	if c.room >= 0 {
		n = min(n, c.room)
		c.room -= n
	}
	c.out.Write(p[:n])
	c.left = append(c.left[:0], p[n:]...)
	clear(p) // it is not kept, and not read again either
	return len(c.left) == 0, nil
}

func (c *fakeConn) Drain(deadline time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drains++
	c.deadline = deadline
	if c.shut {
		c.busy = true
		c.mu.Unlock()
		var err error
		select {
		case <-c.expire:
			err = fmt.Errorf("write: %w", os.ErrDeadlineExceeded)
		case <-c.cut:
			err = context.Canceled
		}
		c.mu.Lock()
		c.busy = false
		return err
	}
	c.out.Write(c.left)
	c.left = c.left[:0]
	return nil
}

func (c *fakeConn) Cut() { c.cutOnce.Do(func() { close(c.cut) }) }

func (c *fakeConn) OnGone(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = fn
}

func (c *fakeConn) Finish(err error) {
	c.ends.Add(1)
	c.finished <- err
}

func (c *fakeConn) leave() {
	c.mu.Lock()
	fn := c.gone
	c.mu.Unlock()
	fn()
}

func (c *fakeConn) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.misused != "" {
		return c.misused
	}
	return c.out.String()
}

// takenReader is a reader that gives its connection away.
type takenReader struct {
	w      *httptest.ResponseRecorder
	c      *fakeConn
	served chan error
}

func take(ctx context.Context, s *Stream, v View, c *fakeConn) *takenReader {
	r := &takenReader{httptest.NewRecorder(), c, make(chan error, 1)}
	v.TakeOver = func() (Conn, bool) { return c, true }
	go func() { r.served <- s.Serve(ctx, r.w, v) }()
	return r
}

// given waits until the connection has been given away.
func (r *takenReader) given(t *testing.T) {
	t.Helper()
	if err := <-r.served; !errors.Is(err, ErrTaken) {
		t.Fatalf("Serve: %v", err)
	}
}

// all is what the reader saw, before and after.
func (r *takenReader) all() string { return r.w.Body.String() + r.c.text() }

// ended waits for the end of a connection that was taken over.
func (r *takenReader) ended(t *testing.T) error {
	t.Helper()
	err := <-r.c.finished
	if n := r.c.ends.Load(); n != 1 {
		t.Errorf("finished %d times", n)
	}
	return err
}

// job is a stream on a poller.
type job struct {
	t    *testing.T
	s    *Stream
	l    *turns
	b    *polledBody
	rest []string
	got  <-chan copied
	ctx  context.Context
	wait func() // until what was said has gone as far as it can
}

func newJob(t *testing.T, h *Hub, id string, o StreamOptions, in string) *job {
	t.Helper()
	o.Model, o.Created = "tiny", time.Unix(1700000000, 0)
	s, err := h.Open(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Started(t.Context(), "w1", "local", 1); err != nil {
		t.Fatal(err)
	}
	l := newTurns(t)
	return &job{t: t, s: s, l: l, b: newPolled(l), rest: pieces(in), ctx: t.Context(), wait: synctest.Wait}
}

// real has the job wait outside of a bubble, where mutexes may be waited for, until the poller has had its turn.
func (j *job) real() {
	j.wait = func() {
		for range 4 {
			turn := make(chan struct{})
			j.l.add(&j.l.later, func() { close(turn) })
			<-turn
		}
	}
}

// start has the worker speak; it is not done by newJob so that readers can be there before.
func (j *job) start(proto Protocol) {
	j.got = copyThen(j.ctx, j.s, j.b, CopyOptions{Protocol: proto})
}

// next has the worker say n more events.
func (j *job) next(n int) {
	for range n {
		j.b.say(j.rest[0])
		j.rest = j.rest[1:]
	}
	j.wait()
}

// finish ends the job well.
func (j *job) finish() {
	j.t.Helper()
	j.next(len(j.rest))
	c := <-j.got
	if c.err != nil {
		j.t.Fatalf("copy: %v", c.err)
	}
	if err := j.s.End(j.ctx, Result{Finish: c.out.Finish, OutputTokens: c.out.OutputTokens, PromptTokens: c.out.PromptTokens}); err != nil {
		j.t.Fatal(err)
	}
	j.wait()
}
