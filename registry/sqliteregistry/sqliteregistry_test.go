package sqliteregistry_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/registry/registrytest"
	"github.com/queen-rbee/queen-rbee/registry/sqliteregistry"
)

func TestStore(t *testing.T) {
	paths := map[registry.Store]string{}
	open := func(t *testing.T, path string) registry.Store {
		s, err := sqliteregistry.Open(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		paths[s] = path
		t.Cleanup(func() { s.Close() })
		return s
	}
	registrytest.Run(t, registrytest.Harness{
		Open: func(t *testing.T) registry.Store { return open(t, filepath.Join(t.TempDir(), "a b%3F?.db")) },
		Reopen: func(t *testing.T, s registry.Store) registry.Store {
			if err := s.(*sqliteregistry.Store).Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, paths[s])
		},
	})
}

func TestFileMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	s, err := sqliteregistry.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}

func TestSharedDatabase(t *testing.T) {
	ctx := context.Background()
	db, err := sql.Open("sqlite3", filepath.Join(t.TempDir(), "shared.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for range 2 { // opening again migrates nothing
		s, err := sqliteregistry.New(ctx, db)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.PingContext(ctx); err != nil {
		t.Fatalf("Close closed a database that is not ours: %v", err)
	}
	if _, err := db.ExecContext(ctx, `INSERT INTO registry_schema (version) VALUES (99)`); err != nil {
		t.Fatal(err)
	}
	if _, err := sqliteregistry.New(ctx, db); !errors.Is(err, sqliteregistry.ErrTooNew) {
		t.Fatalf("a newer schema must be refused: %v", err)
	}
}

func TestFault13CorruptFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	junk := []byte(strings.Repeat("this is no database ", 500))
	if err := os.WriteFile(path, junk, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := sqliteregistry.Open(context.Background(), path)
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("a corrupt file must be refused by name: %v", err)
	}
	if now, _ := os.ReadFile(path); string(now) != string(junk) {
		t.Fatal("the corrupt file was touched")
	}
}

func TestFault13TwoOpeners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	done := make(chan error)
	const n = 8
	for range n {
		go func() {
			s, err := sqliteregistry.Open(context.Background(), path)
			if err == nil {
				for range 10 {
					err = errors.Join(err, s.SaveHive(context.Background(), registrytest.Sample("a")))
				}
				err = errors.Join(err, s.Close())
			}
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Errorf("no BUSY may reach a caller: %v", err)
		}
	}
}
