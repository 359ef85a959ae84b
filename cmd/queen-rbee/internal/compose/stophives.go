package compose

import (
	"context"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle"
	"github.com/queen-rbee/queen-rbee/registry"
)

// stopHives ends the hives with the queen: the local ones, and with everywhere those on other machines too. Without it
// these go on, and the next queen adopts them.
func (q *Queen) stopHives(everywhere bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	o := hivelifecycle.StopOptions{Grace: 8 * time.Second}
	if everywhere {
		if err := q.manager.StopAll(ctx, o); err != nil {
			q.log.Warn("hives", "error", err)
		}
		return
	}
	snap := q.reg.Snapshot()
	var wg sync.WaitGroup
	for _, name := range q.manager.Names() {
		if h, ok := snap.Hive(name); ok && h.Mode == registry.ModeNetwork {
			continue
		}
		wg.Go(func() {
			if err := q.manager.Stop(ctx, name, o); err != nil {
				q.log.Warn("hives", "error", err)
			}
		})
	}
	wg.Wait()
}
