package router

import (
	"sync"
	"sync/atomic"
	"time"
)

// guard closes the connection of an attempt when the job's life ends or the worker is silent for too long. It costs an
// attempt nothing that is its own: the timer is the connection's (see watchdog), and a token is a store.
type guard struct {
	ctx          *life
	first, inter time.Duration
	started      time.Time
	took         time.Duration // until it was released
	last         atomic.Int64  // of the last byte, since started; 0 = none yet
	firstAt      atomic.Int64  // of the first

	mu      sync.Mutex
	c       *conn
	over    bool
	expired error
}

// begin starts the watch.
func (g *guard) begin(ctx *life, first, inter time.Duration) {
	g.ctx, g.first, g.inter, g.started = ctx, first, inter, time.Now()
	ctx.watch(g)
}

// hold puts the guard over a connection; it reports false, and closes it, when the attempt is already over.
func (g *guard) hold(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.c = c
	if g.over {
		_ = c.Close()
		return false
	}
	c.dog.watch(g, g.started.Add(g.first))
	return true
}

// shut ends the attempt.
func (g *guard) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shutLocked()
}

func (g *guard) shutLocked() {
	g.over = true
	if g.c != nil {
		_ = g.c.Close()
	}
}

// check ends the attempt when its limit has passed; else it says when to look again. Zero: never.
func (g *guard) check() (again time.Time) {
	limit, why, since := g.first, errFirstToken, g.started
	if last := time.Duration(g.last.Load()); last > 0 {
		limit, why, since = g.inter, errInterToken, g.started.Add(last)
	}
	again = since.Add(limit)
	late := time.Until(again) <= 0
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return time.Time{}
	}
	if !late {
		return again
	}
	g.expired = why
	g.shutLocked()
	return time.Time{}
}

// touch notes that the worker spoke.
func (g *guard) touch() {
	now := int64(time.Since(g.started)) + 1
	if g.last.Swap(now) != 0 {
		return
	}
	g.firstAt.Store(now)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over && g.c != nil {
		g.c.dog.watch(g, g.started.Add(time.Duration(now)+g.inter))
	}
}

// release ends the watch; it reports whether the connection is still good.
func (g *guard) release() bool {
	g.ctx.unwatch(g)
	g.took = time.Since(g.started)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.c != nil {
		g.c.dog.leave(g)
	}
	ok := !g.over
	g.over, g.c = true, nil
	return ok
}

// ended is when it was released.
func (g *guard) ended() time.Time { return g.started.Add(g.took) }

// why explains an error: the guard's own reason, where it has one, is the cause.
func (g *guard) why(err error) error {
	if err == nil {
		return nil
	}
	g.mu.Lock()
	expired := g.expired
	g.mu.Unlock()
	if expired != nil {
		return expired
	}
	if why := g.ctx.why(); why != nil {
		return why
	}
	return err
}

// watchdog is the timer of a connection. One attempt after the other uses it, and mostly finds it running: a timer that fires
// too early looks at the guard of the moment and is set anew, so that an attempt need not set or stop it.
type watchdog struct {
	mu     sync.Mutex
	g      *guard
	timer  *time.Timer
	due    time.Time // when it fires; zero: it does not run
	closed bool
}

// watch has the guard checked at a time, or before.
func (d *watchdog) watch(g *guard, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.g = g
	d.set(at)
}

// set makes sure that the timer fires by then. The caller holds mu.
func (d *watchdog) set(at time.Time) {
	if d.closed || !d.due.IsZero() && !at.Before(d.due) {
		return
	}
	d.due = at
	if d.timer == nil {
		d.timer = time.AfterFunc(time.Until(at), d.fire)
		return
	}
	d.timer.Reset(time.Until(at))
}

func (d *watchdog) fire() {
	d.mu.Lock()
	g := d.g
	d.due = time.Time{}
	d.mu.Unlock()
	if g == nil {
		return // nobody uses the connection
	}
	again := g.check()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.g == g && !again.IsZero() {
		d.set(again)
	}
}

// leave ends a guard's watch.
func (d *watchdog) leave(g *guard) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.g == g {
		d.g = nil
	}
}

// close stops the timer for good.
func (d *watchdog) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed, d.g = true, nil
	if d.timer != nil {
		d.timer.Stop()
	}
}
