// Package sqlprovisioner keeps what a provisioner.Provisioner was taught at run time (models and
// unfinished downloads) in a database that the caller opened: SQLite or PostgreSQL, the same statements
// for both. It has tables of its own and imports no driver.
package sqlprovisioner

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/queen-rbee/queen-rbee/provisioner"
)

// ErrTooNew means that the database was written by a later version of this package.
var ErrTooNew = errors.New("sqlprovisioner: the database belongs to a newer version")

// Store is a provisioner.Store over database/sql. It is safe for concurrent use.
type Store struct{ db *sql.DB }

var _ provisioner.Store = (*Store)(nil)

// New creates or migrates the tables. The database stays the caller's: he closes it.
func New(ctx context.Context, db *sql.DB) (*Store, error) {
	if err := migrate(ctx, db); err != nil {
		return nil, err
	}
	return &Store{db: db}, nil
}

// migrations are applied in order, each once, in one transaction.
func migrations() [][]string {
	return [][]string{{
		`CREATE TABLE provisioner_models (name TEXT PRIMARY KEY, ref TEXT NOT NULL, entry TEXT NOT NULL)`,
		`CREATE TABLE provisioner_downloads (id TEXT PRIMARY KEY, node TEXT NOT NULL, ref TEXT NOT NULL, created BIGINT NOT NULL)`,
	}}
}

func migrate(ctx context.Context, db *sql.DB) (err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("sqlprovisioner: migrate: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	if _, err = tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS provisioner_schema (version BIGINT PRIMARY KEY)`); err != nil {
		return fmt.Errorf("sqlprovisioner: migrate: %w", err)
	}
	var have int
	if err = tx.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM provisioner_schema`).Scan(&have); err != nil {
		return fmt.Errorf("sqlprovisioner: read schema version: %w", err)
	}
	steps := migrations()
	if have > len(steps) {
		return fmt.Errorf("%w: schema %d, this program knows up to %d; use the program that wrote it", ErrTooNew, have, len(steps))
	}
	for v := have; v < len(steps); v++ {
		for _, statement := range steps[v] {
			if _, err = tx.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("sqlprovisioner: migration %d: %w", v+1, err)
			}
		}
		if _, err = tx.ExecContext(ctx, `INSERT INTO provisioner_schema (version) VALUES ($1)`, v+1); err != nil {
			return fmt.Errorf("sqlprovisioner: migration %d: %w", v+1, err)
		}
	}
	if err = tx.Commit(); err != nil {
		return fmt.Errorf("sqlprovisioner: migrate: %w", err)
	}
	return nil
}

// Entries implements provisioner.Store.
func (s *Store) Entries(ctx context.Context) ([]provisioner.Entry, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT name, entry FROM provisioner_models ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("sqlprovisioner: list models: %w", err)
	}
	defer rows.Close()
	var out []provisioner.Entry
	for rows.Next() {
		var name, raw string
		if err := rows.Scan(&name, &raw); err != nil {
			return nil, fmt.Errorf("sqlprovisioner: list models: %w", err)
		}
		var e provisioner.Entry
		if err := json.Unmarshal([]byte(raw), &e); err != nil {
			return nil, fmt.Errorf("sqlprovisioner: the record of model %s is damaged: %w", name, err)
		}
		out = append(out, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlprovisioner: list models: %w", err)
	}
	return out, nil
}

// SaveEntry implements provisioner.Store.
func (s *Store) SaveEntry(ctx context.Context, e provisioner.Entry) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("sqlprovisioner: encode model %s: %w", e.Name, err)
	}
	if _, err := s.db.ExecContext(ctx, `INSERT INTO provisioner_models (name, ref, entry) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET ref = excluded.ref, entry = excluded.entry`, e.Name, e.Ref, string(raw)); err != nil {
		return fmt.Errorf("sqlprovisioner: save model %s: %w", e.Name, err)
	}
	return nil
}

// DeleteEntry implements provisioner.Store.
func (s *Store) DeleteEntry(ctx context.Context, name string) error {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM provisioner_models WHERE name = $1`, name); err != nil {
		return fmt.Errorf("sqlprovisioner: delete model %s: %w", name, err)
	}
	return nil
}

// Downloads implements provisioner.Store.
func (s *Store) Downloads(ctx context.Context) ([]provisioner.Record, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, node, ref, created FROM provisioner_downloads ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("sqlprovisioner: list downloads: %w", err)
	}
	defer rows.Close()
	var out []provisioner.Record
	for rows.Next() {
		var r provisioner.Record
		var created int64
		if err := rows.Scan(&r.ID, &r.Node, &r.Ref, &created); err != nil {
			return nil, fmt.Errorf("sqlprovisioner: list downloads: %w", err)
		}
		r.Created = time.UnixMicro(created).UTC()
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlprovisioner: list downloads: %w", err)
	}
	return out, nil
}

// SaveDownload implements provisioner.Store.
func (s *Store) SaveDownload(ctx context.Context, r provisioner.Record) error {
	if _, err := s.db.ExecContext(ctx, `INSERT INTO provisioner_downloads (id, node, ref, created) VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO UPDATE SET node = excluded.node, ref = excluded.ref, created = excluded.created`,
		r.ID, r.Node, r.Ref, r.Created.UnixMicro()); err != nil {
		return fmt.Errorf("sqlprovisioner: save download %s: %w", r.ID, err)
	}
	return nil
}

// DeleteDownload implements provisioner.Store.
func (s *Store) DeleteDownload(ctx context.Context, id string) error {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM provisioner_downloads WHERE id = $1`, id); err != nil {
		return fmt.Errorf("sqlprovisioner: delete download %s: %w", id, err)
	}
	return nil
}
