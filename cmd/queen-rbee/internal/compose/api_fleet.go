package compose

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/monitor"
	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/router"
)

// workersAPI lists and changes workers.
type workersAPI struct {
	f   *fleet
	mon *monitor.Monitor
	ctx context.Context // of work that outlives a request
	ttl func(*registry.Worker) time.Duration

	alert func(kind, message string) // on the feed: the caller was told that it would be done
}

var _ httpserver.Workers = (*workersAPI)(nil)

func workerRecord(w *registry.Worker) httpserver.Worker {
	url := w.Address
	if url != "" && !strings.Contains(url, "://") {
		url = "http://" + url
	}
	return httpserver.Worker{WorkerID: w.ID, Node: w.Node, Model: w.Model, ModelRef: w.ModelRef, Engine: w.Engine, Protocol: w.Protocol,
		State: string(w.State), URL: url, PID: w.PID, Device: w.Device, MemoryBytes: w.MemoryBytes, SlotsTotal: w.SlotsTotal,
		SlotsFree: w.SlotsFree, PendingTokens: w.PendingTokens, StartedAt: httpserver.Time{Time: w.StartedAt},
		LastUsedAt: httpserver.Time{Time: w.LastUsedAt}, Message: w.Message, Capabilities: w.Capabilities}
}

