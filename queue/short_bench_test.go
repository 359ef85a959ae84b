package queue_test

import (
	"context"
	"testing"

	"github.com/queen-rbee/queen-rbee/queue"
)

// swallow is a store in which everything is stored at once, so that a benchmark sees the queue's own cost.
type swallow struct{ queue.Store }

func (swallow) Apply(context.Context, []*queue.Op) error { return nil }

// BenchmarkShortJob is a job that ends before it is stored: one write with its end, in groups of 64.
func BenchmarkShortJob(b *testing.B) {
	q := queue.New(swallow{queue.NewMemory()}, queue.Options{Pace: -1})
	defer q.Close()
	payload := make([]byte, 400)
	group := make([]*queue.Ticket, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		t, err := q.SubmitLate(queue.Job{ID: q.NewID(), Tenant: "t", Model: "m", Priority: queue.Interactive, State: queue.Running, Worker: "w", Node: "n"}, func() []byte { return append([]byte(nil), payload...) })
		if err != nil {
			b.Fatal(err)
		}
		if err := q.FinishLazy(t.Lease(), queue.Result{State: queue.Complete, TokensOut: 8}); err != nil {
			b.Fatal(err)
		}
		if group = append(group, t); len(group) < cap(group) {
			continue
		}
		for _, t := range group {
			if err := t.Wait(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
		group = group[:0]
	}
}
