package queue_test

import (
	"context"
	"fmt"

	"github.com/queen-rbee/queen-rbee/queue"
)

// A worker loop: take a job, do it, say how it ended.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	q := queue.New(queue.NewMemory(), queue.Options{}) // sqlitequeue.Open for one that outlives the process
	defer q.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			job, err := q.Next(ctx, queue.ClaimOptions{Worker: "w1"})
			if err != nil {
				return
			}
			fmt.Printf("%s says %q\n", job.Tenant, job.Payload)
			if err := q.Finish(ctx, job.Lease, queue.Result{}); err != nil {
				fmt.Println("lost:", err)
			}
			stop()
		}
	}()
	if _, err := q.Enqueue(ctx, queue.Job{Tenant: "ann", Payload: []byte("hello")}); err != nil {
		fmt.Println(err)
	}
	<-done
	// Output: ann says "hello"
}
