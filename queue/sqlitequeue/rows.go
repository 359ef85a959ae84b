package sqlitequeue

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/mattn/go-sqlite3"
	"github.com/queen-rbee/queen-rbee/queue"
)

const columns = `key, job_id, tenant_id, model, model_ref, priority, state, worker_id, node, attempt, submitted_at,
	not_before, started_at, first_token_at, completed_at, deadline, prompt_tokens, cached_tokens, tokens_out,
	error_code, error_message, idempotency_key, fingerprint, detached, rank, holder, fence, lease_until`

// statements are prepared once on the writing connection.
type statements struct {
	begin, commit, insert, insertEnded, run, wait, end, endScrub *sql.Stmt
	find, unkey, exists, pause, resume, arrive, set, pack, ahead *sql.Stmt
}

func (st *statements) all() map[**sql.Stmt]string {
	guard := ` WHERE key = ? AND state = ? AND fence = ?`
	end := `UPDATE jobs SET state = ?, worker_id = ?, node = ?, attempt = ?, not_before = ?, started_at = ?, first_token_at = ?,
		completed_at = ?, prompt_tokens = ?, cached_tokens = ?, tokens_out = ?, error_code = ?, error_message = ?,
		fence = ?, holder = '', lease_until = 0`
	return map[**sql.Stmt]string{
		&st.begin:  "BEGIN IMMEDIATE",
		&st.commit: "COMMIT",
		&st.insert: `INSERT INTO jobs (key, job_id, tenant_id, model, model_ref, priority, state, worker_id, node,
			attempt, submitted_at, not_before, started_at, deadline, idempotency_key, fingerprint, detached, rank,
			holder, fence, lease_until, payload) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		&st.insertEnded: `INSERT INTO jobs (` + columns + `, payload)
			VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		&st.run: `UPDATE jobs SET state = 'running', worker_id = ?, node = ?, attempt = ?, not_before = ?, started_at = ?,
			first_token_at = 0, error_message = ?, holder = ?, fence = ?, lease_until = ?` + guard,
		&st.wait: `UPDATE jobs SET state = 'queued', worker_id = '', node = '', attempt = ?, not_before = ?,
			started_at = 0, first_token_at = 0, error_message = ?, holder = '', fence = ?, lease_until = 0` + guard,
		&st.end:      end + guard,
		&st.endScrub: end + `, payload = NULL` + guard,
		&st.find:     `SELECT ` + columns + `, NULL FROM jobs WHERE tenant_id = ? AND idempotency_key = ?`,
		&st.unkey:    `UPDATE jobs SET idempotency_key = NULL WHERE key = ?`,
		&st.exists:   `SELECT count(*) FROM jobs WHERE key = ?`,
		&st.pause:    `INSERT OR IGNORE INTO pauses (model, tenant_id) VALUES (?, ?)`,
		&st.resume:   `DELETE FROM pauses WHERE model = ? AND tenant_id = ?`,
		&st.arrive:   `DELETE FROM arrivals`,
		&st.set: `UPDATE jobs SET state = ?1, worker_id = ?2, node = ?3, attempt = ?4, not_before = ?5, started_at = ?6, first_token_at = ?7,
			completed_at = ?8, prompt_tokens = ?9, cached_tokens = ?10, tokens_out = ?11, error_code = ?12, error_message = ?13, holder = ?14,
			fence = ?15, lease_until = ?16, payload = CASE WHEN ?17 THEN NULL ELSE payload END WHERE key = ?18`,
		&st.pack:  `INSERT INTO packs (first, last, oldest, tallies, data) VALUES (?, ?, ?, ?, ?)`,
		&st.ahead: `UPDATE ahead SET seq = ?`,
	}
}

func (st *statements) prepare(ctx context.Context, c *sql.Conn) error {
	for p, text := range st.all() {
		s, err := c.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		*p = s
	}
	return nil
}

func (st *statements) close() {
	for p := range st.all() {
		if *p != nil {
			_ = (*p).Close() // the connection goes right after
		}
	}
}

// micros is how a time is stored: microseconds since 1970, 0 for none.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func moment(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func insertArgs(r *queue.Record) []any {
	return []any{r.Key, r.ID, r.Tenant, r.Model, r.ModelRef, r.Priority, string(r.State), r.Worker, r.Node, r.Attempt,
		micros(r.Submitted), micros(r.NotBefore), micros(r.Started), micros(r.Deadline), nullable(r.IdempotencyKey),
		r.Fingerprint, r.Detached, r.Rank, r.Lease.Holder, r.Lease.Fence, micros(r.Lease.Until), r.Payload}
}

func insertEndedArgs(r *queue.Record, scrub bool) []any {
	var payload []byte
	if !scrub {
		payload = r.Payload
	}
	return []any{r.Key, r.ID, r.Tenant, r.Model, r.ModelRef, r.Priority, string(r.State), r.Worker, r.Node, r.Attempt,
		micros(r.Submitted), micros(r.NotBefore), micros(r.Started), micros(r.FirstToken), micros(r.Completed),
		micros(r.Deadline), r.PromptTokens, r.CachedTokens, r.TokensOut, r.ErrorCode, r.ErrorMessage,
		nullable(r.IdempotencyKey), r.Fingerprint, r.Detached, r.Rank, r.Lease.Holder, r.Lease.Fence,
		micros(r.Lease.Until), payload}
}

// scanner is a row or rows.
type scanner interface{ Scan(dest ...any) error }

// scanOne reads a row of columns and payload.
func scanOne(row scanner) (queue.Record, error) {
	var r queue.Record
	var key sql.NullString
	var submitted, notBefore, started, first, completed, deadline, until int64
	err := row.Scan(&r.Key, &r.ID, &r.Tenant, &r.Model, &r.ModelRef, &r.Priority, &r.State, &r.Worker, &r.Node,
		&r.Attempt, &submitted, &notBefore, &started, &first, &completed, &deadline, &r.PromptTokens, &r.CachedTokens,
		&r.TokensOut, &r.ErrorCode, &r.ErrorMessage, &key, &r.Fingerprint, &r.Detached, &r.Rank, &r.Lease.Holder,
		&r.Lease.Fence, &until, &r.Payload)
	r.Submitted, r.NotBefore, r.Started = moment(submitted), moment(notBefore), moment(started)
	r.FirstToken, r.Completed, r.Deadline = moment(first), moment(completed), moment(deadline)
	r.IdempotencyKey, r.Lease.Until = key.String, moment(until)
	if r.State == queue.Running {
		r.Lease.Job = r.ID
	}
	return r, err
}

// taken reports whether a key exists already.
func taken(err error) bool {
	var se sqlite3.Error
	return errors.As(err, &se) && se.Code == sqlite3.ErrConstraint
}
