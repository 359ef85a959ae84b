package router

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"
)

// The dispatcher's clock.
const (
	tick      = time.Second            // positions, deadlines, order
	quickTick = 100 * time.Millisecond // while a rescue or an orphan waits
	slowTick  = 15 * time.Second       // idle connections
	reorderAt = 20 * time.Millisecond  // fair order, at most this often, and at most for a tenth of the time
)

// Run recovers what an earlier queen left (see Recover), then gives slots to the jobs that wait, until ctx ends. What still runs then is
// cut, as after Drain's deadline. Run is called once; Submit works before it, but nothing leaves the line.
func (r *Router) Run(ctx context.Context) error {
	if err := r.Recover(ctx); err != nil {
		return err
	}
	d := &dispatcher{r: r, ready: r.o.Ready, view: view{count: make(map[string]int), may: make(map[holder]bool)}}
	d.run(ctx)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	return r.Drain(gone)
}

// dispatcher is the state of the one goroutine that empties the line.
type dispatcher struct {
	r       *Router
	ready   <-chan struct{}
	view    view
	ticked  time.Time
	ordered time.Time
	pace    time.Duration // between two readings of the fair order
	swept   time.Time
	hint    time.Duration // the scheduler wants to be asked again after this; 0: only at the next change
}

func (d *dispatcher) run(ctx context.Context) {
	r := d.r
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.base.Done():
			return
		case <-r.wake:
		case <-r.fleet.Changed():
		case <-d.ready:
			d.ready = nil
		case <-timer.C:
		}
		now := time.Now()
		d.pass(ctx, now)
		timer.Reset(d.next())
	}
}

// pass is one round. A neighbour's panic costs the round, not the program.
func (d *dispatcher) pass(ctx context.Context, now time.Time) {
	defer func() {
		if v := recover(); v != nil {
			d.r.log.Error("panic while slots were given away", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	d.housekeep(ctx, now)
	d.r.tellFailed()
	d.dispatch(ctx)
}

// next is how long the dispatcher may sleep when nothing wakes it.
func (d *dispatcher) next() time.Duration {
	if d.hint > 0 {
		return min(d.hint, d.idle())
	}
	return d.idle()
}

// idle is next without the scheduler's hint.
func (d *dispatcher) idle() time.Duration {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	switch {
	case d.r.urgent() || len(d.r.orphans) > 0:
		return quickTick
	case d.r.shuffled && len(d.r.line) > 1:
		return max(reorderAt, d.pace)
	case len(d.r.line) > 0:
		return tick
	}
	return slowTick
}

// housekeep does what time asks for.
func (d *dispatcher) housekeep(ctx context.Context, now time.Time) {
	r := d.r
	r.mu.Lock()
	limited, orphans := r.urgent(), len(r.orphans) > 0
	order := r.shuffled && len(r.line) > 1 || r.more && len(r.line) < r.o.MaxWaiting/2
	r.mu.Unlock()
	if limited || now.Sub(d.ticked) >= tick {
		for _, t := range r.overdue(now) {
			r.expire(t)
		}
	}
	if orphans {
		r.claimOrphans(now)
	}
	if order && now.Sub(d.ordered) >= max(reorderAt, d.pace) {
		d.ordered = now
		began := time.Now()
		r.refresh(ctx)
		d.pace = min(10*time.Since(began), tick)
	}
	if now.Sub(d.ticked) >= tick {
		d.ticked = now
		r.positions()
	}
	if now.Sub(d.swept) >= slowTick {
		d.swept = now
		r.pool.sweep()
	}
}

// expire ends a job that waited too long.
func (r *Router) expire(t *task) {
	if !r.take(t) {
		return
	}
	defer r.leave()
	switch {
	case t.ctx.Err() != nil:
		t.finish(t.aborted())
	case t.last != nil:
		t.finish(t.last.res)
	default:
		t.finish(t.result(Failed, CodeCapacity, "no slot became free within "+r.o.QueueTimeout.String()+"; retry later"))
	}
}

// dispatch gives away what can be given now.
func (d *dispatcher) dispatch(ctx context.Context) {
	r := d.r
	d.hint = 0
	var aside map[*task]bool
	var models map[string]bool
	for ctx.Err() == nil {
		r.look(&d.view, aside, models)
		if len(d.view.tasks) == 0 {
			if d.view.held {
				d.hint = quickTick
			}
			return
		}
		now := time.Now()
		for _, t := range d.view.tasks {
			if len(t.exclude) > 0 {
				t.refreshExclude(now)
			}
		}
		i, p, err := r.sched.Pick(ctx, d.view.jobs)
		if err != nil {
			r.log.Error("no job could be picked", "error", err)
			return
		}
		if i < 0 || i >= len(d.view.tasks) {
			d.hint = p.RetryAfter
			return
		}
		t := d.view.tasks[i]
		res := r.hold(t, &p, now)
		switch p.Action {
		case Route:
			if slices.Contains(t.job.Exclude, p.Worker.ID) {
				break // it has just failed there
			}
			if !r.take(t) {
				res.release(Outcome{Kind: Aborted})
				continue
			}
			go t.carryClaimed(res)
			continue
		case Provision:
			r.joinLoad(t, res)
			if models == nil {
				models = make(map[string]bool)
			}
			models[t.job.Model] = true
			continue
		case Reject:
			r.fail(t, refuse(orCode(p.Code), p.RetryAfter, nil, "%s", orText(p.Reason, "no worker or hive can run this")))
		}
		res.release(Outcome{Kind: Aborted})
		if aside == nil {
			aside = make(map[*task]bool)
		}
		aside[t] = true
	}
}

// Refresh tells the router that the line changed in the store behind its back: it reads it again, in order, and takes in
// jobs that it does not know.
func (r *Router) Refresh() {
	r.mu.Lock()
	r.shuffled, r.more = true, true
	r.mu.Unlock()
	r.poke()
}

// refresh reads the line's fair order from the queue.
func (r *Router) refresh(ctx context.Context) {
	r.mu.Lock()
	adopt := r.more
	r.shuffled, r.more = false, false
	r.mu.Unlock()
	jobs, err := r.readLine(ctx, adopt)
	if err != nil {
		r.log.Warn("the line could not be read", "error", err)
		return
	}
	ids := make(map[string]int, len(jobs))
	for i, j := range jobs {
		ids[j.ID] = i
	}
	r.reorder(ids)
	if len(jobs) >= r.o.MaxWaiting {
		r.mu.Lock()
		r.more = true
		r.mu.Unlock()
	}
}
