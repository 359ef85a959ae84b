package compose

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queen-rbee/queen-rbee/admission"
	"github.com/queen-rbee/queen-rbee/auth"
	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/certs"
	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/config"
	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/poll"
	"github.com/queen-rbee/queen-rbee/eviction"
	"github.com/queen-rbee/queen-rbee/hivelifecycle"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/batches"
	"github.com/queen-rbee/queen-rbee/httpserver/batches/sqlbatches"
	"github.com/queen-rbee/queen-rbee/metrics"
	"github.com/queen-rbee/queen-rbee/metrics/correlate"
	"github.com/queen-rbee/queen-rbee/metrics/prommetrics"
	"github.com/queen-rbee/queen-rbee/monitor"
	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/remote"
	"github.com/queen-rbee/queen-rbee/retry"
	"github.com/queen-rbee/queen-rbee/router"
	"github.com/queen-rbee/queen-rbee/scheduler"
	"github.com/queen-rbee/queen-rbee/scheduler/scriptsched"
	"github.com/queen-rbee/queen-rbee/sserelay"
)

// Options of a Queen beside its configuration.
type Options struct {
	Version string
	Log     *slog.Logger
	Level   *slog.LevelVar // of Log: Reload sets it; nil = it stays
	// LeaveHives leaves local hives and their workers running when the queen ends, for the next one to adopt.
	LeaveHives bool
	// OnDrain is called when Run begins to end; it may be nil.
	OnDrain func()
	// RestartAudit puts an audit log that was tampered with aside and begins a new one.
	RestartAudit bool
}

// Queen is the whole program. Make one with New, run it with Run.
type Queen struct {
	cfg *config.Config // as it was at the start; Reload changes what it can beside it
	o   Options
	log *slog.Logger

	stores   *stores
	reg      *registry.Registry
	links    *hiveLinks
	manager  *hivelifecycle.Manager
	pool     *remote.Pool
	mon      *monitor.Monitor
	adm      *admission.Controller
	keys     *auth.Keys
	audit    *auth.Audit
	prov     *provisioner.Provisioner
	q        *queue.Queue
	src      *source
	sched    *scheduler.Scheduler
	door     *schedDoor
	hub      *sserelay.Hub
	rt       *router.Router
	fleet    *fleet
	catalog  *catalog
	live     *live
	server   *httpserver.Server
	certs    *certs.Keeper // nil without TLS
	prom     *prommetrics.Provider
	met      *metrics.Instruments
	bus      *bus
	wait     waits
	touches  touches
	keeps    keeps
	sweeper  *eviction.Evictor
	batches  *batches.Batches
	policies *policies
	retry    *retry.Retrier
	poll     *poll.Loop // nil where the system has none
	hives    atomic.Pointer[[]config.Hive]

	life     context.Context // ends when everything has to stop
	kill     context.CancelFunc
	wg       sync.WaitGroup
	shutdown chan bool              // cascade
	address  atomic.Pointer[string] // where it listens
	ready    chan struct{}
}