// List implements httpserver.Workers.
func (a *workersAPI) List(_ context.Context, node string) ([]httpserver.Worker, error) {
	snap := a.f.reg.Snapshot()
	if _, ok := snap.Hive(node); node != "" && !ok {
		return nil, errNoNode
	}
	out := []httpserver.Worker{}
	for _, w := range snap.Workers {
		if node != "" && w.Node != node {
			continue
		}
		r := workerRecord(w)
		if ttl := a.ttl(w); ttl > 0 && !w.External {
			r.ExpiresAt = lastUsed(w).Add(ttl)
			if a.f.inFlight(w.ID) > 0 {
				r.ExpiresAt = time.Now().Add(ttl)
			}
		}
		if used := a.f.inFlight(w.ID); used > 0 && !w.External {
			r.SlotsFree = max(0, w.SlotsTotal-used)
			if r.State == string(registry.WorkerIdle) {
				r.State = string(registry.WorkerBusy)
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// Health implements httpserver.Workers.
func (a *workersAPI) Health(_ context.Context, node string) ([]httpserver.WorkerHealth, error) {
	snap := a.f.reg.Snapshot()
	if _, ok := snap.Hive(node); node != "" && !ok {
		return nil, errNoNode
	}
	out := []httpserver.WorkerHealth{}
	for _, w := range snap.Workers {
		if node == "" || w.Node == node {
			until, ejected := a.mon.Ejected(w.ID)
			out = append(out, httpserver.WorkerHealth{WorkerID: w.ID, Node: w.Node, State: string(w.State), Ejected: ejected,
				Until: httpserver.Time{Time: until}, Healthy: ready(w) && snap.Reachable(w) && !ejected, Message: w.Message})
		}
	}
	return out, nil
}

// Spawn implements httpserver.Workers.
func (a *workersAPI) Spawn(_ context.Context, r httpserver.SpawnRequest) (httpserver.Spawned, error) {
	e, err := a.f.entryFor(r.ModelRef)
	if err != nil {
		return httpserver.Spawned{}, err
	}
	node := r.Node
	if node == "" {
		if node, err = a.f.roomiest(); err != nil {
			return httpserver.Spawned{}, err
		}
	}
	req := a.f.spawnRequest(e, r.Device)
	if err := a.f.canSpawn(node, req.Devices); err != nil {
		return httpserver.Spawned{}, err
	}
	go func() {
		link, err := a.f.hive(a.ctx, node)
		if err == nil { // a download may take as long as bytes arrive: the hive's store gives up when they don't
			req.ModelRef, err = a.f.model(a.ctx, node, e.Ref, func(router.Progress) {})
		}
		if err == nil {
			_, err = link.client.Spawn(a.ctx, req)
		}
		if err != nil {
			a.f.log.Warn("spawn failed", "worker", req.WorkerID, "node", node, "error", err)
			a.alert("spawn_failed", fmt.Sprintf("worker %s of %s could not be started on %s: %s", req.WorkerID, e.Name, node, err))
		}
	}()
	return httpserver.Spawned{WorkerID: req.WorkerID, Node: node, State: string(registry.WorkerLoading)}, nil
}

// canSpawn refuses what a hive could not do, as far as that is known beforehand.
func (f *fleet) canSpawn(node string, devices []string) error {
	h, ok := f.reg.Snapshot().Hive(node)
	if !ok {
		return errNoNode
	}
	if guest(h) {
		return &codedError{code: "CONFLICT", msg: "hive " + node + " was started by somebody else and takes no commands: start the worker there"}
	}
	for _, d := range devices {
		if len(h.Devices) > 0 && !slices.ContainsFunc(h.Devices, func(have registry.Device) bool { return have.ID == d }) {
			return &codedError{code: "INVALID_REQUEST", msg: "hive " + node + " has no device " + strconv.Quote(d) + ": GET /v2/registry/beehives/list lists them"}
		}
	}
	return nil
}

// Shutdown implements httpserver.Workers.
func (a *workersAPI) Shutdown(_ context.Context, workerID string, drain bool) error {
	if w, ok := a.f.reg.Snapshot().Worker(workerID); !ok {
		return errNoWorker
	} else if w.External {
		return &codedError{code: "CONFLICT", msg: "worker " + workerID + " belongs to an external server: the queen does not own it"}
	}
	go func() {
		if err := a.f.stopWorker(a.ctx, workerID, drain); err != nil {
			a.f.log.Warn("stop worker", "worker", workerID, "error", err)
		}
	}()
	return nil
}

// Register implements httpserver.Workers.
func (a *workersAPI) Register(_ context.Context, node string, w httpserver.Worker) error {
	if node == "" { // an operator's key may register for any hive
		node = w.Node
	}
	if w.Protocol == "" {
		w.Protocol = router.ProtocolOpenAI
	}
	if err := a.f.reg.PutWorker(registry.Worker{ID: w.WorkerID, Node: node, Model: w.Model, ModelRef: w.ModelRef, Engine: w.Engine, Protocol: w.Protocol,
		Address: w.URL, Device: w.Device, State: registry.WorkerIdle, SlotsTotal: max(1, w.SlotsTotal), SlotsFree: max(1, w.SlotsFree),
		MemoryBytes: w.MemoryBytes, StartedAt: time.Now(), External: node == ""}); err != nil {
		return err
	}
	a.f.src.refresh()
	return nil
}

// entryFor gives the entry of a model's name, or makes one for a bare reference, which operators may use.
func (f *fleet) entryFor(nameOrRef string) (provisioner.Entry, error) {
	e, err := f.prov.Resolve(nameOrRef)
	if err == nil {
		return e, nil
	}
	return f.prov.ResolveRef(nameOrRef)
}

// roomiest is the online hive with the most free memory.
func (f *fleet) roomiest() (string, error) {
	var best string
	most := int64(-1)
	for _, h := range f.reg.Snapshot().Hives {
		if _, free := h.Memory(); h.Status == registry.StatusOnline && free > most {
			best, most = h.Name, free
		}
	}
	if best == "" {
		return "", &codedError{code: "NO_HIVE_AVAILABLE", msg: "no hive is online: add one with rbee hive add, or see rbee hive ls", after: 5 * time.Second}
	}
	return best, nil
}

var errNoNode = &codedError{code: "NODE_NOT_FOUND", msg: "no hive has this name: GET /v2/registry/beehives/list lists them"}

// hivesAPI lists and changes hives.
type hivesAPI struct {
	f     *fleet
	bus   *bus
	start func(ctx context.Context, name string) error
	ctx   context.Context
	names names // being added or removed
}

var _ httpserver.Hives = (*hivesAPI)(nil)

func hiveRecord(snap *registry.Snapshot, h *registry.Hive) httpserver.Hive {
	r := httpserver.Hive{NodeName: h.Name, Mode: h.Mode, Status: string(h.Status), Address: h.Address, Version: h.Version,
		LastSeen: httpserver.Time{Time: h.LastSeen}, Labels: h.Labels, Message: h.Message, Devices: []httpserver.Device{}, Workers: []string{}, Models: []string{}}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	if h.SSH != nil {
		r.Address = h.SSH.Host
	}
	if h.Draining && h.Status == registry.StatusOnline {
		r.Status = string(registry.StatusDraining)
	}
	for _, d := range h.Devices {
		r.Devices = append(r.Devices, httpserver.Device{ID: d.ID, Name: d.Name, Backend: d.Backend, MemoryTotal: d.MemoryTotal, MemoryFree: d.MemoryFree})
	}
	for _, w := range snap.Workers {
		if w.Node == h.Name {
			r.Workers = append(r.Workers, w.ID)
		}
	}
	for _, m := range h.Models {
		r.Models = append(r.Models, m.Ref)
	}
	return r
}

// List implements httpserver.Hives.
func (a *hivesAPI) List(context.Context) ([]httpserver.Hive, error) {
	snap := a.f.reg.Snapshot()
	out := []httpserver.Hive{}
	for _, h := range snap.Hives {
		out = append(out, hiveRecord(snap, h))
	}
	return out, nil
}

type operationEnd struct {
	Node    string `json:"node"`
	State   string `json:"state"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

// operate runs something long in the background and publishes its steps and its end.
func (a *hivesAPI) operate(prefix, node string, fn func(context.Context) error) (string, error) {
	if _, ok := a.f.reg.Snapshot().Hive(node); !ok {
		return "", errNoNode
	}
	id := fmt.Sprintf("%s-%s", prefix, newWorkerID()[2:])
	a.bus.open(id)
	a.bus.alias(node, id)
	go func() {
		ctx, cancel := context.WithTimeout(a.ctx, 10*time.Minute)
		defer cancel()
		end := operationEnd{Node: node, State: "done", Message: "done"}
		if err := fn(ctx); err != nil {
			end = operationEnd{Node: node, State: "failed", Code: codeOf(err), Message: err.Error()}
		}
		a.bus.alias(node, "")
		a.bus.publish(id, "end", end, true)
	}()
	return id, nil
}

// Heartbeat implements httpserver.Hives, for hives that somebody else started.
func (a *hivesAPI) Heartbeat(ctx context.Context, node string, raw json.RawMessage) error {
	var state hiveapi.State
	if err := json.Unmarshal(raw, &state); err != nil {
		return &codedError{code: "INVALID_REQUEST", msg: "a heartbeat is a hive's state as GET /v1/status gives it: " + jsonFault(err)}
	}
	if state.Epoch == 0 {
		return &codedError{code: "INVALID_REQUEST", msg: "a heartbeat is a hive's state as GET /v1/status gives it: epoch is missing"}
	}
	state.Node = node
	if _, ours := a.f.links.link(node); ours {
		return &codedError{code: "CONFLICT", msg: "hive " + node + " was started by this queen, who hears it herself: report under another name"}
	}
	if _, ok := a.f.reg.Snapshot().Hive(node); !ok { // its token, made by an admin, is what lets it in
		if err := a.f.reg.Put(ctx, registry.Hive{Name: node, Mode: registry.ModeNetwork, Status: registry.StatusStarting}); err != nil {
			return err
		}
	}
	// without a list of workers, those that registered themselves stay
	report := registry.Report{Node: node, Epoch: state.Epoch, Seq: state.Seq, Full: state.Workers != nil, Version: state.Version, Devices: devices(state.Devices),
		Models: models(state.Models), DiskTotal: state.Disk.Total, DiskFree: state.Disk.Free}
	for _, w := range state.Workers {
		report.Workers = append(report.Workers, a.f.links.worker(node, w))
	}
	if err := a.f.reg.Apply(report); err != nil {
		return err
	}
	if state.Workers != nil {
		a.f.links.keepWorkers(node, state.Workers)
	}
	a.f.mon.Watch(node)
	a.f.mon.Beat(node)
	a.f.src.refresh() // who was told that the report was taken finds its workers
	return nil
}

// logsAPI reads the logs of hives and workers.
type logsAPI struct{ f *fleet }

var _ httpserver.Logs = (*logsAPI)(nil)

// Logs implements httpserver.Logs. Without a node it is the hive of the worker, or the first hive that is connected.
func (a *logsAPI) Logs(ctx context.Context, q httpserver.LogQuery) (io.ReadCloser, error) {
	node := q.Node
	snap := a.f.reg.Snapshot()
	if node == "" && q.WorkerID != "" {
		w, ok := snap.Worker(q.WorkerID)
		if !ok {
			return nil, errNoWorker
		}
		node = w.Node
	}
	if node == "" {
		i := slices.IndexFunc(snap.Hives, func(h *registry.Hive) bool { _, ok := a.f.links.link(h.Name); return ok })
		if i < 0 {
			return nil, errNoNode
		}
		node = snap.Hives[i].Name
	}
	link, ok := a.f.links.link(node)
	if !ok {
		return nil, errNoNode
	}
	return link.client.Logs(ctx, hiveapi.LogQuery{WorkerID: q.WorkerID, Follow: q.Follow, Tail: q.Tail})
}
