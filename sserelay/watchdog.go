package sserelay

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// watchdog closes a body that stays silent. One timer serves the whole stream: a token only stores the time, and the
// timer looks when it fires.
type watchdog struct {
	base  time.Time
	last  atomic.Int64 // since base
	mu    sync.Mutex
	body  io.Closer
	timer *time.Timer
	limit time.Duration
	first bool // still waiting for the first frame
	gen   int
	fired error
}

func newWatchdog(body io.Closer, limit time.Duration) *watchdog {
	w := &watchdog{base: time.Now(), body: body, limit: limit, first: true}
	w.start()
	return w
}

// start arms the timer; mu is held or the watchdog is new.
func (w *watchdog) start() {
	if w.limit <= 0 {
		return
	}
	w.gen++
	gen := w.gen
	w.timer = time.AfterFunc(w.limit, func() { w.check(gen) })
}

func (w *watchdog) check(gen int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if gen != w.gen || w.fired != nil {
		return
	}
	if left := w.limit - time.Since(w.seen()); left > 0 {
		w.timer.Reset(left)
		return
	}
	w.fired = ErrStalled
	if w.first {
		w.fired = ErrFirstTimeout
	}
	w.body.Close()
}

// touch notes that something came.
func (w *watchdog) touch() { w.last.Store(int64(time.Since(w.base))) }

// seen returns when something came last.
func (w *watchdog) seen() time.Time { return w.base.Add(time.Duration(w.last.Load())) }

// pause stops the clock until rearm.
func (w *watchdog) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gen++
	if w.timer != nil {
		w.timer.Stop()
	}
}

// rearm goes on with another limit, from now.
func (w *watchdog) rearm(limit time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.gen++
	w.first, w.limit = false, limit
	w.touch()
	w.start()
}

func (w *watchdog) stop() { w.pause() }

// expired returns the error of a timer that ran out.
func (w *watchdog) expired() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fired
}
