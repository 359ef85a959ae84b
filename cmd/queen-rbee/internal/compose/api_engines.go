package compose

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/httpserver"
)

// pagesAPI reaches workers' own pages.
type pagesAPI struct{ f *fleet }

var _ httpserver.Pages = pagesAPI{}

// Page implements httpserver.Pages.
func (a pagesAPI) Page(_ context.Context, id string) (httpserver.Page, error) {
	w, ok := a.f.worker(id)
	if !ok {
		return httpserver.Page{}, errNoWorker
	}
	if _, external := (*a.f.externals.Load())[id]; external {
		return httpserver.Page{}, &codedError{code: "CONFLICT", msg: "worker " + id + " belongs to an external server: open its own address"}
	}
	host := w.Address
	if u, err := url.Parse(host); err == nil && u.Host != "" {
		host = u.Host
	}
	return httpserver.Page{Host: host, APIKey: w.APIKey, Dial: func(ctx context.Context) (net.Conn, error) { return a.f.DialWorker(ctx, w) }}, nil
}

// enginesAPI lists and changes the engines on hives.
type enginesAPI struct {
	f       *fleet
	bus     *bus
	t       *trail
	ctx     context.Context // of work that outlives a request
	catalog string          // file, "" = none
}

var _ httpserver.Engines = (*enginesAPI)(nil)

func (a *enginesAPI) client(node string) (*hiveapi.Client, error) {
	link, ok := a.f.links.link(node)
	if ok {
		return link.client, nil
	}
	if _, known := a.f.reg.Snapshot().Hive(node); known {
		return nil, &codedError{code: "HIVE_FAILED", msg: fmt.Sprintf("hive %s is not connected: start it with rbee hive start %s", node, node)}
	}
	return nil, errNoNode
}

// List implements httpserver.Engines. Asked for all hives, it passes over those that don't answer.
func (a *enginesAPI) List(ctx context.Context, node string) ([]httpserver.Engine, error) {
	if node != "" {
		return a.of(ctx, node)
	}
	hives := a.f.reg.Snapshot().Hives
	lists := make([][]httpserver.Engine, len(hives))
	var wg sync.WaitGroup
	for i, h := range hives {
		wg.Go(func() {
			var err error
			if lists[i], err = a.of(ctx, h.Name); err != nil {
				a.f.log.Warn("list engines", "node", h.Name, "error", err)
			}
		})
	}
	wg.Wait()
	var out []httpserver.Engine
	for _, l := range lists {
		out = append(out, l...)
	}
	return out, nil
}

func (a *enginesAPI) of(ctx context.Context, node string) ([]httpserver.Engine, error) {
	c, err := a.client(node)
	if err != nil {
		return nil, err
	}
	list, err := c.Engines(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]httpserver.Engine, len(list))
	for i, e := range list {
		out[i] = httpserver.Engine{Node: node, Engine: e.Name, Version: e.Version, Backend: e.Backend, Source: e.Source, Path: e.Path, Active: e.Active, Message: e.Message}
	}
	return out, nil
}

// Install implements httpserver.Engines: the hive says what machine it is, the catalogue what fits it.
func (a *enginesAPI) Install(ctx context.Context, r httpserver.InstallEngine) (string, error) {
	c, err := a.client(r.Node)
	if err != nil {
		return "", err
	}
	state, err := c.Status(ctx)
	if err != nil {
		return "", err
	}
	p, err := a.choose(r, state)
	if err != nil {
		return "", err
	}
	id := "install-" + r.Engine + "-" + newWorkerID()[2:]
	a.bus.open(id)
	a.t.record(ctx, nil, "engine.install", r.Node, fmt.Sprintf("%s %s %s from %s", p.Engine, p.Version, p.Backend, p.URL))
	go func() {
		ctx, cancel := context.WithTimeout(a.ctx, 2*time.Hour)
		defer cancel()
		var last hiveapi.Progress
		err := a.send(ctx, c, p, func(text string) {
			a.bus.publish(id, "progress", hiveapi.Progress{State: hiveapi.ModelDownloading, Message: text}, false)
		})
		if err != nil {
			a.bus.publish(id, "end", operationEnd{Node: r.Node, State: "failed", Code: "PROVISION_FAILED", Message: err.Error()}, true)
			return
		}
		err = c.InstallEngine(ctx, p, func(n hiveapi.Progress) {
			if n.State != last.State || n.BytesDone != last.BytesDone || n.Message != last.Message {
				if last = n; n.State == hiveapi.ModelDownloading {
					a.bus.publish(id, "progress", n, false)
				}
			}
		})
		end := operationEnd{Node: r.Node, State: "done", Message: fmt.Sprintf("%s %s (%s) is installed and active", p.Engine, p.Version, p.Backend)}
		if err != nil {
			end = operationEnd{Node: r.Node, State: "failed", Code: codeOf(err), Message: err.Error()}
		}
		a.bus.publish(id, "end", end, true)
	}()
	return id, nil
}

