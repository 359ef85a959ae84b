package hivelifecycle

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// Options of a Manager. Only DataDir has no default.
type Options struct {
	// DataDir is the queen's data directory: hive NAME lives in DataDir/hives/NAME (0700).
	DataDir string
	// Binary is the rbee-hive of the configuration, used when none is beside this program or on PATH.
	Binary string
	// Executable tells where this program is; default os.Executable.
	Executable func() (string, error)
	// BundleDir holds rbee-hive-OS-ARCH for machines of another kind than this one.
	BundleDir string
	// Connector reaches other machines; nil = local hives only.
	Connector Connector
	// Version is the version that hives should have; "" = any.
	Version string
	// Events gets every step. It is called without locks held and should return at once.
	Events func(Event)
	// Log may be nil.
	Log *slog.Logger
	// LeaveRunning makes Close leave local hives running for the next queen to adopt.
	LeaveRunning bool
	// ReadyTimeout bounds the wait for a hive that was started; default 30 s.
	ReadyTimeout time.Duration
	// ProbeTimeout bounds one handshake; default 3 s.
	ProbeTimeout time.Duration
	// CheckEvery is how often a network hive is probed; default 5 s. Three misses in a row make it reconnect.
	CheckEvery time.Duration
	// Backoff gives the wait before the n-th restart of a hive in a row (n from 0); the default restarts at once,
	// then after 1 s, 2 s, 4 s ... at most 30 s.
	Backoff func(n int) time.Duration
	// Concurrency bounds how many network hives are being started at once; default 128.
	Concurrency int
	// Wake sends a Wake-on-LAN packet; default broadcasts it by UDP. Tests replace it.
	Wake func(ctx context.Context, mac net.HardwareAddr) error
}

func (o Options) withDefaults() Options {
	if o.Executable == nil {
		o.Executable = os.Executable
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ReadyTimeout <= 0 {
		o.ReadyTimeout = 30 * time.Second
	}
	if o.ProbeTimeout <= 0 {
		o.ProbeTimeout = 3 * time.Second
	}
	if o.CheckEvery <= 0 {
		o.CheckEvery = 5 * time.Second
	}
	if o.Backoff == nil {
		o.Backoff = defaultBackoff
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 128
	}
	return o
}

func defaultBackoff(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	return min(time.Second<<min(n-1, 10), 30*time.Second)
}

// Manager starts, adopts, watches and stops hives. Its methods may be called at once from any goroutine.
type Manager struct {
	o        Options
	reg      Registrar
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup // goroutines that end with ctx
	slots    chan struct{}  // network starts under way
	programs programs
	caMu     sync.Mutex
	ca       *authority // nil until a direct hive needs it

	mu     sync.Mutex
	hives  map[string]*hive
	closed bool
}

// New makes a Manager. reg may be nil.
func New(reg Registrar, o Options) (*Manager, error) {
	if o.DataDir == "" {
		return nil, errors.New("hivelifecycle: Options.DataDir is empty; give the queen's data directory")
	}
	if reg == nil {
		reg = nobody{}
	}
	o = o.withDefaults()
	if o.Wake == nil {
		o.Wake = wakeOnLAN
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Manager{
		o: o, reg: reg, ctx: ctx, cancel: cancel,
		slots: make(chan struct{}, o.Concurrency), hives: map[string]*hive{},
	}, nil
}

type nobody struct{}

func (nobody) HiveStatus(string, string, string) {}
func (nobody) HiveReady(string, Endpoint)        {}

// StartLocal makes sure that the hive runs on this machine: one that runs already and proves its identity is adopted,
// else it is started as a child in a process group of its own. It returns when the hive answers. Concurrent calls for
// one name share one start. From then on a hive that dies is started again until Stop or Close.
func (m *Manager) StartLocal(ctx context.Context, c LocalConfig) (Endpoint, error) {
	if err := checkName(c.Name); err != nil {
		return Endpoint{}, err
	}
	h, err := m.hive(c.Name, &c, nil)
	if err != nil {
		return Endpoint{}, err
	}
	return h.ensure(ctx, true)
}

// StartNetwork makes sure that the hive runs on another machine: connect, look, upload the program when it is missing
// or of another version, start it detached, wait until it answers and has proved its identity. A hive that runs there
// already is adopted. Concurrent calls for one name share one start.
func (m *Manager) StartNetwork(ctx context.Context, c NetworkConfig) (Endpoint, error) {
	if err := checkName(c.Name); err != nil {
		return Endpoint{}, err
	}
	if m.o.Connector == nil {
		return Endpoint{}, fail(c.Name, StepConnect, ErrNoConnector, "configure SSH")
	}
	if err := c.check(); err != nil {
		return Endpoint{}, err
	}
	h, err := m.hive(c.Name, nil, &c)
	if err != nil {
		return Endpoint{}, err
	}
	return h.ensure(ctx, true)
}

// EnsureRunning starts a hive again that StartLocal or StartNetwork was called for earlier, or returns at once with
// its endpoint when it answers. Concurrent calls are one.
func (m *Manager) EnsureRunning(ctx context.Context, name string) (Endpoint, error) {
	h, err := m.known(name)
	if err != nil {
		return Endpoint{}, err
	}
	return h.ensure(ctx, true)
}

// Endpoint is how the hive is reached now; ok is false while it does not run.
func (m *Manager) Endpoint(name string) (ep Endpoint, ok bool) {
	h, err := m.known(name)
	if err != nil {
		return Endpoint{}, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ep, h.ready
}

// Names lists the hives that were started or adopted, in order.
func (m *Manager) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.hives))
}

