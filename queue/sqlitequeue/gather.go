package sqlitequeue

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// A change is acknowledged when the tail file has it; SQLite gets it a little later, together with what became of the same job
// since. What SQLite does not have yet is in memory too, where every reading call looks first. Three locks, taken in this order:
// order, held while changes are judged, written and put into memory; writing, held while SQLite is written to; mu, for the maps.

// held is a job whose newest state SQLite does not have.
type held struct {
	rec  queue.Record
	born bool // SQLite has no row of it: rec has its payload too
	drop bool // its payload is to be dropped
}

// guard is the state of an unfinished job that SQLite has, so that a change of it need not read it.
type guard struct {
	state queue.State
	fence int64
}

const (
	maxHeld   = 16 << 20 // bytes in the tail above which SQLite gets them before the next change is taken
	rewindAt  = 1 << 20  // bytes in the tail above which it gets them soon, and the tail begins anew
	maxPlain  = 1 << 20  // bytes of a group above which it goes to SQLite at once
	crampedAt = 64 << 10 // bytes free on the disk below which new jobs go to SQLite at once, which refuses them when it has no room
	settleAll = 2        // how many of Options.Settle SQLite may be behind
)

// lags reports whether SQLite could not take what it was last given, on a full disk, say. The tail may have room still: that is for the
// ends of jobs.
func (s *Store) lags() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behind
}

func adds(ops []*queue.Op) bool {
	return slices.ContainsFunc(ops, func(op *queue.Op) bool { return op.Kind == queue.OpInsert })
}

// plain reports whether a group can go by way of the tail: pauses, idempotency keys and large payloads can't.
func plain(ops []*queue.Op) bool {
	size := 0
	for _, op := range ops {
		size += len(op.Record.Payload) + 1<<10
		if op.Kind != queue.OpInsert && op.Kind != queue.OpUpdate || op.Kind == queue.OpInsert && op.Record.IdempotencyKey != "" || !text(&op.Record) {
			return false
		}
	}
	return size <= maxPlain
}

// latest is what is known of a job without asking SQLite.
type latest struct {
	h      *held // in memory
	unborn bool  // h is no row, and none is under way
	g      guard // of h, or of the row
	known  bool
}

// latest looks in the group under way and in memory. order is held.
func (s *Store) latest(key int64) latest {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := latest{h: s.staged[key]}
	if l.h == nil {
		l.h = s.fresh[key]
	}
	l.unborn = l.h != nil && l.h.born
	if l.h == nil {
		l.h = s.moving[key]
	}
	if l.h != nil {
		l.g, l.known = guard{l.h.rec.State, l.h.rec.Lease.Fence}, true
	} else {
		l.g, l.known = s.known[key]
	}
	return l
}

// stage judges a plain group and puts what holds into s.group and s.staged. order is held.
func (s *Store) stage(ctx context.Context, ops []*queue.Op) error {
	clear(s.staged)
	clear(s.group)
	s.group = s.group[:0]
	all := make([]held, len(ops)) // they leave memory together, mostly
	for i, op := range ops {
		op.Err = nil
		h := &all[i]
		var err error
		if op.Kind == queue.OpInsert {
			err = s.create(ctx, op, h)
		} else {
			err = s.alter(ctx, op, h)
		}
		if err != nil {
			return err
		}
		if op.Err == nil {
			s.staged[op.Record.Key] = h
			s.group = append(s.group, change{kind: op.Kind, scrub: h.drop, rec: &h.rec})
		}
	}
	return nil
}

// create judges an insert, and fills in h.
func (s *Store) create(ctx context.Context, op *queue.Op, h *held) error {
	l := s.latest(op.Record.Key)
	if !l.known && s.perhaps(op.Record.Key) {
		var err error
		if _, l.known, err = s.stored(ctx, op.Record.Key); err != nil {
			return err
		}
	}
	if l.known {
		op.Err = queue.ErrConflict
		return nil
	}
	h.rec, h.born, h.drop = op.Record, true, op.Scrub && op.Record.State.Terminal()
	if h.drop {
		h.rec.Payload = nil
	}
	return nil
}

// alter judges a change, and fills in h.
func (s *Store) alter(ctx context.Context, op *queue.Op, h *held) error {
	l := s.latest(op.Record.Key)
	if !l.known {
		var err error
		if l.g, l.known, err = s.stored(ctx, op.Record.Key); err != nil {
			return err
		}
	}
	switch {
	case !l.known:
		op.Err = queue.ErrNotFound
		return nil
	case l.g != guard{op.IfState, op.IfFence}:
		op.Err = queue.ErrConflict
		return nil
	}
	h.rec, h.born, h.drop = op.Record, l.unborn, op.Scrub && op.Record.State.Terminal()
	h.rec.Payload = nil
	if h.born && !h.drop {
		h.rec.Payload = l.h.rec.Payload
	}
	return nil
}

// recent is what keys SQLite got last, so that an insert which is a little late need not ask whether it is there.
type recent struct {
	above int64 // the greatest key that SQLite had before
	keys  []int64
}

