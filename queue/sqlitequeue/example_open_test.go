package sqlitequeue_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// A job and its stream outlive the program that made them.
func Example() {
	dir, err := os.MkdirTemp("", "queue-*")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	for range 2 {
		if err := session(context.Background(), filepath.Join(dir, "jobs.db")); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// a new job, frame 1 written
	// found hello again; frame 1 is "data: hi"
}

// session is one run of a program.
func session(ctx context.Context, path string) error {
	store, err := sqlitequeue.Open(ctx, path, sqlitequeue.Options{})
	if err != nil {
		return err
	}
	defer store.Close()
	journal, err := sqlitequeue.OpenJournal(ctx, path+".frames", sqlitequeue.Options{})
	if err != nil {
		return err
	}
	defer journal.Close()
	q := queue.New(store, queue.Options{})
	defer q.Close()
	jobs, err := q.Recover(ctx)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		return journal.Read(ctx, j.ID, 0, func(seq uint64, _ uint32, data []byte) error {
			fmt.Printf("found %s again; frame %d is %q\n", j.Payload, seq, data)
			return nil
		})
	}
	job, err := q.Enqueue(ctx, queue.Job{State: queue.Running, Payload: []byte("hello")})
	if err != nil {
		return err
	}
	fmt.Println("a new job, frame 1 written")
	return journal.Append(ctx, job.ID, 1, 0, []byte("data: hi"))
}
