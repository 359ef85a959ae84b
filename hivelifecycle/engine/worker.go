package engine

import (
	"context"
	"crypto/subtle"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// worker is one engine process and its successors. One goroutine runs its life; others read its record.
type worker struct {
	s       *Supervisor
	req     SpawnRequest
	spec    Spec
	adapter adapter
	log     *Log
	devices []Device
	poke    chan struct{}
	done    chan struct{} // closed when the worker is gone
	logStop chan struct{}

	notReady string // why the step behind the health check failed; of the worker's own goroutine

	evMu sync.Mutex // keeps OnChange in order

	mu       sync.Mutex
	rec      Worker
	mark     string
	plan     Plan
	port     int
	apiKey   string
	changed  chan struct{}
	proc     *process
	wasReady bool
	stop     chan struct{} // closed when the worker is to end
	stopOpts StopOptions
	stopping bool
}

func newWorker(s *Supervisor, r SpawnRequest, spec Spec) *worker {
	w := &worker{s: s, req: r, spec: spec, adapter: adapterOf(spec.Adapter), mark: randomHex(16), poke: make(chan struct{}, 1),
		done: make(chan struct{}), logStop: make(chan struct{}), changed: make(chan struct{}), stop: make(chan struct{}), apiKey: r.APIKey}
	if w.apiKey == "" {
		w.apiKey = "rbee-" + randomHex(16)
	}
	name := cmpString(r.Model, r.ModelRef)
	w.rec = Worker{WorkerID: r.WorkerID, Node: s.o.Node, Model: name, ModelRef: r.ModelRef, Engine: spec.Name, SpecHash: r.Engine.Hash(),
		State: hiveapi.WorkerLoading, Devices: r.Devices, Device: strings.Join(r.Devices, ","), StartedAt: time.Now().UTC()}
	w.log = newLog(s.logPath(r.WorkerID), w.line)
	return w
}

// prepare finds the devices.
func (w *worker) prepare(ctx context.Context) error {
	if len(w.req.Devices) == 0 {
		return nil
	}
	have := w.s.o.Devices(ctx)
	for _, id := range w.req.Devices {
		found := false
		for _, d := range have {
			if d.ID == id {
				w.devices, found = append(w.devices, d), true
			}
		}
		if !found {
			ids := make([]string, len(have))
			for i, d := range have {
				ids[i] = d.ID
			}
			return invalid("there is no device %.40q on this machine; there are %s", id, strings.Join(ids, ", "))
		}
	}
	return nil
}

// abandon drops a worker that never ran.
func (w *worker) abandon() {
	w.s.remove(w)
	w.s.freePort(w.port)
	w.s.forget(w.req.WorkerID)
	close(w.done)
	w.s.wg.Done()
}

// resume fills a worker from the record of a former supervisor.
func (w *worker) resume(r record, p *process) {
	w.apiKey, w.port = r.APIKey, r.Port
	_ = w.prepare(context.Background()) // a device that is gone leaves the process as it is
	pl, err := w.makePlan(r.Port)
	w.mu.Lock()
	if err == nil || pl.Address != "" {
		w.plan = pl
	}
	w.proc, w.wasReady, w.mark = p, r.WasReady, r.Mark
	w.mu.Unlock()
	w.log.skipTo(64 << 10)
	w.update(func(rec *Worker) {
		rec.Restarts, rec.StartedAt = r.Restarts, r.StartedAt
		w.describe(p)
	})
	w.s.mu.Lock()
	w.s.ports[r.Port] = true
	w.s.mu.Unlock()
}

func (w *worker) makePlan(port int) (Plan, error) {
	return plan(planInput{req: w.req, spec: w.spec, host: "127.0.0.1", port: port, model: cmpString(w.req.Model, w.req.ModelRef),
		modelPath: cmpString(w.req.ModelPath, w.req.ModelRef), devices: w.devices, dir: w.s.dir, apiKey: w.apiKey, simCommand: w.s.o.SimCommand,
		lookup: func(p string) (string, error) { return lookPath(p, w.s.o.EngineDir) }})
}

// launch starts a process on a fresh port. The record is on disk before it, so that not even a kill -9 between the two
// leaves an orphan: the mark in its environment finds it.
func (w *worker) launch() (*process, error) {
	port, err := w.s.port()
	if err != nil {
		return nil, err
	}
	w.s.freePort(w.port)
	w.port = port
	p, err := w.makePlan(port)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.plan, w.wasReady = p, false
	w.mu.Unlock()
	if err := w.save(nil); err != nil {
		return nil, err
	}
	out, err := w.log.file()
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	env := append(baseEnv(os.Environ()), p.Env...)
	env = append(env, "RBEE_SPAWN_TOKEN="+w.spawnMark())
	if w.s.o.ReadyURL != "" {
		env = append(env, "RBEE_READY_URL="+w.s.o.ReadyURL)
	}
	proc, err := startProcess(p.Path, p.Args, env, w.s.dir, out)
	if err != nil {
		return nil, &Error{WorkerID: w.req.WorkerID, Message: "its program can't be run: " + err.Error(), Err: err}
	}
	w.mu.Lock()
	w.proc = proc
	w.mu.Unlock()
	w.update(func(*Worker) { w.describe(proc) })
	if err := w.save(proc); err != nil {
		w.s.log.Warn("a worker's record can't be written", "worker_id", w.req.WorkerID, "error", err)
	}
	return proc, nil
}

// describe copies the plan into the record.
func (w *worker) describe(p *process) {
	r, pl := &w.rec, &w.plan
	r.Protocol, r.Address, r.URL, r.PID = pl.Protocol, pl.Address, "http://"+pl.Address, p.pid
	r.SlotsTotal, r.SlotsFree, r.Context, r.MemoryBytes = pl.Slots, 0, pl.Context, pl.MemoryBytes
	r.Capabilities, r.ModelName, r.APIKey = pl.Capabilities, pl.ModelName, pl.APIKey
}

func (w *worker) save(p *process) error {
	r := record{Request: w.req, ModelPath: w.req.ModelPath, Port: w.port, Mark: w.spawnMark(), APIKey: w.apiKey}
	w.mu.Lock()
	r.Restarts, r.WasReady, r.StartedAt = w.rec.Restarts, w.wasReady, w.rec.StartedAt
	w.mu.Unlock()
	if p != nil {
		r.PID, r.StartTime = p.pid, p.start
	}
	return w.s.save(r)
}

// baseEnv is our own environment without what is ours alone.
func baseEnv(env []string) []string {
	out := make([]string, 0, len(env))
	for _, kv := range env {
		if !strings.HasPrefix(kv, "RBEE_") {
			out = append(out, kv)
		}
	}
	return out
}

// update changes the record and tells those who watch.
func (w *worker) update(fn func(*Worker)) {
	w.evMu.Lock()
	defer w.evMu.Unlock()
	w.mu.Lock()
	fn(&w.rec)
	rec := w.rec
	close(w.changed)
	w.changed = make(chan struct{})
	w.mu.Unlock()
	if w.s.o.OnChange != nil {
		w.s.o.OnChange(rec, false)
	}
}

func (w *worker) snapshot() Worker {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rec
}

func (w *worker) observe() (Worker, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rec, w.changed
}

func (w *worker) isToken(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(w.spawnMark())) == 1
}

