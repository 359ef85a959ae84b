package sserelay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"
)

// Polled is a body that can be read without waiting.
type Polled interface {
	io.ReadCloser
	// TryRead is Read where it would not have to wait, else it returns 0 and no error. It may also do so always.
	TryRead(p []byte) (int, error)
	// Poll has Read return 0 and no error from now on where it would wait. After Resume, fn is called whenever there may be
	// more, also after Close, on a goroutine that it must not hold up, until Unpoll. false: this body can't.
	Poll(fn func()) bool
	Pause()
	Resume()
	Unpoll()
	// Later has fn called on the same goroutine once the calls that are due have been made.
	Later(fn func())
}

// errChoked says that the readers need time.
var errChoked = errors.New("the readers can't keep up")

// CopyThen is Copy without a goroutine that waits for the worker. It returns at a silence soon after the first frame, with
// parked set, and then is called with what Copy would have returned, on a goroutine of its own. An answer that ends before that,
// a body that can't be polled, and a detached stream, whose frames wait for the journal, are as with Copy.
func (s *Stream) CopyThen(ctx context.Context, body Polled, o CopyOptions, then func(Outcome, error)) (out Outcome, parked bool, err error) {
	c := s.newCopier(ctx, body, o)
	c.then = then
	if !s.o.Detached {
		c.polls = body
	}
	defer func() {
		if !parked {
			c.close()
		}
	}()
	for {
		switch err := c.run1(); {
		case errors.Is(err, errAgain):
			s.park(true)
			body.Resume() // from here on the stream is the poller's
			return Outcome{}, true, nil
		case errors.Is(err, errChoked):
			c.relieve()
		default:
			if c.polled != nil {
				body.Unpoll()
				s.park(false)
			}
			out, err := c.result(err)
			return out, false, err
		}
	}
}

// run1 begins to take in the answer, or goes on with it.
func (c *copier) run1() error {
	if c.p == nil {
		return c.run()
	}
	return c.events()
}

// park notes whether the writing side must not be held up by a reader.
func (s *Stream) park(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parked = on
}

// pass is called before a read: what came is passed on. Soon after the first frame it is the poller that waits for more.
// There the frames of all streams that have something are passed on together.
func (c *copier) pass() {
	switch {
	case c.polled != nil:
		if c.dirty {
			c.intake()
			c.s.hub.pass(c.s, c.polled)
		}
		return
	case c.polls != nil && !c.out.First.IsZero() && time.Since(c.out.First) >= c.s.hub.o.TakeAfter:
		if c.polls.Poll(c.ready) {
			c.polled = c.polls
			c.p.poll(c.s.hub)
		}
		c.polls = nil
	}
	c.flush()
}

// hurried is how many frames a read brings when the worker is fast.
const hurried = 4

// try reads more before what came is passed on, where the worker is faster than that: what is passed on together costs less. Other
// streams have their turn first. What came waits for no more than burst.full.
func (c *copier) try(p []byte) int {
	if c.polls == nil || c.burst == nil || len(c.burst.metas) < hurried {
		return 0
	}
	n, _ := c.polls.TryRead(p) // an error comes again
	if n == 0 {
		runtime.Gosched()
		n, _ = c.polls.TryRead(p)
	}
	if n > 0 {
		c.watch.touch()
	}
	return n
}

// ready goes on with a stream whose worker said something. It is the poller's callback.
func (c *copier) ready() {
	if c.step() {
		return
	}
	c.polled.Pause()
	go func() {
		for {
			c.relieve()
			if c.step() {
				c.polled.Resume()
				return
			}
		}
	}()
}

// step takes in what there is; false when the readers have to catch up first.
func (c *copier) step() (on bool) {
	defer func() {
		if v := recover(); v != nil {
			c.over(fmt.Errorf("panic while a stream was taken in: %v", v))
			on = true
		}
	}()
	switch err := c.events(); {
	case errors.Is(err, errAgain):
	case errors.Is(err, errChoked):
		return false
	default:
		c.over(err)
	}
	return true
}

// over ends a parked stream.
func (c *copier) over(err error) {
	c.polled.Unpoll()
	go func() {
		c.s.park(false)
		out, err := c.result(err)
		c.close()
		c.then(out, err)
	}()
}

// relieve waits for the readers.
func (c *copier) relieve() {
	c.s.waitForReaders(c.ctx)
	c.watch.touch()
	c.choked = false
}

// pass passes a stream's frames on once the poller's other streams have been asked as well: the journal is written to once
// for all of them.
func (h *Hub) pass(s *Stream, p Polled) {
	h.due.Lock()
	h.fed = append(h.fed, s)
	first := len(h.fed) == 1
	h.due.Unlock()
	if first {
		p.Later(h.passing)
	}
}

func (h *Hub) passAll() {
	h.due.Lock()
	fed := h.fed
	h.fed = h.spare[:0]
	h.spare = nil
	h.due.Unlock()
	for _, s := range fed {
		if s.watched() {
			h.Flush()
			break
		}
	}
	for _, s := range fed {
		s.flush(false)
	}
	clear(fed)
	h.due.Lock()
	h.spare = fed
	h.due.Unlock()
}
