package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

func TestLifecycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		store := queue.NewMemory()
		q := queue.New(store, queue.Options{})
		defer q.Close()
		job, err := q.Enqueue(ctx, queue.Job{Tenant: "t", Model: "m", Payload: []byte("hi")})
		if err != nil {
			t.Fatal(err)
		}
		line, err := q.Line(ctx, 10)
		if err != nil || len(line) != 1 || string(line[0].Payload) != "hi" {
			t.Fatalf("line = %v, %v", line, err)
		}
		got, err := q.Claim(ctx, job.ID, "w1", "n1")
		if err != nil || got.State != queue.Running || got.Attempt != 1 || string(got.Payload) != "hi" {
			t.Fatalf("claim = %+v, %v", got, err)
		}
		if _, err := q.Claim(ctx, job.ID, "w2", "n1"); !errors.Is(err, queue.ErrConflict) {
			t.Fatalf("second claim: %v", err)
		}
		if err := q.Finish(ctx, got.Lease, queue.Result{TokensOut: 3}); err != nil {
			t.Fatal(err)
		}
		if err := q.Finish(ctx, got.Lease, queue.Result{}); !errors.Is(err, queue.ErrLeaseLost) {
			t.Fatalf("second finish: %v", err)
		}
		end, err := q.Get(ctx, job.ID)
		if err != nil || end.State != queue.Complete || end.TokensOut != 3 || end.Payload != nil {
			t.Fatalf("get = %+v, %v", end, err)
		}
	})
}

func TestNextWakesAndLeaseExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		q := queue.New(queue.NewMemory(), queue.Options{Lease: time.Second})
		defer q.Close()
		got := make(chan queue.Job, 1)
		go func() {
			j, err := q.Next(ctx, queue.ClaimOptions{Worker: "w"})
			if err != nil {
				t.Error(err)
			}
			got <- j
		}()
		synctest.Wait()
		if _, err := q.Enqueue(ctx, queue.Job{}); err != nil {
			t.Fatal(err)
		}
		j := <-got
		j2, err := q.Next(ctx, queue.ClaimOptions{Worker: "w2"}) // waits for the lease to expire
		if err != nil || j2.ID != j.ID || j2.Attempt != 2 {
			t.Fatalf("rescued = %+v, %v", j2, err)
		}
		if err := q.Finish(ctx, j.Lease, queue.Result{}); !errors.Is(err, queue.ErrLeaseLost) {
			t.Fatalf("late finish: %v", err)
		}
	})
}

func TestRecover(t *testing.T) {
	ctx := t.Context()
	store := queue.NewMemory()
	q := queue.New(store, queue.Options{})
	tk, err := q.Submit(queue.Job{State: queue.Running, Worker: "w", Node: "n", Payload: []byte("p")})
	if err != nil || tk.Wait(ctx) != nil {
		t.Fatal(err)
	}
	if _, err := q.Enqueue(ctx, queue.Job{}); err != nil {
		t.Fatal(err)
	}
	q.Close()
	q = queue.New(store, queue.Options{})
	defer q.Close()
	jobs, err := q.Recover(ctx)
	if err != nil || len(jobs) != 2 || jobs[0].ID != tk.ID() || string(jobs[0].Payload) != "p" || jobs[0].State != queue.Running {
		t.Fatalf("recovered = %+v, %v", jobs, err)
	}
	if err := q.Finish(ctx, tk.Lease(), queue.Result{}); !errors.Is(err, queue.ErrLeaseLost) {
		t.Fatalf("the dead holder's lease: %v", err)
	}
	if err := q.FinishLazy(jobs[0].Lease, queue.Result{}); err != nil {
		t.Fatal(err)
	}
	page, err := q.List(ctx, queue.Filter{State: queue.Complete})
	if err != nil || len(page.Jobs) != 1 {
		t.Fatalf("list = %+v, %v", page, err)
	}
}

func TestIdempotency(t *testing.T) {
	ctx := t.Context()
	q := queue.New(queue.NewMemory(), queue.Options{})
	defer q.Close()
	first, err := q.Enqueue(ctx, queue.Job{Tenant: "a", IdempotencyKey: "k", Payload: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	for i, finish := range []bool{false, true} {
		if finish {
			j, err := q.Next(ctx, queue.ClaimOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Finish(ctx, j.Lease, queue.Result{}); err != nil {
				t.Fatal(err)
			}
		}
		var dup *queue.DuplicateError
		if _, err = q.Submit(queue.Job{Tenant: "a", IdempotencyKey: "k", Payload: []byte("1")}); !errors.As(err, &dup) || dup.First.ID != first.ID {
			t.Fatalf("%d: same body: %v", i, err)
		}
		if _, err = q.Submit(queue.Job{Tenant: "a", IdempotencyKey: "k", Payload: []byte("2")}); !errors.Is(err, queue.ErrConflict) || errors.Is(err, queue.ErrDuplicate) {
			t.Fatalf("%d: other body: %v", i, err)
		}
	}
	if _, err := q.Enqueue(ctx, queue.Job{Tenant: "b", IdempotencyKey: "k", Payload: []byte("2")}); err != nil {
		t.Fatalf("other tenant: %v", err)
	}
}

func TestFairOrder(t *testing.T) {
	ctx := t.Context()
	q := queue.New(queue.NewMemory(), queue.Options{Weight: func(tn string) int { return map[string]int{"heavy": 2}[tn] }})
	defer q.Close()
	add := func(tenant, priority string, n int) {
		for i := range n {
			if _, err := q.Submit(queue.Job{Tenant: tenant, Priority: priority, Model: fmt.Sprint(tenant, i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add("flood", "", 100)
	add("small", "", 2)
	add("heavy", "", 4)
	add("b", queue.Batch, 3)
	line, err := q.Line(ctx, 1000)
	if err != nil || len(line) != 109 {
		t.Fatal(len(line), err)
	}
	at := map[string]int{}
	for i, j := range line {
		at[j.Model] = i
	}
	if at["small1"] > 8 || at["heavy3"] > 8 {
		t.Errorf("a flood delays others: %v", at)
	}
	for i := range 3 {
		if at[fmt.Sprint("b", i)] != 8*(i+1)-1 {
			t.Errorf("batch job %d is at %d", i, at[fmt.Sprint("b", i)])
		}
	}
}

func TestNoWriteBeforeWaitIsLost(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := queue.New(queue.NewMemory(), queue.Options{})
	tk, err := q.Submit(queue.Job{State: queue.Running})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.FinishLazy(tk.Lease(), queue.Result{TokensOut: 1}); err != nil {
		t.Fatal(err)
	}
	if err := tk.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}
