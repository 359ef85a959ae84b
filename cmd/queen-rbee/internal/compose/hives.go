package compose

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/monitor"
	"github.com/queen-rbee/queen-rbee/registry"
)

// hiveLinks follows the watch stream of every hive that is up and keeps what the registry does not: the client, and
// each worker's whole record with its API key.
type hiveLinks struct {
	log *slog.Logger
	reg *registry.Registry
	mon *monitor.Monitor
	wg  sync.WaitGroup
	ctx context.Context // ends with the queen

	learn   func(node string, m hiveapi.Model) // nil: nobody asks
	span    func(node string, s *hiveapi.Span) // work that a hive did for a traced request
	dropped func()                             // a model's file was given up
	level   atomic.Pointer[string]             // what hives are to log; nil: as they were started

	mu      sync.RWMutex
	links   map[string]*hiveLink
	workers map[string]hiveapi.Worker // by worker id
}

type hiveLink struct {
	node   string
	ep     hivelifecycle.Endpoint
	client *hiveapi.Client
	cancel context.CancelFunc
	heard  chan struct{} // closed at the first full state
	once   sync.Once
}

var _ hivelifecycle.Registrar = (*hiveLinks)(nil)

// HiveStatus implements hivelifecycle.Registrar.
func (l *hiveLinks) HiveStatus(name, status, message string) {
	// online is the monitor's word, given once the hive's own state was heard
	if status == hivelifecycle.StatusOnline {
		return
	}
	// a machine that can't be reached may be well: as long as the monitor waits, only the reason changes
	if h, ok := l.reg.Snapshot().Hive(name); ok && h.Mode == registry.ModeNetwork {
		if s := l.mon.State(name); s == monitor.Online || s == monitor.Suspect {
			status = string(h.Status)
			if status == hivelifecycle.StatusOnline {
				message = ""
			}
		}
	}
	if err := l.reg.SetStatus(name, registry.Status(status), message); err != nil && !errors.Is(err, registry.ErrNotFound) {
		l.log.Warn("hive status", "node", name, "status", status, "error", err)
	}
}

// HiveReady implements hivelifecycle.Registrar: it begins to follow the hive.
func (l *hiveLinks) HiveReady(name string, ep hivelifecycle.Endpoint) {
	client, err := hiveapi.New(ep.Address, ep.Token, hiveapi.Options{Dial: ep.Dial, TLS: ep.TLS})
	if err != nil {
		l.log.Error("hive address", "node", name, "error", err)
		return
	}
	ctx, cancel := context.WithCancel(l.ctx)
	link := &hiveLink{node: name, ep: ep, client: client, cancel: cancel, heard: make(chan struct{})}
	l.mu.Lock()
	if old := l.links[name]; old != nil {
		old.cancel()
	}
	l.links[name] = link
	l.mu.Unlock()
	l.mon.Restarted(name) // its first beat brings it online
	if err := l.reg.Begin(name); err != nil {
		l.log.Warn("hive begins", "node", name, "error", err)
	}
	l.wg.Go(func() { l.follow(ctx, link) })
}

// errFleetSize ends a watch whose hive should beat more or less often from now on.
var errFleetSize = errors.New("the fleet's size has changed: another beat")

// follow reads the watch stream until the link is replaced or the queen ends, reconnecting with a growing pause.
func (l *hiveLinks) follow(ctx context.Context, link *hiveLink) {
	defer func() { _ = link.client.Close() }()
	pause := 100 * time.Millisecond
	l.tellLevel(ctx, link)
	for ctx.Err() == nil {
		var state hiveapi.State
		beat := l.mon.BeatInterval()
		err := link.client.WatchEvery(ctx, beat, func(ev hiveapi.Event) error {
			pause = 100 * time.Millisecond
			if now := l.mon.BeatInterval(); ev.Kind == hiveapi.EventBeat && (now*4 > beat*5 || now*5 < beat*4) {
				return errFleetSize
			}
			return l.take(link, &state, ev)
		})
		if ctx.Err() != nil {
			return
		}
		l.log.Info("hive watch ended, connecting again", "node", link.node, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			pause = min(2*pause, 2*time.Second)
		}
	}
}

// take applies one event to the registry and tells the monitor that the hive lives.
func (l *hiveLinks) take(link *hiveLink, state *hiveapi.State, ev hiveapi.Event) error {
	if !state.Apply(ev) {
		return nil
	}
	if ev.Kind == hiveapi.EventSpan && ev.Span != nil {
		l.span(link.node, ev.Span)
	}
	report := registry.Report{Node: link.node, Epoch: ev.Epoch, Seq: ev.Seq, Version: state.Version}
	switch ev.Kind {
	case hiveapi.EventState:
		report.Full = true
		report.Devices, report.Models = devices(state.Devices), models(state.Models)
		report.DiskTotal, report.DiskFree = state.Disk.Total, state.Disk.Free
		for _, w := range state.Workers {
			report.Workers = append(report.Workers, l.worker(link.node, w))
		}
		l.keepWorkers(link.node, state.Workers)
	case hiveapi.EventWorker:
		l.keepWorker(*ev.Worker)
		report.Workers = []registry.Worker{l.worker(link.node, *ev.Worker)}
	case hiveapi.EventGone:
		l.dropWorker(ev.Worker.WorkerID)
		report.Gone = []string{ev.Worker.WorkerID}
	case hiveapi.EventModel, hiveapi.EventNoModel:
		if s := ev.Model.State; ev.Kind == hiveapi.EventNoModel && (s == hiveapi.ModelReady || s == hiveapi.ModelLoaded) {
			l.dropped()
		}
		report.Models = models(state.Models)
	case hiveapi.EventDevices, hiveapi.EventBeat:
		report.Devices = devices(ev.Devices)
		if ev.Disk != nil {
			report.DiskTotal, report.DiskFree = ev.Disk.Total, ev.Disk.Free
		}
	}
	l.teach(link.node, state.Models, ev.Kind)
	if err := l.reg.Apply(report); err != nil {
		if errors.Is(err, registry.ErrNotFound) {
			return err // the hive was removed: stop following
		}
		l.log.Warn("hive report", "node", link.node, "error", err)
	}
	l.mon.Beat(link.node)
	if ev.Kind == hiveapi.EventState {
		link.once.Do(func() { close(link.heard) })
	}
	return nil
}