// perhaps reports whether SQLite may have a job of a key.
func (s *Store) perhaps(key int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key > s.maxKey {
		return false
	}
	if key <= s.recent[0].above {
		return true
	}
	for _, r := range s.recent {
		if _, found := slices.BinarySearch(r.keys, key); found {
			return true
		}
	}
	return false
}

// got notes what SQLite got, keys ascending. mu is held.
func (s *Store) got(keys []int64) {
	s.recent[0] = s.recent[1]
	s.recent[1] = recent{s.maxKey, keys}
	s.maxKey = max(s.maxKey, keys[len(keys)-1])
}

// stored is what SQLite has of a job's state.
func (s *Store) stored(ctx context.Context, key int64) (guard, bool, error) {
	rec, err := s.row(ctx, `SELECT `+columns+`, NULL FROM jobs WHERE key = ?`, key)
	if errors.Is(err, queue.ErrNotFound) {
		rec, err = s.inPack(ctx, key)
	}
	if errors.Is(err, queue.ErrNotFound) {
		return guard{}, false, nil
	}
	return guard{rec.State, rec.Lease.Fence}, err == nil, err
}

// publish puts the group under way into memory, after the tail has it. order is held.
func (s *Store) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, h := range s.staged {
		s.fresh[key] = h
	}
}

// swap takes what is to go into SQLite. order and writing are held, so nothing is moving.
func (s *Store) swap() (moving map[int64]*held, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moving, s.fresh = s.fresh, make(map[int64]*held, len(s.fresh))
	return s.moving, s.tail.seq
}

