package sqlitequeue

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// Load implements queue.Store.
func (s *Store) Load(ctx context.Context, fn func(queue.Record) error) (queue.Snapshot, error) {
	var snap queue.Snapshot
	if err := s.flush(ctx); err != nil {
		s.o.Logger.Warn("sqlitequeue: the newest changes are in the tail file only", "err", err)
	}
	err := s.load(ctx, &snap, s.snapshot(), fn)
	return snap, typed(s.db.path, err)
}

func (s *Store) load(ctx context.Context, snap *queue.Snapshot, mem map[int64]*held, fn func(queue.Record) error) error {
	tx, err := s.db.r.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // it only reads
	if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(key), 0) FROM jobs").Scan(&snap.MaxKey); err != nil {
		return err
	}
	if err := loadUnfinished(ctx, tx, mem, fn); err != nil {
		return err
	}
	sum := map[queue.Tally]int64{}
	packed, err := countPacks(ctx, tx, sum)
	if err != nil {
		return err
	}
	for key, h := range mem {
		snap.MaxKey = max(snap.MaxKey, key)
		if h.rec.State.Terminal() {
			sum[tallyOf(&h.rec)]++
		}
	}
	snap.MaxKey = max(snap.MaxKey, packed)
	err = each(ctx, tx, func(r scanner) error {
		var t queue.Tally
		var n int64
		err := r.Scan(&t.State, &t.Model, &t.Tenant, &t.Priority, &n)
		sum[t] += n
		return err
	}, `SELECT state, model, tenant_id, priority, count(*) FROM jobs WHERE state NOT IN ('queued', 'running')
		GROUP BY 1, 2, 3, 4`)
	if err != nil {
		return err
	}
	snap.Finished = flat(sum)
	return each(ctx, tx, func(r scanner) error {
		var p queue.Pause
		if err := r.Scan(&p.Model, &p.Tenant); err != nil {
			return err
		}
		snap.Pauses = append(snap.Pauses, p)
		return nil
	}, `SELECT model, tenant_id FROM pauses`)
}

