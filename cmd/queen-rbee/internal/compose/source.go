package compose

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/scheduler"
)

// source turns the registry's snapshot into the scheduler's whenever the fleet or the models change.
type source struct {
	reg        *registry.Registry
	needs      func(reg *registry.Snapshot) map[string]scheduler.Need
	ejected    func(workerID string) bool
	restarting func(workerID string) bool
	pool       func(model string, workers []string) // nil: nobody asks
	current    atomic.Pointer[scheduler.Snapshot]
	mu         sync.Mutex // one rebuild at a time
	changed    chan struct{}
}

var _ scheduler.Source = (*source)(nil)

func newSource(reg *registry.Registry) *source {
	s := &source{reg: reg, changed: make(chan struct{}, 1), ejected: func(string) bool { return false },
		restarting: func(string) bool { return false },
		needs:      func(*registry.Snapshot) map[string]scheduler.Need { return nil }}
	s.current.Store(&scheduler.Snapshot{})
	return s
}

// Snapshot implements scheduler.Source.
func (s *source) Snapshot() *scheduler.Snapshot { return s.current.Load() }

// refresh builds a new snapshot at once and lets the router look at its line again.
func (s *source) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.reg.Snapshot()
	out := &scheduler.Snapshot{Version: s.current.Load().Version + 1, Needs: s.needs(in),
		Hives: make([]scheduler.Hive, len(in.Hives)), Workers: make([]scheduler.Worker, len(in.Workers))}
	for i, h := range in.Hives {
		out.Hives[i] = schedHive(h)
	}
	for i, w := range in.Workers {
		out.Workers[i] = s.worker(in, w, out.Needs)
	}
	s.current.Store(out)
	s.pools(out)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// pools tells the monitor which workers stand in for each other.
func (s *source) pools(snap *scheduler.Snapshot) {
	if s.pool == nil {
		return
	}
	byModel := map[string][]string{}
	for i := range snap.Workers {
		if w := &snap.Workers[i]; w.State == scheduler.WorkerReady {
			byModel[w.Model] = append(byModel[w.Model], w.ID)
		}
	}
	for model, ids := range byModel {
		s.pool(model, ids)
	}
}

// slots counts the slots that a model's ready workers have.
func (s *source) slots(model string) int {
	n := 0
	for _, w := range s.current.Load().Workers {
		if w.Model == model && w.State == scheduler.WorkerReady {
			n += max(1, w.Slots)
		}
	}
	return n
}

func (s *source) worker(in *registry.Snapshot, w *registry.Worker, needs map[string]scheduler.Need) scheduler.Worker {
	out := scheduler.Worker{ID: w.ID, Node: w.Node, Model: w.Model, Device: w.Device, Slots: w.SlotsTotal, Free: w.SlotsFree,
		Memory: w.MemoryBytes, Started: w.StartedAt, LastUsed: w.LastUsedAt, External: w.External, Pinned: needs[w.Model].Pin,
		Ejected: s.ejected(w.ID)}
	if w.Engine == "llama.cpp" {
		out.Cache = scheduler.CacheSlots
	}
	switch w.State {
	case registry.WorkerLoading:
		out.State = scheduler.WorkerLoading
	case registry.WorkerDraining:
		out.State = scheduler.WorkerDraining
	case registry.WorkerFailed:
		out.State = scheduler.WorkerFailed
		if s.restarting(w.ID) { // its hive is about to start it again
			out.State = scheduler.WorkerLoading
		}
	default:
		out.State = scheduler.WorkerReady
		if !in.Reachable(w) {
			out.State = scheduler.WorkerSuspect
		}
	}
	return out
}

func schedHive(h *registry.Hive) scheduler.Hive {
	out := scheduler.Hive{Name: h.Name, Labels: h.Labels, State: scheduler.HiveOffline, Devices: make([]scheduler.Device, len(h.Devices))}
	switch h.Status {
	case registry.StatusOnline:
		out.State = scheduler.HiveOnline
	case registry.StatusStarting:
		out.State = scheduler.HiveStarting
	case registry.StatusSuspect:
		out.State = scheduler.HiveSuspect
	case registry.StatusDraining:
		out.State = scheduler.HiveDraining
	}
	if h.Draining {
		out.State = scheduler.HiveDraining
	}
	if guest(h) { // nothing can be loaded there
		out.Devices = nil
		return out
	}
	for i, d := range h.Devices {
		budget := h.Budget
		if budget <= 0 || budget > 1 {
			budget = registry.DefaultBudget
		}
		out.Devices[i] = scheduler.Device{ID: d.ID, Backend: d.Backend, Total: int64(float64(d.MemoryTotal) * budget), Free: h.Usable(d)}
	}
	for _, m := range h.Models {
		if m.State == "ready" || m.State == "loaded" || m.State == "loading" {
			out.Models = append(out.Models, m.Ref)
		}
	}
	return out
}

// Changes closer together than this share one rebuild.
const refreshEvery = 5 * time.Millisecond

// run rebuilds the snapshot after changes of the registry until ctx ends.
func (s *source) run(ctx context.Context, changes <-chan registry.Change, also func(registry.Change)) error {
	var timer <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case c, ok := <-changes:
			if !ok {
				return nil
			}
			also(c)
			if timer == nil {
				timer = time.After(refreshEvery)
			}
		case <-timer:
			timer = nil
			s.refresh()
		}
	}
}
