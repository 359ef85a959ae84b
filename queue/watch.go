package queue

import "context"

type watcher struct {
	ch   chan Change
	lost bool
}

// Watch returns every committed change until ctx ends, when the channel is closed. A reader that is 256 changes
// behind loses some and gets a Change with Resync: read the state again.
func (q *Queue) Watch(ctx context.Context) <-chan Change {
	w := &watcher{ch: make(chan Change, 256)}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		close(w.ch)
		return w.ch
	}
	q.watchers[w] = struct{}{}
	q.mu.Unlock()
	context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.unwatch(w)
	})
	return w.ch
}

// unwatch closes a watcher once. q.mu is held.
func (q *Queue) unwatch(w *watcher) {
	if _, ok := q.watchers[w]; ok {
		delete(q.watchers, w)
		close(w.ch)
	}
}

// publish tells the watchers of a committed record. q.mu is held.
func (q *Queue) publish(j Job) {
	j.Payload = nil
	for w := range q.watchers {
		if w.lost && len(w.ch) < cap(w.ch)-1 {
			w.ch <- Change{Resync: true}
			w.lost = false
		}
		if w.lost || len(w.ch) >= cap(w.ch)-1 {
			w.lost = true
			continue
		}
		w.ch <- Change{Job: j}
	}
}
