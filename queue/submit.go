package queue

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"
)

// Ticket is a change that is on its way to the store.
type Ticket struct {
	q     *Queue
	lease Lease
	w     *write
	g     *group // nil: it has none yet
}

// submission is what a new job needs until it is stored: one piece of memory.
type submission struct {
	t Ticket
	w write
}

// ticket is for whoever wants to wait for a write that is staged already. q.mu is held.
func (q *Queue) ticket(w *write) *Ticket { return &Ticket{q: q, w: w, g: w.group} }

// ID is the job's id.
func (t *Ticket) ID() string { return t.w.e.rec.ID } // which does not change

// Job is the job as the queue knows it now: before anybody changed it, as it was submitted, and with what the queue added.
// The payload of one that runs is its submitter's to keep and not in it.
func (t *Ticket) Job() Job {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	return t.w.e.rec.Job
}

// Lease is the caller's right to end a job that it submitted as running.
func (t *Ticket) Lease() Lease { return t.lease }

// Wait returns after the commit: nil means stored. It can be called by many and again. A cancelled ctx ends the
// waiting, not the submission.
func (t *Ticket) Wait(ctx context.Context) error { return t.q.await(ctx, t.w, t.g) }

// await waits for the commit of a write, and says how it went.
func (q *Queue) await(ctx context.Context, w *write, g *group) error {
	if g == nil {
		g = q.hurry(w)
	}
	select {
	case <-g.done:
		return w.err
	default:
	}
	select {
	case <-g.done:
		return w.err
	case <-ctx.Done():
		select {
		case <-g.done:
			return w.err
		default:
			return ctx.Err()
		}
	}
}

// Submit takes a job and returns at once; the ticket's Wait tells when it is stored. A job with state Running is
// stored as claimed by its Worker on its Node, with a lease for the caller (Ticket.Lease), which need not wait before
// it uses it; otherwise the job goes into the line. Errors: a *DuplicateError that carries the first job of the
// idempotency key, ErrConflict when that one had another body, ErrOverloaded, ErrInvalid, ErrClosed.
func (q *Queue) Submit(job Job) (*Ticket, error) { return q.submit(&job, nil, false) }

// SubmitLate is Submit for a job that nobody is told of before it is over: it is stored when somebody waits for its
// ticket, and at most Options.Lazy after its submission. A short job is then one write of its end. payload, where it is not
// nil, makes Job.Payload when it is needed: not for a job whose end would drop it anyway. It is called at most once, perhaps
// by another goroutine.
func (q *Queue) SubmitLate(job Job, payload func() []byte) (*Ticket, error) {
	if payload != nil && job.IdempotencyKey != "" && job.Fingerprint == "" {
		job.Payload, payload = payload(), nil
	}
	return q.submit(&job, payload, true)
}

// submit takes a job, and fills in what the queue adds to it.
func (q *Queue) submit(job *Job, payload func() []byte, late bool) (*Ticket, error) {
	if err := q.ready(context.Background()); err != nil {
		return nil, err
	}
	now := q.o.Clock()
	e := &entry{rec: Record{Job: *job}}
	rec := &e.rec
	if err := prepare(rec, now); err != nil {
		return nil, err
	}
	if rec.IdempotencyKey != "" {
		if err := q.duplicate(context.Background(), rec, now); err != nil {
			return nil, err
		}
	}
	n := &submission{}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.admits(rec); err != nil {
		return nil, err
	}
	if rec.ID == "" {
		rec.ID, rec.Key = q.ids.next(now)
	} else if q.live[rec.Key] != nil {
		return nil, ErrConflict
	}
	e.cls = q.line.class(rec.Priority)
	q.live[rec.Key] = e
	if rec.IdempotencyKey != "" {
		q.idem[[2]string{rec.Tenant, rec.IdempotencyKey}] = e
	}
	rec.Rank = e.cls.rank(rec.Tenant, q.weight(rec.Tenant))
	if rec.State == Running {
		rec.Attempt = max(1, rec.Attempt)
		rec.Started = now
		rec.Lease = Lease{Job: rec.ID, Holder: q.o.Holder, Fence: 1}
		e.cls.claimed(rec.Rank)
	}
	if rec.State == Queued && !rec.Deadline.IsZero() {
		q.timers.push(rec.Deadline, rec.Key, timerDeadline)
	}
	*job = rec.Job
	n.t = Ticket{q: q, lease: rec.Lease, w: &n.w}
	n.w.promise = payload
	q.insert(e, &n.w, late)
	n.t.g = n.w.group
	return &n.t, nil
}

