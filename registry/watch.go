package registry

import (
	"context"
	"sync"
)

// ChangeKind says what changed.
type ChangeKind string

// The kinds of change. Resync means that the watcher was too slow and lost some: read a Snapshot.
const (
	HiveAdded     ChangeKind = "hive_added"
	HiveChanged   ChangeKind = "hive_changed"
	HiveRemoved   ChangeKind = "hive_removed"
	WorkerAdded   ChangeKind = "worker_added"
	WorkerChanged ChangeKind = "worker_changed"
	WorkerRemoved ChangeKind = "worker_removed"
	Resync        ChangeKind = "resync"
)

// Change is one entry of the feed. Hive and Worker are the record after the change (before it, for a
// removal) and must not be modified.
type Change struct {
	Kind    ChangeKind
	Version uint64
	ID      string
	Hive    *Hive
	Worker  *Worker
}

// Watch returns the changes from now on. The channel is closed when ctx ends or the registry closes.
// A reader that falls more than Options.WatchBuffer behind gets one Resync in place of what it missed.
func (r *Registry) Watch(ctx context.Context) <-chan Change {
	w := &watcher{limit: r.depth, wake: make(chan struct{}, 1), out: make(chan Change), done: make(chan struct{})}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		close(w.out)
		return w.out
	}
	r.watchers[w] = struct{}{}
	r.mu.Unlock()
	go func() {
		w.run(ctx)
		r.mu.Lock()
		delete(r.watchers, w)
		r.mu.Unlock()
	}()
	return w.out
}

// watcher queues changes for one reader; writers never wait for it.
type watcher struct {
	limit int
	wake  chan struct{}
	out   chan Change
	done  chan struct{} // closed once, by the registry's Close

	mu    sync.Mutex
	queue []Change
}

func (w *watcher) offer(c Change) {
	w.mu.Lock()
	if len(w.queue) >= w.limit {
		w.queue = append(w.queue[:0], Change{Kind: Resync, Version: c.Version})
	} else if len(w.queue) == 1 && w.queue[0].Kind == Resync {
		w.queue[0].Version = c.Version // the snapshot that it will read holds this one too
	} else {
		w.queue = append(w.queue, c)
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.out)
	for {
		w.mu.Lock()
		batch := w.queue
		w.queue = nil
		w.mu.Unlock()
		for _, c := range batch {
			select {
			case w.out <- c:
			case <-ctx.Done():
				return
			case <-w.done:
				return
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		case <-w.done:
			return
		}
	}
}
