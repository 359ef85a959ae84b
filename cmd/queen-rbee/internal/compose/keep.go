package compose

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/registry"
)

// keeps is how long workers stay after their last request, where a client said so (Ollama's keep_alive). It is forgotten
// with the worker, not with the queen: workers outlive her, and a small file beside the stores has what she knew of them.
type keeps struct {
	mu      sync.Mutex
	m       map[string]time.Duration
	path    string
	changed bool
	settled time.Time // until then workers that are not there may still be found again
	log     *slog.Logger
}

// settleKeeps is how long a queen that starts waits for the workers of the one before.
const settleKeeps = time.Minute

// open reads what the queen before knew. A file that can't be read only costs what clients said.
func (k *keeps) open(path string, log *slog.Logger) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.path, k.log, k.settled = path, log, time.Now().Add(settleKeeps)
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &k.m)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("what clients said of keep_alive is lost", "file", path, "error", err)
	}
}

// save writes the file when something has changed; the caller holds mu.
func (k *keeps) save() {
	if !k.changed || k.path == "" {
		return
	}
	data, err := json.Marshal(k.m)
	if err == nil {
		if err = os.WriteFile(k.path+".new", data, 0o600); err == nil {
			err = os.Rename(k.path+".new", k.path)
		}
	}
	if k.changed = err != nil; err != nil {
		k.log.Warn("what clients said of keep_alive is not stored", "file", k.path, "error", err)
	}
}

// close stores what has changed since.
func (k *keeps) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.save()
}

// set takes a client's word; "" says nothing, a negative time for ever, zero not at all.
func (k *keeps) set(worker, keep string) {
	if keep == "" || worker == "" {
		return
	}
	d, err := time.ParseDuration(keep)
	if err != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m == nil {
		k.m = map[string]time.Duration{}
	}
	if old, ok := k.m[worker]; !ok || old != d {
		k.m[worker], k.changed = d, true
	}
}

// ttl is a worker's time to live, 0 = for ever, given its model's own.
func (k *keeps) ttl(worker string, model time.Duration) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, ok := k.m[worker]
	switch {
	case !ok:
		return model
	case d < 0:
		return 0
	}
	return max(d, 1) // at once is after the shortest time, since 0 means never
}

// prune forgets the workers that are no more, and stores what has changed.
func (k *keeps) prune(snap *registry.Snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range k.m {
		if _, ok := snap.Worker(id); !ok && time.Now().After(k.settled) {
			delete(k.m, id)
			k.changed = true
		}
	}
	k.save()
}

func lastUsed(w *registry.Worker) time.Time {
	if w.LastUsedAt.Before(w.StartedAt) {
		return w.StartedAt
	}
	return w.LastUsedAt
}

// ttl is how long a worker stays unused; 0 = for ever, as for one of those that its model keeps or that is pinned.
func (q *Queen) ttl(w *registry.Worker) time.Duration {
	n := q.src.Snapshot().Needs[w.Model]
	if n.Pin || n.Workers > 0 {
		return 0
	}
	return q.keeps.ttl(w.ID, n.TTL)
}

// loader loads and unloads models for Ollama's clients.
type loader struct {
	q   *Queen
	sub *submitter
}

var _ httpserver.Loader = (*loader)(nil)

// Load implements httpserver.Loader with the smallest of jobs, so that a load that a client asks for is scheduled, shared
// and accounted like any other. What the worker makes of the job does not matter: by then the model is loaded.
func (l *loader) Load(ctx context.Context, model, keepAlive string) error {
	body, err := json.Marshal(map[string]any{"model": model, "prompt": "a", "max_tokens": 1})
	if err != nil {
		return err
	}
	r, view, err := httpserver.ParseRequest("/v1/completions", body, 0)
	if err != nil {
		return err
	}
	r.Identity, _ = httpserver.IdentityOf(ctx)
	r.KeepAlive = keepAlive
	j, err := l.sub.Submit(ctx, r)
	if err != nil {
		return err
	}
	_, err = j.Result(ctx, view)
	return err
}

// Unload implements httpserver.Loader: the model's workers go as soon as nothing runs on them, but for those that are
// pinned or that the operator wants to have.
func (l *loader) Unload(_ context.Context, model string) error {
	e, err := l.sub.resolve(model)
	if err != nil {
		return err
	}
	for _, w := range l.q.reg.Snapshot().Workers {
		if w.Model == e.Name {
			l.q.keeps.set(w.ID, "0s")
		}
	}
	return nil
}
