package sserelay

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"
)

// Conn is a reader's connection once it has been taken over from the HTTP server: the headers are out, and what is sent is
// framed as the server would.
type Conn interface {
	// Send writes p, which it does not keep, as far as that is possible without waiting. all is false when a part is left,
	// which Drain writes before anything else may be sent.
	Send(p []byte) (all bool, err error)
	// Drain writes what is left, and waits for it until the deadline at most.
	Drain(deadline time.Time) error
	// Cut makes a Drain that is under way fail.
	Cut()
	// OnGone has fn called when the reader closes the connection, on a goroutine that it must not hold up.
	OnGone(fn func())
	// Finish ends the answer; with an error the connection is cut.
	Finish(err error)
}

// ErrTaken is returned by Serve when it has taken the connection over and goes on by itself: the caller touches the
// ResponseWriter no more, and Conn.Finish is called at the end.
var ErrTaken = errors.New("the connection was taken over")

// takeAfter is, by default, how long an answer must have been coming for its connection to be taken over, and its worker's to be polled:
// a shorter one would not earn what that costs.
const takeAfter = 5 * time.Millisecond

// A reader whose connection was taken over has no goroutine: the writing side serves it, without ever waiting for it; a
// timer sends its pings; and where it can't be written to at once, a goroutine is started for as long as that lasts.

// taken is the part of a server that was taken over.
type taken struct {
	conn   Conn        // nil as long as the reader has its own goroutine; written with own and the stream's mu held
	timer  *time.Timer // for pings
	cancel context.CancelFunc
	poked  atomic.Bool // a turn is about to begin
	waits  bool        // whoever has own may wait for the reader
	stuck  bool        // a part of what was sent is left
}

// mayTake reports whether it is time to take the connection over.
func (sv *server) mayTake(now time.Time) bool {
	return sv.headers && sv.v.TakeOver != nil && now.Sub(sv.opened) >= sv.o.TakeAfter
}

// takeOver goes on without the goroutine that it is called on; own is held, and given back when it reports true.
func (sv *server) takeOver() bool {
	c, ok := sv.v.TakeOver()
	sv.v.TakeOver = nil
	if !ok {
		return false
	}
	sv.v.OnHeaders, sv.w, sv.rc = nil, nil, nil
	sv.ctx, sv.cancel = context.WithCancel(context.Background())
	sv.s.mu.Lock()
	sv.conn = c
	sv.s.mu.Unlock()
	sv.timer = time.AfterFunc(sv.wait(), sv.alarm)
	c.OnGone(sv.left)
	sv.own.Unlock()
	sv.poke() // for what came meanwhile
	return true
}

// poke has the reader served on a goroutine of its own.
func (sv *server) poke() {
	if sv.poked.CompareAndSwap(false, true) {
		go sv.turn(func() error { return nil })
	}
}

// turn serves the reader from a goroutine that may wait for it.
func (sv *server) turn(first func() error) {
	sv.own.Lock()
	defer sv.own.Unlock()
	sv.poked.Store(false)
	if sv.gone {
		return
	}
	sv.waits = true
	err, done := first(), false
	if err == nil {
		done, err = sv.pumpSafely()
	}
	sv.waits = false
	sv.conclude(done, err)
}

// alarm does what is due without a frame.
func (sv *server) alarm() {
	sv.turn(sv.tick)
	sv.own.Lock()
	defer sv.own.Unlock()
	if !sv.gone {
		sv.timer.Reset(sv.wait())
	}
}

// left ends the reader, who has gone.
func (sv *server) left() {
	go func() {
		sv.conn.Cut()
		sv.turn(func() error { return context.Canceled })
	}()
}

// send is write for a connection that was taken over.
func (sv *server) send() error {
	all, err := sv.conn.Send(sv.x.buf)
	sv.give()
	sv.last = time.Now()
	if all || err != nil {
		return err
	}
	sv.stuck = true
	if sv.waits {
		return sv.drain()
	}
	return nil
}

// drain waits for the reader.
func (sv *server) drain() error {
	err := sv.conn.Drain(time.Now().Add(sv.o.WriteTimeout))
	sv.stuck = false
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if sv.o.OnCut != nil {
			sv.o.OnCut(sv.s.id)
		}
		return ErrSlowReader
	}
	return err
}

// unstick goes on with a reader that could not be written to at once. It has own.
func (sv *server) unstick(done bool) {
	sv.waits = true
	err := sv.drain()
	if !done && err == nil {
		done, err = sv.pumpSafely()
	}
	sv.waits = false
	sv.conclude(done, err)
	sv.restore()
}

// conclude ends the reader if it is done; own is held.
func (sv *server) conclude(done bool, err error) {
	if !done && err == nil || sv.gone {
		return
	}
	sv.gone = true
	sv.give()
	sv.timer.Stop()
	sv.cancel()
	sv.s.mu.Lock()
	sv.r.sv = nil
	sv.s.mu.Unlock()
	sv.s.leave(sv.r)
	go sv.conn.Finish(err)
}

// restore ends a loan; own is held and given back.
func (sv *server) restore() {
	sv.s.mu.Lock()
	sv.lent = false
	sv.s.mu.Unlock()
	sv.own.Unlock()
}
