package registry

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options tune a Registry. The zero value is usable.
type Options struct {
	Logger *slog.Logger
	// Now is the clock of every age and time stamp; nil means time.Now.
	Now func() time.Time
	// SaveEvery is how long what a hive reports about itself may stay unsaved; 0 means one second.
	// What an operator changes (Put, Remove, SetDraining) is saved before the call returns.
	SaveEvery time.Duration
	// WatchBuffer is how many changes a slow watcher may be behind before it gets a Resync; 0 means 256.
	WatchBuffer int
}

// Registry holds the fleet. All methods are safe for concurrent use.
type Registry struct {
	store Store
	log   *slog.Logger
	now   func() time.Time
	every time.Duration
	depth int

	config sync.Mutex // serialises what writes to the store synchronously; taken before mu

	mu       sync.Mutex
	version  uint64
	hives    []*Hive                        // sorted; the records and, when shared, the slice are immutable
	workers  []*Worker                      // likewise
	byNode   map[string]map[string]struct{} // the ids of a node's workers
	sharedH  bool                           // a snapshot holds hives
	sharedW  bool
	unsaved  map[string]struct{}
	watchers map[*watcher]struct{}
	closed   bool

	fresh    atomic.Bool // current is up to date
	current  atomic.Pointer[Snapshot]
	wake     chan struct{}
	stop     chan struct{}
	finished chan struct{}
}

// New loads the stored hives and starts saving in the background. A hive that was up when the last
// process ended is suspect until somebody hears of it: nothing is declared dead for a restart of ours.
func New(ctx context.Context, store Store, o Options) (*Registry, error) {
	stored, err := store.Hives(ctx)
	if err != nil {
		return nil, fmt.Errorf("registry: load hives: %w", err)
	}
	r := &Registry{
		store: store, log: o.Logger, now: o.Now, every: o.SaveEvery, depth: o.WatchBuffer,
		byNode: map[string]map[string]struct{}{}, unsaved: map[string]struct{}{}, watchers: map[*watcher]struct{}{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}), finished: make(chan struct{}),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.every <= 0 {
		r.every = time.Second
	}
	if r.depth <= 0 {
		r.depth = 256
	}
	for _, h := range stored {
		c := h.Clone()
		switch c.Status {
		case StatusOnline, StatusStarting, StatusSuspect, StatusDraining:
			c.Status, c.Message = StatusSuspect, "not heard of since the queen started"
		}
		i, found := findHive(r.hives, c.Name)
		if found {
			return nil, fmt.Errorf("registry: load hives: the store holds %q twice", c.Name)
		}
		r.hives = slices.Insert(r.hives, i, &c)
	}
	r.version = 1
	go r.save()
	return r, nil
}

// Snapshot returns the fleet as it is now. When nothing changed since the last call it is one atomic
// load; else the lists of pointers are copied once, whatever the number of changes.
func (r *Registry) Snapshot() *Snapshot {
	if r.fresh.Load() {
		return r.current.Load()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshotLocked()
}

func (r *Registry) snapshotLocked() *Snapshot {
	if s := r.current.Load(); s != nil && s.Version == r.version {
		return s
	}
	s := &Snapshot{Version: r.version, Hives: r.hives, Workers: r.workers}
	r.sharedH, r.sharedW = true, true
	r.current.Store(s)
	r.fresh.Store(true)
	return s
}

// changedLocked counts a change and tells the watchers.
func (r *Registry) changedLocked(c Change) {
	r.version++
	r.fresh.Store(false)
	c.Version = r.version
	for w := range r.watchers {
		w.offer(c)
	}
}

func (r *Registry) setHiveLocked(h *Hive, durable bool) {
	if r.sharedH {
		r.hives, r.sharedH = slices.Clone(r.hives), false
	}
	kind := HiveChanged
	if i, ok := findHive(r.hives, h.Name); ok {
		r.hives[i] = h
	} else {
		kind = HiveAdded
		r.hives = slices.Insert(r.hives, i, h)
	}
	if durable {
		r.unsaved[h.Name] = struct{}{}
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	r.changedLocked(Change{Kind: kind, ID: h.Name, Hive: h})
}

func (r *Registry) setWorkerLocked(w *Worker) {
	if r.sharedW {
		r.workers, r.sharedW = slices.Clone(r.workers), false
	}
	kind := WorkerChanged
	if i, ok := findWorker(r.workers, w.ID); ok {
		r.workers[i] = w
	} else {
		kind = WorkerAdded
		r.workers = slices.Insert(r.workers, i, w)
		if r.byNode[w.Node] == nil {
			r.byNode[w.Node] = map[string]struct{}{}
		}
		r.byNode[w.Node][w.ID] = struct{}{}
	}
	r.changedLocked(Change{Kind: kind, ID: w.ID, Worker: w})
}

// dropWorkersLocked forgets the workers of a hive for which gone says so. It looks at that hive's only.
func (r *Registry) dropWorkersLocked(node string, gone func(*Worker) bool) {
	for id := range r.byNode[node] {
		i, ok := findWorker(r.workers, id)
		if !ok || !gone(r.workers[i]) {
			continue
		}
		w := r.workers[i]
		if r.sharedW {
			r.workers, r.sharedW = slices.Clone(r.workers), false
		}
		r.workers = slices.Delete(r.workers, i, i+1)
		delete(r.byNode[node], id)
		r.changedLocked(Change{Kind: WorkerRemoved, ID: id, Worker: w})
	}
	if len(r.byNode[node]) == 0 {
		delete(r.byNode, node)
	}
}

// hiveLocked finds a hive for reading.
func (r *Registry) hiveLocked(name string) (*Hive, bool) {
	i, ok := findHive(r.hives, name)
	if !ok {
		return nil, false
	}
	return r.hives[i], true
}

// Close saves what is unsaved, ends every watch and stops. It is idempotent.
func (r *Registry) Close() error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.stop)
		for w := range r.watchers {
			close(w.done)
		}
		clear(r.watchers)
	}
	r.mu.Unlock()
	<-r.finished
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return r.flush(ctx)
}

// save writes hives that changed by their own word, at most once every SaveEvery.
func (r *Registry) save() {
	defer close(r.finished)
	for {
		select {
		case <-r.stop:
			return
		case <-r.wake:
		}
		timer := time.NewTimer(r.every)
		select {
		case <-r.stop:
			timer.Stop()
			return
		case <-timer.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		if err := r.flush(ctx); err != nil {
			r.log.Warn("hives not saved; will try again", "error", err)
			select {
			case r.wake <- struct{}{}:
			default:
			}
		}
		cancel()
	}
}

func (r *Registry) flush(ctx context.Context) error {
	r.config.Lock()
	defer r.config.Unlock()
	r.mu.Lock()
	var batch []*Hive
	for name := range r.unsaved {
		if h, ok := r.hiveLocked(name); ok {
			batch = append(batch, h)
		}
	}
	clear(r.unsaved)
	r.mu.Unlock()
	for i, h := range batch {
		if err := r.store.SaveHive(ctx, *h); err != nil {
			r.mu.Lock()
			for _, left := range batch[i:] {
				r.unsaved[left.Name] = struct{}{}
			}
			r.mu.Unlock()
			return fmt.Errorf("registry: save hive %s: %w", h.Name, err)
		}
	}
	return nil
}
