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
	base   time.Time
	last   atomic.Int64 // since base
	mu     sync.Mutex
	body   io.Closer
	timer  *time.Timer // nil as long as there was no limit
	limit  time.Duration
	first  bool // still waiting for the first frame
	paused bool
	fired  error
}

// begin starts the watch.
func (w *watchdog) begin(body io.Closer, limit time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.base, w.body, w.limit, w.first = time.Now(), body, limit, true
	w.start()
}

// start arms the timer; mu is held.
func (w *watchdog) start() {
	switch {
	case w.limit <= 0:
	case w.timer == nil:
		w.timer = time.AfterFunc(w.limit, w.check)
	default:
		w.timer.Reset(w.limit)
	}
}

// check is the timer's; one that was overtaken by pause or rearm finds that there is time left.
func (w *watchdog) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused || w.fired != nil || w.limit <= 0 {
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
	w.paused = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// rearm goes on with another limit, from now.
func (w *watchdog) rearm(limit time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil && limit <= 0 {
		w.timer.Stop()
	}
	w.first, w.limit, w.paused = false, limit, false
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
