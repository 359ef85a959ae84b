package queue_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// counting remembers the operations that a store was given.
type counting struct {
	queue.Store
	mu   sync.Mutex
	ops  []queue.OpKind
	fail error
}

// seen returns the operations since the last call.
func (c *counting) seen() []queue.OpKind {
	c.mu.Lock()
	defer c.mu.Unlock()
	ops := c.ops
	c.ops = nil
	return ops
}

func (c *counting) failWith(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = err
}

func (c *counting) Apply(ctx context.Context, ops []*queue.Op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	for _, op := range ops {
		c.ops = append(c.ops, op.Kind)
	}
	return c.Store.Apply(ctx, ops)
}

func late(t *testing.T, q *queue.Queue) (*queue.Ticket, queue.Lease) {
	t.Helper()
	ticket, err := q.SubmitLate(queue.Job{Model: "m", State: queue.Running, Worker: "w", Payload: []byte("x")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ticket, ticket.Lease()
}

func TestSubmitLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &counting{Store: queue.NewMemory()}
		q := queue.New(s, queue.Options{Lazy: 50 * time.Millisecond})
		defer q.Close()
		ended, lease := late(t, q)
		synctest.Wait()
		if ops := s.seen(); len(ops) != 0 {
			t.Fatalf("stored before anybody waits: %v", ops)
		}
		if err := q.FinishLazy(lease, queue.Result{State: queue.Complete}); err != nil {
			t.Fatal(err)
		}
		if err := ended.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ops := s.seen(); len(ops) != 1 || ops[0] != queue.OpInsert {
			t.Fatalf("a short job took %v", ops)
		}
		if j, err := q.Get(t.Context(), ended.ID()); err != nil || j.State != queue.Complete || j.Payload != nil {
			t.Fatalf("stored as %+v, %v", j, err)
		}

		// another job's commit does not take it along before its time; its time does
		long, _ := late(t, q)
		if _, err := q.Enqueue(t.Context(), queue.Job{Model: "m"}); err != nil {
			t.Fatal(err)
		}
		if ops := s.seen(); len(ops) != 1 {
			t.Fatalf("with another's commit: %v", ops)
		}
		<-time.After(60 * time.Millisecond)
		synctest.Wait()
		if ops := s.seen(); len(ops) != 1 {
			t.Fatalf("when it was due: %v", ops)
		}
		if err := long.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}

		// a listing shows it at once
		listed, _ := late(t, q)
		page, err := q.List(t.Context(), queue.Filter{Limit: 10})
		if err != nil || len(page.Jobs) == 0 || page.Jobs[0].ID != listed.ID() {
			t.Fatalf("listing: %+v, %v", page, err)
		}
	})
}

// TestSubmitLatePayload asks for the payload of a job that must be kept, once, and not for one that is over before.
func TestSubmitLatePayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := queue.NewMemory()
		q := queue.New(s, queue.Options{Lazy: 50 * time.Millisecond})
		defer q.Close()
		asked := 0
		submit := func(j queue.Job) *queue.Ticket {
			j.Model, j.State = "m", queue.Running
			ticket, err := q.SubmitLate(j, func() []byte { asked++; return []byte("body") })
			if err != nil {
				t.Fatal(err)
			}
			return ticket
		}
		short := submit(queue.Job{})
		if err := q.FinishLazy(short.Lease(), queue.Result{}); err != nil {
			t.Fatal(err)
		}
		if err := short.Wait(t.Context()); err != nil || asked != 0 {
			t.Fatalf("the payload of a job that is over was asked for %d times, %v", asked, err)
		}
		long := submit(queue.Job{})
		if err := long.Wait(t.Context()); err != nil || asked != 1 {
			t.Fatalf("asked %d times, %v", asked, err)
		}
		if j, err := q.Get(t.Context(), long.ID()); err != nil || string(j.Payload) != "body" || j.State != queue.Running {
			t.Fatalf("stored as %+v, %v", j, err)
		}
		if err := q.Finish(t.Context(), long.Lease(), queue.Result{}); err != nil || asked != 1 {
			t.Fatalf("asked %d times, %v", asked, err)
		}
		keyed := submit(queue.Job{Tenant: "t", IdempotencyKey: "k"}) // its fingerprint is that of its payload
		if asked != 2 {
			t.Fatalf("asked %d times", asked)
		}
		_, err := q.Submit(queue.Job{Tenant: "t", IdempotencyKey: "k", Payload: []byte("body")})
		if !errors.Is(err, queue.ErrDuplicate) {
			t.Fatalf("a repeat: %v", err)
		}
		if err := keyed.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSubmitLateIsNotLostSilently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &counting{Store: queue.NewMemory()}
		q := queue.New(s, queue.Options{Lazy: 50 * time.Millisecond})
		if _, err := q.Counts(t.Context()); err != nil { // opened
			t.Fatal(err)
		}
		s.failWith(queue.ErrStorageFull)
		ticket, lease := late(t, q)
		if err := q.FinishLazy(lease, queue.Result{State: queue.Complete}); err != nil {
			t.Fatal(err)
		}
		if err := ticket.Wait(t.Context()); !errors.Is(err, queue.ErrStorageFull) {
			t.Fatalf("on a full disk: %v", err)
		}
		s.failWith(nil)
		kept, _ := late(t, q)
		if err := q.Close(); err != nil { // takes what is under way
			t.Fatal(err)
		}
		if err := kept.Wait(t.Context()); err != nil {
			t.Fatalf("after Close: %v", err)
		}
		if ops := s.seen(); len(ops) != 1 {
			t.Fatalf("Close stored %v", ops)
		}
	})
}