// Stop ends a hive: a polite request, then TERM, then KILL, each bounded. It is idempotent; a hive that does not run is
// no error. Only what this data directory's identity owns is ever signalled.
func (m *Manager) Stop(ctx context.Context, name string, o StopOptions) error {
	h, err := m.known(name)
	if err != nil {
		return err
	}
	return h.stop(ctx, o.withDefaults())
}

// Forget drops a hive from this Manager without stopping it; it is not restarted any more.
func (m *Manager) Forget(name string) {
	m.mu.Lock()
	h := m.hives[name]
	delete(m.hives, name)
	m.mu.Unlock()
	if h != nil {
		h.leave()
	}
}

// StopAll stops every hive, the ones on other machines too, at the same time.
func (m *Manager) StopAll(ctx context.Context, o StopOptions) error {
	return m.each(func(h *hive) error { return h.stop(ctx, o.withDefaults()) })
}

// Close ends the Manager. Local hives are stopped, or left running with Options.LeaveRunning; hives on other machines
// are left running (StopAll stops them too) and their connections are closed. ctx bounds the whole.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	err := m.each(func(h *hive) error {
		if h.local != nil && !m.o.LeaveRunning {
			return h.stop(ctx, StopOptions{}.withDefaults())
		}
		h.leave()
		return nil
	})
	m.cancel()
	m.wg.Wait()
	return err
}

func (m *Manager) each(f func(*hive) error) error {
	m.mu.Lock()
	hs := slices.Collect(maps.Values(m.hives))
	m.mu.Unlock()
	errs := make([]error, len(hs))
	var wg sync.WaitGroup
	for i, h := range hs {
		wg.Go(func() { errs[i] = f(h) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// hive finds or makes the record of a hive and gives it its newest configuration.
func (m *Manager) hive(name string, l *LocalConfig, n *NetworkConfig) (*hive, error) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, fail(name, StepStart, ErrClosed, "start the queen again")
	}
	h := m.hives[name]
	if h == nil {
		h = &hive{m: m, name: name, op: make(chan struct{}, 1)}
		m.hives[name] = h
	}
	m.mu.Unlock() // never m.mu before h.mu: join takes them the other way round
	h.mu.Lock()
	h.local, h.network = l, n
	h.mu.Unlock()
	return h, nil
}

func (m *Manager) known(name string) (*hive, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fail(name, StepStart, ErrClosed, "start the queen again")
	}
	h := m.hives[name]
	if h == nil {
		return nil, fail(name, StepStart, ErrNotFound, "add it first")
	}
	return h, nil
}

// spawnGo runs f on a goroutine that Close waits for; false when the Manager is closed.
func (m *Manager) spawnGo(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.wg.Go(f)
	return true
}

// event reports a step.
func (m *Manager) event(node string, step Step, state State, message string) {
	m.o.Log.Info("hive step", "node", node, "step", step, "state", state, "message", message)
	if m.o.Events != nil {
		m.o.Events(Event{Node: node, Step: step, State: state, Message: message, At: time.Now()})
	}
}
