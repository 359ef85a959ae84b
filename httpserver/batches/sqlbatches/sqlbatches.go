// Package sqlbatches keeps files, batches and finished lines in a SQL database through database/sql. It runs on SQLite
// and on PostgreSQL with the same statements; the caller opens the database with the driver of its choice and hands it
// in, so that this package imports none.
package sqlbatches

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/queen-rbee/queen-rbee/httpserver/batches"
)

// Dialect names the database behind a *sql.DB.
type Dialect uint8

// The dialects.
const (
	SQLite Dialect = iota
	PostgreSQL
)

// Store implements batches.Store. It is safe for concurrent use.
type Store struct {
	db *sql.DB
	d  Dialect
}

var _ batches.Store = (*Store)(nil)

// migrations returns the steps in order, each applied once; a new one is appended, none is ever changed.
func migrations(d Dialect) []string {
	blob := "BLOB"
	if d == PostgreSQL {
		blob = "BYTEA"
	}
	return []string{
		`CREATE TABLE batch_files (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, purpose TEXT NOT NULL, created_at BIGINT NOT NULL, doc TEXT NOT NULL)`,
		`CREATE INDEX batch_files_by_tenant ON batch_files (tenant, created_at, id)`,
		`CREATE TABLE batch_chunks (file TEXT NOT NULL, seq BIGINT NOT NULL, data ` + blob + ` NOT NULL, PRIMARY KEY (file, seq))`,
		`CREATE TABLE batch_batches (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_at BIGINT NOT NULL, final BIGINT NOT NULL, doc TEXT NOT NULL)`,
		`CREATE INDEX batch_batches_by_tenant ON batch_batches (tenant, created_at, id)`,
		`CREATE INDEX batch_batches_unfinished ON batch_batches (created_at) WHERE final = 0`,
		`CREATE TABLE batch_lines (batch TEXT NOT NULL, line BIGINT NOT NULL, failed BIGINT NOT NULL, data ` + blob + ` NOT NULL, PRIMARY KEY (batch, line))`,
	}
}

// New brings the tables (prefix batch_) up to date and returns the store. The database stays the caller's to close.
func New(ctx context.Context, db *sql.DB, d Dialect) (*Store, error) {
	s := &Store{db: db, d: d}
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS batch_schema (version BIGINT PRIMARY KEY)`); err != nil {
		return nil, fmt.Errorf("sqlbatches: create schema table: %w", err)
	}
	var have int
	if err := db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM batch_schema`).Scan(&have); err != nil {
		return nil, fmt.Errorf("sqlbatches: read schema version: %w", err)
	}
	steps := migrations(d)
	if have > len(steps) {
		return nil, fmt.Errorf("sqlbatches: the database has schema version %d, this program knows %d: use a newer one", have, len(steps))
	}
	for v := have + 1; v <= len(steps); v++ {
		err := s.within(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, steps[v-1]); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, s.q(`INSERT INTO batch_schema (version) VALUES (?)`), v)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("sqlbatches: migration %d: %w", v, err)
		}
	}
	return s, nil
}

