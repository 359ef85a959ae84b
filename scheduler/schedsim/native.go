package schedsim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

// fleet is what a driver runs on: how it begins, what a load makes, how a snapshot looks.
type fleet interface {
	start(d *driver)
	worker(d *driver, model, node, device string) *server
	snapshot(d *driver) *scheduler.Snapshot
	loadTime(model string) time.Duration
}

// driver runs the real scheduler through its public API, as the queen does: Place at an arrival, Pick
// when something freed, a first token came or a hint is due; one new Snapshot per change of the fleet.
type driver struct {
	*world
	s       *scheduler.Scheduler
	fleet   fleet
	snap    *scheduler.Snapshot
	line    []*scheduler.Job
	tasks   map[string]*task
	rel     map[*task]scheduler.Release
	jobs    map[*task]*scheduler.Job
	byID    map[string]*server
	made    int
	wake    time.Duration
	emerged map[string]time.Duration // when a model last came to have a ready worker
	base    time.Time
}

// RunNative runs a trace against the scheduler; tune may change its options (a policy, weights).
func RunNative(name string, reqs []Request, cfg Config, tune func(*scheduler.Options)) *Result {
	jobs := make([]*scheduler.Job, len(reqs))
	for i, r := range reqs {
		jobs[i] = &scheduler.Job{ID: fmt.Sprint(i), Model: r.Model, PromptTokens: r.In, MaxTokens: r.Out, Blocks: r.Blocks}
		if cfg.Blind {
			jobs[i].MaxTokens = 0
		}
	}
	return drive(name, reqs, jobs, cfg, &plain{cfg}, time.Unix(0, 0), tune)
}

func drive(name string, reqs []Request, jobs []*scheduler.Job, cfg Config, f fleet, base time.Time, tune func(*scheduler.Options)) *Result {
	d := &driver{world: &world{cfg: cfg, res: &Result{Policy: name, Requests: len(reqs)}}, fleet: f, tasks: map[string]*task{}, rel: map[*task]scheduler.Release{},
		jobs: map[*task]*scheduler.Job{}, byID: map[string]*server{}, emerged: map[string]time.Duration{}, base: base}
	d.onFirst, d.onDone = d.firstCame, d.done
	f.start(d)
	d.publish()
	o := scheduler.Options{Now: func() time.Time { return d.base.Add(d.now) }, Seed: cfg.Seed, Evictor: d}
	if tune != nil {
		tune(&o)
	}
	d.s = scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return d.snap }), o)
	for i := range reqs {
		t, job := &task{id: i, req: &reqs[i]}, jobs[i]
		d.seq++
		d.queue = append(d.queue, event{reqs[i].At, d.seq, func() { d.arrive(t, job) }})
	}
	d.run()
	return d.res.finish()
}

// plain is a fleet of equal hives, from a Config.
type plain struct{ cfg Config }

func (p *plain) start(d *driver) {
	if p.cfg.Models > 1 {
		return
	}
	for i := range p.cfg.Workers {
		d.add(p.worker(d, modelName(0), fmt.Sprintf("h%d", i), "0"))
	}
}

func (p *plain) worker(d *driver, model, node, device string) *server {
	i := 0
	fmt.Sscanf(node, "h%d", &i)
	return &server{model: model, node: node, place: device, device: i, prefillRate: p.cfg.Prefill * d.speed(i), decodeRate: p.cfg.Decode * d.speed(i),
		slots: p.cfg.Slots, cache: newLRU(p.cfg.CacheBlocks), memory: p.cfg.ModelBytes}
}

func (p *plain) loadTime(string) time.Duration {
	return time.Duration(float64(p.cfg.ModelBytes) / p.cfg.Bandwidth * 1e9)
}

func (p *plain) snapshot(d *driver) *scheduler.Snapshot {
	snap := &scheduler.Snapshot{Needs: map[string]scheduler.Need{}}
	used := map[string]int64{}
	for _, s := range d.servers {
		w := d.record(s)
		if !p.cfg.Blind {
			w.CacheBlocks, w.PrefillRate, w.DecodeRate = p.cfg.CacheBlocks, s.prefillRate, s.decodeRate
		}
		used[s.node] += s.memory
		snap.Workers = append(snap.Workers, w)
	}
	total := p.cfg.ModelBytes * int64(max(p.cfg.Hold, 1))
	for i := range p.cfg.Workers {
		name := fmt.Sprintf("h%d", i)
		snap.Hives = append(snap.Hives, scheduler.Hive{Name: name, Devices: []scheduler.Device{{ID: "0", Total: total, Free: total - used[name]}}})
		if used[name] > total {
			d.res.OverMemory++
		}
	}
	if p.cfg.Models > 1 {
		for m := range p.cfg.Models {
			snap.Needs[modelName(m)] = scheduler.Need{Memory: p.cfg.ModelBytes, LoadTime: p.loadTime(""), Slots: p.cfg.Slots}
		}
	}
	return snap
}

