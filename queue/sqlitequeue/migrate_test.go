package sqlitequeue_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// at makes a file as the program of an earlier version left it.
func at(t *testing.T, path string, steps []string, version int, fill string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_journal_mode=WAL")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, q := range append(append([]string(nil), steps[:version]...), fill, fmt.Sprintf("PRAGMA user_version = %d", version)) {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%v in %s", err, q)
		}
	}
}

func TestMigrateJobsFromEveryVersion(t *testing.T) {
	ctx := t.Context()
	id := queue.New(queue.NewMemory(), queue.Options{}).NewID()
	key, _ := queue.ParseID(id)
	steps := sqlitequeue.Migrations()
	for v := 0; v <= len(steps); v++ {
		path := filepath.Join(t.TempDir(), "queue.db")
		fill := ""
		if v > 0 {
			fill = fmt.Sprintf(`INSERT INTO jobs (key, job_id, tenant_id, model, model_ref, priority, state, submitted_at, payload)
				VALUES (%d, '%s', 't', 'm', '', 'batch', 'queued', 5, x'61')`, key, id)
		}
		at(t, path, steps, v, fill)
		s := open(t, path)
		q := queue.New(s, queue.Options{})
		if v > 0 {
			j, err := q.Claim(ctx, id, "w", "n")
			if err != nil || string(j.Payload) != "a" || j.Tenant != "t" || j.Priority != queue.Batch {
				t.Fatalf("version %d: %+v %v", v, j, err)
			}
			if err := q.Finish(ctx, j.Lease, queue.Result{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Pause(ctx, queue.Pause{Model: "m"}); err != nil {
			t.Fatalf("version %d: %v", v, err)
		}
		if err := q.Housekeep(ctx); err != nil {
			t.Fatalf("version %d: %v", v, err)
		}
		q.Close()
		s.Close()
	}
	path := filepath.Join(t.TempDir(), "queue.db")
	at(t, path, steps, len(steps), "")
	newer(t, path, len(steps)+1)
	if _, err := sqlitequeue.Open(context.Background(), path, sqlitequeue.Options{}); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("a file of a newer version: %v", err)
	}
}

func newer(t *testing.T, path string, version int) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		t.Fatal(err)
	}
}

func TestMigrateJournalFromEveryVersion(t *testing.T) {
	ctx := t.Context()
	steps := sqlitequeue.JournalMigrations()
	for v := 0; v <= len(steps); v++ {
		path := filepath.Join(t.TempDir(), "q.frames")
		at(t, path, steps, v, "")
		j := openJournal(t, path, sqlitequeue.Options{})
		if err := j.Append(ctx, "a", 1, 2, []byte("x")); err != nil {
			t.Fatalf("version %d: %v", v, err)
		}
		if got := readAll(t, j, "a", 0); len(got) != 1 || got[0] != "x" {
			t.Fatalf("version %d: %q", v, got)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOperatorsView reads the view while the store is open: it is at most two of Options.Settle behind.
func TestOperatorsView(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "queue.db")
	s, err := sqlitequeue.Open(ctx, path, sqlitequeue.Options{Settle: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	q := queue.New(s, queue.Options{})
	defer q.Close()
	job, err := q.Enqueue(ctx, queue.Job{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var id, state, submitted string
	var completed *string
	recovers(t, func() error {
		return db.QueryRow("SELECT job_id, state, submitted_at, completed_at FROM job_list").Scan(&id, &state, &submitted, &completed)
	})
	if err != nil || id != job.ID || state != "queued" || !strings.HasPrefix(submitted, job.Submitted.Format("2006-01-02 15:04:05")) || completed != nil {
		t.Errorf("%s %s %s %v %v", id, state, submitted, completed, err)
	}
}
