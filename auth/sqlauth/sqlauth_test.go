package sqlauth_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	_ "github.com/mattn/go-sqlite3"

	"github.com/queen-rbee/queen-rbee/auth"
	"github.com/queen-rbee/queen-rbee/auth/authtest"
	"github.com/queen-rbee/queen-rbee/auth/sqlauth"
)

func open(t *testing.T, path string) auth.Store {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_txlock=immediate&_busy_timeout=5000&_journal_mode=WAL")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := sqlauth.New(t.Context(), db, sqlauth.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformanceOnSQLite(t *testing.T) {
	var path string
	authtest.Run(t, func(t *testing.T) auth.Store {
		path = filepath.Join(t.TempDir(), "auth.db")
		return open(t, path)
	}, func(t *testing.T, _ auth.Store) auth.Store { return open(t, path) })
}

func TestNewerSchemaIsRefused(t *testing.T) {
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "auth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := sqlauth.New(t.Context(), db, sqlauth.SQLite); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`INSERT INTO auth_schema VALUES (99)`); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlauth.New(t.Context(), db, sqlauth.SQLite); err == nil {
		t.Fatal("a schema of a newer program was accepted")
	}
}
