package sqlitequeue_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// ranJobs runs n short jobs of two models to their end; every seventh fails.
func ranJobs(t *testing.T, q *queue.Queue, n int) []string {
	t.Helper()
	ids := make([]string, n)
	tickets := make([]*queue.Ticket, n)
	for i := range n {
		tk, err := q.SubmitLate(queue.Job{Tenant: "t \"é\"", Model: fmt.Sprint("m", i%2), Payload: []byte("p"), State: queue.Running, Worker: "w"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := queue.Result{TokensOut: i}
		if i%7 == 0 {
			r = queue.Result{State: queue.Failed, ErrorCode: "WORKER_FAILED", ErrorMessage: "line\nof \x7f"}
		}
		if err := q.FinishLazy(tk.Lease(), r); err != nil {
			t.Fatal(err)
		}
		ids[i], tickets[i] = tk.ID(), tk
	}
	for _, tk := range tickets {
		if err := tk.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// number is what one query counts in the store's file.
func number(t *testing.T, path, query string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestShortJobsArePacked holds that jobs which share a row are found, listed, counted, guarded and purged like any other, in the
// tail, in the file, and after a restart.
func TestShortJobsArePacked(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "queue.db")
	s := open(t, path)
	q := queue.New(s, queue.Options{})
	const n = 1100
	ids := ranJobs(t, q, n)
	waiting, err := q.Enqueue(ctx, queue.Job{Tenant: "t", Model: "m0", Payload: []byte("waits")})
	if err != nil {
		t.Fatal(err)
	}
	checkPacked(t, s, q, ids, waiting.ID)
	if err := errors.Join(q.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if rows, packs, seen := number(t, path, `SELECT count(*) FROM jobs`), number(t, path, `SELECT count(*) FROM packs`),
		number(t, path, `SELECT count(*) FROM job_list`); rows > 10 || packs < 9 || packs > 60 || seen != n+1 {
		t.Errorf("%d rows, %d packs, %d in the view", rows, packs, seen)
	}
	if failed := number(t, path, `SELECT count(*) FROM job_list WHERE state = 'failed' AND error_message = 'line'||char(10)||'of '||char(127)`); failed != (n+6)/7 {
		t.Errorf("the view shows %d failed jobs", failed)
	}
	s = open(t, path)
	defer s.Close()
	q = queue.New(s, queue.Options{})
	defer q.Close()
	checkPacked(t, s, q, ids, waiting.ID)
	var purged int64
	for purged < n {
		gone, err := s.Purge(ctx, time.Now().Add(time.Hour), 400)
		if err != nil || len(gone) == 0 {
			t.Fatalf("purged %d, then %v, %v", purged, gone, err)
		}
		for _, g := range gone {
			purged += g.N
		}
	}
	if left := number(t, path, `SELECT count(*) FROM packs`); left != 0 || purged != n {
		t.Errorf("%d packs are left, %d jobs purged", left, purged)
	}
}

func checkPacked(t *testing.T, s *sqlitequeue.Store, q *queue.Queue, ids []string, waiting string) {
	t.Helper()
	ctx := t.Context()
	for i, id := range ids {
		key, _ := queue.ParseID(id)
		r, err := s.Get(ctx, key)
		want := queue.Complete
		if i%7 == 0 {
			want = queue.Failed
		}
		if err != nil || r.ID != id || r.State != want || r.Tenant != "t \"é\"" || r.Model != fmt.Sprint("m", i%2) || r.Completed.IsZero() || r.Payload != nil {
			t.Fatalf("job %d: %+v, %v", i, r, err)
		}
		if i%100 > 0 {
			continue
		}
		again, gone := &queue.Op{Kind: queue.OpInsert, Record: r}, &queue.Op{Kind: queue.OpUpdate, Record: r, IfState: queue.Running, IfFence: 1}
		if err := s.Apply(ctx, []*queue.Op{again, gone}); err != nil || !errors.Is(again.Err, queue.ErrConflict) || !errors.Is(gone.Err, queue.ErrConflict) {
			t.Fatalf("job %d: %v, an insert %v, a change %v", i, err, again.Err, gone.Err)
		}
	}
	seen := 0
	for f := (queue.Filter{Limit: 90, Model: "m1", State: queue.Complete}); ; {
		page, err := q.List(ctx, f)
		if err != nil {
			t.Fatal(err)
		}
		for i, j := range page.Jobs {
			if j.Model != "m1" || j.State != queue.Complete || i > 0 && j.ID >= page.Jobs[i-1].ID {
				t.Fatalf("listed %+v", j)
			}
		}
		seen += len(page.Jobs)
		if f.Cursor = page.Next; f.Cursor == "" {
			break
		}
	}
	want := 0
	for i := range ids {
		if i%2 == 1 && i%7 != 0 {
			want++
		}
	}
	if seen != want {
		t.Errorf("listed %d, want %d", seen, want)
	}
	snap, err := s.Load(ctx, func(r queue.Record) error {
		if r.ID != waiting || string(r.Payload) != "waits" {
			return fmt.Errorf("unfinished: %+v", r)
		}
		return nil
	})
	var total int64
	for _, c := range snap.Finished {
		total += c.N
	}
	if err != nil || total != int64(len(ids)) || len(snap.Finished) != 4 {
		t.Errorf("tallies %v, %v", snap.Finished, err)
	}
}

// TestTailOfAnotherFile puts a tail beside a database that is not its own: nothing of it may come to life.
func TestTailOfAnotherFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	s := open(t, path)
	q := queue.New(s, queue.Options{})
	ranJobs(t, q, 20)
	if err := errors.Join(q.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path + ".tail"); err != nil || st.Size() == 0 {
		t.Fatalf("the tail has nothing: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer s.Close()
	if got, err := s.List(t.Context(), queue.Filter{Limit: 10}, 0); err != nil || len(got) != 0 {
		t.Errorf("%d jobs of another file, %v", len(got), err)
	}
}

// TestChangesWhileMoving changes jobs while SQLite is being given them, from many goroutines, and reads them back.
func TestChangesWhileMoving(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	s, err := sqlitequeue.Open(t.Context(), path, sqlitequeue.Options{Settle: 2 * time.Millisecond, Durability: sqlitequeue.Process})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	q := queue.New(s, queue.Options{})
	const workers, each = 8, 60
	done := make(chan error, workers)
	for w := range workers {
		go func() {
			done <- func() error {
				for i := range each {
					job := queue.Job{Tenant: fmt.Sprint(w), Payload: []byte(fmt.Sprint("payload", i))}
					if i%5 == 0 {
						job.IdempotencyKey = fmt.Sprint(i)
					}
					if _, err := q.Enqueue(context.Background(), job); err != nil {
						return err
					}
					run, err := q.Next(context.Background(), queue.ClaimOptions{})
					if err != nil {
						return err
					}
					key, _ := queue.ParseID(run.ID)
					if r, err := s.Get(context.Background(), key); err != nil || r.State != queue.Running || string(r.Payload) != string(run.Payload) {
						return fmt.Errorf("running: %+v, %w", r, err)
					}
					if err := q.Finish(context.Background(), run.Lease, queue.Result{TokensOut: 1}); err != nil {
						return err
					}
					if r, err := s.Get(context.Background(), key); err != nil || r.State != queue.Complete || r.Payload != nil {
						return fmt.Errorf("complete: %+v, %w", r, err)
					}
				}
				return nil
			}()
		}()
	}
	for range workers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(q.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if n := number(t, path, `SELECT count(*) FROM job_list WHERE state = 'complete' AND tokens_out = 1`); n != workers*each {
		t.Errorf("%d jobs complete in the file, want %d", n, workers*each)
	}
}
