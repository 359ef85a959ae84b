package sqlbatches_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	_ "github.com/mattn/go-sqlite3"

	"github.com/queen-rbee/queen-rbee/httpserver/batches"
	"github.com/queen-rbee/queen-rbee/httpserver/batches/batchestest"
	"github.com/queen-rbee/queen-rbee/httpserver/batches/sqlbatches"
)

func openDB(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_journal_mode=WAL&_synchronous=FULL&_txlock=immediate&_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestStore(t *testing.T) {
	batchestest.TestStore(t, func(t *testing.T) batches.Store {
		s, err := sqlbatches.New(t.Context(), openDB(t, filepath.Join(t.TempDir(), "b.db")), sqlbatches.SQLite)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestReopenAndNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.db")
	ctx := context.Background()
	for range 2 {
		db := openDB(t, path)
		s, err := sqlbatches.New(ctx, db, sqlbatches.SQLite)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SaveFile(ctx, batches.File{ID: "f"}); err != nil {
			t.Fatal(err)
		}
		_ = db.Close()
	}
	db := openDB(t, path)
	if _, err := db.Exec(`INSERT INTO batch_schema (version) VALUES (999)`); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlbatches.New(ctx, db, sqlbatches.SQLite); err == nil {
		t.Fatal("a newer schema was accepted")
	}
}
