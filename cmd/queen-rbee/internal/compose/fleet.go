package compose

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/config"
	"github.com/queen-rbee/queen-rbee/hivelifecycle"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/metrics"
	"github.com/queen-rbee/queen-rbee/metrics/correlate"
	"github.com/queen-rbee/queen-rbee/monitor"
	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/router"
)

// fleet carries out loads and connects to workers.
type fleet struct {
	log       *slog.Logger
	reg       *registry.Registry
	links     *hiveLinks
	manager   *hivelifecycle.Manager
	prov      *provisioner.Provisioner
	src       *source
	mon       *monitor.Monitor
	met       *metrics.Instruments
	causes    *causes
	engines   atomic.Pointer[map[string]config.Engine]
	externals atomic.Pointer[map[string]external] // by worker id
	others    chan struct{}                       // closed, and replaced, when externals change; under mu
	mu        sync.Mutex
	inFlight  func(workerID string) int
	dialer    net.Dialer
	lines     lines
	// nearGuests: workers that others registered may be on this machine
	nearGuests bool
}

var errNoWorker = &codedError{code: "WORKER_NOT_FOUND", msg: "no worker has this id: GET /v2/workers/list lists them"}

var (
	_ router.Fleet  = (*fleet)(nil)
	_ router.Dialer = (*fleet)(nil)
)

// Changed implements router.Fleet.
func (f *fleet) Changed() <-chan struct{} { return f.src.changed }

// Report implements router.Fleet.
func (f *fleet) Report(workerID string, err error) {
	if w, ok := f.reg.Snapshot().Worker(workerID); ok {
		f.mon.Result(workerID, w.Model, err == nil)
	}
}

// worker gives the router what it needs to reach a worker.
func (f *fleet) worker(id string) (router.Worker, bool) {
	rec, ok := f.reg.Snapshot().Worker(id)
	if !ok {
		return router.Worker{}, false
	}
	w := router.Worker{ID: id, Node: rec.Node, Address: rec.Address, Protocol: rec.Protocol, Slots: rec.SlotsTotal}
	if x, ok := (*f.externals.Load())[id]; ok {
		w.Address, w.Model, w.APIKey = x.address, x.model, x.apiKey
		w.Capabilities.Prefill = x.spec.Prefill
		w.Capabilities.CancelCall = rec.Protocol == router.ProtocolExecute
		return w, true
	}
	if strings.Contains(rec.Address, "//") { // one that registered itself
		if u, err := url.Parse(rec.Address); err == nil && u.Host != "" {
			w.Address = u.Host
			if _, linked := f.links.link(rec.Node); !linked {
				w.Address = behind(u.Host, u)
			}
		}
	}
	if h, ok := f.links.known(id); ok {
		w.Model, w.APIKey = h.ModelName, h.APIKey
		w.Capabilities = router.Capabilities{Prefill: h.Capabilities.Prefill, ContinueFlag: h.Engine == "vllm",
			CancelCall: rec.Protocol == router.ProtocolExecute}
	}
	return w, true
}

// DialWorker implements router.Dialer. The connections to a hive's workers are remembered, so that they can be cut when
// the hive is gone.
func (f *fleet) DialWorker(ctx context.Context, w router.Worker) (net.Conn, error) {
	c, err := f.dial(ctx, w)
	if err != nil {
		return nil, err
	}
	return f.lines.add(w.ID, c), nil
}

// hangUp cuts every connection to a worker.
func (f *fleet) hangUp(workerID string) { f.lines.cut(workerID) }

// lines are the open connections by worker.
type lines struct {
	mu   sync.Mutex
	open map[string]map[*line]struct{}
}

type line struct {
	net.Conn
	lines  *lines
	worker string
}

func (l *lines) add(worker string, c net.Conn) net.Conn {
	x := &line{Conn: c, lines: l, worker: worker}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[string]map[*line]struct{}{}
	}
	if l.open[worker] == nil {
		l.open[worker] = map[*line]struct{}{}
	}
	l.open[worker][x] = struct{}{}
	switch c := c.(type) { // TLS must not be passed by: only what is the socket itself says so
	case *net.TCPConn:
		return &socket{x, c}
	case *net.UnixConn:
		return &socket{x, c}
	}
	return x
}

// socket is a line that the poller can watch.
type socket struct {
	*line
	syscall.Conn
}

func (l *lines) cut(worker string) {
	l.mu.Lock()
	list := slices.Collect(maps.Keys(l.open[worker]))
	l.mu.Unlock()
	for _, c := range list {
		// The router is told by the end of what it reads, whoever waits for it; closing would tell a poller nothing.
		if s, ok := c.Conn.(interface {
			CloseRead() error
			CloseWrite() error
		}); ok && s.CloseRead() == nil && s.CloseWrite() == nil {
			continue
		}
		_ = c.Close()
	}
}

// Close implements net.Conn.
func (x *line) Close() error {
	x.lines.mu.Lock()
	delete(x.lines.open[x.worker], x)
	if len(x.lines.open[x.worker]) == 0 {
		delete(x.lines.open, x.worker)
	}
	x.lines.mu.Unlock()
	return x.Conn.Close()
}

