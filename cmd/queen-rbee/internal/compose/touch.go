package compose

import (
	"sync"
	"time"
)

// touchEvery is how exactly the registry knows when a worker was used last. Each change of a worker makes a new snapshot
// of the fleet and an event on the feed, which a thousand short jobs a second need not.
const touchEvery = 250 * time.Millisecond

// touches says when the registry must be told that a worker was used.
type touches struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// due reports whether the last time that was told of is too long ago, and notes this one if so.
func (t *touches) due(worker string, at time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at.Sub(t.last[worker]) < touchEvery {
		return false
	}
	if t.last == nil || len(t.last) > 1000 { // workers come and go
		t.last = map[string]time.Time{}
	}
	t.last[worker] = at
	return true
}
