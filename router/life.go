package router

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// life is a job's context. It is what context.WithDeadlineCause and context.WithCancelCause would give, without what these
// cost a job that nobody cancels: the zero value is alive, and nothing is allocated until somebody waits for its end.
type life struct {
	over atomic.Bool // err and cause are set, for good

	mu    sync.Mutex
	err   error
	cause error
	done  chan struct{} // once somebody asked for it
	bound *bound        // nil: without a deadline
	guard *guard        // of the attempt that is under way
	hooks *hook
}

// bound is a deadline.
type bound struct {
	at    time.Time
	timer *time.Timer
}

type hook struct {
	fn   func()
	next *hook
}

var _ context.Context = (*life)(nil)

// limit gives the life a deadline, before anybody else knows of it.
func (l *life) limit(deadline time.Time) {
	l.bound = &bound{at: deadline}
	left := time.Until(deadline)
	if left <= 0 {
		l.end(context.DeadlineExceeded, errDeadline)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bound.timer = time.AfterFunc(left, func() { l.end(context.DeadlineExceeded, errDeadline) })
}

// cancel ends the life for a reason. Only the first end counts.
func (l *life) cancel(why error) { l.end(context.Canceled, why) }

func (l *life) end(err, cause error) {
	l.mu.Lock()
	if l.over.Load() {
		l.mu.Unlock()
		return
	}
	l.err, l.cause = err, cause
	l.over.Store(true)
	if l.done != nil {
		close(l.done)
	}
	if l.bound != nil && l.bound.timer != nil {
		l.bound.timer.Stop()
	}
	g, hooks := l.guard, l.hooks
	l.guard, l.hooks = nil, nil
	l.mu.Unlock()
	if g != nil {
		go g.shut() // closing a connection may take its time, and nobody here has any
	}
	for h := hooks; h != nil; h = h.next {
		h.fn()
	}
}

// watch has the guard shut when the life ends, until unwatch. One at a time.
func (l *life) watch(g *guard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over.Load() {
		go g.shut()
		return
	}
	l.guard = g
}

func (l *life) unwatch(g *guard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.guard == g {
		l.guard = nil
	}
}

// why is the reason of the end, nil before.
func (l *life) why() error {
	if !l.over.Load() {
		return nil
	}
	return l.cause
}

// Deadline implements context.Context.
func (l *life) Deadline() (at time.Time, ok bool) {
	if l.bound == nil {
		return at, false
	}
	return l.bound.at, true
}

// Err implements context.Context.
func (l *life) Err() error {
	if !l.over.Load() {
		return nil
	}
	return l.err
}

// Done implements context.Context.
func (l *life) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.over.Load() {
			close(l.done)
		}
	}
	return l.done
}

// Value implements context.Context. There are no values; but context.Cause asks its question this way, and only a context
// of the standard library's own can answer it.
func (l *life) Value(key any) any {
	why := l.why()
	if why == nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	return ctx.Value(key)
}

// AfterFunc calls fn once the life ends, unless stop came first. With it package context hangs its own contexts under this
// one without a goroutine for each; fn must not block.
func (l *life) AfterFunc(fn func()) (stop func() bool) {
	h := &hook{fn: fn}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over.Load() {
		go fn() // package context holds a lock that fn wants
		return func() bool { return false }
	}
	h.next, l.hooks = l.hooks, h
	return func() bool { return l.unhook(h) }
}

// unhook takes a hook away; false when it has run, or runs.
func (l *life) unhook(h *hook) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at := &l.hooks; *at != nil; at = &(*at).next {
		if *at == h {
			*at = h.next
			return true
		}
	}
	return false
}