// New opens the stores and puts the parts together. Nothing runs yet.
func New(ctx context.Context, cfg *config.Config, o Options) (_ *Queen, err error) {
	q := &Queen{cfg: cfg, live: newLive(), bus: newBus(), shutdown: make(chan bool, 1), ready: make(chan struct{})}
	o.Log = slog.New(correlate.New(o.Log.Handler(), q.correlation))
	q.o, q.log = o, o.Log
	q.life, q.kill = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			q.close()
		}
	}()
	if err = Check(ctx, cfg); err != nil {
		return nil, err
	}
	if err = os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	if q.stores, err = openStores(ctx, cfg.Store, cfg.DataDir, cfg.Listen, o.Log); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{q.openPoll, q.newTelemetry, q.newAccess, q.newFleet, q.newRouting, q.newServer} {
		if err = step(ctx); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (q *Queen) newTelemetry(ctx context.Context) (err error) {
	q.prom, err = prommetrics.New(ctx, prommetrics.Options{Version: q.o.Version, NoPrometheus: !q.cfg.Telemetry.Prometheus,
		OTLPEndpoint: q.cfg.Telemetry.OTLPEndpoint, SampleRatio: q.cfg.Telemetry.SampleRatio, OnError: func(err error) { q.log.Warn("telemetry", "error", err) }})
	if err != nil {
		return err
	}
	q.met, err = metrics.New(q.prom.Meter(), q.prom.Tracer(), metrics.Options{Version: q.o.Version, Remote: q.prom.RemoteTracer()})
	return err
}

// newAccess opens keys, audit log and tenants.
func (q *Queen) newAccess(ctx context.Context) (err error) {
	q.keeps.open(filepath.Join(q.cfg.DataDir, "keep_alive.json"), q.log)
	if err = q.openAudit(ctx, filepath.Join(q.cfg.DataDir, "audit.jsonl")); err != nil {
		return err
	}
	if q.keys, err = auth.New(ctx, q.stores.auth, auth.Options{Logger: q.log, Audit: q.audit, KeepAdmin: true}); err != nil {
		return err
	}
	if err = auth.CheckListen(q.cfg.Listen, q.keys.Any()); err != nil {
		return err
	}
	// the queue is opened here since admission wants to know what was served before a crash
	q.q = queue.New(q.stores.jobs, queue.Options{Max: q.cfg.Queue.Max, Retention: q.cfg.Queue.Retention.D(), KeepPayloads: q.cfg.Queue.KeepPayloads, Logger: q.log})
	depth := admission.DepthFunc(func(model string) admission.Load {
		if q.rt == nil {
			return admission.Load{Idle: true}
		}
		return q.load(model)
	})
	served, err := q.served(ctx)
	if err != nil {
		return err
	}
	q.adm, err = admission.New(ctx, q.stores.adm, depth, admission.Options{Default: limits(q.cfg.Limits["default"]), Logger: q.log,
		Served: served, OnRefuse: func(code string) { q.met.Rejected(q.life, code) }})
	if err != nil {
		return err
	}
	return q.setLimits(ctx, q.cfg)
}

func limits(l config.Limits) admission.Limits {
	return admission.Limits{RPM: l.RPM, TPM: l.TPM, Concurrent: l.Concurrent, TokensPerDay: l.TokensPerDay, Models: l.Models}
}

// newFleet makes registry, monitor, hives and models.
func (q *Queen) newFleet(ctx context.Context) (err error) {
	if q.reg, err = registry.New(ctx, q.stores.registry, registry.Options{Logger: q.log}); err != nil {
		return err
	}
	q.src = newSource(q.reg)
	q.retry = retry.New(retry.Options{Attempts: 3, OnEvent: func(e retry.Event) {
		if !e.Final {
			q.met.Retried(q.life, e.Op)
		}
	}})
	q.mon = monitor.New(&monitorReport{q}, monitor.Options{Logger: q.log, Prober: &hiveProber{q}, Failover: q.failover})
	q.links = &hiveLinks{log: q.log, reg: q.reg, mon: q.mon, ctx: q.life, links: map[string]*hiveLink{}, workers: map[string]hiveapi.Worker{}, span: q.remote,
		dropped: func() { q.met.Evicted(q.life, "file") }}
	q.links.level.Store(&q.cfg.Log.Level)
	q.pool = remote.NewPool(remote.Options{Log: q.log, KeyDir: q.cfg.SSH.KeyDir})
	q.manager, err = hivelifecycle.New(q.links, hivelifecycle.Options{DataDir: q.cfg.DataDir, Connector: &connector{q.pool}, Version: q.o.Version,
		Log: q.log, LeaveRunning: q.o.LeaveHives, BundleDir: bundleDir(), Events: q.step})
	if err != nil {
		return err
	}
	q.fleet = &fleet{log: q.log, reg: q.reg, links: q.links, manager: q.manager, src: q.src, mon: q.mon, met: q.met, causes: &causes{},
		nearGuests: auth.IsLoopback(q.cfg.Listen)}
	q.fleet.engines.Store(&q.cfg.Engines)
	if err = q.fleet.setExternals(q.cfg.Externals); err != nil {
		return err
	}
	q.prov, err = provisioner.New(ctx, &provHives{f: q.fleet, listen: q.listenNear}, q.stores.models, provisioner.Options{Entries: modelEntries(q.cfg), Aliases: q.cfg.Aliases, Logger: q.log,
		Token: hubToken, Retry: q.retry.Do, Pin: newModelHub().pin, Inspect: inspect})
	if err != nil {
		return err
	}
	q.links.learn = func(node string, m hiveapi.Model) { q.prov.Learn(hiveModel(node, m)) }
	q.fleet.prov = q.prov
	q.catalog = &catalog{f: q.fleet, prov: q.prov, since: time.Now()}
	q.catalog.aliases.Store(&q.cfg.Aliases)
	q.src.needs = q.catalog.needs
	q.src.ejected = func(id string) bool { _, out := q.mon.Ejected(id); return out }
	q.src.pool = q.mon.Pool
	q.src.restarting = func(id string) bool { w, ok := q.links.known(id); return ok && w.Restarting }
	q.src.refresh()
	return q.putHives(ctx, *q.cfg.Hives)
}

// putHives writes the configured hives into the registry; what it already knows of them stays.
func (q *Queen) putHives(ctx context.Context, hives []config.Hive) error {
	q.hives.Store(&hives)
	for _, h := range hives {
		rec := registry.Hive{Name: h.Name, Mode: h.Mode, Address: h.Address, Labels: h.Labels, Budget: h.Budget, Status: registry.StatusStarting}
		if h.Mode == registry.ModeNetwork {
			t, err := sshTarget(h)
			if err != nil {
				return err
			}
			rec.SSH = &registry.SSHTarget{User: t.User, Host: t.Host, Port: t.Port, Identity: h.Identity, HostKey: h.HostKey}
		}
		if err := q.reg.Put(ctx, rec); err != nil {
			return fmt.Errorf("hive %s: %w", h.Name, err)
		}
	}
	return nil
}

// newRouting makes scheduler, relay and router.
func (q *Queen) newRouting(ctx context.Context) error {
	ev := &evictor{policy: eviction.GDSF, now: time.Now, uses: func(string) float64 { return 1 },
		reload: func(model string) float64 {
			n := q.src.Snapshot().Needs[model]
			if n.LoadTime > 0 {
				return n.LoadTime.Seconds()
			}
			return float64(n.LoadBytes) / 1e9
		}}
	q.policies = &policies{q: q}
	o := scheduler.Options{Evictor: ev, Logger: q.log, Seed: 1}
	if n := q.cfg.Scheduler.Record; n > 0 {
		q.policies.ring = scheduler.NewRing(n)
		o.Recorder = q.policies.ring
	} else {
		q.policies.ring = scheduler.NewRing(1)
	}
	q.sched = scheduler.New(q.src, o)
	store, err := newPolicyStore(ctx, q.stores.state, q.cfg.Scheduler.Policy)
	if err != nil {
		return fmt.Errorf("policy versions: %w", err)
	}
	q.policies.store = store
	q.policies.manager = scriptsched.NewManager(q.sched.SetPolicy, scriptsched.Options{Immutable: q.cfg.Scheduler.Mode == "platform", Logger: q.log,
		Store: store})
	if err := q.policies.open(ctx); err != nil {
		return err
	}
	q.hub = sserelay.NewHub(q.stores.journal, sserelay.Options{Logger: q.log,
		OnCut:     func(string) { q.met.StreamAborted(q.life, "reader") },
		OnJournal: func(job string, err error) { q.log.Error("journal", "job", job, "error", err) }})
	q.door = &schedDoor{s: q.sched, workers: q.fleet.worker, met: q.met, causes: q.fleet.causes, flights: map[string]int{},
		needs: func(model string) (scheduler.Need, bool) { n, ok := q.src.Snapshot().Needs[model]; return n, ok }}
	q.fleet.inFlight = q.door.inFlight
	idle := &idleWorkers{q}
	q.sweeper = eviction.New(idle, idle, eviction.Options{Interval: 500 * time.Millisecond, Logger: q.log,
		OnEvict: func(it eviction.Item, why string) {
			q.met.Evicted(q.life, "worker")
			q.log.Info("worker stopped", "worker", it.ID, "reason", why)
		}})
	qd := &queueDoor{q: q.q, live: q.live, restore: q.restore}
	t := q.cfg.Timeouts
	q.rt = router.New(q.door, qd, q.fleet, q.fleet, &streams{hub: q.hub, sched: q.sched, met: q.met}, router.Options{
		FirstToken: t.FirstToken.D(), InterToken: t.InterToken.D(), QueueTimeout: q.cfg.Queue.Timeout.D(), Reattach: q.cfg.Queue.Reattach.D(),
		MaxWaiting: q.cfg.Queue.Max, MaxIdle: 256, LateCommit: true, LoadBase: loadTime(t.Load), NewID: q.q.NewID, Log: q.log, Ready: q.ready,
		Budget: retry.NewBudget(retry.BudgetOptions{}), Slots: q.src.slots, Poller: q.routerPoll(),
		Hooks: router.Hooks{OnDone: q.done, OnRetry: func(j *router.Job, worker string, continued bool, _ error) {
			if e := entryOf(j); e != nil {
				e.trace.Event("worker lost", "worker", worker)
			}
			if continued {
				q.met.Rescued(q.life, "continue")
			} else {
				q.met.Retried(q.life, "worker")
			}
		}}})
	return nil
}

func loadTime(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0 // auto
	}
	return d
}

