package queue

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
)

// Get returns a job as the queue knows it, which may be a commit ahead of the store.
func (q *Queue) Get(ctx context.Context, id string) (Job, error) {
	if err := q.ready(ctx); err != nil && !errors.Is(err, ErrClosed) {
		return Job{}, err
	}
	key, ok := ParseID(id)
	if !ok {
		return Job{}, ErrNotFound
	}
	q.mu.Lock()
	if e := q.live[key]; e != nil && e.rec.ID == id {
		job, cached := e.rec.Job, e.cached
		q.mu.Unlock()
		if !cached {
			if err := q.fill(ctx, &job); err != nil && !errors.Is(err, ErrNotFound) {
				return Job{}, err
			}
		}
		if job.State.Terminal() && !q.o.KeepPayloads {
			job.Payload = nil
		}
		return job, nil
	}
	q.mu.Unlock()
	rec, err := q.store.Get(ctx, key)
	if err != nil {
		return Job{}, err
	}
	if rec.ID != id {
		return Job{}, ErrNotFound
	}
	return rec.Job, nil
}

// List returns a page of stored jobs, newest first, without payloads.
func (q *Queue) List(ctx context.Context, f Filter) (Page, error) {
	if err := q.flush(ctx); err != nil {
		return Page{}, err
	}
	var before int64
	if f.Cursor != "" {
		n, err := strconv.ParseInt(f.Cursor, 36, 64)
		if err != nil || n <= 0 {
			return Page{}, invalid("cursor %q: use the one of the page before", f.Cursor)
		}
		before = n
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	f.Limit = min(f.Limit, 1000)
	ask := f
	ask.Limit++
	recs, err := q.store.List(ctx, ask, before)
	if err != nil {
		return Page{}, err
	}
	var p Page
	if len(recs) > f.Limit {
		recs = recs[:f.Limit]
		p.Next = strconv.FormatInt(recs[len(recs)-1].Key, 36)
	}
	for _, r := range recs {
		p.Jobs = append(p.Jobs, r.Job)
	}
	return p, nil
}

// flush commits what rides along, so that a listing shows it. A store that can't take it now is no reason not to
// read it.
func (q *Queue) flush(ctx context.Context) error {
	if err := q.ready(ctx); err != nil {
		if errors.Is(err, ErrClosed) {
			return nil
		}
		return err
	}
	q.mu.Lock()
	if len(q.lazy) == 0 && len(q.forming.writes) == 0 && q.flying == nil || q.closed {
		q.mu.Unlock()
		return nil
	}
	g := q.forming
	g.writes = append(g.writes, &write{dead: true, group: g})
	q.poke()
	q.mu.Unlock()
	select {
	case <-g.done:
	case <-q.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Counts returns how many jobs there are of each kind, from counters that are kept up to date.
func (q *Queue) Counts(ctx context.Context) ([]Tally, error) {
	if err := q.ready(ctx); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return tallySlice(q.tallies), nil
}

// Waiting is how many jobs are queued for a model, or for all of them when model is empty, in constant time.
func (q *Queue) Waiting(model string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if model == "" {
		return q.queued
	}
	return q.waiting[model]
}

// Pause keeps the jobs of a model, a tenant, or a tenant's jobs for a model out of the line until Resume, also
// after a restart. Running jobs go on. It returns after the commit.
func (q *Queue) Pause(ctx context.Context, p Pause) error { return q.setPause(ctx, p, OpPause) }

// Resume undoes the same Pause.
func (q *Queue) Resume(ctx context.Context, p Pause) error { return q.setPause(ctx, p, OpResume) }

func (q *Queue) setPause(ctx context.Context, p Pause, kind OpKind) error {
	if p == (Pause{}) {
		return invalid("name a model, a tenant or both to pause")
	}
	if err := q.ready(ctx); err != nil {
		return err
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return ErrClosed
	}
	w := &write{op: Op{Kind: kind, Pause: p}}
	q.enlist(w)
	q.mu.Unlock()
	if err := w.wait(ctx); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if kind == OpPause {
		q.pauses[p] = true
	} else {
		delete(q.pauses, p)
	}
	keys := slices.Sorted(maps.Keys(q.live)) // in order: resumed jobs are offered to waiting workers
	for _, k := range keys {
		if e := q.live[k]; e.place == parked || e.place == inLine && q.isPaused(&e.rec) {
			q.settle(e)
		}
	}
	return nil
}

// Pauses returns what is paused.
func (q *Queue) Pauses(ctx context.Context) ([]Pause, error) {
	if err := q.ready(ctx); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Keys(q.pauses)), nil
}

func (q *Queue) isPaused(r *Record) bool {
	for p := range q.pauses {
		if p.covers(r.Model, r.Tenant) {
			return true
		}
	}
	return false
}

type watcher struct {
	ch   chan Change
	lost bool
}

// Watch returns every committed change until ctx ends, when the channel is closed. A reader that is 256 changes
// behind loses some and gets a Change with Resync: read the state again.
func (q *Queue) Watch(ctx context.Context) <-chan Change {
	w := &watcher{ch: make(chan Change, 256)}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		close(w.ch)
		return w.ch
	}
	q.watchers[w] = struct{}{}
	q.mu.Unlock()
	context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.unwatch(w)
	})
	return w.ch
}

