package sqlitequeue

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// Load implements queue.Store.
func (s *Store) Load(ctx context.Context, fn func(queue.Record) error) (queue.Snapshot, error) {
	var snap queue.Snapshot
	err := s.load(ctx, &snap, fn)
	return snap, typed(s.db.path, err)
}

func (s *Store) load(ctx context.Context, snap *queue.Snapshot, fn func(queue.Record) error) error {
	tx, err := s.db.r.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // it only reads
	if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(key), 0) FROM jobs").Scan(&snap.MaxKey); err != nil {
		return err
	}
	err = each(ctx, tx, func(r scanner) error {
		rec, err := scanOne(r)
		if err != nil {
			return err
		}
		return fn(rec)
	}, `SELECT `+columns+`, payload FROM jobs WHERE state IN ('queued', 'running') ORDER BY key`)
	if err != nil {
		return err
	}
	err = each(ctx, tx, func(r scanner) error {
		var t queue.Tally
		if err := r.Scan(&t.State, &t.Model, &t.Tenant, &t.Priority, &t.N); err != nil {
			return err
		}
		snap.Finished = append(snap.Finished, t)
		return nil
	}, `SELECT state, model, tenant_id, priority, count(*) FROM jobs WHERE state NOT IN ('queued', 'running')
		GROUP BY 1, 2, 3, 4`)
	if err != nil {
		return err
	}
	return each(ctx, tx, func(r scanner) error {
		var p queue.Pause
		if err := r.Scan(&p.Model, &p.Tenant); err != nil {
			return err
		}
		snap.Pauses = append(snap.Pauses, p)
		return nil
	}, `SELECT model, tenant_id FROM pauses`)
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
	return s.row(ctx, `SELECT `+columns+`, payload FROM jobs WHERE key = ?`, key)
}

// Find implements queue.Store.
func (s *Store) Find(ctx context.Context, tenant, idempotencyKey string, since time.Time) (queue.Record, error) {
	return s.row(ctx, `SELECT `+columns+`, NULL FROM jobs WHERE tenant_id = ? AND idempotency_key = ?
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
	var where []string
	var args []any
	add := func(cond string, v any) { where, args = append(where, cond), append(args, v) }
	if before > 0 {
		add("key < ?", before)
	}
	for cond, v := range map[string]string{"state = ?": string(f.State), "model = ?": f.Model,
		"tenant_id = ?": f.Tenant, "priority = ?": f.Priority} {
		if v != "" {
			add(cond, v)
		}
	}
	query := `SELECT ` + columns + `, NULL FROM jobs`
	if len(where) > 0 {
		query += ` WHERE ` + strings.Join(where, " AND ")
	}
	var out []queue.Record
	err := each(ctx, s.db.r, func(r scanner) error {
		rec, err := scanOne(r)
		out = append(out, rec)
		return err
	}, query+` ORDER BY key DESC LIMIT ?`, append(args, f.Limit)...)
	return out, typed(s.db.path, err)
}

// Arrivals implements queue.Store.
func (s *Store) Arrivals(ctx context.Context) ([]queue.Record, error) {
	var n int
	if err := s.db.r.QueryRowContext(ctx, `SELECT count(*) FROM arrivals`).Scan(&n); err != nil || n == 0 {
		return nil, typed(s.db.path, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
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