// newServer makes the HTTP face.
func (q *Queen) newServer(ctx context.Context) (err error) {
	sub := &submitter{adm: q.adm, rt: q.rt, q: q.q, live: q.live, hub: q.hub, met: q.met, resolve: q.catalog.resolve, serves: q.fleet.serves, modelWait: q.cfg.Timeouts.ModelWait.D()}
	guard := &auth.Guard{Keys: q.keys, RequireKey: q.cfg.Auth.Mode == "keys", Loopback: auth.IsLoopback(q.cfg.Listen)}
	t := &trail{log: q.log, audit: q.audit}
	hives := &hivesAPI{f: q.fleet, bus: q.bus, start: q.startHive, ctx: q.life}
	secure, err := q.openTLS()
	if err != nil {
		return err
	}
	store, err := sqlbatches.New(ctx, q.stores.state, sqlbatches.SQLite)
	if err != nil {
		return err
	}
	if q.batches, err = batches.New(store, sub, batches.Options{Log: q.log}); err != nil {
		return err
	}
	q.server, err = httpserver.New(sub, &authDoor{guard, q.adm}, httpserver.Options{
		Jobs: &jobs{q: q.q, rt: q.rt, sched: q.sched, sub: sub, ring: q.policies.ring}, Catalog: q.catalog,
		Models:  &auditedModels{&modelsAPI{c: q.catalog, f: q.fleet, bus: q.bus, src: q.src, ctx: q.life}, t},
		Workers: &workersAPI{f: q.fleet, mon: q.mon, ctx: q.life, ttl: q.ttl, alert: (&monitorReport{q}).Alert}, Loader: &loader{q, sub}, Hives: &auditedHives{hives, t}, Feed: q.bus, Logs: &logsAPI{q.fleet},
		Engines: &enginesAPI{f: q.fleet, bus: q.bus, t: t, ctx: q.life, catalog: q.cfg.EngineCatalog}, Pages: pagesAPI{q.fleet},
		Policies: &auditedPolicies{q.policies, t}, Tenants: &auditedTenants{&tenantsAPI{q.adm}, t}, Keys: &keysAPI{q.keys}, Targets: &targets{q},
		Doctor: &examiner{q},
		Admin:  &auditedAdmin{&adminAPI{stop: q.Stop}, t}, Ready: q.isReady, Metrics: q.prom.Handler(), EngineMetrics: http.HandlerFunc(q.engineMetrics), Batches: q.batches,
		AllowedHosts: q.cfg.HTTP.Hosts, AllowedOrigins: q.cfg.HTTP.Origins, Version: q.o.Version, Log: q.log, TLS: secure, Poller: q.serverPoll()})
	return err
}

