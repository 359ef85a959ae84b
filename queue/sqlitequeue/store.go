package sqlitequeue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// Store is a queue.Store in one SQLite file.
type Store struct {
	db *database
	o  Options

	mu     sync.Mutex // the writing connection
	st     statements
	closed bool
}

var _ queue.Store = (*Store)(nil)

// Open opens or creates the store at path. queue.ErrLocked (a *LockedError) names another process that has it;
// queue.ErrCorrupt names a damaged file, which is left as it is.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	o = o.withDefaults()
	db, err := openDatabase(ctx, path, o, synchronous(o.Durability), migrations())
	if err != nil {
		return nil, err
	}
	return newStore(ctx, db, o)
}

// New makes a store of a database handle of the caller, who keeps owning it: its file must be opened with
// mattn/go-sqlite3, it needs room for at least two connections, and it is switched to WAL. Everything else is as
// with Open.
func New(ctx context.Context, db *sql.DB, o Options) (*Store, error) {
	o = o.withDefaults()
	d := &database{r: db}
	var seq, name string
	err := db.QueryRowContext(ctx, "PRAGMA database_list").Scan(&seq, &name, &d.path)
	if err != nil {
		return nil, fmt.Errorf("sqlitequeue: %w", err)
	}
	if d.path == "" {
		return nil, errors.New("sqlitequeue: a queue needs a database file; use queue.NewMemory for memory")
	}
	if d.lock, err = lockFile(d.path, o.Address); err != nil {
		return nil, err
	}
	if d.w, err = db.Conn(ctx); err == nil {
		_, err = d.w.ExecContext(ctx, "PRAGMA busy_timeout = 10000")
	}
	if err == nil {
		err = d.prepare(ctx, synchronous(o.Durability), migrations(), o)
	}
	if err != nil {
		return nil, errors.Join(typed(d.path, err), d.close())
	}
	return newStore(ctx, d, o)
}

func synchronous(d Durability) string {
	if d == Process {
		return "NORMAL"
	}
	return "FULL"
}

func newStore(ctx context.Context, db *database, o Options) (*Store, error) {
	s := &Store{db: db, o: o}
	if err := s.st.prepare(ctx, db.w); err != nil {
		return nil, errors.Join(typed(db.path, err), db.close())
	}
	return s, nil
}

// Apply implements queue.Store.
func (s *Store) Apply(ctx context.Context, ops []*queue.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return queue.ErrClosed
	}
	return s.transact(ctx, func(ctx context.Context) error {
		for _, op := range ops {
			op.Err = nil
			if err := s.one(ctx, op); err != nil {
				return err
			}
		}
		return nil
	})
}

// transact runs fn in an immediate transaction. A busy database is waited for: another writer is never a caller's
// trouble. s.mu is held.
func (s *Store) transact(ctx context.Context, fn func(context.Context) error) error {
	ctx = context.WithoutCancel(ctx) // a cancelled statement would roll back the others' work
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		_, err := s.st.begin.ExecContext(ctx)
		if err == nil {
			if err = fn(ctx); err == nil {
				_, err = s.st.commit.ExecContext(ctx)
			}
			if err == nil {
				return nil
			}
			_, _ = s.db.w.ExecContext(ctx, "ROLLBACK") // fails when the error rolled back already
		}
		if !busy(err) {
			return typed(s.db.path, err)
		}
		time.Sleep(wait)
	}
}

// one does one operation; what only concerns this one goes into op.Err.
func (s *Store) one(ctx context.Context, op *queue.Op) error {
	switch op.Kind {
	case queue.OpInsert:
		return s.insert(ctx, op)
	case queue.OpUpdate:
		return s.update(ctx, op)
	case queue.OpPause:
		_, err := s.st.pause.ExecContext(ctx, op.Pause.Model, op.Pause.Tenant)
		return err
	case queue.OpResume:
		_, err := s.st.resume.ExecContext(ctx, op.Pause.Model, op.Pause.Tenant)
		return err
	}
	return fmt.Errorf("unknown operation %d", op.Kind)
}

func (s *Store) insert(ctx context.Context, op *queue.Op) error {
	r := &op.Record
	if r.IdempotencyKey != "" {
		first, err := scanOne(s.st.find.QueryRowContext(ctx, r.Tenant, r.IdempotencyKey))
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		case !first.Submitted.Before(op.Since):
			op.Err = &queue.DuplicateError{First: first.Job}
			return nil
		default:
			if _, err := s.st.unkey.ExecContext(ctx, first.Key); err != nil {
				return err
			}
		}
	}
	var err error
	if r.State.Terminal() {
		_, err = s.st.insertEnded.ExecContext(ctx, insertEndedArgs(r, op.Scrub)...)
	} else {
		_, err = s.st.insert.ExecContext(ctx, insertArgs(r)...)
	}
	if taken(err) {
		op.Err = queue.ErrConflict
		return nil
	}
	return err
}

func (s *Store) update(ctx context.Context, op *queue.Op) error {
	r := &op.Record
	var res sql.Result
	var err error
	switch {
	case r.State == queue.Running:
		res, err = s.st.run.ExecContext(ctx, r.Worker, r.Node, r.Attempt, micros(r.NotBefore), micros(r.Started),
			r.ErrorMessage, r.Lease.Holder, r.Lease.Fence, micros(r.Lease.Until), r.Key, string(op.IfState), op.IfFence)
	case r.State == queue.Queued:
		res, err = s.st.wait.ExecContext(ctx, r.Attempt, micros(r.NotBefore), r.ErrorMessage, r.Lease.Fence,
			r.Key, string(op.IfState), op.IfFence)
	default:
		st := s.st.end
		if op.Scrub {
			st = s.st.endScrub
		}
		res, err = st.ExecContext(ctx, string(r.State), r.Worker, r.Node, r.Attempt, micros(r.NotBefore), micros(r.Started),
			micros(r.FirstToken), micros(r.Completed), r.PromptTokens, r.CachedTokens, r.TokensOut, r.ErrorCode,
			r.ErrorMessage, r.Lease.Fence, r.Key, string(op.IfState), op.IfFence)
	}
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return err
	}
	var there int
	if err := s.st.exists.QueryRowContext(ctx, r.Key).Scan(&there); err != nil {
		return err
	}
	op.Err = queue.ErrConflict
	if there == 0 {
		op.Err = queue.ErrNotFound
	}
	return nil
}

// Purge implements queue.Store.
func (s *Store) Purge(ctx context.Context, before time.Time, limit int) ([]queue.Tally, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, queue.ErrClosed
	}
	var out []queue.Tally
	err := s.transact(ctx, func(ctx context.Context) error {
		out = nil
		rows, err := s.db.w.QueryContext(ctx, `DELETE FROM jobs WHERE key IN (SELECT key FROM jobs WHERE key < ?1
			AND state IN ('complete', 'failed', 'cancelled') AND completed_at < ?2 ORDER BY key LIMIT ?3)
			RETURNING state, model, tenant_id, priority`, queue.KeyBefore(before), before.UnixMicro(), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		tallies := map[queue.Tally]int64{}
		for rows.Next() {
			var t queue.Tally
			if err := rows.Scan(&t.State, &t.Model, &t.Tenant, &t.Priority); err != nil {
				return err
			}
			tallies[t]++
		}
		for t, n := range tallies {
			t.N = n
			out = append(out, t)
		}
		return rows.Err()
	})
	return out, err
}

// Close implements queue.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.st.close()
	return typed(s.db.path, s.db.close())
}
