package compose

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/admission"
	"github.com/queen-rbee/queen-rbee/hivelifecycle"
	"github.com/queen-rbee/queen-rbee/metrics"
	"github.com/queen-rbee/queen-rbee/metrics/correlate"
	"github.com/queen-rbee/queen-rbee/monitor"
	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/router"
	"github.com/queen-rbee/queen-rbee/scheduler"
)

// startHives starts or adopts every registered hive at once. The queen is ready when each was heard of or has failed,
// or after a while without the slow ones: what runs already must be known before anything is loaded anew.
func (q *Queen) startHives(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, h := range q.reg.Snapshot().Hives {
		wg.Go(func() {
			if err := q.startHive(ctx, h.Name); err != nil && ctx.Err() == nil {
				q.log.Error("hive does not start", "node", h.Name, "error", err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
	case <-ctx.Done():
	}
	q.src.refresh()
	close(q.ready)
	<-done
	return nil
}

// startHive starts or adopts a registered hive and waits until its state was heard.
func (q *Queen) startHive(ctx context.Context, name string) error {
	h, ok := q.reg.Snapshot().Hive(name)
	if !ok {
		return errNoNode
	}
	if guest(h) {
		q.mon.Watch(name)
		return nil
	}
	var err error
	if h.Mode == registry.ModeNetwork {
		_, err = q.manager.StartNetwork(ctx, q.networkConfig(h))
	} else {
		_, err = q.manager.StartLocal(ctx, hivelifecycle.LocalConfig{Name: name})
	}
	if err != nil {
		_ = q.reg.SetStatus(name, registry.StatusError, err.Error())
		return err
	}
	link, ok := q.links.link(name)
	if !ok {
		return errNoNode
	}
	select {
	case <-link.heard:
		q.prov.Resume(q.life, name)
		return nil
	case <-time.After(10 * time.Second):
		return &codedError{code: "HIVE_FAILED", msg: fmt.Sprintf("hive %s runs but tells nothing: see rbee hive logs %s", name, name)}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keep loads what the scheduler wants loaded whatever the line says.
func (q *Queen) keep(ctx context.Context) error {
	select {
	case <-q.ready:
	case <-ctx.Done():
		return nil
	}
	busy := sync.Map{} // model -> a load is under way
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if q.mon.SelfSuspect() {
			continue
		}
		for _, w := range q.sched.Wants() {
			if w.Load == "" {
				continue // eviction sweeps what is idle for too long
			}
			if _, under := busy.LoadOrStore(w.Load, true); under {
				continue
			}
			q.wg.Go(func() {
				defer busy.Delete(w.Load)
				q.want(ctx, w)
			})
		}
	}
}

func (q *Queen) want(ctx context.Context, w scheduler.Want) {
	d, release, err := q.sched.Claim(w.Load, w.Node, w.Device)
	if err != nil {
		return // the fleet has changed since; the next look decides anew
	}
	defer release.Done()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	if _, err := q.fleet.Load(ctx, router.LoadRequest{Model: w.Load, Node: d.Node, Device: d.Device, Evict: d.Evict}); err != nil {
		select { // Load has logged it; do not hammer a hive that cannot
		case <-time.After(10 * time.Second):
		case <-ctx.Done():
		}
	}
}

// used is what a job took by its record. A prompt was read when the answer began, whether or not the answer came to its
// end, where the worker would have counted it; before that nothing was served.
func used(complete bool, firstToken time.Time, prompt, output int) admission.Usage {
	if !complete && firstToken.IsZero() {
		prompt = 0
	}
	return admission.Usage{Prompt: int64(prompt), Output: int64(output)}
}

// done settles what the other modules know of a job, once, at its end.
func (q *Queen) done(j *router.Job, r router.Result) {
	e := q.live.drop(j.ID)
	if e != nil && e.grant != nil {
		e.grant.Settle(used(r.State == router.Complete, r.FirstToken, cmp.Or(r.PromptTokens, j.PromptTokens), r.TokensOut))
	}
	if e != nil {
		q.keeps.set(r.Worker, e.keep)
	}
	if r.State == router.Complete && !r.Started.IsZero() {
		q.wait.took(j.Model, r.Completed.Sub(r.Started))
	}
	if r.Worker != "" && q.touches.due(r.Worker, r.Completed) {
		q.reg.Touch(r.Worker, r.Completed, 0)
	}
	e.ended(j, r)
	q.aborted(j, r)
	m := metrics.Request{Operation: operationOf(j.Surface), Model: j.Model, Status: http.StatusOK, Code: r.Code, Duration: r.Completed.Sub(r.Submitted),
		Prompt: r.PromptTokens, Output: r.TokensOut, Cached: r.CachedTokens}
	if !r.Started.IsZero() {
		q.met.QueueWait(q.life, j.Priority, r.Started.Sub(r.Submitted))
	}
	if !r.FirstToken.IsZero() {
		m.FirstToken = r.FirstToken.Sub(r.Submitted)
		if r.TokensOut > 1 {
			m.PerToken = r.Completed.Sub(r.FirstToken) / time.Duration(r.TokensOut-1)
		}
	}
	switch r.State {
	case router.Failed:
		m.Status = http.StatusBadGateway
		if r.Status >= 400 {
			m.Status = r.Status
		}
	case router.CancelledJob:
		m.Status = 499
	}
	q.met.RequestDone(q.life, m)
	if q.log.Enabled(q.life, -4) {
		q.log.Debug("job", "job", j.ID, correlate.Key, j.CorrelationID, "state", r.State, "code", r.Code, "worker", r.Worker, "tokens", r.TokensOut)
	}
}

// restore takes up a job of an earlier queen.
func (q *Queen) restore(j *router.Job, e *entry) {
	q.met.RequestStart(q.life, operationOf(j.Surface))
	e.grant = q.adm.Restore(admission.Request{ID: j.ID, Tenant: j.Tenant, Model: j.Model, PromptTokens: int64(j.PromptTokens), MaxTokens: int64(j.MaxTokens)})
}

// served are the jobs that ended lately, for what a crash kept from being settled.
func (q *Queen) served(ctx context.Context) ([]admission.Served, error) {
	const page = 1000
	since := time.Now().Add(-10 * time.Minute)
	var out []admission.Served
	for before := int64(0); ; {
		recs, err := q.stores.jobs.List(ctx, queue.Filter{Limit: page}, before)
		if err != nil {
			return nil, err
		}
		for _, r := range recs {
			if r.State.Terminal() && r.Completed.After(since) {
				out = append(out, admission.Served{ID: r.ID, Tenant: r.Tenant, At: r.Completed,
					Usage: used(r.State == queue.Complete, r.FirstToken, r.PromptTokens, r.TokensOut)})
			}
		}
		if len(recs) < page || recs[page-1].Submitted.Before(since.Add(-time.Hour)) {
			return out, nil
		}
		before = recs[page-1].Key
	}
}

// waits keeps how long a model's jobs take, to tell a new one how long the line is.
type waits struct {
	mu   sync.Mutex
	mean map[string]time.Duration
}

func (w *waits) took(model string, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mean == nil || len(w.mean) > 10_000 {
		w.mean = map[string]time.Duration{}
	}
	if old, ok := w.mean[model]; ok {
		d = old + (d-old)/16
	}
	w.mean[model] = d
}

// estimate is the time until a job behind so many others starts on so many slots.
func (w *waits) estimate(model string, waiting, slots int) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mean[model] * time.Duration(waiting) / time.Duration(max(1, slots))
}

// load is the state of the line for admission.
func (q *Queen) load(model string) admission.Load {
	l := admission.Load{Max: q.cfg.Queue.Max, Waiting: q.q.Waiting(""), Took: q.wait.estimate(model, 1, 1)}
	l.Idle = l.Waiting == 0
	if !l.Idle {
		l.Wait = q.wait.estimate(model, q.q.Waiting(model), q.src.slots(model))
	}
	return l
}

// expireFrames drops the frames of streams that ended queue.keep_events ago.
func (q *Queen) expireFrames(ctx context.Context) error {
	keep := q.cfg.Queue.KeepEvents.D()
	tick := time.NewTicker(min(time.Minute, keep/2+time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := q.stores.journal.Expire(ctx, time.Now().Add(-keep)); err != nil && ctx.Err() == nil {
				q.log.Warn("expire frames", "error", err)
			}
		}
	}
}

// fleetChanged puts the registry's changes on the feed.
func (q *Queen) fleetChanged(c registry.Change) {
	if !q.bus.followed("") {
		return
	}
	switch {
	case c.Hive != nil:
		q.bus.publish("", string(c.Kind), hiveRecord(q.reg.Snapshot(), c.Hive), false)
	case c.Worker != nil:
		q.bus.publish("", string(c.Kind), workerRecord(c.Worker), false)
	default:
		q.bus.publish("", string(c.Kind), map[string]string{"id": c.ID}, false)
	}
}

// watchJobs puts the queue's changes on the feed while somebody follows it.
func (q *Queen) watchJobs(ctx context.Context) error {
	for c := range q.q.Watch(ctx) {
		if !q.bus.followed("") {
			continue
		}
		if c.Resync {
			q.bus.publish("", "resync", struct{}{}, false)
			continue
		}
		q.bus.publish("", "job", jobRecord(&c.Job), false)
	}
	return nil
}

// step puts one step of a hive's start or stop on the feed.
func (q *Queen) step(e hivelifecycle.Event) {
	q.bus.publish("", "hive_step", e, false)
	if op := q.bus.aliased(e.Node); op != "" {
		q.bus.publish(op, "step", e, false)
	}
}

// monitorReport carries the monitor's findings to the registry.
type monitorReport struct{ q *Queen }

var _ monitor.Reporter = (*monitorReport)(nil)

// NodeState implements monitor.Reporter.
func (m *monitorReport) NodeState(node string, s monitor.State, reason string) {
	m.q.log.Info("hive is "+string(s), "node", node, "reason", reason)
	if s == monitor.Online {
		reason = ""
	}
	if err := m.q.reg.SetStatus(node, registry.Status(s), reason); err != nil {
		m.q.log.Debug("hive status", "node", node, "error", err)
	}
}

// WorkerEjected implements monitor.Reporter.
func (m *monitorReport) WorkerEjected(id string, until time.Time) {
	m.q.log.Warn("worker is ejected", "worker", id, "until", until)
	m.q.src.refresh()
}

// WorkerRestored implements monitor.Reporter.
func (m *monitorReport) WorkerRestored(id string) {
	m.q.log.Info("worker is back", "worker", id)
	m.q.src.refresh()
}

// Alert implements monitor.Reporter.
func (m *monitorReport) Alert(kind, message string) {
	m.q.log.Error("alert: "+message, "kind", kind)
	m.q.bus.publish("", "alert", map[string]string{"kind": kind, "message": message}, false)
}

// hiveProber asks a hive that is silent.
type hiveProber struct{ q *Queen }

var _ monitor.Prober = (*hiveProber)(nil)

// Probe implements monitor.Prober.
func (p *hiveProber) Probe(ctx context.Context, node string) error {
	link, ok := p.q.links.link(node)
	if !ok {
		return errNoNode
	}
	_, err := link.client.Health(ctx)
	return err
}

// failover ends the connections to the workers of a hive that is offline, so that their jobs go on elsewhere.
func (q *Queen) failover(node string) {
	for _, w := range q.reg.Snapshot().Workers {
		if w.Node == node {
			q.fleet.hangUp(w.ID)
		}
	}
}

// gauges is the fleet as the metrics show it.
func (q *Queen) gauges() metrics.Fleet {
	snap := q.reg.Snapshot()
	var out metrics.Fleet
	tallies, err := q.q.Counts(q.life)
	if err == nil {
		waiting := map[string]int{queue.Interactive: 0, queue.Batch: 0}
		for _, t := range tallies {
			if t.State == queue.Queued {
				waiting[t.Priority] += int(t.N)
			}
		}
		for p, n := range waiting {
			out.Queue = append(out.Queue, metrics.Depth{Priority: p, Jobs: n})
		}
	}
	for _, h := range snap.Hives {
		m := metrics.Hive{Name: h.Name, Up: h.Status == registry.StatusOnline}
		for _, d := range h.Devices {
			m.Devices = append(m.Devices, metrics.Device{ID: d.ID, Total: d.MemoryTotal, Free: d.MemoryFree})
		}
		out.Hives = append(out.Hives, m)
	}
	counts := map[metrics.Workers]int{}
	for _, w := range snap.Workers {
		counts[metrics.Workers{Hive: w.Node, Model: w.Model, State: string(w.State)}]++
	}
	for k, n := range counts {
		k.Count = n
		out.Workers = append(out.Workers, k)
	}
	return out
}