// hubToken is the operator's credential for the model hub; it goes with each download and is kept nowhere.
func hubToken(ref provisioner.Ref) string {
	if ref.Scheme == provisioner.SchemeHF {
		return os.Getenv("HF_TOKEN")
	}
	return ""
}

// Stop begins the end of Run; with cascade the hives that were started end too, whatever Options.LeaveHives says.
func (q *Queen) Stop(cascade bool) {
	select {
	case q.shutdown <- cascade:
	default:
	}
}

var errNotReady = errors.New("the hives have not been heard of yet")

func (q *Queen) isReady(context.Context) error {
	select {
	case <-q.ready:
		return nil
	default:
		return errNotReady
	}
}

// Run serves on the listener until ctx ends or Stop is called, then drains. It returns when everything that it started
// has ended.
func (q *Queen) Run(ctx context.Context, l net.Listener, serving func()) error {
	defer q.close()
	address := reachable(l.Addr())
	q.address.Store(&address)
	background := func(name string, fn func(context.Context) error) {
		q.wg.Go(func() {
			if err := fn(q.life); err != nil && q.life.Err() == nil {
				q.log.Error(name+" ended", "error", err)
			}
		})
	}
	background("monitor", q.mon.Run)
	background("admission", q.adm.Run)
	if err := q.rt.Recover(ctx); err != nil { // whoever comes back must find his job
		return fmt.Errorf("take up unfinished jobs: %w", err)
	}
	changes := q.reg.Watch(q.life)
	background("fleet", func(ctx context.Context) error { return q.src.run(ctx, changes, q.fleetChanged) })
	background("feed", q.watchJobs)
	background("hives", q.startHives)
	background("router", q.rt.Run)
	background("keeper", q.keep)
	background("sweeper", q.sweeper.Run)
	background("policies", q.policies.manager.Run)
	background("frames", q.expireFrames)
	batching, stopBatches := context.WithCancel(q.life) // ends first: its lines are jobs like others
	defer stopBatches()
	background("batches", func(context.Context) error { return q.batches.Run(batching) })
	background("externals", q.probeExternals)
	stop, err := q.met.ObserveFleet(q.gauges)
	if err != nil {
		return err
	}
	defer func() { _ = stop() }()

	serveErr := make(chan error, 1)
	go func() { serveErr <- q.server.Serve(q.life, l) }()
	serving()
	cascade := false
	select {
	case err = <-serveErr:
	case <-ctx.Done():
	case cascade = <-q.shutdown:
	}
	if q.o.OnDrain != nil {
		q.o.OnDrain()
	}
	stopBatches()
	q.drain()
	if cascade || !q.o.LeaveHives {
		q.stopHives(cascade)
	}
	return err
}

// drain lets what is under way finish for as long as the configuration allows.
func (q *Queen) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), q.cfg.Timeouts.Drain.D())
	defer cancel()
	q.server.Refuse()
	if err := q.rt.Drain(ctx); err != nil {
		q.log.Warn("drain", "error", err)
	}
	last, cancelLast := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancelLast()
	if err := q.hub.Close(last); err != nil {
		q.log.Warn("streams", "error", err)
	}
	if err := q.server.Drain(last); err != nil {
		q.log.Warn("http", "error", err)
	}
}

// Close releases a queen that is not run.
func (q *Queen) Close() { q.close() }
