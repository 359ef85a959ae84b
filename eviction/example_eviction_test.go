package eviction_test

import (
	"fmt"
	"time"

	"github.com/queen-rbee/queen-rbee/eviction"
)

// Room for 8 GiB: the pinned worker stays, the least recently used one goes.
func Example() {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	items := []eviction.Item{
		{ID: "chat", Size: 8 << 30, LastUsed: now.Add(-time.Minute)},
		{ID: "code", Size: 8 << 30, LastUsed: now.Add(-time.Hour), ReloadSeconds: 12},
		{ID: "house", Size: 8 << 30, LastUsed: now.Add(-24 * time.Hour), Pinned: true},
	}
	plan, err := eviction.Plan(now, items, 8<<30, eviction.LRU)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(plan.IDs(), plan.Penalty)
	_, err = eviction.Plan(now, items, 20<<30, eviction.LRU)
	fmt.Println(err)
	// Output:
	// [code] 12s
	// eviction: 21474836480 bytes are needed and 17179869184 can be given up (8589934592 pinned, 0 in use): unpin something, wait for work to end, or add room
}
