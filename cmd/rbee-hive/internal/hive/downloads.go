package hive

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/queen-rbee/queen-rbee/cmd/rbee-hive/internal/store"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

const maxDownloadsKept = 256

// downloads runs the store's provisions, one for each reference however many ask, and remembers how they ended.
type downloads struct {
	store   *store.Store
	changed func()
	ended   func(ref, code string)
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu    sync.Mutex
	byID  map[string]*download
	byRef map[string]*download
	order []string
}

// download is one of them, running or ended.
type download struct {
	mu      sync.Mutex
	last    hiveapi.Progress
	done    bool
	changed chan struct{}
	cancel  context.CancelFunc
}

func newDownloads(s *store.Store, changed func(), ended func(ref, code string)) *downloads {
	ctx, cancel := context.WithCancel(context.Background())
	return &downloads{store: s, changed: changed, ended: ended, ctx: ctx, cancel: cancel, byID: map[string]*download{}, byRef: map[string]*download{}}
}

func (d *downloads) close() {
	d.cancel()
	d.wg.Wait()
}

// start begins a download or joins the one that runs for the same reference.
func (d *downloads) start(r hiveapi.ProvisionRequest) *download {
	d.mu.Lock()
	defer d.mu.Unlock()
	r.ModelRef = store.Canonical(r.ModelRef)
	if dl, ok := d.byRef[r.ModelRef]; ok {
		return dl
	}
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // never fails
	id := "dl_" + hex.EncodeToString(raw)
	dl := &download{last: hiveapi.Progress{ID: id, ModelRef: r.ModelRef, State: hiveapi.ModelDownloading, BytesTotal: r.Size}, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(d.ctx)
	dl.cancel = cancel
	d.byID[id], d.byRef[r.ModelRef] = dl, dl
	d.order = append(d.order, id)
	if len(d.order) > maxDownloadsKept {
		delete(d.byID, d.order[0])
		d.order = d.order[1:]
	}
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		defer cancel()
		d.run(ctx, dl, r)
	}()
	return dl
}

func (d *downloads) run(ctx context.Context, dl *download, r hiveapi.ProvisionRequest) {
	m, err := d.store.Provision(ctx, r, func(p hiveapi.Progress) { dl.set(p, false) })
	end := hiveapi.Progress{ModelRef: r.ModelRef, State: hiveapi.ModelReady, BytesDone: m.SizeBytes, BytesTotal: m.SizeBytes, Model: &m}
	if err != nil {
		end = hiveapi.Progress{ModelRef: r.ModelRef, State: hiveapi.ModelFailed, Message: err.Error(), Code: "PROVISION_FAILED"}
		var coded interface{ Code() string }
		if errors.As(err, &coded) {
			end.Code = coded.Code()
		}
		if ctx.Err() != nil && d.ctx.Err() == nil {
			end.Code, end.Message = "CANCELLED", "the download was cancelled; what was fetched stays for the next time"
		}
	}
	d.mu.Lock()
	delete(d.byRef, r.ModelRef)
	d.mu.Unlock()
	d.changed()
	d.ended(r.ModelRef, end.Code)
	dl.set(end, true)
}

func (dl *download) set(p hiveapi.Progress, done bool) {
	dl.mu.Lock()
	defer dl.mu.Unlock()
	p.ID, p.ModelRef = dl.last.ID, dl.last.ModelRef
	dl.last, dl.done = p, done
	close(dl.changed)
	dl.changed = make(chan struct{})
}

func (dl *download) get() (hiveapi.Progress, bool, <-chan struct{}) {
	dl.mu.Lock()
	defer dl.mu.Unlock()
	return dl.last, dl.done, dl.changed
}

func (d *downloads) find(id string) (*download, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dl, ok := d.byID[id]
	return dl, ok
}

// modelLocks keep the models of workers from being dropped.
type modelLocks struct {
	mu sync.Mutex
	m  map[string]func() // by worker
}

// hold locks the worker's model while the worker can use it, and then releases it.
func (l *modelLocks) hold(s *store.Store, w hiveapi.Worker, there bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holdLocked(s, w, there)
}

// holdAll looks at all workers. The list is read under the lock, so that one that goes meanwhile is released after.
func (l *modelLocks) holdAll(s *store.Store, workers func() []hiveapi.Worker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range workers() {
		l.holdLocked(s, w, true)
	}
}

func (l *modelLocks) holdLocked(s *store.Store, w hiveapi.Worker, there bool) {
	if l.m == nil {
		l.m = map[string]func(){}
	}
	inUse := there && w.State != hiveapi.WorkerFailed
	release, held := l.m[w.WorkerID]
	switch {
	case inUse && !held:
		if release, ok := s.Use(w.ModelRef); ok {
			l.m[w.WorkerID] = release
		}
	case !inUse && held:
		release()
		delete(l.m, w.WorkerID)
	}
}

// list is the store's models and those that are on their way.
func (d *downloads) list() []hiveapi.Model {
	list := d.store.Models(d.ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	for ref, dl := range d.byRef {
		p, done, _ := dl.get()
		if done {
			continue
		}
		m := hiveapi.Model{Model: ref, ModelRef: ref, State: hiveapi.ModelDownloading, SizeBytes: p.BytesTotal}
		if p.BytesTotal > 0 {
			m.Progress = float64(p.BytesDone) / float64(p.BytesTotal)
		}
		if i := slices.IndexFunc(list, func(x hiveapi.Model) bool { return x.ModelRef == ref }); i >= 0 {
			if list[i].State != hiveapi.ModelReady {
				list[i] = m
			}
			continue
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b hiveapi.Model) int { return strings.Compare(a.ModelRef, b.ModelRef) })
	return list
}
