package queue

import (
	"context"
	"errors"
	"time"
)

// group is a set of writes that are committed together.
type group struct {
	done   chan struct{} // closed after the commit
	writes []*write
}

func newGroup() *group { return &group{done: make(chan struct{})} }

// write is one change on its way to the store: of an entry, whose record says what is written once the writer takes it, or of
// what is paused.
type write struct {
	kind   OpKind
	e      *entry
	pause  Pause
	before *Record   // to go back to when the write fails; nil when the job did not exist before
	fresh  bool      // the job did not exist before
	lazy   bool      // nobody waits: it rides on the next commit
	dead   bool      // taken back before it was written
	due    time.Time // a late insert rides on no other commit before, unless somebody waits for it
	group  *group
	err    error

	payload []byte        // of an insert, if its job's end has not dropped it
	promise func() []byte // makes the payload of one that was not given it
}

// op is what the store is asked to do for a write that is being taken. q.mu is held.
func (q *Queue) op(w *write) Op {
	op := Op{Kind: w.kind, Pause: w.pause}
	if w.e == nil {
		return op
	}
	op.Record, op.Scrub = w.e.rec, q.drops(&w.e.rec)
	op.Record.Payload = w.payload
	if w.kind == OpInsert {
		op.Since = op.Record.Submitted.Add(-q.o.IdempotencyWindow)
	} else {
		op.IfState, op.IfFence = w.before.State, w.before.Lease.Fence
	}
	return op
}

// drops reports whether the store keeps no payload of a job as it is now.
func (q *Queue) drops(r *Record) bool { return r.State.Terminal() && !q.o.KeepPayloads }

// insert puts the write of a new entry on its way, whose record is filled in. q.mu is held.
func (q *Queue) insert(e *entry, w *write, lazy bool) {
	w.e, w.fresh, w.lazy = e, true, lazy
	w.kind, w.payload = OpInsert, e.rec.Payload
	e.pending = w
	q.enlist(w)
	q.count(e, 1)
	if e.rec.State == Queued { // who submits a job as running has its payload
		q.cache(e, e.rec.Payload)
	} else {
		e.rec.Payload = nil
	}
	q.settle(e)
}

// stage lets fn change the record of e, but for its payload, and puts the write for it on its way, merged into one that was
// not taken yet. q.mu is held.
func (q *Queue) stage(e *entry, lazy bool, fn func(rec *Record)) *write {
	w := e.pending
	if w == nil {
		before := e.rec
		w = &write{kind: OpUpdate, e: e, before: &before, lazy: lazy}
		e.pending = w
		q.enlist(w)
	} else if w.lazy && !lazy {
		w.lazy = false
		q.enlist(w)
	}
	q.count(e, -1)
	fn(&e.rec)
	q.count(e, 1)
	if q.drops(&e.rec) {
		w.payload, w.promise = nil, nil
	}
	q.settle(e)
	return w
}

// enlist puts a write into the forming group, or among those that ride along. q.mu is held.
func (q *Queue) enlist(w *write) {
	if w.lazy {
		if len(q.lazy) == 0 {
			q.lazyAt = time.Now().Add(q.o.Lazy)
			q.poke() // the writer must learn of the new deadline
		}
		if w.fresh {
			w.due = time.Now().Add(q.o.Lazy)
		}
		q.lazy = append(q.lazy, w)
		return
	}
	w.group = q.forming
	q.forming.writes = append(q.forming.writes, w)
	if len(q.forming.writes) == 1 {
		q.poke()
	}
}

// hurry returns the group of a write, which from now on waits for no other commit.
func (q *Queue) hurry(w *write) *group {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.group == nil {
		w.lazy = false
		q.enlist(w)
	}
	return w.group
}

// poke wakes the writer.
func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take closes the forming group and adds what rides along. q.mu is held.
func (q *Queue) take() *group {
	g := q.forming
	now := time.Now()
	early := q.lazy[:0]
	for _, w := range q.lazy {
		switch {
		case !w.lazy || w.dead || w.group != nil:
		case !w.due.IsZero() && now.Before(w.due) && !q.all && !q.closed && !q.draining:
			early = append(early, w)
		default:
			w.group = g
			g.writes = append(g.writes, w)
		}
	}
	clear(q.lazy[len(early):])
	if q.lazy = early; len(early) > 0 {
		q.lazyAt = early[0].due // the oldest
	}
	q.all = false
	q.forming = newGroup()
	q.flying = g
	writes := g.writes[:0]
	q.ops = q.ops[:0]
	for _, w := range g.writes {
		if w.dead {
			continue
		}
		if w.e != nil {
			w.e.pending = nil
			w.e.flying++
		}
		writes, q.ops = append(writes, w), append(q.ops, q.op(w))
	}
	g.writes = writes
	return g
}

// paceShare bounds the pause between commits by what a commit takes: where the disk is fast, waiting for a larger group
// costs its callers more than it saves.
const paceShare = 4