func (d *driver) record(s *server) scheduler.Worker {
	return scheduler.Worker{ID: s.id, Node: s.node, Device: s.place, Model: s.model, Slots: s.slots, Memory: s.memory, Started: d.base.Add(s.ready)}
}

func (d *driver) add(s *server) {
	d.made++
	if s.id == "" {
		s.id = fmt.Sprintf("w%d", d.made)
	}
	s.ready, s.lastUse = d.now, d.now
	d.servers = append(d.servers, s)
	d.byID[s.id] = s
}

// publish makes the snapshot of the fleet as it is.
func (d *driver) publish() {
	next := d.fleet.snapshot(d)
	next.Version = 1
	if d.snap != nil {
		next.Version = d.snap.Version + 1
	}
	d.snap = next
}

func (d *driver) arrive(t *task, job *scheduler.Job) {
	job.Submitted = d.base.Add(d.now)
	d.tasks[job.ID], d.jobs[t] = t, job
	dec, rel, err := d.s.Place(context.Background(), job)
	if err != nil {
		d.res.Rejected++
		return
	}
	if !d.act(job, dec, rel) {
		d.line = append(d.line, job)
	}
	d.pickAll(dec.Wait)
}

// act carries a decision out; false keeps the job in the line.
func (d *driver) act(job *scheduler.Job, dec scheduler.Decision, rel scheduler.Release) bool {
	switch dec.Action {
	case scheduler.Route:
		t, s := d.tasks[job.ID], d.byID[dec.Worker]
		t.cold = d.emerged[t.req.Model] > t.req.At
		d.rel[t] = rel
		d.dispatch(s, t)
		return true
	case scheduler.Provision:
		d.load(job, dec, rel)
	}
	return false
}

// load stops the victims and brings the new worker after the load time.
func (d *driver) load(job *scheduler.Job, dec scheduler.Decision, rel scheduler.Release) {
	d.res.Loads++
	if len(dec.Evict) > 0 {
		d.res.Swaps++
	}
	for _, id := range dec.Evict {
		s := d.byID[id]
		if s.load() > 0 {
			d.res.OverMemory++
		}
		d.servers = slices.DeleteFunc(d.servers, func(x *server) bool { return x == s })
		delete(d.byID, id)
	}
	if len(dec.Evict) > 0 {
		d.publish()
	}
	m := job.Model
	d.after(d.fleet.loadTime(m), func() {
		if !slices.ContainsFunc(d.servers, func(s *server) bool { return s.model == m }) {
			d.emerged[m] = d.now
		}
		d.add(d.fleet.worker(d, m, dec.Node, dec.Device))
		d.publish()
		rel.Done()
		d.pickAll(0)
	})
}

// pickAll starts what can start, and plans to look again.
func (d *driver) pickAll(wait time.Duration) {
	for len(d.line) > 0 {
		i, dec, rel, err := d.s.Pick(context.Background(), d.line)
		if i < 0 {
			wait = dec.Wait
			break
		}
		if err != nil {
			d.res.Rejected++
		}
		if err != nil || d.act(d.line[i], dec, rel) {
			d.line = slices.Delete(d.line, i, i+1)
		}
	}
	if wait <= 0 || len(d.line) == 0 || d.cfg.Plain {
		return
	}
	if at := d.now + wait; d.wake <= d.now || at < d.wake {
		d.wake = at
		d.after(wait, func() {
			if d.wake == d.now {
				d.pickAll(0)
			}
		})
	}
}

func (d *driver) firstCame(_ *server, t *task) {
	if !d.cfg.Plain {
		d.s.FirstToken(d.jobs[t].ID)
		d.pickAll(0)
	}
}

func (d *driver) done(s *server, t *task) {
	job := d.jobs[t]
	d.rel[t].Done()
	d.s.Observe(scheduler.Observation{Job: job, Worker: s.id, Prompt: t.req.In, Cached: t.cached, Output: t.req.Out,
		Queue: t.dispatched - t.req.At, TTFT: t.first - t.dispatched, Decode: d.now - t.first, OK: true})
	delete(d.rel, t)
	delete(d.jobs, t)
	delete(d.tasks, job.ID)
	d.pickAll(0)
}

// Plan is a plain evictor for the simulator: least recently used first.
func (d *driver) Plan(_, _ string, need int64, candidates []scheduler.Worker) ([]string, time.Duration, bool) {
	slices.SortStableFunc(candidates, func(a, b scheduler.Worker) int { return a.LastUsed.Compare(b.LastUsed) })
	var ids []string
	var penalty time.Duration
	for _, w := range candidates {
		if need <= 0 {
			break
		}
		ids, need, penalty = append(ids, w.ID), need-w.Memory, penalty+d.fleet.loadTime(w.Model)
	}
	return ids, penalty, need <= 0
}

func modelName(i int) string { return fmt.Sprintf("m%d", i) }
