package router

import (
	"context"
	"time"
)

// cutTime is how long what was cut may take to end: it only has to close a connection and write its last event.
const cutTime = 5 * time.Second

// Drain takes no new jobs and lets those under way finish until ctx ends; then it cuts them: an attached one with an error
// event, a detached one without, for the next queen to go on with. Detached jobs that still wait are left in the store at
// once. Afterwards no goroutine of the router's is left but Run's, which returns.
func (r *Router) Drain(ctx context.Context) error {
	r.mu.Lock()
	r.draining = true
	var left []*task
	for _, t := range r.tasks {
		if t.state == orphan || (t.state == lined && t.job.Detached) {
			r.unline(t)
			t.state = running
			left = append(left, t)
		}
	}
	r.mu.Unlock()
	for _, t := range left {
		t.abandon()
	}
	if !r.awaitEmpty(ctx) {
		r.cut()
	}
	r.stop(errCut) // loads and what is left of contexts
	r.awaitQuiet()
	r.crew.close()
	r.pool.close()
	r.poke()
	return nil
}

// cut ends everything that still goes on.
func (r *Router) cut() {
	r.mu.Lock()
	all := make([]*task, 0, len(r.tasks))
	for _, t := range r.tasks {
		all = append(all, t)
	}
	r.mu.Unlock()
	if len(all) > 0 {
		r.log.Warn("shutdown cuts jobs", "jobs", len(all))
	}
	for _, t := range all {
		r.end(t, errCut)
	}
	ctx, cancel := context.WithTimeout(context.Background(), cutTime)
	defer cancel()
	r.awaitEmpty(ctx)
}

// awaitEmpty waits until no job is left.
func (r *Router) awaitEmpty(ctx context.Context) bool {
	for {
		r.mu.Lock()
		if len(r.tasks) == 0 {
			r.mu.Unlock()
			return true
		}
		if r.empty == nil {
			r.empty = make(chan struct{})
		}
		ch := r.empty
		r.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return false
		}
	}
}

// awaitQuiet waits, for a bounded time, until no goroutine is left.
func (r *Router) awaitQuiet() {
	timer := time.NewTimer(cutTime)
	defer timer.Stop()
	for {
		r.mu.Lock()
		if r.active == 0 {
			r.mu.Unlock()
			return
		}
		if r.quiet == nil {
			r.quiet = make(chan struct{})
		}
		ch := r.quiet
		r.mu.Unlock()
		select {
		case <-ch:
		case <-timer.C:
			r.log.Error("goroutines left at shutdown")
			return
		}
	}
}
