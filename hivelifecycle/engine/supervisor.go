package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// Options of a Supervisor; all of them may be left out.
type Options struct {
	// Dir keeps a record and a log for each worker, so that the next Supervisor of that directory takes over what still
	// runs; "" = a temporary directory, removed by Close.
	Dir string
	// EngineDir holds installed engines, their programs in EngineDir/bin.
	EngineDir string
	// Node is the name of this machine in records.
	Node string
	// Logger is told what happens to workers; nil = silent.
	Logger *slog.Logger
	// SimCommand is the program, with its first arguments, that runs sim.Main; nil = no simulator.
	SimCommand []string
	// Devices are those of this machine; they are looked up for each spawn that names some. nil = Devices.
	Devices func(context.Context) []Device
	// ReadyURL is given to workers that report by themselves that they serve (the simulator); see Supervisor.Ready.
	ReadyURL string
	// OnChange sees every change of a worker's record, in order for each worker; gone is true for the last one.
	OnChange func(w Worker, gone bool)
	// MaxRestarts is how often in a row a worker that dies is started again; default 5, negative = never.
	MaxRestarts int
	// FailedTTL is how long the record of a worker that has failed for good is kept; default 10 min.
	FailedTTL time.Duration
	// Backoff is the wait before the second restart in a row, doubled each time up to a minute; default 1 s.
	Backoff time.Duration
	// HealthEvery is how often a worker that serves is asked for its health; default 10 s, negative = never. One that
	// does not answer three times in a row hangs: it is ended and started again.
	HealthEvery time.Duration
}

// Supervisor runs the workers of one machine. Its methods are safe for concurrent use.
type Supervisor struct {
	o      Options
	dir    string
	tmp    bool
	log    *slog.Logger
	prober *prober
	signs  []sign
	detach chan struct{} // closed when the workers are to be left alone
	free   func() (int, error)

	mu      sync.Mutex
	workers map[string]*worker
	ports   map[int]bool
	closed  bool
	wg      sync.WaitGroup
}

