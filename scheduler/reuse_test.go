package scheduler

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Blocks that come again every ten seconds are likely to be wanted while they have lain for less, and not after.
func TestReuseLearnsGaps(t *testing.T) {
	var r reuse
	for i := range 400 {
		now := int64(i) * int64(time.Second)
		r.use(chain(1+i%10, 40), now) // each of ten conversations again after ten seconds
		r.use(chain(1000+i, 40), now) // and as much that never comes again
	}
	if young, old := r.odds[ageOf(int64(5*time.Second))], r.odds[ageOf(int64(20*time.Second))]; young < 0.3 || old > 0.05 {
		t.Errorf("odds are %.2f after 5 s and %.2f after 20 s", young, old)
	}
	if len(r.last) > reuseEntries || len(r.ring) != len(r.last) {
		t.Errorf("%d entries, %d in the ring", len(r.last), len(r.ring))
	}
	for i := range 3 * reuseEntries {
		r.use(chain(5000+i, 8), int64(i))
	}
	if len(r.last) > reuseEntries {
		t.Errorf("%d entries, at most %d", len(r.last), reuseEntries)
	}
}

// A new prefix goes to the worker whose oldest blocks have lain longest, not where it pushes out what is in use.
func TestNewPrefixGoesWhereBlocksAreCold(t *testing.T) {
	for seed := range uint64(8) { // whatever breaks ties
		c := &clock{time.Unix(0, 0)}
		snap := &Snapshot{Version: 1}
		for i := range 2 {
			snap.Workers = append(snap.Workers, Worker{ID: fmt.Sprint("w", i), Model: "m", Slots: 2, CacheBlocks: 40, PrefillRate: 1000, DecodeRate: 100})
		}
		s := New(fixed(snap), Options{Now: c.now, Seed: seed})
		send := func(conv int, exclude string) string {
			d, rel, err := s.Place(context.Background(), &Job{Model: "m", PromptTokens: 2000, MaxTokens: 10, Blocks: chain(conv, 20), Exclude: []string{exclude}})
			if err != nil {
				t.Fatal(err)
			}
			c.add(3 * time.Second)
			rel.Done()
			return d.Worker
		}
		send(1, "w1") // w0 holds two that are never wanted again
		send(2, "w1")
		for range 30 { // w1 two that are wanted all the time
			send(3, "w0")
			send(4, "w0")
		}
		if got := send(5, ""); got != "w0" {
			t.Errorf("seed %d: the new prefix went to %s and pushed out what is in use", seed, got)
		}
	}
}
