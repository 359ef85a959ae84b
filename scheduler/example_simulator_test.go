package scheduler_test

import (
	"context"
	"fmt"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

// keepLast is an evictor of five lines: stop what was used longest ago until there is room.
type keepLast struct{}

func (keepLast) Plan(_, _ string, need int64, idle []scheduler.Worker) (ids []string, penalty time.Duration, ok bool) {
	for _, w := range idle { // in the snapshot's order; sort by w.LastUsed for LRU
		if need > 0 {
			ids, need = append(ids, w.ID), need-w.Memory
		}
	}
	return ids, 5 * time.Second, need <= 0
}

// Drive the scheduler from a simulator: your clock, your snapshots, your events. After every event call
// Pick until it answers below 0, and again after Decision.Wait if nothing else happened before.
func Example_simulator() {
	now := time.Unix(0, 0) // simulated time; change it before each call
	snap := &scheduler.Snapshot{Version: 1,
		Workers: []scheduler.Worker{{ID: "w1", Node: "h", Device: "0", Model: "a", Slots: 1, Memory: 8, CacheBlocks: 1000}},
		Hives:   []scheduler.Hive{{Name: "h", Devices: []scheduler.Device{{ID: "0", Total: 10, Free: 2}}}},
		Needs:   map[string]scheduler.Need{"a": {Memory: 8, LoadTime: 5 * time.Second}, "b": {Memory: 8, LoadTime: 5 * time.Second}}}
	s := scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return snap }),
		scheduler.Options{Now: func() time.Time { return now }, Evictor: keepLast{}, Seed: 1})
	ctx := context.Background()

	// An arrival: Place. Blocks are chained prefix ids (a trace's hash_ids will do).
	job := &scheduler.Job{ID: "1", Model: "a", PromptTokens: 1024, MaxTokens: 50, Blocks: []uint64{1, 2}, Submitted: now}
	d, release, _ := s.Place(ctx, job) // Route: start it on d.Worker; Queue: into your line; err != nil: rejected
	fmt.Println(d.Action, d.Worker)

	other := &scheduler.Job{ID: "2", Model: "b", PromptTokens: 10, Submitted: now}
	d, _, _ = s.Place(ctx, other)
	fmt.Println(d.Action, "-", d.Reason)
	line := []*scheduler.Job{other}

	now = now.Add(300 * time.Millisecond)
	s.FirstToken("1") // optional, then Pick
	now = now.Add(700 * time.Millisecond)
	release.Done() // its end: give the slot back, and tell what it took
	s.Observe(scheduler.Observation{Job: job, Worker: "w1", Prompt: 1024, Cached: 0, Output: 50, TTFT: 300 * time.Millisecond, Decode: 700 * time.Millisecond, OK: true})

	now = now.Add(2 * time.Second)
	i, d, release, _ := s.Pick(ctx, line) // Provision: stop d.Evict, load d.Model on d.Node; the job stays in the line
	fmt.Println(i, d.Action, d.Model, d.Node, d.Evict)

	now = now.Add(5 * time.Second) // loaded: publish the new fleet, then release, then Pick again
	snap = &scheduler.Snapshot{Version: 2, Hives: snap.Hives, Needs: snap.Needs,
		Workers: []scheduler.Worker{{ID: "w2", Node: "h", Device: "0", Model: "b", Slots: 1, Memory: 8}}}
	release.Done()
	i, d, _, _ = s.Pick(ctx, line)
	fmt.Println(i, d.Action, d.Worker)
	// Output:
	// route w1
	// queue - waiting for memory that other models use
	// 0 provision b h [w1]
	// 0 route w2
}
