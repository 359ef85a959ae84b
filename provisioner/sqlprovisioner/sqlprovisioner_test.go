package sqlprovisioner_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	_ "github.com/mattn/go-sqlite3"

	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/provisioner/provisionertest"
	"github.com/queen-rbee/queen-rbee/provisioner/sqlprovisioner"
)

func open(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_txlock=immediate&_busy_timeout=5000&_journal_mode=WAL")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestStore(t *testing.T) {
	paths := map[provisioner.Store]string{}
	make := func(t *testing.T, path string) provisioner.Store {
		s, err := sqlprovisioner.New(context.Background(), open(t, path))
		if err != nil {
			t.Fatal(err)
		}
		paths[s] = path
		return s
	}
	provisionertest.Run(t, provisionertest.Harness{
		Open:   func(t *testing.T) provisioner.Store { return make(t, filepath.Join(t.TempDir(), "p.db")) },
		Reopen: func(t *testing.T, s provisioner.Store) provisioner.Store { return make(t, paths[s]) },
	})
}

func TestTwoMigrateAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.db")
	if err := open(t, path).Ping(); err != nil { // makes the file write-ahead: that switch waits for nobody
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		db := open(t, path)
		wg.Go(func() { _, errs[i] = sqlprovisioner.New(context.Background(), db) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestNewerSchema(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "p.db"))
	if _, err := sqlprovisioner.New(context.Background(), db); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`INSERT INTO provisioner_schema (version) VALUES (99)`); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlprovisioner.New(context.Background(), db); !errors.Is(err, sqlprovisioner.ErrTooNew) {
		t.Fatal(err)
	}
}

func Example() {
	ctx := context.Background()
	db, _ := sql.Open("sqlite3", ":memory:")
	defer db.Close()
	db.SetMaxOpenConns(1)
	store, err := sqlprovisioner.New(ctx, db)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = store.SaveEntry(ctx, provisioner.Entry{Name: "mine", Ref: "sim:demo"})
	entries, _ := store.Entries(ctx)
	fmt.Println(entries[0].Name, entries[0].Ref)
	// Output: mine sim:demo
}
