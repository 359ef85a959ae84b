package sqlitequeue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// Store is a queue.Store in one SQLite file, and a tail file beside it that has the newest changes.
type Store struct {
	db   *database
	o    Options
	quit chan struct{}
	wake chan struct{} // the tail is long
	done chan struct{}

	order  sync.Mutex // changes are made one group after the other
	aside  aside      // order is held
	tail   *ahead
	group  []change        // under way
	staged map[int64]*held // likewise
	closed bool

	writing sync.Mutex // the writing connection
	st      statements
	packBuf []byte

	mu     sync.Mutex
	fresh  map[int64]*held // what SQLite does not have
	moving map[int64]*held // what it is being given
	known  map[int64]guard // unfinished jobs that it has
	moves  uint64
	behind bool  // the last move failed: no new job until one succeeds
	maxKey int64 // above the key of none that it has
	recent [2]recent
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
	s := &Store{db: db, o: o, quit: make(chan struct{}), wake: make(chan struct{}, 1), done: make(chan struct{}), staged: map[int64]*held{}, fresh: map[int64]*held{},
		known: map[int64]guard{}}
	if err := s.open(ctx); err != nil {
		if s.tail != nil {
			err = errors.Join(err, s.closeTail())
		}
		return nil, errors.Join(typed(db.path, err), db.close())
	}
	go s.run()
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := s.st.prepare(ctx, s.db.w); err != nil {
		return err
	}
	word, seq, err := s.db.word(ctx)
	if err != nil {
		return err
	}
	if err := s.db.w.QueryRowContext(ctx, `SELECT max((SELECT coalesce(max(key), 0) FROM jobs), (SELECT coalesce(max(last), 0) FROM packs))`).Scan(&s.maxKey); err != nil {
		return err
	}
	s.recent[0].above, s.recent[1].above = s.maxKey, s.maxKey
	var sync func(*os.File) error
	if s.o.Durability == Power {
		if sync = s.o.datasync; sync == nil {
			sync = s.aside.sync
		}
	}
	if s.tail, err = openAhead(s.db.path+".tail", word, sync); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.db.path), s.o); err != nil {
		return err
	}
	return s.recover(ctx, seq)
}

// Apply implements queue.Store. What it acknowledged is in the tail file, or in SQLite.
func (s *Store) Apply(ctx context.Context, ops []*queue.Op) error {
	s.order.Lock()
	defer s.order.Unlock()
	if s.closed {
		return queue.ErrClosed
	}
	ctx = context.WithoutCancel(ctx)
	if s.tail.size > maxHeld || !plain(ops) || adds(ops) && (s.lags() || cramped(s.tail.f)) {
		return s.direct(ctx, ops)
	}
	if err := s.stage(ctx, ops); err != nil || len(s.group) == 0 {
		return err
	}
	if err := s.tail.add(s.group); err != nil {
		return typed(s.tail.f.Name(), err)
	}
	s.publish()
	if s.tail.size > rewindAt {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// transact runs fn in an immediate transaction. A busy database is waited for: another writer is never a caller's
// trouble. writing is held.
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
	if s.perhaps(r.Key) {
		if _, there, err := s.stored(ctx, r.Key); err != nil || there {
			op.Err = queue.ErrConflict
			return err
		}
	}
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
		if _, err = s.inPack(ctx, r.Key); errors.Is(err, queue.ErrNotFound) {
			op.Err, err = queue.ErrNotFound, nil
		}
	}
	return err
}

// Purge implements queue.Store.
func (s *Store) Purge(ctx context.Context, before time.Time, limit int) ([]queue.Tally, error) {
	s.order.Lock()
	defer s.order.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.closed {
		return nil, queue.ErrClosed
	}
	if err := s.empty(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	sum := map[queue.Tally]int64{}
	err := s.transact(ctx, func(ctx context.Context) error {
		clear(sum)
		n := 0
		err := each(ctx, s.db.w, func(row scanner) error {
			var t queue.Tally
			n++
			err := row.Scan(&t.State, &t.Model, &t.Tenant, &t.Priority)
			sum[t]++
			return err
		}, `DELETE FROM jobs WHERE key IN (SELECT key FROM jobs WHERE key < ?1
			AND state IN ('complete', 'failed', 'cancelled') AND completed_at < ?2 ORDER BY key LIMIT ?3)
			RETURNING state, model, tenant_id, priority`, queue.KeyBefore(before), before.UnixMicro(), limit)
		if err != nil {
			return err
		}
		return s.purgePacks(ctx, before, limit-n, sum)
	})
	if err != nil {
		return nil, err
	}
	return flat(sum), nil
}

// Close implements queue.Store.
func (s *Store) Close() error {
	s.order.Lock()
	closed := s.closed
	s.closed = true
	s.order.Unlock()
	if closed {
		return nil
	}
	close(s.quit)
	<-s.done
	s.order.Lock()
	defer s.order.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.empty(context.Background()); err != nil {
		s.o.Logger.Error("sqlitequeue: the newest changes stay in the tail file, which the next start reads", "file", s.tail.f.Name(), "err", err)
	}
	s.st.close()
	return errors.Join(typed(s.db.path, s.db.close()), s.closeTail())
}

func (s *Store) closeTail() error {
	s.aside.close()
	return s.tail.f.Close()
}
