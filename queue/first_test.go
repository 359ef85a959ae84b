package queue_test

import (
	"errors"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// TestFirst looks keys up as one who submits would, in memory and, after the job is over, in the store.
func TestFirst(t *testing.T) {
	ctx := t.Context()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := &counting{Store: queue.NewMemory()}
	q := queue.New(s, queue.Options{Clock: func() time.Time { return now }, Retention: 100 * time.Hour})
	defer q.Close()
	if err := q.First(ctx, "a", "k", "f"); err != nil {
		t.Fatalf("a new key: %v", err)
	}
	first, err := q.Enqueue(ctx, queue.Job{Tenant: "a", IdempotencyKey: "k", Fingerprint: "f", Payload: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	check := func(where string) {
		t.Helper()
		var dup *queue.DuplicateError
		if err := q.First(ctx, "a", "k", "f"); !errors.As(err, &dup) || dup.First.ID != first.ID || dup.First.Payload != nil {
			t.Errorf("%s: the same request: %v", where, err)
		}
		if err := q.First(ctx, "a", "k", "g"); !errors.Is(err, queue.ErrConflict) || errors.As(err, &dup) {
			t.Errorf("%s: another request: %v", where, err)
		}
		for _, k := range [][2]string{{"b", "k"}, {"a", "x"}, {"a", ""}} {
			if err := q.First(ctx, k[0], k[1], "f"); err != nil {
				t.Errorf("%s: tenant and key %q: %v", where, k, err)
			}
		}
	}
	s.seen()
	check("in line")
	if ops := s.seen(); len(ops) != 0 {
		t.Errorf("a lookup wrote %v", ops)
	}
	if _, err := q.Cancel(ctx, first.ID); err != nil {
		t.Fatal(err)
	}
	check("over")
	now = now.Add(25 * time.Hour)
	if err := q.First(ctx, "a", "k", "f"); err != nil {
		t.Errorf("after the window: %v", err)
	}
}
