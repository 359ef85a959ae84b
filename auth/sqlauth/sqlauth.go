// Package sqlauth keeps API keys and the head of the audit log in a SQL database through database/sql. It runs on
// SQLite and on PostgreSQL with the same statements; the caller opens the database with the driver of its choice and
// hands it in, so that this package imports none.
package sqlauth

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/auth"
)

// Dialect names the database behind a *sql.DB.
type Dialect uint8

// The dialects.
const (
	SQLite Dialect = iota
	PostgreSQL
)

// Store implements auth.Store. It is safe for concurrent use.
type Store struct {
	db *sql.DB
	d  Dialect
}

// migrations are applied in order, each once; a new one is appended, none is ever changed.
var migrations = []string{
	`CREATE TABLE auth_keys (
		id TEXT PRIMARY KEY, tenant TEXT NOT NULL, label TEXT NOT NULL, scope TEXT NOT NULL, hash TEXT NOT NULL,
		models TEXT NOT NULL, created_at BIGINT NOT NULL, expires_at BIGINT NOT NULL, revoked_at BIGINT NOT NULL)`,
	`CREATE TABLE auth_audit_head (id BIGINT PRIMARY KEY, entries BIGINT NOT NULL, hash TEXT NOT NULL)`,
}

// New brings the tables (prefix auth_) up to date and returns the store. The database stays the caller's to close.
func New(ctx context.Context, db *sql.DB, d Dialect) (*Store, error) {
	s := &Store{db: db, d: d}
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS auth_schema (version BIGINT PRIMARY KEY)`); err != nil {
		return nil, fmt.Errorf("sqlauth: create schema table: %w", err)
	}
	var have int
	if err := db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM auth_schema`).Scan(&have); err != nil {
		return nil, fmt.Errorf("sqlauth: read schema version: %w", err)
	}
	if have > len(migrations) {
		return nil, fmt.Errorf("sqlauth: the database has schema version %d, this program knows %d: use a newer one", have, len(migrations))
	}
	for v := have + 1; v <= len(migrations); v++ {
		if err := s.migrate(ctx, v); err != nil {
			return nil, fmt.Errorf("sqlauth: migration %d: %w", v, err)
		}
	}
	return s, nil
}

func (s *Store) migrate(ctx context.Context, version int) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, migrations[version-1]); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, s.q(`INSERT INTO auth_schema (version) VALUES (?)`), version); err != nil {
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

// Keys implements auth.Store.
func (s *Store) Keys(ctx context.Context) ([]auth.Key, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, tenant, label, scope, hash, models, created_at, expires_at, revoked_at FROM auth_keys`)
	if err != nil {
		return nil, fmt.Errorf("sqlauth: list keys: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []auth.Key
	for rows.Next() {
		var k auth.Key
		var hash, models string
		var created, expires, revoked int64
		if err := rows.Scan(&k.ID, &k.Tenant, &k.Label, &k.Scope, &hash, &models, &created, &expires, &revoked); err != nil {
			return nil, fmt.Errorf("sqlauth: read key: %w", err)
		}
		if k.Hash, err = parseHash(hash); err != nil {
			return nil, fmt.Errorf("sqlauth: key %s: %w", k.ID, err)
		}
		if err := json.Unmarshal([]byte(models), &k.Models); err != nil {
			return nil, fmt.Errorf("sqlauth: key %s: models: %w", k.ID, err)
		}
		k.CreatedAt, k.ExpiresAt, k.RevokedAt = fromMicros(created), fromMicros(expires), fromMicros(revoked)
		out = append(out, k)
	}
	return out, rows.Err()
}

// SaveKey implements auth.Store.
func (s *Store) SaveKey(ctx context.Context, k auth.Key) error {
	models, err := json.Marshal(k.Models)
	if err != nil {
		return fmt.Errorf("sqlauth: encode models: %w", err)
	}
	_, err = s.db.ExecContext(ctx, s.q(`INSERT INTO auth_keys (id, tenant, label, scope, hash, models, created_at, expires_at, revoked_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, label = excluded.label,
		scope = excluded.scope, hash = excluded.hash, models = excluded.models, created_at = excluded.created_at,
		expires_at = excluded.expires_at, revoked_at = excluded.revoked_at`),
		k.ID, k.Tenant, k.Label, string(k.Scope), fmt.Sprintf("%x", k.Hash), string(models), micros(k.CreatedAt), micros(k.ExpiresAt), micros(k.RevokedAt))
	if err != nil {
		return fmt.Errorf("sqlauth: save key %s: %w", k.ID, err)
	}
	return nil
}

// AuditHead implements auth.Store.
func (s *Store) AuditHead(ctx context.Context) (auth.Head, error) {
	var h auth.Head
	var hash string
	err := s.db.QueryRowContext(ctx, `SELECT entries, hash FROM auth_audit_head WHERE id = 1`).Scan(&h.Entries, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		return auth.Head{}, nil
	}
	if err != nil {
		return h, fmt.Errorf("sqlauth: read audit head: %w", err)
	}
	h.Hash, err = parseHash(hash)
	return h, err
}

// SetAuditHead implements auth.Store.
func (s *Store) SetAuditHead(ctx context.Context, h auth.Head) error {
	_, err := s.db.ExecContext(ctx, s.q(`INSERT INTO auth_audit_head (id, entries, hash) VALUES (1, ?, ?)
		ON CONFLICT (id) DO UPDATE SET entries = excluded.entries, hash = excluded.hash`), int64(h.Entries), fmt.Sprintf("%x", h.Hash))
	if err != nil {
		return fmt.Errorf("sqlauth: save audit head: %w", err)
	}
	return nil
}

func parseHash(s string) (h [32]byte, err error) {
	var b []byte
	if n, scanErr := fmt.Sscanf(s, "%x", &b); n != 1 || scanErr != nil || len(b) != len(h) {
		return h, errors.New("hash is not 64 hexadecimal digits")
	}
	return [32]byte(b), nil
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(v int64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMicro(v).UTC()
}
