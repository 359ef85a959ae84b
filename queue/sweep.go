package queue

import (
	"container/heap"
	"context"
	"time"
)

type timerKind uint8

const (
	timerDue timerKind = iota
	timerDeadline
	timerLease
)

// timer is a moment at which a job must be looked at; it is checked against the record when it comes.
type timer struct {
	at   time.Time
	key  int64
	kind timerKind
}

type timerHeap []timer

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)        { *h = append(*h, x.(timer)) }
func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	*h = old[:len(old)-1]
	return t
}

func (h *timerHeap) push(at time.Time, key int64, kind timerKind) {
	heap.Push(h, timer{at, key, kind})
}

// Sweep does what is due now: delayed jobs come into the line, waiting ones past their deadline fail, and expired
// leases give their jobs back. The queue calls it by itself; tests with a clock of their own call it too. It does
// not wait for the commit.
func (q *Queue) Sweep() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	now := q.o.Clock()
	for len(q.timers) > 0 && !q.timers[0].at.After(now) {
		t := heap.Pop(&q.timers).(timer)
		e := q.live[t.key]
		if e == nil {
			continue
		}
		switch t.kind {
		case timerDue:
			if e.place == inDelay && !e.rec.NotBefore.After(now) {
				q.settle(e)
			}
		case timerDeadline:
			if e.rec.State == Queued && !e.rec.Deadline.After(now) {
				q.stage(e, false, func(rec *Record) {
					finish(rec, &Result{State: Failed, ErrorCode: "DEADLINE_EXCEEDED",
						ErrorMessage: "the deadline passed while the job waited: allow more time or add workers"}, now)
				})
			}
		case timerLease:
			if u := e.rec.Lease.Until; e.rec.State == Running && !u.IsZero() && !u.After(now) {
				q.giveBack(e, e.rec.Attempt, time.Time{}, "its lease expired")
			}
		}
	}
}

// Housekeep deletes finished jobs past their retention and takes in jobs that came into the store by a caller's own
// transaction. The queue calls it by itself every minute.
func (q *Queue) Housekeep(ctx context.Context) error {
	if err := q.Refresh(ctx); err != nil {
		return err
	}
	if q.o.Retention < 0 {
		return nil
	}
	const batch = 500
	for ctx.Err() == nil {
		gone, err := q.store.Purge(ctx, q.o.Clock().Add(-q.o.Retention), batch)
		if err != nil {
			return err
		}
		var n int64
		q.mu.Lock()
		for _, t := range gone {
			n += t.N
			q.discount(t)
		}
		q.tidy()
		q.mu.Unlock()
		if n < batch {
			break
		}
	}
	return ctx.Err()
}

func (q *Queue) housekeep() {
	if err := q.Housekeep(context.Background()); err != nil {
		q.log.Warn("queue: housekeeping failed, tried again in a minute", "err", err)
	}
}

// Refresh takes in jobs that came into the store by a caller's own transaction (a store's EnqueueTx). Call it after
// that transaction's commit; otherwise the jobs are found within a minute.
func (q *Queue) Refresh(ctx context.Context) error {
	if err := q.ready(ctx); err != nil {
		return err
	}
	recs, err := q.store.Arrivals(ctx)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range recs {
		if q.live[r.Key] != nil || r.State.Terminal() {
			continue
		}
		q.ids.raise(r.Key)
		r.Rank = q.line.class(r.Priority).rank(r.Tenant, q.weight(r.Tenant))
		q.adopt(r)
	}
	return nil
}
