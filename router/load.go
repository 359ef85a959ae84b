package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// loadKey names what is loaded: requests for one cold model share one load.
type loadKey struct{ model, node string }

// settled is how long after a load its model is not loaded again at the same place: until the fleet's word has arrived.
const settled = 2 * time.Second

// load is one background task that makes a worker ready. It belongs to nobody who waits for it.
type load struct {
	key    loadKey
	since  time.Time
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	progress Progress
	moved    time.Time // of the last progress
	bytes    int64
}

func (l *load) state() Loading {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Loading{Model: l.key.model, Node: l.key.node, Progress: l.progress, Since: l.since}
}

// advance notes progress; only a change extends the time limit.
func (l *load) advance(p Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p != l.progress {
		l.moved = time.Now()
	}
	l.progress = p
	l.bytes = max(l.bytes, p.BytesTotal)
}

// joinLoad makes a job in the line wait for a load: the running one for its model, or a new one that takes the
// reservation over.
func (r *Router) joinLoad(t *task, res *reservation) {
	key := loadKey{t.job.Model, res.p.Node}
	r.mu.Lock()
	if t.state != lined {
		r.mu.Unlock()
		res.release(Outcome{Kind: Aborted})
		return
	}
	if l := r.running(key, t.job.Node != ""); l != nil {
		t.load = l
		r.mu.Unlock()
		res.release(Outcome{Kind: Aborted})
		return
	}
	if time.Since(r.loaded[key]) < settled || !r.ready() || r.justFailed(key.model) {
		r.mu.Unlock()
		res.release(Outcome{Kind: Aborted})
		return
	}
	if t.loads >= r.o.Loads {
		r.mu.Unlock()
		res.release(Outcome{Kind: Aborted})
		r.fail(t, refuse(CodeProvision, 0, nil, "model %s was loaded %d times and no worker for it stayed; see the hive's log", t.job.Model, t.loads))
		return
	}
	t.loads++
	ctx, cancel := context.WithCancelCause(r.base)
	now := time.Now()
	l := &load{key: key, since: now, moved: now, bytes: res.p.LoadBytes, cancel: cancel}
	r.loads[key] = l
	for _, o := range r.line { // whoever waits for the model waits for this
		if o.load == nil && l.serves(o) {
			o.load = l
		}
	}
	r.active++
	r.mu.Unlock()
	go r.runLoad(ctx, l, res, LoadRequest{Model: t.job.Model, ModelRef: t.job.ModelRef, Node: res.p.Node, Device: res.p.Device, Evict: res.p.Evict, Progress: l.advance})
}

// serves says whether the load can give a job its worker.
func (l *load) serves(t *task) bool {
	return t.job.Model == l.key.model && (t.job.Node == "" || t.job.Node == l.key.node)
}

// running finds the load that a job may share. The caller holds mu.
func (r *Router) running(key loadKey, pinned bool) *load {
	if l := r.loads[key]; l != nil || pinned {
		return l
	}
	for k, l := range r.loads {
		if k.model == key.model {
			return l
		}
	}
	return nil
}

func (r *Router) ready() bool {
	if r.o.Ready == nil {
		return true
	}
	select {
	case <-r.o.Ready:
		return true
	default:
		return false
	}
}

// runLoad carries a load to its end and tells those who wait.
func (r *Router) runLoad(ctx context.Context, l *load, res *reservation, req LoadRequest) {
	defer r.leave()
	watch := r.watchLoad(l)
	id, err := r.loadOnce(ctx, req)
	watch.Stop()
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		err = refuse(CodeProvision, 0, err, "loading %s on %s made no progress for %s and was given up; see the hive's log",
			req.Model, req.Node, r.patience(l).Round(time.Second))
	}
	l.cancel(nil)
	out := Outcome{Kind: Completed, Worker: id, Node: req.Node, Started: l.since, Duration: time.Since(l.since), Err: err}
	if err != nil {
		out.Kind = WorkerFault
		r.log.Warn("load failed", "model", req.Model, "node", req.Node, "error", err)
	}
	if r.o.Hooks.OnLoad != nil {
		r.o.Hooks.OnLoad(req.Model, req.Node, out.Duration, err)
	}
	r.mu.Lock()
	delete(r.loads, l.key)
	if err == nil {
		r.loaded[l.key] = time.Now()
	}
	var waiters []*task
	for _, t := range r.line {
		if t.load == l {
			t.load, t.since = nil, time.Now()
			waiters = append(waiters, t)
		}
	}
	if err != nil {
		r.failed = append(r.failed, failedLoad{waiters, l.key, err})
	}
	r.mu.Unlock()
	res.release(out)
	r.poke()
}

// loadOnce asks the fleet, and turns a panic of it into an error.
func (r *Router) loadOnce(ctx context.Context, req LoadRequest) (id string, err error) {
	defer func() {
		if v := recover(); v != nil {
			r.log.Error("panic while a model was loaded", "model", req.Model, "panic", fmt.Sprint(v))
			err = refuse(CodeInternal, 0, nil, "internal error while model %s was loaded", req.Model)
		}
	}()
	return r.fleet.Load(ctx, req)
}

var errStalled = errors.New("the load makes no progress")

// patience is how long a load may go without progress: by the size of what is loaded.
func (r *Router) patience(l *load) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return r.o.LoadBase + time.Duration(float64(l.bytes)/(1<<30)*float64(r.o.LoadPerGiB))
}

// watchLoad ends a load that stands still.
func (r *Router) watchLoad(l *load) *time.Timer {
	var timer *time.Timer
	var mu sync.Mutex
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(r.patience(l), func() {
		limit := r.patience(l)
		l.mu.Lock()
		left := limit - time.Since(l.moved)
		l.mu.Unlock()
		if left <= 0 {
			l.cancel(errStalled)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		timer.Reset(left)
	})
	return timer
}

// failedLoad is what the dispatcher has to tell the waiters of a load that failed.
type failedLoad struct {
	waiters []*task
	key     loadKey
	err     error
}

// justFailed says whether waiters for the model are still to be told of a failure: no new load before that, or each of
// them would see its own. The caller holds mu.
func (r *Router) justFailed(model string) bool {
	return slices.ContainsFunc(r.failed, func(f failedLoad) bool { return f.key.model == model })
}

// tellFailed gives the waiters of failed loads the cause. It runs on the dispatcher's goroutine: nobody else shows jobs of
// the line to the scheduler.
func (r *Router) tellFailed() {
	r.mu.Lock()
	failed := r.failed
	r.failed = nil
	r.mu.Unlock()
	for _, f := range failed {
		for _, t := range f.waiters {
			if t.ctx.Err() == nil {
				r.loadFailed(t, f.key.node, f.err)
			}
		}
	}
}

// loadFailed gives a waiter the cause, unless it can go elsewhere.
func (r *Router) loadFailed(t *task, node string, why error) {
	p, err := r.sched.Place(t.ctx, t.job)
	if err != nil {
		r.fail(t, why)
		return
	}
	res := r.hold(t, &p, time.Now())
	switch {
	case p.Action == Route:
		if r.take(t) {
			go t.carryClaimed(res)
			return
		}
	case p.Action == Wait:
		res.release(Outcome{Kind: Aborted})
		return // workers of the model exist
	case p.Action == Provision && p.Node != node && t.loads < r.o.Loads:
		r.joinLoad(t, res)
		return
	}
	res.release(Outcome{Kind: Aborted})
	r.fail(t, why)
}

// fail ends a job in the line.
func (r *Router) fail(t *task, why error) {
	if !r.take(t) {
		return
	}
	defer r.leave()
	t.finish(t.failure(why, CodeProvision))
}
