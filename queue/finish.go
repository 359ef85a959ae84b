package queue

import (
	"context"
	"time"
)

// ReleaseOptions says how a job goes back into the line.
type ReleaseOptions struct {
	// Delay keeps it out of the line for a while.
	Delay time.Duration
	// Refund does not count the attempt: the job did not really run.
	Refund bool
	// Reason is kept as the record's error message while it waits.
	Reason string
}

// held returns the entry of a lease that still holds. q.mu is held.
func (q *Queue) held(l *Lease) (*entry, error) {
	key, ok := ParseID(l.Job)
	if !ok {
		return nil, ErrNotFound
	}
	if q.closed {
		return nil, ErrClosed
	}
	e := q.live[key]
	if e == nil || e.rec.ID != l.Job || e.rec.State != Running || e.rec.Lease.Fence != l.Fence {
		return nil, ErrLeaseLost
	}
	return e, nil
}

// change stages a change of a held job. The write's group is that of the moment: who wants to wait takes a ticket.
func (q *Queue) change(ctx context.Context, l *Lease, lazy bool, fn func(rec *Record)) (*write, *group, error) {
	if err := q.ready(ctx); err != nil {
		return nil, nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	e, err := q.held(l)
	if err != nil {
		return nil, nil, err
	}
	w := q.stage(e, lazy, fn)
	return w, w.group, nil
}

// Finish ends a held job and returns after the commit. ErrLeaseLost: it was taken over, cancelled or finished.
// After ErrStorageFull the job is still held and Finish may be called again.
func (q *Queue) Finish(ctx context.Context, l Lease, r Result) error {
	if r.State != "" && !r.State.Terminal() {
		return invalid("a job can't finish as %q", r.State)
	}
	now := q.o.Clock()
	w, g, err := q.change(ctx, &l, false, func(rec *Record) { finish(rec, &r, now) })
	if err != nil {
		return err
	}
	return q.await(ctx, w, g)
}

// FinishLazy ends a held job without waiting: the change rides on a commit that happens anyway, at most Options.Lazy
// later, and is one row write together with the insert when that was not yet taken. A crash before then leaves the
// job running, to be recovered. A full disk is retried until it is stored.
func (q *Queue) FinishLazy(l Lease, r Result) error {
	if r.State != "" && !r.State.Terminal() {
		return invalid("a job can't finish as %q", r.State)
	}
	now := q.o.Clock()
	_, _, err := q.change(context.Background(), &l, true, func(rec *Record) { finish(rec, &r, now) })
	return err
}

func finish(rec *Record, r *Result, now time.Time) {
	r.apply(&rec.Job, now)
	rec.Lease = Lease{Fence: rec.Lease.Fence + 1}
}

// Extend moves the end of a lease to d from now (Options.Lease when zero) and returns the new one.
func (q *Queue) Extend(ctx context.Context, l Lease, d time.Duration) (Lease, error) {
	if d <= 0 {
		d = q.o.Lease
	}
	until := q.o.Clock().Add(d)
	_, _, err := q.change(ctx, &l, true, func(rec *Record) {
		rec.Lease.Until = until
		q.timers.push(until, rec.Key, timerLease)
	})
	l.Until = until
	return l, err
}

// Release gives a held job back into the line, to its old place, and returns after the commit.
func (q *Queue) Release(ctx context.Context, l Lease, o ReleaseOptions) error {
	if err := q.ready(ctx); err != nil {
		return err
	}
	q.mu.Lock()
	e, err := q.held(&l)
	if err != nil {
		q.mu.Unlock()
		return err
	}
	attempt, notBefore := e.rec.Attempt, time.Time{}
	if o.Refund {
		attempt--
	}
	if o.Delay > 0 {
		notBefore = q.o.Clock().Add(o.Delay)
	}
	t := q.ticket(q.giveBack(e, attempt, notBefore, o.Reason))
	q.mu.Unlock()
	return t.Wait(ctx)
}

// giveBack puts a running entry into the line again, or ends it after too many attempts. q.mu is held.
func (q *Queue) giveBack(e *entry, attempt int, notBefore time.Time, reason string) *write {
	return q.stage(e, false, func(rec *Record) {
		if q.o.MaxAttempts > 0 && attempt >= q.o.MaxAttempts {
			finish(rec, &Result{State: Failed, ErrorCode: "WORKER_FAILED",
				ErrorMessage: "given up after too many attempts: " + reason}, q.o.Clock())
			return
		}
		rec.State, rec.Attempt, rec.NotBefore = Queued, attempt, notBefore
		rec.Worker, rec.Node, rec.Started, rec.FirstToken = "", "", time.Time{}, time.Time{}
		rec.ErrorMessage = reason
		rec.Lease = Lease{Fence: rec.Lease.Fence + 1}
		if !rec.Deadline.IsZero() {
			q.timers.push(rec.Deadline, rec.Key, timerDeadline)
		}
	})
}

// Cancel ends a job in any state and returns its record after the commit; the holder of a running one loses its
// lease. A job that is over stays as it is and is returned without error.
func (q *Queue) Cancel(ctx context.Context, id string) (Job, error) {
	return q.End(ctx, id, Result{State: Cancelled, ErrorCode: "CANCELLED", ErrorMessage: "cancelled on request"})
}

// End ends a job in any state with a result, without a lease: a waiting job that can't be served, say. Otherwise it
// is as Cancel.
func (q *Queue) End(ctx context.Context, id string, r Result) (Job, error) {
	if r.State != "" && !r.State.Terminal() {
		return Job{}, invalid("a job can't end as %q", r.State)
	}
	if err := q.ready(ctx); err != nil {
		return Job{}, err
	}
	key, ok := ParseID(id)
	if !ok {
		return Job{}, ErrNotFound
	}
	q.mu.Lock()
	e := q.live[key]
	if q.closed {
		q.mu.Unlock()
		return Job{}, ErrClosed
	}
	if e == nil || e.rec.ID != id || e.rec.State.Terminal() {
		q.mu.Unlock()
		return q.Get(ctx, id)
	}
	now := q.o.Clock()
	t := q.ticket(q.stage(e, false, func(rec *Record) { finish(rec, &r, now) }))
	job := e.rec.Job
	q.mu.Unlock()
	if err := t.Wait(ctx); err != nil {
		return Job{}, err
	}
	job.Payload = nil
	return job, nil
}