// loadUnfinished calls fn for the jobs of the table and of memory that are not over, in the order of keys.
func loadUnfinished(ctx context.Context, tx *sql.Tx, mem map[int64]*held, fn func(queue.Record) error) error {
	var born []*held
	for _, key := range slices.Sorted(maps.Keys(mem)) {
		if h := mem[key]; h.born && !h.rec.State.Terminal() {
			born = append(born, h)
		}
	}
	upTo := func(key int64) error {
		for len(born) > 0 && born[0].rec.Key < key {
			if err := fn(born[0].rec); err != nil {
				return err
			}
			born = born[1:]
		}
		return nil
	}
	err := each(ctx, tx, func(r scanner) error {
		rec, err := scanOne(r)
		if err != nil {
			return err
		}
		if err := upTo(rec.Key); err != nil {
			return err
		}
		if h := mem[rec.Key]; h != nil {
			rec = h.over(rec)
		}
		if rec.State.Terminal() {
			return nil
		}
		return fn(rec)
	}, `SELECT `+columns+`, payload FROM jobs WHERE state IN ('queued', 'running') ORDER BY key`)
	if err != nil {
		return err
	}
	return upTo(math.MaxInt64)
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// each calls fn for every row of a query.
func each(ctx context.Context, q querier, fn func(scanner) error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Get implements queue.Store.
func (s *Store) Get(ctx context.Context, key int64) (queue.Record, error) {
	if r, ok := s.memory(key); ok {
		return r, nil
	}
	r, err := s.current(ctx, `SELECT `+columns+`, payload FROM jobs WHERE key = ?`, key)
	if errors.Is(err, queue.ErrNotFound) {
		return s.inPack(ctx, key)
	}
	return r, err
}

// Find implements queue.Store. A job with an idempotency key is inserted in SQLite itself.
func (s *Store) Find(ctx context.Context, tenant, idempotencyKey string, since time.Time) (queue.Record, error) {
	return s.current(ctx, `SELECT `+columns+`, NULL FROM jobs WHERE tenant_id = ? AND idempotency_key = ?
		AND submitted_at >= ?`, tenant, idempotencyKey, since.UnixMicro())
}

func (s *Store) row(ctx context.Context, query string, args ...any) (queue.Record, error) {
	r, err := scanOne(s.db.r.QueryRowContext(ctx, query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return queue.Record{}, queue.ErrNotFound
	}
	return r, typed(s.db.path, err)
}

// List implements queue.Store.
func (s *Store) List(ctx context.Context, f queue.Filter, before int64) ([]queue.Record, error) {
	mem := s.snapshot()
	if before <= 0 {
		before = math.MaxInt64
	}
	ask := f
	ask.Limit += len(mem) // memory knows better of so many rows at most
	out, err := s.listRows(ctx, ask, before)
	if err == nil {
		out, err = s.listPacks(ctx, ask, before, out)
	}
	if err != nil {
		return nil, typed(s.db.path, err)
	}
	out = slices.DeleteFunc(out, func(r queue.Record) bool { return mem[r.Key] != nil })
	for _, h := range mem {
		if r := h.rec; r.Key < before && matches(f, tallyOf(&r)) {
			r.Payload = nil
			out = append(out, r)
		}
	}
	slices.SortFunc(out, descending)
	return out[:min(len(out), f.Limit)], nil
}

func (s *Store) listRows(ctx context.Context, f queue.Filter, before int64) (out []queue.Record, err error) {
	where := []string{"key < ?"}
	args := []any{before}
	for cond, v := range map[string]string{"state = ?": string(f.State), "model = ?": f.Model,
		"tenant_id = ?": f.Tenant, "priority = ?": f.Priority} {
		if v != "" {
			where, args = append(where, cond), append(args, v)
		}
	}
	err = each(ctx, s.db.r, func(r scanner) error {
		rec, err := scanOne(r)
		out = append(out, rec)
		return err
	}, `SELECT `+columns+`, NULL FROM jobs WHERE `+strings.Join(where, " AND ")+` ORDER BY key DESC LIMIT ?`, append(args, f.Limit)...)
	return out, err
}

// Arrivals implements queue.Store.
func (s *Store) Arrivals(ctx context.Context) ([]queue.Record, error) {
	var n int
	if err := s.db.r.QueryRowContext(ctx, `SELECT count(*) FROM arrivals`).Scan(&n); err != nil || n == 0 {
		return nil, typed(s.db.path, err)
	}
	s.order.Lock()
	defer s.order.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.closed {
		return nil, queue.ErrClosed
	}
	var out []queue.Record
	err := s.transact(ctx, func(ctx context.Context) error {
		out = nil
		err := each(ctx, s.db.w, func(r scanner) error {
			rec, err := scanOne(r)
			out = append(out, rec)
			return err
		}, `SELECT `+columns+`, payload FROM jobs WHERE key IN (SELECT key FROM arrivals) ORDER BY key`)
		if err != nil {
			return err
		}
		_, err = s.st.arrive.ExecContext(ctx)
		return err
	})
	return out, err
}

// EnqueueTx adds a prepared job (queue.Queue.Prepare) in a transaction of the caller, which must be on this store's
// file and begin IMMEDIATE. The job is in the line after the commit and a call of queue.Queue.Refresh, or within a
// minute without it. A used idempotency key is a *queue.DuplicateError.
func EnqueueTx(ctx context.Context, tx *sql.Tx, rec queue.Record) (queue.Job, error) {
	if rec.IdempotencyKey != "" {
		row := tx.QueryRowContext(ctx, `SELECT `+columns+`, NULL FROM jobs WHERE tenant_id = ? AND idempotency_key = ?`,
			rec.Tenant, rec.IdempotencyKey)
		switch first, err := scanOne(row); {
		case err == nil:
			return queue.Job{}, &queue.DuplicateError{First: first.Job}
		case !errors.Is(err, sql.ErrNoRows):
			return queue.Job{}, typed("transaction", err)
		}
	}
	var st statements
	if _, err := tx.ExecContext(ctx, st.all()[&st.insert], insertArgs(&rec)...); err != nil {
		return queue.Job{}, typed("transaction", err)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO arrivals (key) VALUES (?)`, rec.Key); err != nil {
		return queue.Job{}, typed("transaction", err)
	}
	return rec.Job, nil
}
