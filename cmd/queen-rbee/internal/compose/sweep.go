package compose

import (
	"context"

	"github.com/queen-rbee/queen-rbee/eviction"
	"github.com/queen-rbee/queen-rbee/registry"
)

// idleWorkers lets eviction see the workers and stop those whose time to live is over.
type idleWorkers struct{ q *Queen }

var (
	_ eviction.Lister  = (*idleWorkers)(nil)
	_ eviction.Stopper = (*idleWorkers)(nil)
	_ eviction.Drainer = (*idleWorkers)(nil)
)

// Items implements eviction.Lister. A worker counts as pinned while its model would have too few without it,
// as busy while it has requests or its model has some waiting, or while the queen doubts her own network.
func (i *idleWorkers) Items(context.Context) ([]eviction.Item, error) {
	needs := i.q.src.Snapshot().Needs
	count := map[string]int{}
	snap := i.q.reg.Snapshot()
	for _, w := range snap.Workers {
		if ready(w) {
			count[w.Model]++
		}
	}
	i.q.keeps.prune(snap)
	var out []eviction.Item
	for _, w := range snap.Workers {
		if w.External || !ready(w) && w.State != registry.WorkerDraining {
			continue
		}
		n, last := needs[w.Model], lastUsed(w)
		others := count[w.Model] // a worker that is being drained already is not among them
		if ready(w) {
			others--
		}
		out = append(out, eviction.Item{ID: w.ID, Group: w.Node + "/" + w.Device, Size: w.MemoryBytes, LastUsed: last,
			ReloadSeconds: n.LoadTime.Seconds(), TTL: i.q.keeps.ttl(w.ID, n.TTL), Pinned: n.Pin || others < n.Workers,
			Busy: i.q.door.inFlight(w.ID) > 0 || i.q.q.Waiting(w.Model) > 0 || i.q.mon.SelfSuspect()})
	}
	return out, nil
}

// Drain implements eviction.Drainer.
func (i *idleWorkers) Drain(_ context.Context, id string) error {
	err := i.q.reg.SetWorkerState(id, registry.WorkerDraining, "")
	i.q.src.refresh()
	return err
}

// Undrain implements eviction.Drainer.
func (i *idleWorkers) Undrain(_ context.Context, id string) error {
	err := i.q.reg.SetWorkerState(id, registry.WorkerIdle, "")
	i.q.src.refresh()
	return err
}

// Stop implements eviction.Stopper.
func (i *idleWorkers) Stop(ctx context.Context, id string) error {
	return i.q.fleet.stopWorker(ctx, id, true)
}