// unwatch closes a watcher once. q.mu is held.
func (q *Queue) unwatch(w *watcher) {
	if _, ok := q.watchers[w]; ok {
		delete(q.watchers, w)
		close(w.ch)
	}
}

// publish tells the watchers of a committed record. q.mu is held.
func (q *Queue) publish(j Job) {
	j.Payload = nil
	for w := range q.watchers {
		if w.lost && len(w.ch) < cap(w.ch)-1 {
			w.ch <- Change{Resync: true}
			w.lost = false
		}
		if w.lost || len(w.ch) >= cap(w.ch)-1 {
			w.lost = true
			continue
		}
		w.ch <- Change{Job: j}
	}
}

// Recover loads the queue and returns every unfinished job, with payloads: first the ones that a dead holder was
// running, each with a new lease for this queue (finish, release or go on with them), then the waiting ones in
// order. It must be the first call on the queue to have that effect; later it finds nothing to take over, since the
// first other call puts such jobs back into the line.
func (q *Queue) Recover(ctx context.Context) ([]Job, error) {
	fresh, err := q.load(ctx, false)
	if err != nil {
		return nil, err
	}
	var out []Job
	var writes []*write
	q.mu.Lock()
	if fresh {
		for _, k := range slices.Sorted(maps.Keys(q.live)) {
			e := q.live[k]
			if e.rec.State != Running {
				continue
			}
			rec := e.rec
			rec.Lease = Lease{Job: rec.ID, Holder: q.o.Holder, Fence: rec.Lease.Fence + 1}
			writes = append(writes, q.stage(e, rec, false, false))
			out = append(out, rec.Job)
		}
	}
	q.mu.Unlock()
	for _, w := range writes {
		if err := w.wait(ctx); err != nil {
			return nil, err
		}
	}
	for i := range out {
		if out[i].Payload == nil {
			if err := q.fill(ctx, &out[i]); err != nil {
				return nil, err
			}
		}
	}
	waiting, err := q.Line(ctx, 1<<30)
	return append(out, waiting...), err
}

// Drain stops taking and giving out jobs and waits until none runs, or ctx ends.
func (q *Queue) Drain(ctx context.Context) error {
	if err := q.ready(ctx); err != nil {
		return err
	}
	q.mu.Lock()
	q.draining = true
	q.dismiss()
	if q.active == 0 {
		q.mu.Unlock()
		return q.flush(ctx)
	}
	if q.idle == nil {
		q.idle = make(chan struct{})
	}
	idle := q.idle
	q.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-q.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dismiss ends every waiting Next. q.mu is held.
func (q *Queue) dismiss() {
	for _, w := range q.waiters {
		close(w.ch)
	}
	q.waiters = nil
}

// Close commits what is under way, ends every waiting call and the writer. Jobs that run stay so in the store. It
// does not close the store. Closing again is harmless.
func (q *Queue) Close() error {
	q.loadMu.Lock()
	defer q.loadMu.Unlock()
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil
	}
	q.closed = true
	q.dismiss()
	running := q.running
	q.mu.Unlock()
	if running {
		close(q.quit)
		<-q.done
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for w := range q.watchers {
		q.unwatch(w)
	}
	return nil
}
