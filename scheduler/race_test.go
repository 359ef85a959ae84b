package scheduler

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Many goroutines at once never overbook a slot, whatever else is called meanwhile.
func TestConcurrent(t *testing.T) {
	snap := &Snapshot{Version: 1, Hives: []Hive{{Name: "h"}}}
	for i := range 20 {
		snap.Workers = append(snap.Workers, Worker{ID: fmt.Sprint("w", i), Node: "h", Model: "m", Slots: 2})
	}
	var cur atomic.Pointer[Snapshot]
	cur.Store(snap)
	s := New(SourceFunc(cur.Load), Options{Recorder: NewRing(100)})
	inUse := make([]atomic.Int32, 20)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				job := &Job{ID: fmt.Sprint(g, "-", i), Model: "m", Tenant: "t", PromptTokens: 100, Blocks: chain(g, 4), Submitted: time.Now()}
				d, rel, err := s.Place(context.Background(), job)
				if err != nil {
					t.Error(err)
					return
				}
				if d.Action != Route {
					if _, d, rel, err = s.Pick(context.Background(), []*Job{job}); err != nil || d.Action != Route {
						continue
					}
				}
				var k int
				if _, err := fmt.Sscanf(d.Worker, "w%d", &k); err != nil || inUse[k].Add(1) > 2 {
					t.Errorf("%s is overbooked", d.Worker)
				}
				s.FirstToken(job.ID)
				s.Explain(job)
				s.Observe(Observation{Job: job, Worker: d.Worker, Prompt: 100, Output: 1, TTFT: time.Millisecond, Decode: time.Millisecond, OK: i%7 > 0})
				inUse[k].Add(-1)
				rel.Done()
				if i%50 == 0 {
					next := *cur.Load()
					next.Version++
					cur.Store(&next)
					_ = s.SetPolicy([]Policy{nil, Basic{}}[i/50%2])
					s.Wants()
				}
			}
		})
	}
	wg.Wait()
}

// A newcomer does not take the slot for which others wait.
func TestNewcomersDontJumpTheLine(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	s := New(fixed(&Snapshot{Version: 1, Workers: []Worker{{ID: "w", Model: "m"}}}), Options{Now: c.now})
	_, rel, _ := s.Place(context.Background(), &Job{ID: "1", Model: "m"})
	line := []*Job{{ID: "2", Model: "m", Submitted: c.t}}
	if i, _, _, _ := s.Pick(context.Background(), line); i >= 0 {
		t.Fatal("the slot is taken")
	}
	rel.Done()
	if d, _, _ := s.Place(context.Background(), &Job{ID: "3", Model: "m", Submitted: c.t}); d.Action != Queue {
		t.Errorf("the newcomer got %s", d.Action)
	}
	if i, d, _, _ := s.Pick(context.Background(), line); i != 0 || d.Action != Route {
		t.Errorf("the one that waits got %d %s", i, d.Action)
	}
}

func BenchmarkPickFull(b *testing.B) {
	s, jobs := benchFleet(4)
	for i := 0; s.workers["w0"].inflight+s.workers["w1"].inflight+s.workers["w2"].inflight+s.workers["w3"].inflight < 32; i++ {
		if _, _, err := s.Place(context.Background(), &Job{ID: fmt.Sprint("f", i), Model: "m", PromptTokens: 100}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if i, _, _, _ := s.Pick(context.Background(), jobs[32:160]); i >= 0 {
			b.Fatal("picked")
		}
	}
}
