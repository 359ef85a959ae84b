package sqladmission_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/queen-rbee/queen-rbee/admission"
	"github.com/queen-rbee/queen-rbee/admission/admissiontest"
	"github.com/queen-rbee/queen-rbee/admission/sqladmission"
)

func open(t *testing.T, path string) admission.Store {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_txlock=immediate&_busy_timeout=5000&_journal_mode=WAL")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := sqladmission.New(t.Context(), db, sqladmission.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformanceOnSQLite(t *testing.T) {
	var path string
	admissiontest.Run(t, func(t *testing.T) admission.Store {
		path = filepath.Join(t.TempDir(), "admission.db")
		return open(t, path)
	}, func(t *testing.T, _ admission.Store) admission.Store { return open(t, path) })
}

func TestCrashLosesNoSettlement(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admission.db")
	c, err := admission.New(t.Context(), open(t, path), nil, admission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var served []admission.Served
	for i, id := range []string{"a", "b", "c", "d"} {
		g, err := c.Admit(t.Context(), admission.Request{ID: id, Tenant: "home", MaxTokens: 10})
		if err != nil {
			t.Fatal(err)
		}
		g.Settle(admission.Usage{Prompt: 1, Output: int64(i)})
		served = append(served, admission.Served{ID: id, Tenant: "home", Usage: admission.Usage{Prompt: 1, Output: int64(i)}, At: time.Now()})
		if id == "b" { // the store has a and b; the crash takes c and d
			if err := c.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 { // twice: a second crash must not count anything again
		c, err = admission.New(t.Context(), open(t, path), nil, admission.Options{Served: served})
		if err != nil {
			t.Fatal(err)
		}
		if r, _ := c.Tenant("home"); r.TokensToday != 0+1+2+3+4 || r.JobsToday != 4 {
			t.Fatalf("after the crash %d tokens in %d jobs, want 10 in 4", r.TokensToday, r.JobsToday)
		}
	}
}
