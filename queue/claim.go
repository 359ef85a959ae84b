package queue

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ClaimOptions says what a worker loop takes.
type ClaimOptions struct {
	Worker string
	Node   string
	// Models limits what is taken; empty means any.
	Models []string
	// Lease is how long the job is held without Extend: Options.Lease when zero, as long as the queue lives below.
	Lease time.Duration
}

func (c *ClaimOptions) wants(model string) bool {
	return len(c.Models) == 0 || slices.Contains(c.Models, model)
}

// waiter is a call of Next that found nothing to do.
type waiter struct {
	o  ClaimOptions
	ch chan claimed
}

type claimed struct {
	e   *entry
	job Job
	w   *write
}

// Line returns up to limit waiting jobs in the order in which they would be claimed, without those that are
// delayed or paused. The order may be used freely: Claim takes any of them. Payloads are shared and not to be changed.
func (q *Queue) Line(ctx context.Context, limit int) ([]Job, error) {
	if err := q.ready(ctx); err != nil {
		return nil, err
	}
	q.mu.Lock()
	var out []Job
	var missing []int
	q.line.each(func(e *entry) bool {
		if len(out) >= limit {
			return false
		}
		if !e.cached {
			missing = append(missing, len(out))
		}
		out = append(out, e.rec.Job)
		return true
	})
	q.mu.Unlock()
	for _, i := range missing {
		if err := q.fill(ctx, &out[i]); err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	return out, nil
}

// fill reads a payload that is not held in memory.
func (q *Queue) fill(ctx context.Context, j *Job) error {
	key, ok := ParseID(j.ID)
	if !ok {
		return ErrNotFound
	}
	rec, err := q.store.Get(ctx, key)
	if err != nil {
		return err
	}
	j.Payload = rec.Payload
	return nil
}

// Claim takes one waiting job, wherever it is in the line, for a worker. The lease lasts as long as the queue does.
// It returns after the commit. ErrConflict: the job is claimed, paused, delayed or over; ErrNotFound: unknown.
func (q *Queue) Claim(ctx context.Context, id, worker, node string) (Job, error) {
	if err := q.ready(ctx); err != nil {
		return Job{}, err
	}
	key, ok := ParseID(id)
	if !ok {
		return Job{}, ErrNotFound
	}
	q.mu.Lock()
	if q.closed || q.draining {
		q.mu.Unlock()
		return Job{}, ErrClosed
	}
	e := q.live[key]
	if e == nil || e.rec.ID != id || e.place != inLine {
		q.mu.Unlock()
		if e == nil {
			if _, err := q.Get(ctx, id); err != nil {
				return Job{}, err
			}
		}
		return Job{}, ErrConflict
	}
	c := q.give(e, ClaimOptions{Worker: worker, Node: node, Lease: -1})
	q.mu.Unlock()
	return q.granted(ctx, c)
}

// Next waits for the first job in line that the options allow and takes it. It returns after the commit.
func (q *Queue) Next(ctx context.Context, o ClaimOptions) (Job, error) {
	for {
		c, err := q.next(ctx, o)
		if err != nil {
			return Job{}, err
		}
		job, err := q.granted(ctx, c)
		if errors.Is(err, ErrConflict) || errors.Is(err, ErrDuplicate) || errors.Is(err, ErrNotFound) {
			continue // it vanished between the line and the store
		}
		return job, err
	}
}

func (q *Queue) next(ctx context.Context, o ClaimOptions) (claimed, error) {
	if err := q.ready(ctx); err != nil {
		return claimed{}, err
	}
	if err := ctx.Err(); err != nil {
		return claimed{}, err
	}
	q.mu.Lock()
	if q.closed || q.draining {
		q.mu.Unlock()
		return claimed{}, ErrClosed
	}
	var found *entry
	q.line.each(func(e *entry) bool {
		if o.wants(e.rec.Model) {
			found = e
		}
		return found == nil
	})
	if found != nil {
		c := q.give(found, o)
		q.mu.Unlock()
		return c, nil
	}
	w := &waiter{o: o, ch: make(chan claimed, 1)}
	q.waiters = append(q.waiters, w)
	q.mu.Unlock()
	select {
	case c, ok := <-w.ch:
		if !ok {
			return claimed{}, ErrClosed
		}
		return c, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiters, w); i >= 0 {
		q.waiters = slices.Delete(q.waiters, i, i+1)
		return claimed{}, ctx.Err()
	}
	if c, ok := <-w.ch; ok && c.e.rec.Lease.Fence == c.job.Lease.Fence && c.e.rec.State == Running && !q.closed {
		q.giveBack(c.e, c.e.rec.Attempt-1, time.Time{}, "")
	}
	return claimed{}, ctx.Err()
}

// give makes a waiting entry a running one. q.mu is held.
func (q *Queue) give(e *entry, o ClaimOptions) claimed {
	now := q.o.Clock()
	q.unplace(e)
	q.line.claimed(e)
	w := q.stage(e, false, func(rec *Record) {
		rec.State, rec.Worker, rec.Node = Running, o.Worker, o.Node
		rec.Attempt++
		rec.Started, rec.FirstToken, rec.ErrorMessage = now, time.Time{}, ""
		rec.Lease = Lease{Job: rec.ID, Holder: q.o.Holder, Fence: rec.Lease.Fence + 1}
		if o.Lease >= 0 {
			d := o.Lease
			if d == 0 {
				d = q.o.Lease
			}
			rec.Lease.Until = now.Add(d)
			q.timers.push(rec.Lease.Until, rec.Key, timerLease)
		}
	})
	return claimed{e: e, job: e.rec.Job, w: w}
}

// granted waits until a claim is stored and completes the job's payload.
func (q *Queue) granted(ctx context.Context, c claimed) (Job, error) {
	<-c.w.group.done // not ctx: the claim is under way, and what is claimed must reach its caller
	if c.w.err != nil {
		return Job{}, c.w.err
	}
	if c.job.Payload == nil {
		if err := q.fill(ctx, &c.job); err != nil {
			if rerr := q.Release(context.WithoutCancel(ctx), c.job.Lease, ReleaseOptions{Refund: true}); rerr != nil {
				err = errors.Join(err, rerr)
			}
			return Job{}, err
		}
	}
	return c.job, nil
}

// offer hands a job that came into the line to the first waiting Next that wants it. q.mu is held.
func (q *Queue) offer(e *entry) {
	if q.draining || q.closed {
		return
	}
	for i, w := range q.waiters {
		if w.o.wants(e.rec.Model) {
			q.waiters = slices.Delete(q.waiters, i, i+1)
			w.ch <- q.give(e, w.o)
			return
		}
	}
}

// settle puts an entry where its record says it belongs. q.mu is held.
func (q *Queue) settle(e *entry) {
	q.unplace(e)
	if e.rec.State != Queued {
		return
	}
	switch {
	case e.rec.NotBefore.After(q.o.Clock()):
		e.place = inDelay
		q.timers.push(e.rec.NotBefore, e.rec.Key, timerDue)
		q.poke()
	case q.isPaused(&e.rec):
		e.place = parked
	default:
		e.place = inLine
		e.cls.insert(e)
		q.offer(e)
	}
}

// unplace takes an entry out of the line. q.mu is held.
func (q *Queue) unplace(e *entry) {
	if e.place == inLine {
		e.cls.remove(e)
	}
	e.place = nowhere
}
