package queue

import (
	"context"
	"maps"
	"slices"
)

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
	w := &write{kind: kind, pause: p}
	q.enlist(w)
	t := q.ticket(w)
	q.mu.Unlock()
	if err := t.Wait(ctx); err != nil {
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
