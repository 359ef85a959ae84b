package app

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Bounds of what is traded. An idle queen's live heap is small, so that collecting it often costs more than the garbage
// does; with thousands of streams the garbage would be the larger part of its memory.
const (
	garbage    = 64 << 20 // bytes of garbage that are worth waiting for
	small      = 32 << 20 // bytes of a live heap up to which they are
	mostGrowth = 800      // percent, as GOGC
	leastGrows = 20
)

// tuneMemory trades memory for processor time, within bounds, until ctx ends, unless the environment says otherwise.
func tuneMemory(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(1 << 30)
	}
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(mostGrowth)
	(&tuner{ctx: ctx, now: mostGrowth, live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}).watch()
}

// tuner looks at the live heap after each collection: that is when the object that it lets go of is finalized.
type tuner struct {
	ctx  context.Context
	now  int
	live []metrics.Sample
}

func (t *tuner) watch() {
	runtime.SetFinalizer(&struct{ t *tuner }{t}, func(*struct{ t *tuner }) {
		if t.ctx.Err() != nil {
			return
		}
		metrics.Read(t.live)
		if next := growth(t.live[0].Value.Uint64()); next != t.now {
			t.now = next
			debug.SetGCPercent(next)
		}
		t.watch()
	})
}

// growth is the percentage by which a heap of that many live bytes may grow before it is collected.
func growth(live uint64) int {
	live = max(live, 1)
	percent := garbage * 100 / live
	if live > small { // many streams: what they hold is what counts, and less garbage is waited for
		percent = percent * small / live
	}
	return int(min(mostGrowth, max(leastGrows, percent)))
}