// send gives the hive an archive that lies beside the catalogue (bundle:NAME), over the connection that there is.
func (a *enginesAPI) send(ctx context.Context, c *hiveapi.Client, p engine.Package, step func(string)) error {
	name, ok := strings.CutPrefix(p.URL, "bundle:")
	if !ok {
		return nil
	}
	if a.catalog == "" || name != filepath.Base(name) {
		return fmt.Errorf("%s is a file beside the catalogue of engines: set engine_catalog in the configuration", p.URL)
	}
	f, err := os.Open(filepath.Join(filepath.Dir(a.catalog), name))
	if err != nil {
		return fmt.Errorf("%s lies not beside the catalogue of engines: %w", p.URL, errors.Unwrap(err))
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	step("sending " + name)
	return c.SendEngine(ctx, name, f, info.Size())
}

// choose takes the build that was named, or the catalogue's for the hive's machine.
func (a *enginesAPI) choose(r httpserver.InstallEngine, s hiveapi.State) (engine.Package, error) {
	if r.URL != "" {
		p := engine.Package{Engine: r.Engine, Version: r.Version, OS: s.OS, Arch: s.Arch, Backend: r.Backend, URL: r.URL, SHA256: r.SHA256,
			DigestURL: r.DigestURL, Program: r.Program}
		if p.Backend == "" {
			p.Backend = "cpu"
		}
		if p.Program == "" {
			p.Program = engine.Program(r.Engine)
		}
		return p, nil
	}
	if a.catalog == "" {
		return engine.Package{}, &codedError{code: "INVALID_REQUEST", msg: "there is no catalogue of engines: set engine_catalog in the configuration, or name url and sha256"}
	}
	f, err := os.Open(a.catalog)
	if err != nil {
		return engine.Package{}, &codedError{code: "INVALID_REQUEST", msg: fmt.Sprintf("the catalogue of engines (engine_catalog) can't be read: %v", errors.Unwrap(err))}
	}
	defer func() { _ = f.Close() }()
	list, err := engine.ParseCatalog(f)
	if err != nil {
		return engine.Package{}, err
	}
	return list.Choose(r.Engine, r.Version, r.Backend, s.OS, s.Arch, s.Devices)
}

// Use implements httpserver.Engines.
func (a *enginesAPI) Use(ctx context.Context, r httpserver.EngineVersion) error {
	return a.change(ctx, "engine.use", r, (*hiveapi.Client).UseEngine)
}

// Remove implements httpserver.Engines.
func (a *enginesAPI) Remove(ctx context.Context, r httpserver.EngineVersion) error {
	return a.change(ctx, "engine.remove", r, (*hiveapi.Client).RemoveEngine)
}

func (a *enginesAPI) change(ctx context.Context, action string, r httpserver.EngineVersion, do func(*hiveapi.Client, context.Context, hiveapi.UseEngineRequest) error) error {
	c, err := a.client(r.Node)
	if err == nil {
		err = do(c, ctx, hiveapi.UseEngineRequest{Engine: r.Engine, Version: r.Version, Backend: r.Backend})
	}
	a.t.record(ctx, err, action, r.Node, fmt.Sprintf("%s %s %s", r.Engine, r.Version, r.Backend))
	return err
}
