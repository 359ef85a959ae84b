package queue

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Memory is a Store that lives as long as its process. It can be given to one Queue after another, which is how
// tests let a queue crash and come back.
type Memory struct {
	mu     sync.Mutex
	rows   map[int64]*Record
	keys   []int64 // ascending
	idem   map[[2]string]int64
	pauses []Pause
	closed bool
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{rows: map[int64]*Record{}, idem: map[[2]string]int64{}}
}

// Load implements Store.
func (m *Memory) Load(ctx context.Context, fn func(Record) error) (Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var s Snapshot
	tallies := map[Tally]int64{}
	for _, k := range m.keys {
		s.MaxKey = k
		r := m.rows[k]
		if r.State.Terminal() {
			tallies[Tally{State: r.State, Model: r.Model, Tenant: r.Tenant, Priority: r.Priority}]++
			continue
		}
		if err := fn(*r); err != nil {
			return Snapshot{}, err
		}
	}
	s.Finished = tallySlice(tallies)
	s.Pauses = slices.Clone(m.pauses)
	return s, ctx.Err()
}

// Apply implements Store.
func (m *Memory) Apply(_ context.Context, ops []*Op) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	for _, op := range ops {
		op.Err = m.apply(op)
	}
	return nil
}

func (m *Memory) apply(op *Op) error {
	switch op.Kind {
	case OpInsert:
		return m.insert(op)
	case OpUpdate:
		r, ok := m.rows[op.Record.Key]
		if !ok {
			return ErrNotFound
		}
		if r.State != op.IfState || r.Lease.Fence != op.IfFence {
			return ErrConflict
		}
		payload := r.Payload
		*r = op.Record
		r.Payload = payload
		if op.Scrub {
			r.Payload = nil
		}
	case OpPause:
		if !slices.Contains(m.pauses, op.Pause) {
			m.pauses = append(m.pauses, op.Pause)
		}
	case OpResume:
		m.pauses = slices.DeleteFunc(m.pauses, func(p Pause) bool { return p == op.Pause })
	}
	return nil
}

func (m *Memory) insert(op *Op) error {
	rec := op.Record
	if _, ok := m.rows[rec.Key]; ok {
		return ErrConflict
	}
	if rec.IdempotencyKey != "" {
		id := [2]string{rec.Tenant, rec.IdempotencyKey}
		if k, ok := m.idem[id]; ok {
			if first := m.rows[k]; first != nil && !first.Submitted.Before(op.Since) {
				return &DuplicateError{First: first.Job}
			}
		}
		m.idem[id] = rec.Key
	}
	if op.Scrub {
		rec.Payload = nil
	}
	m.rows[rec.Key] = &rec
	i, _ := slices.BinarySearch(m.keys, rec.Key)
	m.keys = slices.Insert(m.keys, i, rec.Key)
	return nil
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key int64) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.rows[key]
	if !ok {
		return Record{}, ErrNotFound
	}
	return *r, ctx.Err()
}

// Find implements Store.
func (m *Memory) Find(ctx context.Context, tenant, idempotencyKey string, since time.Time) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.rows[m.idem[[2]string{tenant, idempotencyKey}]]
	if r == nil || r.Submitted.Before(since) {
		return Record{}, ErrNotFound
	}
	return *r, ctx.Err()
}

// List implements Store.
func (m *Memory) List(ctx context.Context, f Filter, before int64) ([]Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := len(m.keys)
	if before > 0 {
		i, _ = slices.BinarySearch(m.keys, before)
	}
	var out []Record
	for i--; i >= 0 && len(out) < f.Limit; i-- {
		r := m.rows[m.keys[i]]
		if (f.State == "" || f.State == r.State) && (f.Model == "" || f.Model == r.Model) &&
			(f.Tenant == "" || f.Tenant == r.Tenant) && (f.Priority == "" || f.Priority == r.Priority) {
			rec := *r
			rec.Payload = nil
			out = append(out, rec)
		}
	}
	return out, ctx.Err()
}

// Purge implements Store.
func (m *Memory) Purge(ctx context.Context, before time.Time, limit int) ([]Tally, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	tallies := map[Tally]int64{}
	end := KeyBefore(before)
	n := 0
	m.keys = slices.DeleteFunc(m.keys, func(k int64) bool {
		r := m.rows[k]
		if n >= limit || k >= end || !r.State.Terminal() || !r.Completed.Before(before) {
			return false
		}
		n++
		tallies[Tally{State: r.State, Model: r.Model, Tenant: r.Tenant, Priority: r.Priority}]++
		if id := [2]string{r.Tenant, r.IdempotencyKey}; m.idem[id] == k {
			delete(m.idem, id)
		}
		delete(m.rows, k)
		return true
	})
	return tallySlice(tallies), ctx.Err()
}

// Arrivals implements Store: there is no other way into memory.
func (m *Memory) Arrivals(context.Context) ([]Record, error) { return nil, nil }

// Close implements Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func tallySlice(m map[Tally]int64) []Tally {
	out := make([]Tally, 0, len(m))
	for t, n := range m {
		t.N = n
		out = append(out, t)
	}
	return out
}
