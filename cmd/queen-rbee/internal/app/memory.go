package app

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Bounds of what is traded. An idle queen's live heap is small, so that collecting it often costs more than the garbage
// does; with thousands of streams the garbage would be the larger part of its memory.
const (
	garbage    = 96 << 20 // bytes of garbage that are worth waiting for
	mostGrowth = 800      // percent, as GOGC
	leastGrows = 25
	tuneEvery  = 2 * time.Second
)

// tuneMemory trades memory for processor time, within bounds, until ctx ends, unless the environment says otherwise.
func tuneMemory(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(1 << 30)
	}
	if os.Getenv("GOGC") != "" {
		return
	}
	now := mostGrowth
	debug.SetGCPercent(now)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(tuneEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		metrics.Read(live)
		next := growth(live[0].Value.Uint64())
		// the setting starts a collection: small differences are not worth one
		if next*4 < now*3 || next*3 > now*4 {
			now = next
			debug.SetGCPercent(now)
		}
	}
}

// growth is the percentage by which a heap of that many live bytes may grow before it is collected.
func growth(live uint64) int {
	return int(min(mostGrowth, max(leastGrows, garbage*100/max(live, 1))))
}
