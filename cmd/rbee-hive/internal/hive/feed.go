package hive

import (
	"slices"
	"strings"
	"sync"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

const maxBehind = 512

// feed holds the hive's state and tells watchers of each change.
type feed struct {
	mu       sync.Mutex
	state    hiveapi.State
	watchers map[*watcher]bool
}

// watcher is one stream. An overflow drops what is waiting: the whole state follows instead.
type watcher struct {
	mu     sync.Mutex
	queue  []hiveapi.Event
	resync bool
	wake   chan struct{}
}

func newFeed(s hiveapi.State) *feed { return &feed{state: s, watchers: map[*watcher]bool{}} }

// snapshot is a copy that nobody changes.
func (f *feed) snapshot() hiveapi.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// full makes an event of the whole state, with a number of its own.
func (f *feed) full() hiveapi.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fullLocked()
}

func (f *feed) fullLocked() hiveapi.Event {
	f.state.Seq++
	s := f.state
	return hiveapi.Event{Kind: hiveapi.EventState, Node: s.Node, ID: s.ID, Epoch: s.Epoch, Seq: s.Seq, State: &s}
}

// publish applies a change and hands it to every watcher.
func (f *feed) publish(ev hiveapi.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ev.Node, ev.ID, ev.Epoch, ev.Seq = f.state.Node, f.state.ID, f.state.Epoch, f.state.Seq+1
	f.state.Apply(ev)
	for w := range f.watchers {
		w.push(ev)
	}
}

// models replaces the list of models and publishes the differences.
func (f *feed) models(list []hiveapi.Model) {
	f.mu.Lock()
	old := f.state.Models
	f.mu.Unlock()
	for i := range list {
		j := slices.IndexFunc(old, func(m hiveapi.Model) bool { return m.ModelRef == list[i].ModelRef })
		if j < 0 || old[j] != list[i] {
			f.publish(hiveapi.Event{Kind: hiveapi.EventModel, Model: &list[i]})
		}
	}
	for i := range old {
		if !slices.ContainsFunc(list, func(m hiveapi.Model) bool { return m.ModelRef == old[i].ModelRef }) {
			f.publish(hiveapi.Event{Kind: hiveapi.EventNoModel, Model: &old[i]})
		}
	}
}

func (w *watcher) push(ev hiveapi.Event) {
	w.mu.Lock()
	if len(w.queue) >= maxBehind {
		w.queue, w.resync = nil, true
	}
	if !w.resync {
		w.queue = append(w.queue, ev)
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns what is waiting.
func (w *watcher) take() (events []hiveapi.Event, resync bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, resync = w.queue, w.resync
	w.queue, w.resync = nil, false
	return events, resync
}

// watch adds a watcher; the first event it gets is the whole state.
func (f *feed) watch() (*watcher, func()) {
	w := &watcher{wake: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	w.push(f.fullLocked())
	f.watchers[w] = true
	return w, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, w)
	}
}

// watched says whether anybody listens.
func (f *feed) watched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.watchers) > 0
}

func sortWorkers(list []hiveapi.Worker) []hiveapi.Worker {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b hiveapi.Worker) int { return strings.Compare(a.WorkerID, b.WorkerID) })
	return list
}