// Enqueue is Submit and Wait.
func (q *Queue) Enqueue(ctx context.Context, job Job) (Job, error) {
	t, err := q.submit(&job, nil, false)
	if err != nil {
		return Job{}, err
	}
	if err := t.Wait(ctx); err != nil {
		return Job{}, err
	}
	return job, nil
}

// First says whether a tenant's idempotency key made a job already, in memory or in the store: nil when it did not, a
// *DuplicateError that carries that job, or ErrConflict when it had another fingerprint. It changes nothing, so that a
// caller can attach a repeat before it charges for a new job; Submit decides again.
func (q *Queue) First(ctx context.Context, tenant, key, fingerprint string) error {
	if key == "" {
		return nil
	}
	if err := q.ready(ctx); err != nil {
		return err
	}
	return q.duplicate(ctx, &Record{Job: Job{Tenant: tenant, IdempotencyKey: key, Fingerprint: fingerprint}}, q.o.Clock())
}

// Prepare checks a job and fills in what a store's own enqueue (a Tx twin) writes: id, key, state, times.
func (q *Queue) Prepare(job Job) (Record, error) {
	now := q.o.Clock()
	rec := Record{Job: job}
	if err := prepare(&rec, now); err != nil {
		return Record{}, err
	}
	if rec.State != Queued {
		return Record{}, invalid("a job enqueued in a transaction can't be running")
	}
	if rec.ID == "" {
		rec.ID, rec.Key = q.ids.next(now)
	}
	return rec, nil
}

// prepare checks a new record and fills in what its caller left out.
func prepare(rec *Record, now time.Time) error {
	switch rec.State {
	case "":
		rec.State = Queued
	case Queued, Running:
	default:
		return invalid("a job can be submitted as queued or running, not %q", rec.State)
	}
	switch rec.Priority {
	case "":
		rec.Priority = Interactive
	case Interactive, Batch:
	default:
		return invalid("priority %q: use interactive or batch", rec.Priority)
	}
	if rec.ID != "" {
		key, ok := ParseID(rec.ID)
		if !ok {
			return invalid("id %q was not made by NewID", rec.ID)
		}
		rec.Key = key
	}
	if rec.Submitted.IsZero() {
		rec.Submitted = now
	}
	rec.Submitted, rec.NotBefore, rec.Deadline = norm(rec.Submitted), norm(rec.NotBefore), norm(rec.Deadline)
	if rec.IdempotencyKey == "" {
		rec.Fingerprint = ""
	} else if rec.Fingerprint == "" {
		sum := sha256.Sum256(rec.Payload)
		rec.Fingerprint = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	rec.Completed, rec.FirstToken, rec.Lease = time.Time{}, time.Time{}, Lease{}
	return nil
}

// admits says whether the queue takes another job. q.mu is held.
func (q *Queue) admits(rec *Record) error {
	switch {
	case q.closed || q.draining:
		return ErrClosed
	case len(q.forming.writes) >= q.o.Backlog:
		return ErrOverloaded
	case rec.State == Queued && q.o.Max > 0 && q.queued >= q.o.Max:
		return ErrOverloaded
	}
	if rec.IdempotencyKey != "" {
		if e := q.idem[[2]string{rec.Tenant, rec.IdempotencyKey}]; e != nil {
			return same(e.rec.Job, rec.Fingerprint)
		}
	}
	return nil
}

// duplicate looks for the first job of an idempotency key, in memory and in the store.
func (q *Queue) duplicate(ctx context.Context, rec *Record, now time.Time) error {
	q.mu.Lock()
	e := q.idem[[2]string{rec.Tenant, rec.IdempotencyKey}]
	var first Job
	if e != nil {
		first = e.rec.Job
	}
	q.mu.Unlock()
	if e != nil {
		return same(first, rec.Fingerprint)
	}
	found, err := q.store.Find(ctx, rec.Tenant, rec.IdempotencyKey, now.Add(-q.o.IdempotencyWindow))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return same(found.Job, rec.Fingerprint)
}

// norm brings a time to what every store keeps: UTC, whole microseconds.
func norm(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	ns := t.Nanosecond()
	return time.Unix(t.Unix(), int64(ns-ns%1000)).UTC()
}

// same says what a second job with a used idempotency key gets.
func same(first Job, fingerprint string) error {
	if first.Fingerprint != fingerprint {
		return ErrConflict
	}
	first.Payload = nil
	return &DuplicateError{First: first}
}

// judge turns a duplicate that only the store noticed into what Submit would have said.
func judge(err error, fingerprint string) error {
	if err == nil {
		return nil
	}
	var d *DuplicateError
	if errors.As(err, &d) {
		return same(d.First, fingerprint)
	}
	return err
}
