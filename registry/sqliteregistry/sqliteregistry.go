// Package sqliteregistry keeps a registry's hives in SQLite (github.com/mattn/go-sqlite3), in one table
// of its own inside a database that other modules may share. Records are JSON beside the few columns
// worth asking for, so that a field added to a hive needs no migration.
package sqliteregistry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/mattn/go-sqlite3" // the driver that Open uses

	"github.com/queen-rbee/queen-rbee/registry"
)

// ErrTooNew means that the database was written by a later version of this package.
var ErrTooNew = errors.New("sqliteregistry: the database belongs to a newer version")

// Store is a registry.Store in SQLite. It is safe for concurrent use.
type Store struct {
	db    *sql.DB
	owned bool
}

var _ registry.Store = (*Store)(nil)

// Open opens or creates the database file (mode 0600), with full synchronous writes. Close it.
func Open(ctx context.Context, path string) (*Store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("sqliteregistry: %w", err)
	}
	f, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sqliteregistry: open: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("sqliteregistry: open: %w", err)
	}
	u := url.URL{Scheme: "file", Path: abs}
	db, err := sql.Open("sqlite3", u.String()+"?_journal_mode=WAL&_synchronous=FULL&_txlock=immediate&_busy_timeout=10000")
	if err != nil {
		return nil, fmt.Errorf("sqliteregistry: open %s: %w", abs, err)
	}
	db.SetMaxOpenConns(1) // a handful of small writes a second: one connection never meets itself
	s, err := New(ctx, db)
	for begun := time.Now(); busy(err) && time.Since(begun) < openTimeout; s, err = New(ctx, db) {
		select { // the switch to write-ahead logging does not wait for another opener as statements do
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%s: %w", abs, ctx.Err()), db.Close())
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", abs, err), db.Close())
	}
	s.owned = true
	return s, nil
}

// openTimeout is how long Open goes on when others open the file at the same time.
const openTimeout = 10 * time.Second

func busy(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && (e.Code == sqlite3.ErrBusy || e.Code == sqlite3.ErrLocked)
}

// New uses a database that the caller opened, and keeps it open on Close. It creates or migrates its table.
func New(ctx context.Context, db *sql.DB) (*Store, error) {
	if err := migrate(ctx, db); err != nil {
		return nil, err
	}
	return &Store{db: db}, nil
}

// migrations are applied in order, each once, in one transaction.
func migrations() []string {
	return []string{
		`CREATE TABLE registry_hives (
			name    TEXT PRIMARY KEY,
			mode    TEXT NOT NULL,
			status  TEXT NOT NULL,
			record  TEXT NOT NULL
		) STRICT`,
	}
}

func migrate(ctx context.Context, db *sql.DB) (err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("sqliteregistry: migrate: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	if _, err = tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS registry_schema (version INTEGER NOT NULL) STRICT`); err != nil {
		return fmt.Errorf("sqliteregistry: migrate: %w", err)
	}
	var have int
	if err = tx.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM registry_schema`).Scan(&have); err != nil {
		return fmt.Errorf("sqliteregistry: read schema version: %w", err)
	}
	steps := migrations()
	if have > len(steps) {
		return fmt.Errorf("%w: schema %d, this program knows up to %d; use the program that wrote it", ErrTooNew, have, len(steps))
	}
	for v := have; v < len(steps); v++ {
		if _, err = tx.ExecContext(ctx, steps[v]); err != nil {
			return fmt.Errorf("sqliteregistry: migration %d: %w", v+1, err)
		}
		if _, err = tx.ExecContext(ctx, `INSERT INTO registry_schema (version) VALUES (?)`, v+1); err != nil {
			return fmt.Errorf("sqliteregistry: migration %d: %w", v+1, err)
		}
	}
	if err = tx.Commit(); err != nil {
		return fmt.Errorf("sqliteregistry: migrate: %w", err)
	}
	return nil
}

// SaveHive implements registry.Store.
func (s *Store) SaveHive(ctx context.Context, h registry.Hive) error {
	record, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("sqliteregistry: encode hive %s: %w", h.Name, err)
	}
	_, err = s.db.ExecContext(ctx, `INSERT INTO registry_hives (name, mode, status, record) VALUES (?, ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET mode = excluded.mode, status = excluded.status, record = excluded.record`,
		h.Name, h.Mode, string(h.Status), string(record))
	if err != nil {
		return fmt.Errorf("sqliteregistry: save hive %s: %w", h.Name, err)
	}
	return nil
}

// DeleteHive implements registry.Store.
func (s *Store) DeleteHive(ctx context.Context, name string) error {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM registry_hives WHERE name = ?`, name); err != nil {
		return fmt.Errorf("sqliteregistry: delete hive %s: %w", name, err)
	}
	return nil
}

// Hives implements registry.Store.
func (s *Store) Hives(ctx context.Context) ([]registry.Hive, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT name, record FROM registry_hives ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("sqliteregistry: list hives: %w", err)
	}
	defer rows.Close()
	var out []registry.Hive
	for rows.Next() {
		var name, record string
		if err := rows.Scan(&name, &record); err != nil {
			return nil, fmt.Errorf("sqliteregistry: list hives: %w", err)
		}
		var h registry.Hive
		if err := json.Unmarshal([]byte(record), &h); err != nil {
			return nil, fmt.Errorf("sqliteregistry: the record of hive %s is damaged: %w", name, err)
		}
		out = append(out, h)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqliteregistry: list hives: %w", err)
	}
	return out, nil
}

// Close closes the database where Open opened it.
func (s *Store) Close() error {
	if !s.owned {
		return nil
	}
	return s.db.Close()
}
