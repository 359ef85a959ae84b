package queue

import (
	"context"
	"errors"
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
	q.all = true
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
	return q.counted(), nil
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