func (f *fleet) dial(ctx context.Context, w router.Worker) (net.Conn, error) {
	if x, ok := (*f.externals.Load())[w.ID]; ok {
		if x.tls {
			host, _, _ := net.SplitHostPort(x.host)
			d := tls.Dialer{NetDialer: &f.dialer, Config: &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}}
			return d.DialContext(ctx, "tcp", x.host)
		}
		return f.dialer.DialContext(ctx, "tcp", x.host)
	}
	if link, ok := f.links.link(w.Node); ok {
		return link.ep.Dial(ctx, "tcp", w.Address)
	}
	if h, ok := f.reg.Snapshot().Hive(w.Node); ok && !guest(h) {
		return nil, fmt.Errorf("hive %s is not connected", w.Node)
	}
	rec, ok := f.reg.Snapshot().Worker(w.ID)
	if !ok {
		return nil, errNoWorker
	}
	return f.dialGuest(ctx, rec.Address)
}

// Load implements router.Fleet: hive, room, model, worker, in that order.
func (f *fleet) Load(ctx context.Context, l router.LoadRequest) (string, error) {
	begin := time.Now()
	why := f.causes.get(l.Model, l.Node)
	defer f.causes.drop(l.Model, l.Node)
	log := f.log
	if why.correlation != "" {
		log = log.With(correlate.Key, why.correlation)
	}
	id, err := f.load(why.trace.Context(ctx), l, why.correlation)
	if err == nil {
		f.met.ModelLoad(ctx, l.Node, l.Model, time.Since(begin))
	}
	if err != nil {
		log.Warn("load failed", "model", l.Model, "node", l.Node, "error", err)
	} else {
		log.Info("loaded", "model", l.Model, "node", l.Node, "worker", id, "took", time.Since(begin).Round(time.Millisecond))
	}
	return id, err
}

func (f *fleet) load(ctx context.Context, l router.LoadRequest, correlation string) (string, error) {
	progress := l.Progress
	if progress == nil {
		progress = func(router.Progress) {}
	}
	entry, err := f.prov.Resolve(l.Model)
	if err != nil {
		return "", err
	}
	link, err := f.hive(ctx, l.Node)
	if err != nil {
		return "", err
	}
	for _, victim := range l.Evict {
		if err := f.stopWorker(ctx, victim, true); err != nil && !errors.Is(err, errNoWorker) {
			return "", fmt.Errorf("make room for %s: %w", l.Model, err)
		}
		f.met.Evicted(ctx, "worker")
	}
	pctx, provisioned := f.stage(ctx, metrics.SpanProvision, correlation, "hive", l.Node, "model", l.Model)
	ref, err := f.model(pctx, l.Node, entry.Ref, progress)
	provisioned(err)
	if err != nil {
		return "", err
	}
	req := f.spawnRequest(entry, l.Device)
	req.ModelRef = ref
	spawned := time.Now()
	sctx, up := f.stage(ctx, metrics.SpanSpawn, correlation, "hive", l.Node, "model", l.Model, "worker", req.WorkerID)
	if _, err := link.client.Spawn(sctx, req); err != nil {
		up(err)
		return "", err
	}
	err = f.await(sctx, req.WorkerID, progress)
	up(err)
	if err != nil {
		return req.WorkerID, err
	}
	f.learnt(req.WorkerID, entry.Ref, entry.Slots, entry.Context, req.MemoryBytes, time.Since(spawned))
	return req.WorkerID, nil
}

