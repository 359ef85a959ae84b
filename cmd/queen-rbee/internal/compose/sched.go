package compose

import (
	"context"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/eviction"
	"github.com/queen-rbee/queen-rbee/metrics"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/router"
	"github.com/queen-rbee/queen-rbee/scheduler"
)

// schedDoor lets the router speak to the scheduler.
type schedDoor struct {
	s       *scheduler.Scheduler
	workers func(id string) (router.Worker, bool)
	needs   func(model string) (scheduler.Need, bool)
	met     *metrics.Instruments
	causes  *causes

	mu      sync.Mutex
	flights map[string]int // requests that were routed to a worker and have not ended
}

var _ router.Scheduler = (*schedDoor)(nil)

// work is what compose hangs on a router.Job.
type work struct {
	sched *scheduler.Job
	entry *entry
}

func schedJob(j *router.Job) *scheduler.Job {
	w, ok := j.Aux.(*work)
	if !ok {
		w = &work{}
		j.Aux = w
	}
	if w.sched == nil {
		w.sched = &scheduler.Job{ID: j.ID, Tenant: j.Tenant, Model: j.Model, Priority: j.Priority, Session: j.Session, Node: j.Node,
			PromptTokens: j.PromptTokens, MaxTokens: j.MaxTokens, Submitted: j.Submitted, Deadline: j.Deadline}
		if len(j.Prompt) > 0 {
			w.sched.Blocks = scheduler.Blocks(j.Model, j.Prompt)
		}
	}
	w.sched.ID = j.ID
	w.sched.Exclude = j.Exclude
	return w.sched
}

// Place implements router.Scheduler.
func (d *schedDoor) Place(ctx context.Context, j *router.Job) (router.Placement, error) {
	begin := time.Now()
	dec, rel, err := d.s.Place(ctx, schedJob(j))
	d.met.ScheduleDuration(ctx, dec.Action.String(), time.Since(begin))
	d.placed(j, dec, begin, err)
	if err != nil {
		return router.Placement{}, err
	}
	return d.placement(j, dec, rel), nil
}

// Pick implements router.Scheduler.
func (d *schedDoor) Pick(ctx context.Context, line []*router.Job) (int, router.Placement, error) {
	jobs := make([]*scheduler.Job, len(line))
	for i, j := range line {
		jobs[i] = schedJob(j)
	}
	begin := time.Now()
	i, dec, rel, err := d.s.Pick(ctx, jobs)
	d.met.ScheduleDuration(ctx, dec.Action.String(), time.Since(begin))
	if err != nil || i < 0 {
		return -1, router.Placement{Action: router.Wait, RetryAfter: dec.Wait}, err
	}
	d.placed(line[i], dec, begin, nil)
	return i, d.placement(line[i], dec, rel), nil
}

func (d *schedDoor) placement(j *router.Job, dec scheduler.Decision, rel scheduler.Release) router.Placement {
	p := router.Placement{Node: dec.Node, Evict: dec.Evict, Code: dec.Code, Reason: dec.Reason, RetryAfter: dec.Wait}
	switch dec.Action {
	case scheduler.Route:
		w, ok := d.workers(dec.Worker)
		if !ok { // it went away between the snapshot and now
			rel.Done()
			return router.Placement{Action: router.Wait, RetryAfter: 50 * time.Millisecond}
		}
		p.Action, p.Worker = router.Route, w
		d.fly(w.ID, 1)
		p.Release = func(router.Outcome) {
			d.fly(w.ID, -1)
			rel.Done()
		}
	case scheduler.Provision:
		p.Action = router.Provision
		if n, ok := d.needs(j.Model); ok {
			p.LoadBytes = n.LoadBytes
		}
		p.Device = dec.Device
		p.Release = func(router.Outcome) { rel.Done() }
	case scheduler.Queue:
		p.Action = router.Wait
	case scheduler.Reject:
		p.Action = router.Reject
	}
	return p
}

func (d *schedDoor) fly(worker string, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flights[worker] += n; d.flights[worker] <= 0 {
		delete(d.flights, worker)
	}
}

// inFlight counts the requests under way on a worker.
func (d *schedDoor) inFlight(worker string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flights[worker]
}

// Observe implements router.Scheduler.
func (d *schedDoor) Observe(j *router.Job, w router.Worker, o router.Outcome) {
	cached := o.CachedTokens
	if o.Frames == 0 {
		cached = -1
	}
	d.s.Observe(scheduler.Observation{Job: schedJob(j), Worker: w.ID, Prompt: o.PromptTokens, Cached: cached, Output: o.Tokens,
		Queue: max(0, o.Started.Sub(j.Submitted)), TTFT: o.FirstToken, Decode: max(0, o.Duration-o.FirstToken), OK: o.Kind == router.Completed})
}

// evictor lets the scheduler ask eviction which workers to stop.
type evictor struct {
	policy eviction.Policy
	reload func(model string) float64 // seconds
	uses   func(workerID string) float64
	now    func() time.Time
}

var _ scheduler.Evictor = (*evictor)(nil)

// Plan implements scheduler.Evictor.
func (e *evictor) Plan(_, _ string, need int64, candidates []scheduler.Worker) ([]string, time.Duration, bool) {
	items := make([]eviction.Item, len(candidates))
	for i, w := range candidates {
		items[i] = eviction.Item{ID: w.ID, Size: w.Memory, LastUsed: w.LastUsed, Uses: e.uses(w.ID), ReloadSeconds: e.reload(w.Model), Pinned: w.Pinned}
	}
	plan, err := eviction.Plan(e.now(), items, need, e.policy)
	if err != nil {
		return nil, 0, false
	}
	return plan.IDs(), plan.Penalty, true
}

// ready says whether a worker can take requests.
func ready(w *registry.Worker) bool {
	return w.State == registry.WorkerIdle || w.State == registry.WorkerBusy
}
