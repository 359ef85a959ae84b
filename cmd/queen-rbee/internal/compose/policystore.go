package compose

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler/scriptsched"
)

// keptPolicies is how many versions of the policy are kept.
const keptPolicies = 100

// policyStore keeps the versions of the scheduling policy in the state database, with the configuration's own choice at that
// time: a policy that an administrator set at run time holds over restarts until the configuration chooses another.
type policyStore struct {
	db         *sql.DB
	configured string
}

var _ scriptsched.Store = (*policyStore)(nil)

// setByHand marks the context of a change that an administrator made.
type setByHand struct{}

func newPolicyStore(ctx context.Context, db *sql.DB, configured string) (*policyStore, error) {
	_, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS policy_versions (id INTEGER PRIMARY KEY, name TEXT NOT NULL, source TEXT NOT NULL,
		hash TEXT NOT NULL, at BIGINT NOT NULL, configured TEXT NOT NULL, by_hand BOOLEAN NOT NULL)`)
	return &policyStore{db, configured}, err
}

// Save implements scriptsched.Store.
func (s *policyStore) Save(ctx context.Context, v scriptsched.Version) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	byHand, _ := ctx.Value(setByHand{}).(bool)
	if _, err := tx.ExecContext(ctx, `INSERT INTO policy_versions (id, name, source, hash, at, configured, by_hand)
		VALUES ((SELECT coalesce(max(id), 0) + 1 FROM policy_versions), ?, ?, ?, ?, ?, ?)`, v.Name, v.Source, v.Hash, v.At.UnixMicro(), s.configured, byHand); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM policy_versions WHERE id <= (SELECT max(id) FROM policy_versions) - ?`, keptPolicies); err != nil {
		return err
	}
	return tx.Commit()
}

// Latest implements scriptsched.Store.
func (s *policyStore) Latest(ctx context.Context) (scriptsched.Version, error) {
	list, err := s.List(ctx, 1)
	if len(list) == 0 {
		return scriptsched.Version{}, err
	}
	return list[0], err
}

// List implements scriptsched.Store.
func (s *policyStore) List(ctx context.Context, limit int) (out []scriptsched.Version, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT name, source, hash, at FROM policy_versions ORDER BY id DESC LIMIT ?`, limit)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var v scriptsched.Version
		var at int64
		if err := rows.Scan(&v.Name, &v.Source, &v.Hash, &at); err != nil {
			return nil, err
		}
		v.At = time.UnixMicro(at)
		out = append(out, v)
	}
	return out, rows.Err()
}

// kept returns the newest version if an administrator set it under the configuration of now.
func (s *policyStore) kept(ctx context.Context) (v scriptsched.Version, ok bool, err error) {
	var configured string
	err = s.db.QueryRowContext(ctx, `SELECT name, source, hash, configured, by_hand FROM policy_versions ORDER BY id DESC LIMIT 1`).
		Scan(&v.Name, &v.Source, &v.Hash, &configured, &ok)
	if errors.Is(err, sql.ErrNoRows) {
		return v, false, nil
	}
	return v, ok && configured == s.configured, err
}
