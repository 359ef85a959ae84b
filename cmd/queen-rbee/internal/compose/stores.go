package compose

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	_ "github.com/mattn/go-sqlite3" // the driver of the state file

	"github.com/queen-rbee/queen-rbee/admission/sqladmission"
	"github.com/queen-rbee/queen-rbee/auth/sqlauth"
	"github.com/queen-rbee/queen-rbee/provisioner/sqlprovisioner"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
	"github.com/queen-rbee/queen-rbee/registry/sqliteregistry"
	"github.com/queen-rbee/queen-rbee/sserelay"
)

// stores are the files of a queen: jobs (with a fsync for every commit), the frame journal, and everything else.
type stores struct {
	jobs     *sqlitequeue.Store
	journal  *sqlitequeue.Journal
	state    *sql.DB
	registry *sqliteregistry.Store
	auth     *sqlauth.Store
	adm      *sqladmission.Store
	models   *sqlprovisioner.Store
}

// paths of the three files, given --store and the data directory.
func storePaths(store, dataDir string) (jobs, journal, state string) {
	jobs = strings.TrimPrefix(store, "sqlite:")
	if jobs == "" {
		jobs = filepath.Join(dataDir, "rbee.db")
	}
	base := strings.TrimSuffix(jobs, ".db")
	return jobs, base + ".journal.db", base + ".state.db"
}

func openStores(ctx context.Context, store, dataDir, address string, log *slog.Logger) (_ *stores, err error) {
	jobs, journal, state := storePaths(store, dataDir)
	if err := os.MkdirAll(filepath.Dir(jobs), 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	s := &stores{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if strings.HasSuffix(address, ":0") {
		address = "" // a port of the system's choosing: this says nothing to whoever finds the files locked
	}
	o := sqlitequeue.Options{Address: address, Logger: log}
	if s.jobs, err = sqlitequeue.Open(ctx, jobs, o); err != nil {
		return nil, err
	}
	o.Ended = func(meta uint32) bool { return sserelay.Meta(meta).Terminal() }
	if s.journal, err = sqlitequeue.OpenJournal(ctx, journal, o); err != nil {
		return nil, err
	}
	if s.state, err = openState(ctx, state); err != nil {
		return nil, err
	}
	if s.registry, err = sqliteregistry.New(ctx, s.state); err != nil {
		return nil, fmt.Errorf("%s: %w", state, err)
	}
	if s.auth, err = sqlauth.New(ctx, s.state, sqlauth.SQLite); err != nil {
		return nil, fmt.Errorf("%s: %w", state, err)
	}
	if s.adm, err = sqladmission.New(ctx, s.state, sqladmission.SQLite); err != nil {
		return nil, fmt.Errorf("%s: %w", state, err)
	}
	if s.models, err = sqlprovisioner.New(ctx, s.state); err != nil {
		return nil, fmt.Errorf("%s: %w", state, err)
	}
	return s, nil
}

// openState opens the file of hives, keys, tenants and models, readable by its owner only.
func openState(ctx context.Context, path string) (*sql.DB, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite3", "file:"+path+"?_txlock=immediate&_busy_timeout=5000&_journal_mode=WAL&_synchronous=FULL")
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(4)
	var verdict string
	if err := db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict); err != nil || verdict != "ok" {
		_ = db.Close()
		return nil, fmt.Errorf("%s is damaged (%s%v): restore it from a backup or move it away; it is never recreated over", path, verdict, err)
	}
	return db, nil
}

func (s *stores) close() {
	if s.journal != nil {
		_ = s.journal.Close()
	}
	if s.jobs != nil {
		_ = s.jobs.Close()
	}
	if s.state != nil {
		_ = s.state.Close()
	}
}
