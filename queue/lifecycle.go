package queue

import (
	"context"
	"maps"
	"slices"
)

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
	var writes []*Ticket
	q.mu.Lock()
	if fresh {
		for _, k := range slices.Sorted(maps.Keys(q.live)) {
			e := q.live[k]
			if e.rec.State != Running {
				continue
			}
			writes = append(writes, q.ticket(q.stage(e, false, func(rec *Record) {
				rec.Lease = Lease{Job: rec.ID, Holder: q.o.Holder, Fence: rec.Lease.Fence + 1}
			})))
			out = append(out, e.rec.Job)
		}
	}
	q.mu.Unlock()
	for _, w := range writes {
		if err := w.Wait(ctx); err != nil {
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
