package sqlitequeue_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

func open(t *testing.T, path string) *sqlitequeue.Store {
	t.Helper()
	s, err := sqlitequeue.Open(context.Background(), path, sqlitequeue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestEveryColumnComesBack(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "a ?#%b.db")
	s := open(t, path)
	q := queue.New(s, queue.Options{KeepPayloads: true})
	at := time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)
	in := queue.Job{Tenant: "t", Model: "m", ModelRef: "sim:m", Priority: queue.Batch, State: queue.Running, Worker: "w",
		Node: "n", Submitted: at, Deadline: at.Add(time.Hour), IdempotencyKey: "k", Detached: true, Payload: []byte{0, 1, 2}}
	tk, err := q.Submit(in)
	if err != nil {
		t.Fatal(err)
	}
	res := queue.Result{Started: at.Add(1), FirstToken: at.Add(time.Second), Completed: at.Add(2 * time.Second),
		PromptTokens: 1, CachedTokens: 2, TokensOut: 3, State: queue.Failed, ErrorCode: "C", ErrorMessage: "M"}
	if err := tk.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := q.Finish(ctx, tk.Lease(), res); err != nil {
		t.Fatal(err)
	}
	q.Close()
	s.Close()
	s = open(t, path)
	key, _ := queue.ParseID(tk.ID())
	got, err := s.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != tk.ID() || got.Tenant != "t" || got.ModelRef != "sim:m" || !got.Submitted.Equal(at) || got.CachedTokens != 2 ||
		got.ErrorMessage != "M" || got.State != queue.Failed || !got.FirstToken.Equal(at.Add(time.Second)) || got.Worker != "w" ||
		!got.Deadline.Equal(at.Add(time.Hour)) || !got.Detached || string(got.Payload) != "\x00\x01\x02" || got.IdempotencyKey != "k" {
		t.Fatalf("got %+v", got)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
}

func TestEnqueueTx(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "q.db")
	db, err := sql.Open("sqlite3", "file:"+path+"?_txlock=immediate&_busy_timeout=5000&_journal_mode=WAL")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s, err := sqlitequeue.New(ctx, db, sqlitequeue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	q := queue.New(s, queue.Options{})
	defer q.Close()
	for _, commit := range []bool{false, true} {
		rec, err := q.Prepare(queue.Job{Model: "m", Payload: []byte("p")})
		if err != nil {
			t.Fatal(err)
		}
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		job, err := sqlitequeue.EnqueueTx(ctx, tx, rec)
		if err != nil {
			t.Fatal(err)
		}
		if !commit {
			tx.Rollback()
			if _, err := q.Get(ctx, job.ID); !errors.Is(err, queue.ErrNotFound) {
				t.Fatalf("rolled back job: %v", err)
			}
			continue
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := q.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		got, err := q.Next(ctx, queue.ClaimOptions{})
		if err != nil || got.ID != job.ID || string(got.Payload) != "p" {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
}

// TestLogStaysBounded writes for a while under readers: no reader holds a transaction so long that the log grows.
func TestLogStaysBounded(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "q.db")
	q := queue.New(open(t, path), queue.Options{Max: -1})
	defer q.Close()
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := q.List(ctx, queue.Filter{Limit: 100}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 32 {
		writers.Go(func() {
			for range 50 {
				if _, err := q.Enqueue(ctx, queue.Job{Payload: make([]byte, 8000)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	st, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > 12<<20 { // 13 MB of payload went through; a checkpoint is due at 4 MB
		t.Errorf("the log has grown to %d bytes", st.Size())
	}
}
