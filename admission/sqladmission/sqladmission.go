// Package sqladmission keeps tenants and their usage in a SQL database through database/sql. It runs on SQLite and on
// PostgreSQL with the same statements; the caller opens the database with the driver of its choice and hands it in.
package sqladmission

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/queen-rbee/queen-rbee/admission"
)

// Dialect names the database behind a *sql.DB.
type Dialect uint8

// The dialects.
const (
	SQLite Dialect = iota
	PostgreSQL
)

// Store implements admission.Store. It is safe for concurrent use.
type Store struct {
	db *sql.DB
	d  Dialect
}

// migrations are applied in order, each once; a new one is appended, none is ever changed.
var migrations = []string{
	`CREATE TABLE admission_tenants (id TEXT PRIMARY KEY, limits TEXT NOT NULL)`,
	`CREATE TABLE admission_usage (tenant TEXT NOT NULL, hour BIGINT NOT NULL, prompt BIGINT NOT NULL, output BIGINT NOT NULL,
		jobs BIGINT NOT NULL, PRIMARY KEY (tenant, hour))`,
	`CREATE TABLE admission_settled (hour BIGINT NOT NULL, ids TEXT NOT NULL)`,
	`CREATE INDEX admission_settled_hour ON admission_settled (hour)`,
}

// New brings the tables (prefix admission_) up to date and returns the store. The database stays the caller's to close.
func New(ctx context.Context, db *sql.DB, d Dialect) (*Store, error) {
	s := &Store{db: db, d: d}
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS admission_schema (version BIGINT PRIMARY KEY)`); err != nil {
		return nil, fmt.Errorf("sqladmission: create schema table: %w", err)
	}
	var have int
	if err := db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM admission_schema`).Scan(&have); err != nil {
		return nil, fmt.Errorf("sqladmission: read schema version: %w", err)
	}
	if have > len(migrations) {
		return nil, fmt.Errorf("sqladmission: the database has schema version %d, this program knows %d: use a newer one", have, len(migrations))
	}
	for v := have + 1; v <= len(migrations); v++ {
		err := s.inTx(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, migrations[v-1]); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, s.q(`INSERT INTO admission_schema (version) VALUES (?)`), v)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("sqladmission: migration %d: %w", v, err)
		}
	}
	return s, nil
}

func (s *Store) inTx(ctx context.Context, fn func(*sql.Tx) error) error {
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
	for i, part := range strings.Split(query, "?") {
		if i > 0 {
			b.WriteString("$" + strconv.Itoa(i))
		}
		b.WriteString(part)
	}
	return b.String()
}

// Tenants implements admission.Store.
func (s *Store) Tenants(ctx context.Context) ([]admission.Tenant, error) {
	return collect(ctx, s.db, `SELECT id, limits FROM admission_tenants`, nil, func(rows *sql.Rows) (t admission.Tenant, err error) {
		var limits string
		if err = rows.Scan(&t.ID, &limits); err == nil {
			err = json.Unmarshal([]byte(limits), &t.Limits)
		}
		return t, err
	})
}

// SaveTenant implements admission.Store.
func (s *Store) SaveTenant(ctx context.Context, t admission.Tenant) error {
	limits, err := json.Marshal(t.Limits)
	if err != nil {
		return fmt.Errorf("sqladmission: encode limits: %w", err)
	}
	_, err = s.db.ExecContext(ctx, s.q(`INSERT INTO admission_tenants (id, limits) VALUES (?, ?)
		ON CONFLICT (id) DO UPDATE SET limits = excluded.limits`), t.ID, string(limits))
	if err != nil {
		return fmt.Errorf("sqladmission: save tenant %s: %w", t.ID, err)
	}
	return nil
}

// UsageSince implements admission.Store.
func (s *Store) UsageSince(ctx context.Context, hour int64) ([]admission.Hour, error) {
	return collect(ctx, s.db, s.q(`SELECT tenant, hour, prompt, output, jobs FROM admission_usage WHERE hour >= ?`), []any{hour},
		func(rows *sql.Rows) (h admission.Hour, err error) {
			return h, rows.Scan(&h.Tenant, &h.Hour, &h.Usage.Prompt, &h.Usage.Output, &h.Jobs)
		})
}

// AddUsage implements admission.Store.
func (s *Store) AddUsage(ctx context.Context, delta []admission.Hour, hour int64, ids []string) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		for _, h := range delta {
			_, err := tx.ExecContext(ctx, s.q(`INSERT INTO admission_usage (tenant, hour, prompt, output, jobs) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT (tenant, hour) DO UPDATE SET prompt = admission_usage.prompt + excluded.prompt,
				output = admission_usage.output + excluded.output, jobs = admission_usage.jobs + excluded.jobs`),
				h.Tenant, h.Hour, h.Usage.Prompt, h.Usage.Output, h.Jobs)
			if err != nil {
				return err
			}
		}
		if len(ids) == 0 {
			return nil
		}
		_, err := tx.ExecContext(ctx, s.q(`INSERT INTO admission_settled (hour, ids) VALUES (?, ?)`), hour, strings.Join(ids, "\n"))
		return err
	})
	if err != nil {
		return fmt.Errorf("sqladmission: add usage: %w", err)
	}
	return nil
}

// RecentIDs implements admission.Store.
func (s *Store) RecentIDs(ctx context.Context, hour int64) ([]string, error) {
	lists, err := collect(ctx, s.db, s.q(`SELECT ids FROM admission_settled WHERE hour >= ?`), []any{hour},
		func(rows *sql.Rows) (ids string, err error) { return ids, rows.Scan(&ids) })
	var out []string
	for _, list := range lists {
		out = append(out, strings.Split(list, "\n")...)
	}
	return out, err
}

// DropUsage implements admission.Store.
func (s *Store) DropUsage(ctx context.Context, before int64) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, s.q(`DELETE FROM admission_usage WHERE hour < ?`), before); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, s.q(`DELETE FROM admission_settled WHERE hour < ?`), before)
		return err
	})
	if err != nil {
		return fmt.Errorf("sqladmission: drop old usage: %w", err)
	}
	return nil
}

func collect[T any](ctx context.Context, db *sql.DB, query string, args []any, scan func(*sql.Rows) (T, error)) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("sqladmission: query: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("sqladmission: read row: %w", err)
		}
		out = append(out, v)
	}
	return out, rows.Err()
}