// setLevel has every hive, now and when it connects, log at a level.
func (l *hiveLinks) setLevel(level string) {
	l.level.Store(&level)
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, link := range l.links {
		l.wg.Go(func() { l.tellLevel(l.ctx, link) })
	}
}

func (l *hiveLinks) tellLevel(ctx context.Context, link *hiveLink) {
	level := l.level.Load()
	if level == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := link.client.SetLogLevel(ctx, *level); err != nil && ctx.Err() == nil {
		l.log.Debug("hive's log level", "node", link.node, "error", err)
	}
}

// teach passes on what a hive found in its models' files.
func (l *hiveLinks) teach(node string, list []hiveapi.Model, kind hiveapi.EventKind) {
	if l.learn == nil || kind != hiveapi.EventState && kind != hiveapi.EventModel {
		return
	}
	for _, m := range list {
		if m.State != hiveapi.ModelDownloading && m.State != hiveapi.ModelFailed {
			l.learn(node, m)
		}
	}
}

func (l *hiveLinks) keepWorkers(node string, list []hiveapi.Worker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.workers, func(_ string, w hiveapi.Worker) bool { return w.Node == node })
	for _, w := range list {
		w.Node = node
		l.workers[w.WorkerID] = w
	}
}

func (l *hiveLinks) keepWorker(w hiveapi.Worker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.APIKey == "" {
		w.APIKey = l.workers[w.WorkerID].APIKey
	}
	l.workers[w.WorkerID] = w
}

func (l *hiveLinks) dropWorker(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.workers, id)
}

// known returns a worker's whole record.
func (l *hiveLinks) known(id string) (hiveapi.Worker, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	w, ok := l.workers[id]
	return w, ok
}

// link returns the way to a hive that was heard of.
func (l *hiveLinks) link(node string) (*hiveLink, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	link, ok := l.links[node]
	return link, ok
}

// forget ends following a hive.
func (l *hiveLinks) forget(node string) {
	l.mu.Lock()
	link := l.links[node]
	delete(l.links, node)
	maps.DeleteFunc(l.workers, func(_ string, w hiveapi.Worker) bool { return w.Node == node })
	l.mu.Unlock()
	if link != nil {
		link.cancel()
	}
	l.mon.Forget(node)
}

func (l *hiveLinks) worker(node string, w hiveapi.Worker) registry.Worker {
	out := registry.Worker{ID: w.WorkerID, Node: node, Model: w.Model, ModelRef: w.ModelRef, Engine: w.Engine, Protocol: w.Protocol,
		Address: w.Address, Device: w.Device, State: registry.WorkerState(w.State), SlotsTotal: w.SlotsTotal, SlotsFree: w.SlotsFree,
		MemoryBytes: w.MemoryBytes, PID: w.PID, StartedAt: w.StartedAt, LastUsedAt: w.LastUsedAt, Message: w.Message}
	if len(w.Devices) > 1 {
		out.Device = strings.Join(w.Devices, ",")
	}
	out.Capabilities = capabilityNames(w.Capabilities)
	return out
}

func capabilityNames(c hiveapi.Capabilities) []string {
	var out []string
	for _, f := range []struct {
		on   bool
		name string
	}{{c.Chat, "chat"}, {c.Completions, "completions"}, {c.Embeddings, "embeddings"}, {c.Prefill, "prefill"}, {c.TokenIDs, "token_ids"}, {c.Tools, "tools"}} {
		if f.on {
			out = append(out, f.name)
		}
	}
	return append(out, c.Paths...)
}

func devices(list []hiveapi.Device) []registry.Device {
	if list == nil {
		return nil
	}
	out := make([]registry.Device, len(list))
	for i, d := range list {
		out[i] = registry.Device{ID: d.ID, Name: d.Name, Backend: d.Backend, Unified: d.Unified, MemoryTotal: d.MemoryTotal,
			MemoryFree: d.MemoryFree, Utilization: max(0, d.Utilization), Temperature: d.Temperature}
	}
	return out
}

func models(list []hiveapi.Model) []registry.Model {
	out := make([]registry.Model, len(list))
	for i, m := range list {
		out[i] = registry.Model{Ref: m.ModelRef, State: string(m.State), SizeBytes: m.SizeBytes, SHA256: m.SHA256, Progress: m.Progress,
			ContextLength: int(m.ContextLength), Parameters: m.Parameters, Memory: m.MemoryEstimate, Message: cmp.Or(m.Message, m.Choice)}
	}
	return out
}