// hive makes sure that the hive runs and has been heard.
func (f *fleet) hive(ctx context.Context, node string) (*hiveLink, error) {
	if _, err := f.manager.EnsureRunning(ctx, node); err != nil {
		return nil, err
	}
	link, ok := f.links.link(node)
	if !ok {
		return nil, &codedError{code: "HIVE_FAILED", msg: fmt.Sprintf("hive %s runs but is not connected: see rbee hive logs %s", node, node)}
	}
	select {
	case <-link.heard:
		return link, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// model makes sure that the hive has the model's files, passes on how far it is, and gives the reference under which
// the hive has them: with the commit, where it is of a hub.
func (f *fleet) model(ctx context.Context, node, ref string, progress func(router.Progress)) (string, error) {
	d, err := f.prov.Start(ctx, node, ref)
	if err != nil {
		return "", err
	}
	for p := range d.Events(ctx) {
		progress(router.Progress{State: string(p.State), BytesDone: p.BytesDone, BytesTotal: p.BytesTotal, ETA: time.Duration(p.ETASeconds * float64(time.Second))})
	}
	m, err := d.Wait(ctx)
	if err == nil && m.Ref != "" {
		ref = m.Ref
	}
	return ref, err
}

func (f *fleet) spawnRequest(e provisioner.Entry, device string) hiveapi.SpawnRequest {
	r := hiveapi.SpawnRequest{WorkerID: newWorkerID(), Model: e.Name, ModelRef: e.Ref, Slots: e.Slots, Context: e.Context,
		Args: e.Args, MemoryBytes: f.prov.Need(e.Ref, e.Slots, e.Context).Memory, Engine: f.engine(e)}
	if device != "" {
		r.Devices = strings.Split(device, ",")
	}
	return r
}

// engine is the whole spec that a hive is to run a model with.
func (f *fleet) engine(e provisioner.Entry) hiveapi.EngineSpec {
	name := e.Engine
	if name == "" {
		name = defaultEngine(e.Ref)
	}
	return engineSpec(name, *f.engines.Load())
}

// engineSpec is a configured engine as hives understand it, or a built-in one's name.
func engineSpec(name string, own map[string]config.Engine) hiveapi.EngineSpec {
	spec := hiveapi.EngineSpec{Name: name}
	if c, ok := own[name]; ok {
		spec.Command, spec.Env, spec.Protocol, spec.Health, spec.Slots = c.Command, c.Env, c.Protocol, c.Health, c.Slots
		spec.ReadyTimeout, spec.Stop, spec.Adapter, spec.ModelName = hiveapi.Duration(c.ReadyTimeout), c.Stop, c.Adapter, c.ModelName
		if c.Prefill || len(c.Paths) > 0 {
			spec.Capabilities = &hiveapi.Capabilities{Chat: true, Completions: true, Embeddings: true, Prefill: c.Prefill, Paths: c.Paths}
		}
	}
	return spec
}

// serves says whether the engine behind a model answers a path, and else which engines would.
func (f *fleet) serves(e provisioner.Entry, path string) error {
	if strings.HasPrefix(e.Ref, "external:") {
		return nil // its own server knows
	}
	spec, err := engine.Resolve(f.engine(e))
	if err != nil || spec.Capabilities == nil || spec.Capabilities.Serves(path) {
		return err
	}
	could := []string{}
	for _, b := range engine.Builtin() {
		if b.Capabilities != nil && b.Capabilities.Serves(path) {
			could = append(could, b.Name)
		}
	}
	for name, c := range *f.engines.Load() {
		if slices.Contains(c.Paths, path) {
			could = append(could, name)
		}
	}
	slices.Sort(could)
	those := "no engine known here would: configure one whose paths name it"
	if len(could) > 0 {
		those = "these would: " + strings.Join(could, ", ")
	}
	return &codedError{code: "NOT_FOUND", msg: fmt.Sprintf("the engine %s of model %s does not serve %s; %s", spec.Name, e.Name, path, those),
		facts: map[string]any{"engines": could}}
}

// defaultEngine runs a model whose entry names no engine.
func defaultEngine(ref string) string {
	switch scheme, _, _ := strings.Cut(ref, ":"); scheme {
	case "sim", "ollama":
		return scheme
	}
	return "llama.cpp"
}

func newWorkerID() string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return "w-" + hex.EncodeToString(b[:])
}

// await returns when the worker can take requests, or with the reason why it never will.
func (f *fleet) await(ctx context.Context, id string, progress func(router.Progress)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := f.reg.Watch(ctx)
	seen := false
	for {
		w, ok := f.reg.Snapshot().Worker(id)
		switch {
		case !ok && seen:
			return &codedError{code: "WORKER_FAILED", msg: "the worker ended while it was loading: see rbee logs --worker " + id}
		case ok && w.State == registry.WorkerFailed:
			msg := w.Message
			if msg == "" {
				msg = "the worker failed while it was loading: see rbee logs --worker " + id
			}
			code := "WORKER_FAILED"
			if h, ok := f.links.known(id); ok && h.ErrorCode != "" {
				code = h.ErrorCode
			}
			return &codedError{code: code, msg: msg}
		case ok && ready(w):
			f.src.refresh() // the scheduler sees it before its reservation is given back
			return nil
		case ok:
			seen = true
			if h, ok := f.links.known(id); ok {
				progress(router.Progress{State: "loading", Fraction: h.Progress})
			}
		}
		select {
		case _, ok := <-changes:
			if !ok {
				return ctx.Err()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stopWorker stops a worker on its hive and waits until it has gone.
func (f *fleet) stopWorker(ctx context.Context, id string, drain bool) error {
	w, ok := f.reg.Snapshot().Worker(id)
	if !ok {
		return errNoWorker
	}
	if w.External {
		return &codedError{code: "CONFLICT", msg: "worker " + id + " belongs to an external server: the queen does not own it"}
	}
	link, ok := f.links.link(w.Node)
	if !ok {
		return &codedError{code: "HIVE_FAILED", msg: "hive " + w.Node + " is not connected"}
	}
	if err := f.reg.SetWorkerState(id, registry.WorkerDraining, ""); err == nil {
		f.src.refresh()
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	changes := f.reg.Watch(ctx)
	if err := link.client.ShutdownWorker(ctx, hiveapi.ShutdownWorkerRequest{WorkerID: id, Drain: drain}); err != nil {
		return err
	}
	for {
		if w, ok := f.reg.Snapshot().Worker(id); !ok || w.State == registry.WorkerFailed {
			return nil
		}
		select {
		case _, ok := <-changes:
			if !ok {
				return ctx.Err()
			}
		case <-ctx.Done():
			return fmt.Errorf("worker %s did not end in time: %w", id, ctx.Err())
		}
	}
}