// run is the writer: it commits groups and keeps time.
func (q *Queue) run() {
	defer close(q.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var began time.Time
	var took time.Duration
	var size int
	nextPurge := time.Now().Add(time.Second)
	for {
		q.Sweep()
		if !time.Now().Before(nextPurge) {
			q.housekeep()
			nextPurge = time.Now().Add(time.Minute)
		}
		q.mu.Lock()
		ready, wait := q.due(nextPurge)
		q.mu.Unlock()
		if !ready {
			timer.Reset(wait)
			select {
			case <-q.wake:
			case <-timer.C:
			case <-q.quit:
				q.last()
				return
			}
			continue
		}
		if pause := min(q.o.Pace, paceShare*took) - time.Since(began); size > 1 && pause > 0 {
			timer.Reset(pause)
			select {
			case <-timer.C:
			case <-q.quit:
			}
		}
		began = time.Now()
		q.mu.Lock()
		g := q.take()
		q.mu.Unlock()
		size = len(g.writes)
		q.commit(g)
		took = time.Since(began)
	}
}

// due reports whether there is something to commit now, or how long to sleep. q.mu is held.
func (q *Queue) due(nextPurge time.Time) (bool, time.Duration) {
	if len(q.forming.writes) > 0 {
		return true, 0
	}
	wait := time.Until(nextPurge)
	if len(q.lazy) > 0 {
		d := time.Until(q.lazyAt)
		if d <= 0 {
			return true, 0
		}
		wait = min(wait, d)
	}
	if len(q.timers) > 0 {
		wait = min(wait, q.timers[0].at.Sub(q.o.Clock()))
	}
	return false, max(wait, 0)
}

// maxOps is how many operations the writer keeps memory for between two commits.
const maxOps = 1024

// last commits what is left when the queue closes.
func (q *Queue) last() {
	q.mu.Lock()
	g := q.take()
	q.mu.Unlock()
	q.commit(g)
}

// commit writes a group and tells everybody.
func (q *Queue) commit(g *group) {
	ops := q.list[:0]
	for i, w := range g.writes {
		if w.promise != nil {
			w.payload, w.promise = w.promise(), nil
			q.ops[i].Record.Payload = w.payload
		}
		ops = append(ops, &q.ops[i])
	}
	var err error
	if len(ops) > 0 {
		err = q.store.Apply(context.Background(), ops)
	}
	var stale []int64
	q.mu.Lock()
	if err != nil {
		q.log.Error("queue: commit failed", "jobs", len(ops), "err", err)
		q.failGroup(g.writes, err)
	} else {
		for i, w := range g.writes {
			if w.e != nil {
				w.e.flying--
			}
			if w.err = judge(ops[i].Err, ops[i].Record.Fingerprint); w.err != nil {
				stale = append(stale, q.lost(w)...)
				continue
			}
			q.stored(w, &ops[i].Record)
		}
	}
	clear(q.ops) // of payloads, and of what else is kept by nobody
	if q.list = ops; cap(q.ops) > maxOps {
		q.ops, q.list = nil, nil
	}
	q.flying = nil
	if q.draining && q.active == 0 && q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
	q.mu.Unlock()
	for _, key := range stale {
		q.reread(key)
	}
	close(g.done)
}

// stored settles a write that is committed, with the record that was written. q.mu is held.
func (q *Queue) stored(w *write, rec *Record) {
	e := w.e
	if e == nil {
		return
	}
	if rec.State.Terminal() && e.flying == 0 && e.pending == nil {
		q.forget(e)
	}
	if len(q.watchers) > 0 {
		q.publish(rec.Job)
	}
	w.payload = nil
}

// forget drops an entry from memory. q.mu is held.
func (q *Queue) forget(e *entry) {
	q.unplace(e)
	q.uncache(e)
	delete(q.live, e.rec.Key)
	if id := [2]string{e.rec.Tenant, e.rec.IdempotencyKey}; q.idem[id] == e {
		delete(q.idem, id)
	}
}

// failGroup takes back every write of a group that was not stored. A finish that nobody waits for is tried again.
// q.mu is held.
func (q *Queue) failGroup(writes []*write, err error) {
	for _, w := range writes {
		if w.e == nil {
			w.err = err
			continue
		}
		w.e.flying--
		if w.lazy && !w.fresh && w.e.pending == nil && !q.closed {
			w.group, w.e.pending = nil, w
			q.lazy = append(q.lazy, w)
			q.lazyAt = time.Now().Add(10 * q.o.Lazy)
			continue
		}
		q.undo(w, err)
	}
}

// undo brings an entry back to what it was before a write, and fails what was staged on top of it. q.mu is held.
func (q *Queue) undo(w *write, err error) {
	w.err = err
	e := w.e
	if p := e.pending; p != nil {
		p.dead, p.err, e.pending = true, err, nil
	}
	if w.fresh {
		q.count(e, -1)
		q.forget(e)
		return
	}
	q.count(e, -1)
	payload := e.rec.Payload
	e.rec = *w.before
	e.rec.Payload = payload
	q.count(e, 1)
	q.settle(e)
}

// lost settles a write that the store refused alone. An update that lost its condition is read again. q.mu is held.
func (q *Queue) lost(w *write) []int64 {
	if w.e == nil {
		return nil
	}
	q.undo(w, w.err)
	if w.fresh {
		return nil
	}
	return []int64{w.e.rec.Key}
}

// reread replaces what memory has of a job by what the store has.
func (q *Queue) reread(key int64) {
	rec, err := q.store.Get(context.Background(), key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		q.log.Error("queue: reread failed", "err", err)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.live[key]; e != nil && e.pending == nil && e.flying == 0 {
		q.count(e, -1)
		q.forget(e)
	}
	switch {
	case err != nil || q.live[key] != nil:
	case rec.State.Terminal():
		q.count(&entry{rec: rec}, 1)
	default:
		q.adopt(rec)
	}
}
