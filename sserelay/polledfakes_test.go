package sserelay

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// turns is a poller's goroutine: it makes the calls that are due, then what was asked for later.
type turns struct {
	mu    sync.Mutex
	due   []func()
	later []func()
	bell  chan struct{}
	done  chan struct{}
	ended chan struct{}
}

func newTurns(t testing.TB) *turns {
	l := &turns{bell: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{})}
	go l.run()
	t.Cleanup(l.close)
	return l
}

func (l *turns) close() {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	<-l.ended
}

func (l *turns) run() {
	defer close(l.ended)
	for {
		l.mu.Lock()
		due := l.due
		l.due = nil
		l.mu.Unlock()
		for _, fn := range due {
			fn()
		}
		l.mu.Lock()
		later := l.later
		l.later = nil
		more := len(l.due) > 0
		l.mu.Unlock()
		for _, fn := range later {
			fn()
		}
		if more {
			continue
		}
		select {
		case <-l.bell:
		case <-l.done:
			return
		}
	}
}

func (l *turns) add(to *[]func(), fn func()) {
	l.mu.Lock()
	*to = append(*to, fn)
	l.mu.Unlock()
	select {
	case l.bell <- struct{}{}:
	default:
	}
}

// polledBody is a worker's answer in memory, with the poller's promises: fn is called as long as there is something.
type polledBody struct {
	l       *turns
	rnd     *rand.Rand // nil: reads give all there is
	mu      sync.Mutex
	data    []byte
	over    bool // the worker has closed
	closed  bool
	polled  bool
	on      bool
	posted  bool
	fn      func()
	grew    chan struct{}
	pauses  int
	done    bool
	refuses bool // can't be polled
	tried   int  // how often TryRead gave something
}

func newPolled(l *turns) *polledBody { return &polledBody{l: l, grew: make(chan struct{}, 1)} }

// say is the worker's.
func (b *polledBody) say(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, s...)
	b.tell()
}

// end closes the worker's side.
func (b *polledBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	b.tell()
}

// tell wakes whoever waits; mu is held.
func (b *polledBody) tell() {
	select {
	case b.grew <- struct{}{}:
	default:
	}
	if b.on && !b.posted && (len(b.data) > 0 || b.over || b.closed) {
		b.posted = true
		b.l.add(&b.l.due, b.call)
	}
}

func (b *polledBody) call() {
	b.mu.Lock()
	b.posted = false
	on := b.on
	b.mu.Unlock()
	if !on {
		return
	}
	b.fn()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tell()
}

func (b *polledBody) Read(p []byte) (int, error) {
	for {
		b.mu.Lock()
		switch {
		case b.closed:
			b.mu.Unlock()
			return 0, net.ErrClosed
		case len(b.data) > 0:
			if b.rnd != nil && len(p) > 1 {
				p = p[:1+b.rnd.IntN(len(p)-1)]
			}
			n := copy(p, b.data)
			b.data = b.data[n:]
			b.mu.Unlock()
			return n, nil
		case b.over:
			b.mu.Unlock()
			return 0, io.EOF
		case b.polled:
			b.mu.Unlock()
			return 0, nil
		}
		b.mu.Unlock()
		<-b.grew
	}
}

func (b *polledBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.tell()
	return nil
}

func (b *polledBody) Poll(fn func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuses {
		return false
	}
	b.fn, b.polled = fn, true
	return true
}

func (b *polledBody) Pause() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.on = false
	b.pauses++
}

func (b *polledBody) Resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.polled {
		b.on = true
		b.tell()
	}
}

func (b *polledBody) Unpoll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.on, b.polled = false, false
}

func (b *polledBody) Later(fn func()) { b.l.add(&b.l.later, fn) }

func (b *polledBody) Done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = true
}

func (b *polledBody) state() (polled, on bool, pauses int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.polled, b.on, b.pauses
}

// copied is what came of a CopyThen.
type copied struct {
	out    Outcome
	err    error
	parked bool
}

// copyThen starts CopyThen; what it gives, now or later, comes on the channel, which would hold a second one as well.
func copyThen(ctx context.Context, s *Stream, b Polled, o CopyOptions) <-chan copied {
	ch := make(chan copied, 2)
	go func() {
		out, parked, err := s.CopyThen(ctx, b, o, func(out Outcome, err error) { ch <- copied{out, err, true} })
		if !parked {
			ch <- copied{out, err, false}
		}
	}()
	return ch
}

// TryRead gives what there is, as Read does.
func (b *polledBody) TryRead(p []byte) (int, error) {
	b.mu.Lock()
	ready := len(b.data) > 0 && !b.closed && !b.polled
	if ready {
		b.tried++
	}
	b.mu.Unlock()
	if !ready {
		return 0, nil
	}
	return b.Read(p)
}