// spawnMark is the token in the environment of the present process.
func (w *worker) spawnMark() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mark
}

func (w *worker) requestStop(o StopOptions) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopping {
		w.stopping, w.stopOpts = true, o
		close(w.stop)
	}
}

func (w *worker) kill() {
	w.mu.Lock()
	p := w.proc
	w.mu.Unlock()
	if p != nil {
		_ = p.signal(syscall.SIGKILL)
	}
}

// line looks at a line of the log for the progress of loading.
func (w *worker) line(s string) {
	share, ok := progress(s)
	if !ok {
		return
	}
	if rec := w.snapshot(); rec.State == hiveapi.WorkerLoading && share > rec.Progress {
		w.update(func(r *Worker) { r.Progress = share })
	}
}

// progress reads "loading 40%", as the simulator and vLLM's bars write it.
func progress(line string) (float64, bool) {
	low := strings.ToLower(line)
	if !strings.Contains(low, "loading") {
		return 0, false
	}
	i := strings.IndexByte(line, '%')
	j := i
	for j > 0 && (line[j-1] >= '0' && line[j-1] <= '9') {
		j--
	}
	if i < 0 || j == i {
		return 0, false
	}
	n, err := strconv.Atoi(line[j:i])
	if err != nil || n > 100 {
		return 0, false
	}
	return float64(n) / 100, true
}