// move writes what was taken into SQLite. writing is held.
func (s *Store) move(ctx context.Context, moving map[int64]*held, seq uint64) error {
	if len(moving) == 0 {
		return nil
	}
	keys := slices.Sorted(maps.Keys(moving))
	err := s.transact(ctx, func(ctx context.Context) error {
		if err := s.insertAll(ctx, keys, moving); err != nil {
			return err
		}
		_, err := s.st.ahead.ExecContext(ctx, int64(seq))
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moving = nil
	s.moves++
	if s.behind = err != nil; err == nil {
		s.got(keys)
		for key, h := range moving {
			s.know(key, &h.rec)
		}
		return nil
	}
	for key, h := range moving { // back into line, under what came meanwhile
		over := s.fresh[key]
		switch {
		case over == nil:
			s.fresh[key] = h
		case h.born:
			s.fresh[key] = over.upon(h)
		}
	}
	return err
}

// know notes the state of a job that SQLite has. mu is held.
func (s *Store) know(key int64, r *queue.Record) {
	if r.State.Terminal() {
		delete(s.known, key)
	} else {
		s.known[key] = guard{r.State, r.Lease.Fence}
	}
}

// insertAll writes jobs in the order of their keys: those that ended while they were in memory by the pack.
func (s *Store) insertAll(ctx context.Context, keys []int64, moving map[int64]*held) error {
	var small []*queue.Record
	for _, key := range keys {
		h := moving[key]
		switch {
		case h.born && h.rec.State.Terminal() && h.rec.IdempotencyKey == "" && len(h.rec.Payload) == 0:
			small = append(small, &h.rec)
			continue
		case h.born:
			if err := s.insertHeld(ctx, h); err != nil {
				return err
			}
			continue
		}
		r := &h.rec
		if _, err := s.st.set.ExecContext(ctx, string(r.State), r.Worker, r.Node, r.Attempt, micros(r.NotBefore), micros(r.Started), micros(r.FirstToken),
			micros(r.Completed), r.PromptTokens, r.CachedTokens, r.TokensOut, r.ErrorCode, r.ErrorMessage, r.Lease.Holder, r.Lease.Fence,
			micros(r.Lease.Until), h.drop, key); err != nil {
			return err
		}
	}
	return s.pack(ctx, small)
}

// insertHeld writes a row.
func (s *Store) insertHeld(ctx context.Context, h *held) error {
	_, err := s.st.insertEnded.ExecContext(ctx, insertEndedArgs(&h.rec, h.drop)...)
	if taken(err) { // by a transaction that knew nothing of this one
		s.o.Logger.Error("sqlitequeue: a job's key is taken", "job", h.rec.ID)
		return nil
	}
	return err
}

// empty moves everything into SQLite and begins the tail anew. order and writing are held.
func (s *Store) empty(ctx context.Context) error {
	moving, seq := s.swap()
	if err := s.move(ctx, moving, seq); err != nil {
		return err
	}
	s.tail.rewind()
	return nil
}

// flush is empty for calls that read what SQLite has.
func (s *Store) flush(ctx context.Context) error {
	s.mu.Lock()
	idle := len(s.fresh) == 0 && len(s.moving) == 0
	s.mu.Unlock()
	if idle {
		return nil
	}
	s.order.Lock()
	defer s.order.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.closed {
		return queue.ErrClosed
	}
	return s.empty(ctx)
}

// direct does a group in SQLite itself. order is held.
func (s *Store) direct(ctx context.Context, ops []*queue.Op) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.empty(ctx); err != nil {
		return err
	}
	err := s.transact(ctx, func(ctx context.Context) error {
		for _, op := range ops {
			op.Err = nil
			if err := s.one(ctx, op); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range ops {
		if op.Err == nil && (op.Kind == queue.OpInsert || op.Kind == queue.OpUpdate) {
			s.got([]int64{op.Record.Key})
			s.know(op.Record.Key, &op.Record)
		}
	}
	return nil
}

// settle moves what is there into SQLite while more comes.
func (s *Store) settle(ctx context.Context) error {
	s.order.Lock()
	s.writing.Lock()
	moving, seq := s.swap()
	s.order.Unlock()
	err := s.move(ctx, moving, seq)
	s.writing.Unlock()
	if err != nil || len(moving) == 0 {
		return err
	}
	s.order.Lock()
	defer s.order.Unlock()
	if len(s.fresh) > 0 && s.tail.size < rewindAt {
		return nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.empty(ctx)
}

// run settles now and then.
func (s *Store) run() {
	defer close(s.done)
	tick := time.NewTicker(settleAll * s.o.Settle)
	defer tick.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-tick.C:
		case <-s.wake:
		}
		s.mu.Lock()
		n := len(s.fresh)
		s.mu.Unlock()
		if n == 0 {
			continue
		}
		if err := s.settle(context.Background()); err != nil && !errors.Is(err, queue.ErrClosed) {
			s.o.Logger.Error("sqlitequeue: the newest changes are in the tail file only; trying again", "file", s.tail.f.Name(), "err", err)
		}
	}
}

// recover takes in what the tail has and SQLite has not.
func (s *Store) recover(ctx context.Context, after uint64) error {
	err := s.tail.replay(after, func(c change) {
		h := &held{rec: *c.rec, born: c.kind == queue.OpInsert, drop: c.scrub}
		if before := s.fresh[h.rec.Key]; before != nil && before.born && !h.born {
			h = h.upon(before)
		}
		s.fresh[h.rec.Key] = h
	})
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.empty(ctx); err != nil {
		if !errors.Is(err, queue.ErrStorageFull) {
			return err
		}
		s.o.Logger.Error("sqlitequeue: the newest changes are in the tail file only; trying again", "file", s.tail.f.Name(), "err", err)
	}
	return nil
}

// descending orders records as List wants them.
func descending(a, b queue.Record) int { return cmp.Compare(b.Key, a.Key) }

// peek is what memory has of a job. mu is held.
func (s *Store) peek(key int64) *held {
	if h := s.fresh[key]; h != nil {
		return h
	}
	return s.moving[key]
}

// upon is a change of a job that is whole in memory, with what it is a change of.
func (h *held) upon(under *held) *held {
	out := &held{rec: h.rec, born: true, drop: h.drop}
	if !out.drop {
		out.rec.Payload = under.rec.Payload
	}
	return out
}

// over is a row brought up to date.
func (h *held) over(row queue.Record) queue.Record {
	payload := row.Payload
	if h.drop {
		payload = nil
	}
	row = h.rec
	row.Payload = payload
	return row
}

// current reads a row and brings it up to date. A move that ends between the two would leave it old: then it is read again.
func (s *Store) current(ctx context.Context, query string, args ...any) (queue.Record, error) {
	for {
		before := s.moved()
		r, err := s.row(ctx, query, args...)
		if err != nil && !errors.Is(err, queue.ErrNotFound) {
			return r, err
		}
		s.mu.Lock()
		h, same := s.peek(r.Key), s.moves == before
		s.mu.Unlock()
		switch {
		case same && err == nil && h != nil:
			return h.over(r), nil
		case same:
			return r, err
		}
	}
}

// moved counts the moves so far.
func (s *Store) moved() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moves
}

// snapshot is what memory has now; nobody changes a held.
func (s *Store) snapshot() map[int64]*held {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[int64]*held, len(s.fresh)+len(s.moving))
	maps.Copy(out, s.moving)
	for key, h := range s.fresh {
		if under := s.moving[key]; under != nil && under.born && !h.born {
			h = h.upon(under)
		}
		out[key] = h
	}
	return out
}

// memory returns a copy of a job that is in memory whole.
func (s *Store) memory(key int64) (queue.Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.peek(key)
	if h != nil && !h.born {
		if under := s.moving[key]; under != nil && under.born {
			h = h.upon(under)
		}
	}
	if h == nil || !h.born {
		return queue.Record{}, false
	}
	r := h.rec
	r.Payload = slices.Clone(r.Payload)
	return r, true
}

// word is what the file's own tail begins its checksums with, and the last of its groups that SQLite has.
func (d *database) word(ctx context.Context) (word uint32, seq uint64, err error) {
	var w, n int64
	err = d.w.QueryRowContext(ctx, `SELECT word, seq FROM ahead`).Scan(&w, &n)
	if errors.Is(err, sql.ErrNoRows) {
		err = errors.New("the table ahead is empty: restore the file from a backup")
	}
	return uint32(w), uint64(n), err
}
