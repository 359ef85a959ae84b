package compose

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/config"
	"github.com/queen-rbee/queen-rbee/registry"
)

// external is a worker at a server that the queen does not own.
type external struct {
	host    string
	address string // host, with the path that it stands behind
	tls     bool
	model   string // its name there
	apiKey  string
	worker  registry.Worker
	health  string
	spec    config.External
}

// newExternals turns the configured servers into workers, one for each model that they serve.
func newExternals(list []config.External) map[string]external {
	out := map[string]external{}
	for _, e := range list {
		u, err := url.Parse(e.URL)
		if err != nil {
			continue // checked by config
		}
		host := u.Host
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
		}
		for name, there := range e.Models {
			id := e.Name
			if len(e.Models) > 1 {
				id += "-" + name
			}
			out[id] = external{host: host, address: behind(host, u), tls: u.Scheme == "https", model: there, apiKey: e.APIKey, health: e.Health, spec: e,
				worker: registry.Worker{ID: id, Model: name, ModelRef: "external:" + e.Name + "/" + there, Engine: "external", Protocol: e.Protocol,
					Address: e.URL, State: registry.WorkerIdle, SlotsTotal: e.Slots, SlotsFree: e.Slots, External: true, StartedAt: time.Now(),
					Capabilities: append([]string{"chat", "completions", "embeddings"}, e.Paths...)}}
		}
	}
	return out
}

// setExternals takes over the configured servers: what is new or has changed is put into the registry, what is no longer
// there is taken out, the rest stays as it is known to be.
func (f *fleet) setExternals(list []config.External) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next, old := newExternals(list), map[string]external{}
	if p := f.externals.Load(); p != nil {
		old = *p
	}
	for id, x := range next {
		if was, ok := old[id]; ok && was.model == x.model && reflect.DeepEqual(was.spec, x.spec) {
			continue
		}
		if err := f.reg.PutWorker(x.worker); err != nil {
			return fmt.Errorf("external %s: %w", id, err)
		}
	}
	f.externals.Store(&next)
	for id := range old {
		if _, stays := next[id]; !stays {
			_ = f.reg.RemoveWorker(id)
		}
	}
	if f.others != nil {
		close(f.others)
	}
	f.others = make(chan struct{})
	return nil
}

// externalsNow gives the servers, and a channel that is closed when they are others.
func (f *fleet) externalsNow() (map[string]external, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.externals.Load(), f.others
}

// probeExternals asks the servers that the queen does not own whether they are well.
func (q *Queen) probeExternals(ctx context.Context) error {
	for ctx.Err() == nil {
		list, others := q.fleet.externalsNow()
		round, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for id, x := range list {
			if x.health != "" {
				wg.Go(func() { q.probeExternal(round, id, x) })
			}
		}
		select {
		case <-ctx.Done():
		case <-others:
		}
		stop()
		wg.Wait()
	}
	return nil
}

// probeExternal asks one server every few seconds until ctx ends; two misses in a row are a failure.
func (q *Queen) probeExternal(ctx context.Context, id string, x external) {
	client := &http.Client{Timeout: 3 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, DisableKeepAlives: true}}
	misses := 0
	for {
		err := q.probe(ctx, client, x)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			if w, ok := q.reg.Snapshot().Worker(id); ok && w.State == registry.WorkerFailed {
				_ = q.reg.SetWorkerState(id, registry.WorkerIdle, "")
			}
			misses = 0
		} else if misses++; misses == 2 {
			_ = q.reg.SetWorkerState(id, registry.WorkerFailed, "does not answer "+x.spec.URL+x.health)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(3 * time.Second):
		}
	}
}

func (q *Queen) probe(ctx context.Context, client *http.Client, x external) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, x.spec.URL+x.health, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode >= 500 {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}

// behind is the address of a server as the router wants it: the host, within a URL where the server stands behind a path.
func behind(host string, u *url.URL) string {
	if strings.Trim(u.Path, "/") == "" {
		return host
	}
	return "http://" + host + u.EscapedPath()
}