func (s *Store) within(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// q turns ? into $1, $2, ... for PostgreSQL.
func (s *Store) q(query string) string {
	if s.d == SQLite {
		return query
	}
	var b strings.Builder
	n := 0
	for _, c := range query {
		if c == '?' {
			n++
			b.WriteString("$" + strconv.Itoa(n))
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

func (s *Store) exec(ctx context.Context, what, query string, args ...any) error {
	if _, err := s.db.ExecContext(ctx, s.q(query), args...); err != nil {
		return fmt.Errorf("sqlbatches: %s: %w", what, err)
	}
	return nil
}

// one reads one JSON document.
func one[T any](ctx context.Context, s *Store, what, query string, args ...any) (T, error) {
	var v T
	var doc string
	err := s.db.QueryRowContext(ctx, s.q(query), args...).Scan(&doc)
	if errors.Is(err, sql.ErrNoRows) {
		return v, fmt.Errorf("%s %v: %w", what, args[0], batches.ErrNotFound)
	}
	if err == nil {
		err = json.Unmarshal([]byte(doc), &v)
	}
	if err != nil {
		return v, fmt.Errorf("sqlbatches: read %s: %w", what, err)
	}
	return v, nil
}

// many reads a list of JSON documents.
func many[T any](ctx context.Context, s *Store, what, query string, args ...any) ([]T, error) {
	rows, err := s.db.QueryContext(ctx, s.q(query), args...)
	if err != nil {
		return nil, fmt.Errorf("sqlbatches: list %s: %w", what, err)
	}
	defer func() { _ = rows.Close() }()
	var out []T
	for rows.Next() {
		var doc string
		if err := rows.Scan(&doc); err != nil {
			return nil, fmt.Errorf("sqlbatches: list %s: %w", what, err)
		}
		var v T
		if err := json.Unmarshal([]byte(doc), &v); err != nil {
			return nil, fmt.Errorf("sqlbatches: list %s: %w", what, err)
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// SaveFile implements batches.Store.
func (s *Store) SaveFile(ctx context.Context, f batches.File) error {
	doc, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("sqlbatches: encode file: %w", err)
	}
	return s.exec(ctx, "save file", `INSERT INTO batch_files (id, tenant, purpose, created_at, doc) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, purpose = excluded.purpose, created_at = excluded.created_at, doc = excluded.doc`,
		f.ID, f.Tenant, f.Purpose, f.Created.UnixMicro(), string(doc))
}

// File implements batches.Store.
func (s *Store) File(ctx context.Context, id string) (batches.File, error) {
	return one[batches.File](ctx, s, "file", `SELECT doc FROM batch_files WHERE id = ?`, id)
}

// Files implements batches.Store.
func (s *Store) Files(ctx context.Context, tenant, purpose, after string, limit int) ([]batches.File, error) {
	query, args := `SELECT doc FROM batch_files WHERE tenant = ?`, []any{tenant}
	if purpose != "" {
		query += ` AND purpose = ?`
		args = append(args, purpose)
	}
	query, args = paged(query, args, "batch_files", after, limit)
	return many[batches.File](ctx, s, "files", query, args...)
}

// paged adds the order, newest first, and the place to go on from.
func paged(query string, args []any, table, after string, limit int) (string, []any) {
	if after != "" {
		query += ` AND (created_at, id) < (SELECT created_at, id FROM ` + table + ` WHERE id = ?)`
		args = append(args, after)
	}
	return query + ` ORDER BY created_at DESC, id DESC LIMIT ?`, append(args, limit)
}

// DeleteFile implements batches.Store.
func (s *Store) DeleteFile(ctx context.Context, id string) error {
	err := s.within(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, s.q(`DELETE FROM batch_chunks WHERE file = ?`), id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, s.q(`DELETE FROM batch_files WHERE id = ?`), id)
		return err
	})
	if err != nil {
		return fmt.Errorf("sqlbatches: delete file: %w", err)
	}
	return nil
}

// WriteChunk implements batches.Store.
func (s *Store) WriteChunk(ctx context.Context, file string, seq int, data []byte) error {
	return s.exec(ctx, "write chunk", `INSERT INTO batch_chunks (file, seq, data) VALUES (?, ?, ?) ON CONFLICT (file, seq) DO UPDATE SET data = excluded.data`, file, seq, data)
}

// ReadChunk implements batches.Store.
func (s *Store) ReadChunk(ctx context.Context, file string, seq int) ([]byte, error) {
	var data []byte
	err := s.db.QueryRowContext(ctx, s.q(`SELECT data FROM batch_chunks WHERE file = ? AND seq = ?`), file, seq).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("chunk %d of file %s: %w", seq, file, batches.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("sqlbatches: read chunk: %w", err)
	}
	return data, nil
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func (s *Store) saveBatch(ctx context.Context, x execer, b batches.Batch) error {
	doc, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("sqlbatches: encode batch: %w", err)
	}
	final := 0
	if b.Status.Final() {
		final = 1
	}
	_, err = x.ExecContext(ctx, s.q(`INSERT INTO batch_batches (id, tenant, created_at, final, doc) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, created_at = excluded.created_at, final = excluded.final, doc = excluded.doc`),
		b.ID, b.Tenant, b.Created.UnixMicro(), final, string(doc))
	if err != nil {
		return fmt.Errorf("sqlbatches: save batch %s: %w", b.ID, err)
	}
	return nil
}

// SaveBatch implements batches.Store.
func (s *Store) SaveBatch(ctx context.Context, b batches.Batch) error {
	return s.saveBatch(ctx, s.db, b)
}

// Batch implements batches.Store.
func (s *Store) Batch(ctx context.Context, id string) (batches.Batch, error) {
	return one[batches.Batch](ctx, s, "batch", `SELECT doc FROM batch_batches WHERE id = ?`, id)
}

// Batches implements batches.Store.
func (s *Store) Batches(ctx context.Context, tenant, after string, limit int) ([]batches.Batch, error) {
	query, args := paged(`SELECT doc FROM batch_batches WHERE tenant = ?`, []any{tenant}, "batch_batches", after, limit)
	return many[batches.Batch](ctx, s, "batches", query, args...)
}

// Unfinished implements batches.Store.
func (s *Store) Unfinished(ctx context.Context) ([]batches.Batch, error) {
	return many[batches.Batch](ctx, s, "unfinished batches", `SELECT doc FROM batch_batches WHERE final = 0 ORDER BY created_at`)
}

// SaveLines implements batches.Store.
func (s *Store) SaveLines(ctx context.Context, b batches.Batch, lines []batches.Line) error {
	return s.within(ctx, func(tx *sql.Tx) error {
		stmt, err := tx.PrepareContext(ctx, s.q(`INSERT INTO batch_lines (batch, line, failed, data) VALUES (?, ?, ?, ?)
			ON CONFLICT (batch, line) DO UPDATE SET failed = excluded.failed, data = excluded.data`))
		if err != nil {
			return fmt.Errorf("sqlbatches: save lines: %w", err)
		}
		defer func() { _ = stmt.Close() }()
		for _, l := range lines {
			failed := 0
			if l.Failed {
				failed = 1
			}
			if _, err := stmt.ExecContext(ctx, b.ID, l.Number, failed, l.Data); err != nil {
				return fmt.Errorf("sqlbatches: save line %d of batch %s: %w", l.Number, b.ID, err)
			}
		}
		return s.saveBatch(ctx, tx, b)
	})
}

// Lines implements batches.Store.
func (s *Store) Lines(ctx context.Context, batch string, after, limit int) ([]batches.Line, error) {
	rows, err := s.db.QueryContext(ctx, s.q(`SELECT line, failed, data FROM batch_lines WHERE batch = ? AND line > ? ORDER BY line LIMIT ?`), batch, after, limit)
	if err != nil {
		return nil, fmt.Errorf("sqlbatches: read lines: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []batches.Line
	for rows.Next() {
		var l batches.Line
		var failed int
		if err := rows.Scan(&l.Number, &failed, &l.Data); err != nil {
			return nil, fmt.Errorf("sqlbatches: read lines: %w", err)
		}
		l.Failed = failed == 1
		out = append(out, l)
	}
	return out, rows.Err()
}

// DropLines implements batches.Store.
func (s *Store) DropLines(ctx context.Context, batch string) error {
	return s.exec(ctx, "drop lines", `DELETE FROM batch_lines WHERE batch = ?`, batch)
}
