package sqlitequeue

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations of the job store, oldest first; PRAGMA user_version is how many were applied. Never change one that
// was released: add another.
func migrations() []string {
	return []string{
		`CREATE TABLE jobs (
			key             INTEGER PRIMARY KEY,
			job_id          TEXT    NOT NULL,
			tenant_id       TEXT    NOT NULL,
			model           TEXT    NOT NULL,
			model_ref       TEXT    NOT NULL,
			priority        TEXT    NOT NULL,
			state           TEXT    NOT NULL,
			worker_id       TEXT    NOT NULL DEFAULT '',
			node            TEXT    NOT NULL DEFAULT '',
			attempt         INTEGER NOT NULL DEFAULT 0,
			submitted_at    INTEGER NOT NULL,
			not_before      INTEGER NOT NULL DEFAULT 0,
			started_at      INTEGER NOT NULL DEFAULT 0,
			first_token_at  INTEGER NOT NULL DEFAULT 0,
			completed_at    INTEGER NOT NULL DEFAULT 0,
			deadline        INTEGER NOT NULL DEFAULT 0,
			prompt_tokens   INTEGER NOT NULL DEFAULT 0,
			cached_tokens   INTEGER NOT NULL DEFAULT 0,
			tokens_out      INTEGER NOT NULL DEFAULT 0,
			error_code      TEXT    NOT NULL DEFAULT '',
			error_message   TEXT    NOT NULL DEFAULT '',
			idempotency_key TEXT,
			fingerprint     TEXT    NOT NULL DEFAULT '',
			detached        INTEGER NOT NULL DEFAULT 0,
			rank            INTEGER NOT NULL DEFAULT 0,
			holder          TEXT    NOT NULL DEFAULT '',
			fence           INTEGER NOT NULL DEFAULT 0,
			lease_until     INTEGER NOT NULL DEFAULT 0,
			payload         BLOB
		) STRICT;
		CREATE UNIQUE INDEX jobs_idempotency ON jobs (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL;`,

		`CREATE TABLE pauses (
			model     TEXT NOT NULL,
			tenant_id TEXT NOT NULL,
			PRIMARY KEY (model, tenant_id)
		) STRICT, WITHOUT ROWID;`,

		`CREATE TABLE arrivals (key INTEGER PRIMARY KEY) STRICT;
		CREATE VIEW job_list AS SELECT job_id, tenant_id, model, priority, state, worker_id, node, attempt,
			datetime(submitted_at / 1000000.0, 'unixepoch', 'subsec') AS submitted_at,
			datetime(nullif(started_at, 0) / 1000000.0, 'unixepoch', 'subsec') AS started_at,
			datetime(nullif(first_token_at, 0) / 1000000.0, 'unixepoch', 'subsec') AS first_token_at,
			datetime(nullif(completed_at, 0) / 1000000.0, 'unixepoch', 'subsec') AS completed_at,
			prompt_tokens, tokens_out, error_code, error_message FROM jobs ORDER BY key;`,

		// short jobs that are over, many in a row, as JSON (see packed); and how far the tail file is in here
		`CREATE TABLE packs (
			first   INTEGER PRIMARY KEY,
			last    INTEGER NOT NULL,
			oldest  INTEGER NOT NULL,
			tallies TEXT    NOT NULL,
			data    TEXT    NOT NULL
		) STRICT;
		CREATE INDEX packs_last ON packs (last);
		CREATE INDEX packs_oldest ON packs (oldest);
		CREATE TABLE ahead (word INTEGER NOT NULL, seq INTEGER NOT NULL) STRICT;
		INSERT INTO ahead (word, seq) VALUES (random() & 0xffffffff, 0);
		DROP VIEW job_list;
		CREATE VIEW job_list AS WITH every AS (SELECT key, job_id, tenant_id, model, priority, state, worker_id, node, attempt, submitted_at,
			started_at, first_token_at, completed_at, prompt_tokens, tokens_out, error_code, error_message FROM jobs UNION ALL SELECT
			value->>'k', value->>'id', coalesce(value->>'t', ''), coalesce(value->>'m', ''), value->>'p', value->>'s', coalesce(value->>'w', ''),
			coalesce(value->>'n', ''), coalesce(value->>'a', 0), value->>'ts', coalesce(value->>'tr', 0), coalesce(value->>'tf', 0),
			coalesce(value->>'tc', 0), coalesce(value->>'np', 0), coalesce(value->>'no', 0), coalesce(value->>'ec', ''),
			coalesce(value->>'em', '') FROM packs, json_each(packs.data))
		SELECT job_id, tenant_id, model, priority, state, worker_id, node, attempt,
			datetime(submitted_at / 1000000.0, 'unixepoch', 'subsec') AS submitted_at,
			datetime(nullif(started_at, 0) / 1000000.0, 'unixepoch', 'subsec') AS started_at,
			datetime(nullif(first_token_at, 0) / 1000000.0, 'unixepoch', 'subsec') AS first_token_at,
			datetime(nullif(completed_at, 0) / 1000000.0, 'unixepoch', 'subsec') AS completed_at,
			prompt_tokens, tokens_out, error_code, error_message FROM every ORDER BY key;`,
	}
}

// journalMigrations are those of the journal's file.
func journalMigrations() []string {
	return []string{
		`CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, opened_at INTEGER NOT NULL) STRICT;
		CREATE TABLE streams (
			id           INTEGER PRIMARY KEY,
			job          TEXT    NOT NULL UNIQUE,
			last         INTEGER NOT NULL,
			meta         INTEGER NOT NULL,
			epoch        INTEGER NOT NULL,
			recovered    INTEGER NOT NULL DEFAULT 0,
			recovered_in INTEGER NOT NULL DEFAULT 0,
			written_at   INTEGER NOT NULL
		) STRICT;
		CREATE TABLE chunks (
			stream INTEGER NOT NULL,
			first  INTEGER NOT NULL,
			last   INTEGER NOT NULL,
			data   BLOB    NOT NULL,
			PRIMARY KEY (stream, first)
		) STRICT, WITHOUT ROWID;`,

		// streams that were short and over when they came: the key is inside the job's id
		`CREATE TABLE whole (
			key        INTEGER PRIMARY KEY,
			job        TEXT    NOT NULL,
			last       INTEGER NOT NULL,
			meta       INTEGER NOT NULL,
			epoch      INTEGER NOT NULL,
			written_at INTEGER NOT NULL,
			data       BLOB    NOT NULL
		) STRICT;`,

		// many of them in a row (see bundle.go)
		`CREATE TABLE bundles (
			first      INTEGER PRIMARY KEY,
			last       INTEGER NOT NULL,
			written_at INTEGER NOT NULL,
			data       BLOB    NOT NULL
		) STRICT;
		CREATE INDEX bundles_last ON bundles (last);`,
	}
}

// migrate brings a file to the newest version, each step in a transaction of its own.
func migrate(ctx context.Context, c *sql.Conn, path string, steps []string) error {
	var have int
	if err := c.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if have > len(steps) {
		return fmt.Errorf("sqlitequeue: %s is of version %d, this program knows %d: use a newer program", path, have, len(steps))
	}
	for v := have; v < len(steps); v++ {
		script := fmt.Sprintf("BEGIN IMMEDIATE; %s PRAGMA user_version = %d; COMMIT", steps[v], v+1)
		if _, err := c.ExecContext(ctx, script); err != nil {
			_, _ = c.ExecContext(ctx, "ROLLBACK")
			return fmt.Errorf("sqlitequeue: migrate %s to version %d: %w", path, v+1, err)
		}
	}
	return nil
}