// New returns a supervisor. Workers that an earlier one left in the directory are taken over by Adopt.
func New(o Options) (*Supervisor, error) {
	s := &Supervisor{o: o, dir: o.Dir, log: o.Logger, prober: newProber(), signs: newSigns(), free: freeTCP, detach: make(chan struct{}), workers: map[string]*worker{}, ports: map[int]bool{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.o.Devices == nil {
		s.o.Devices = func(ctx context.Context) []Device { return Devices(ctx, DeviceOptions{}) }
	}
	if s.o.MaxRestarts == 0 {
		s.o.MaxRestarts = 5
	}
	if s.o.FailedTTL <= 0 {
		s.o.FailedTTL = 10 * time.Minute
	}
	if s.o.Backoff <= 0 {
		s.o.Backoff = time.Second
	}
	if s.o.HealthEvery == 0 {
		s.o.HealthEvery = 10 * time.Second
	}
	var err error
	if s.dir == "" {
		s.tmp = true
		s.dir, err = os.MkdirTemp("", "rbee-workers-")
	} else {
		err = os.MkdirAll(s.dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("engine: the workers' directory can't be made: %w", err)
	}
	return s, nil
}

// Start runs a worker and returns its record as soon as the process is there, in state loading. The same WorkerID
// again returns the worker's present record. What can't be started at all is an error; what fails later is told by
// OnChange and Wait.
func (s *Supervisor) Start(ctx context.Context, r SpawnRequest) (Worker, error) {
	if !workerID.MatchString(r.WorkerID) {
		return Worker{}, invalid("worker_id %.40q: use 1 to 128 letters, digits, dots, dashes and underscores", r.WorkerID)
	}
	spec, err := Resolve(r.Engine)
	if err == nil {
		err = checkEnv(r.Env)
	}
	if err != nil {
		return Worker{}, err
	}
	w, fresh, err := s.reserve(r, spec)
	if err != nil || !fresh {
		if err == nil {
			return w.snapshot(), nil
		}
		return Worker{}, err
	}
	if err := w.prepare(ctx); err != nil {
		w.abandon()
		return Worker{}, err
	}
	p, err := w.launch()
	if err != nil {
		w.abandon()
		return Worker{}, err
	}
	s.begin(w, p)
	return w.snapshot(), nil
}

func (s *Supervisor) reserve(r SpawnRequest, spec Spec) (w *worker, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, &Error{WorkerID: r.WorkerID, Message: "this machine's supervisor is shutting down", Err: ErrClosed}
	}
	if w, ok := s.workers[r.WorkerID]; ok {
		if w.req.ModelRef != r.ModelRef {
			return nil, false, &Error{Name: "CONFLICT", WorkerID: r.WorkerID, Message: "a worker of that id runs another model; use a new id"}
		}
		return w, false, nil
	}
	w = newWorker(s, r, spec)
	s.workers[r.WorkerID] = w
	s.wg.Add(1)
	return w, true, nil
}

func (s *Supervisor) begin(w *worker, p *process) {
	go func() {
		defer s.wg.Done()
		w.run(p)
	}()
}

func (s *Supervisor) get(id string) (*worker, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.workers[id]
	return w, ok
}

func (s *Supervisor) remove(w *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.workers[w.req.WorkerID] == w {
		delete(s.workers, w.req.WorkerID)
	}
}

// Workers lists the records, by id.
func (s *Supervisor) Workers() []Worker {
	s.mu.Lock()
	list := slices.Collect(maps.Values(s.workers))
	s.mu.Unlock()
	out := make([]Worker, 0, len(list))
	for _, w := range list {
		out = append(out, w.snapshot())
	}
	slices.SortFunc(out, func(a, b Worker) int { return strings.Compare(a.WorkerID, b.WorkerID) })
	return out
}

// Worker returns one record.
func (s *Supervisor) Worker(id string) (Worker, bool) {
	w, ok := s.get(id)
	if !ok {
		return Worker{}, false
	}
	return w.snapshot(), true
}

// Log returns a worker's output.
func (s *Supervisor) Log(id string) (*Log, error) {
	w, ok := s.get(id)
	if !ok {
		return nil, notFound(id)
	}
	return w.log, nil
}

// Wait returns when the worker serves, or with the reason why it never will. A worker that is being started again
// after a crash is waited for.
func (s *Supervisor) Wait(ctx context.Context, id string) (Worker, error) {
	w, ok := s.get(id)
	if !ok {
		return Worker{}, notFound(id)
	}
	for {
		rec, changed := w.observe()
		switch rec.State {
		case hiveapi.WorkerIdle, hiveapi.WorkerBusy:
			return rec, nil
		case hiveapi.WorkerFailed:
			return rec, &Error{Name: rec.ErrorCode, WorkerID: id, Message: rec.Message}
		}
		select {
		case <-changed:
		case <-w.done:
			return rec, notFound(id)
		case <-ctx.Done():
			return rec, ctx.Err()
		}
	}
}

// Ready is for a worker that reports by itself: with the spawn token from its environment it makes the supervisor look
// at once. It does not replace the look.
func (s *Supervisor) Ready(id, token string) error {
	w, ok := s.get(id)
	if !ok || token == "" || !w.isToken(token) {
		return notFound(id)
	}
	select {
	case w.poke <- struct{}{}:
	default:
	}
	return nil
}

// StopOptions bound a stop.
type StopOptions struct {
	// Drain is how long running requests may go on; 0 = not at all. It ends early when the engine says that there are none.
	Drain time.Duration
	// Grace is the time from TERM to KILL; 0 = the spec's.
	Grace time.Duration
}

// Stop ends a worker with all its processes and returns when they are gone. It can be called again and by many; a
// worker that is gone is ErrNotFound.
func (s *Supervisor) Stop(ctx context.Context, id string, o StopOptions) error {
	w, ok := s.get(id)
	if !ok {
		return notFound(id)
	}
	w.requestStop(o)
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends all workers and returns when they are gone; when ctx ends first they are killed. Nothing can be started
// afterwards.
func (s *Supervisor) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	list := slices.Collect(maps.Values(s.workers))
	s.mu.Unlock()
	for _, w := range list {
		w.requestStop(StopOptions{})
	}
	all := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(all)
	}()
	var err error
	select {
	case <-all:
	case <-ctx.Done():
		err = ctx.Err()
		for _, w := range list {
			w.kill()
		}
		<-all
	}
	s.prober.http.CloseIdleConnections()
	if s.tmp {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}

// Detach lets go of all workers and leaves them running for the next Supervisor of the same directory.
func (s *Supervisor) Detach() {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	if !already {
		close(s.detach)
	}
	s.wg.Wait()
}

// Adopt takes over what an earlier Supervisor of this directory left: workers that still run are watched again, by pid
// and start time; what is left of others is ended and their records are removed. Call it once, before Start.
func (s *Supervisor) Adopt(context.Context) (adopted, ended int, err error) {
	list, err := s.records()
	for _, r := range list {
		spec, rerr := Resolve(r.Request.Engine)
		p := (*process)(nil)
		if rerr == nil {
			p = adoptProcess(r.PID, r.StartTime, s.detach)
		}
		if p == nil {
			ended += sweep(r.Mark)
			s.forget(r.Request.WorkerID)
			s.log.Info("a worker of a former hive is gone", "worker_id", r.Request.WorkerID, "pid", r.PID)
			continue
		}
		r.Request.ModelPath = r.ModelPath
		w, fresh, rerr := s.reserve(r.Request, spec)
		if rerr != nil || !fresh {
			err = errors.Join(err, rerr)
			continue
		}
		w.resume(r, p)
		s.begin(w, p)
		adopted++
		s.log.Info("took over a running worker", "worker_id", r.Request.WorkerID, "pid", r.PID)
	}
	s.removeStray()
	return adopted, ended, err
}

// sweep kills what has the mark of a worker in its environment, wherever it has gone.
func sweep(mark string) int {
	if mark == "" {
		return 0
	}
	pids := marked("RBEE_SPAWN_TOKEN=" + mark)
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return len(pids)
}

// port picks a free one that no other worker is about to take.
func (s *Supervisor) port() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 100 {
		n, err := s.free()
		if err != nil {
			return 0, err
		}
		if !s.ports[n] {
			s.ports[n] = true
			return n, nil
		}
	}
	return 0, errors.New("engine: no free port")
}

// freeTCP is a port on which nobody listens now; somebody may before the worker does, see lives.
func freeTCP() (int, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("engine: no free port: %w", err)
	}
	defer func() { _ = ln.Close() }()
	a, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("engine: no free port")
	}
	return a.Port, nil
}

func (s *Supervisor) freePort(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ports, n)
}

func notFound(id string) error {
	return &Error{WorkerID: id, Message: "there is no such worker on this machine; list them with `rbee worker ls`", Err: ErrNotFound}
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
