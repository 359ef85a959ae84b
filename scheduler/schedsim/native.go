package schedsim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

// driver runs the real scheduler through its public API, as the queen does: Place at an arrival, Pick
// when something freed, a first token came or a hint is due; one new Snapshot per change of the fleet.
type driver struct {
	*world
	s       *scheduler.Scheduler
	snap    *scheduler.Snapshot
	line    []*scheduler.Job
	tasks   map[string]*task
	rel     map[*task]scheduler.Release
	jobs    map[*task]*scheduler.Job
	byID    map[string]*server
	made    int
	wake    time.Duration
	emerged map[int]time.Duration // when a model last came to have a ready worker
	base    time.Time
}

// RunNative runs a trace against the scheduler; tune may change its options (a policy, weights).
func RunNative(name string, reqs []Request, cfg Config, tune func(*scheduler.Options)) *Result {
	d := &driver{world: &world{cfg: cfg, res: &Result{Policy: name, Requests: len(reqs)}}, tasks: map[string]*task{},
		rel: map[*task]scheduler.Release{}, jobs: map[*task]*scheduler.Job{}, byID: map[string]*server{}, emerged: map[int]time.Duration{}, base: time.Unix(0, 0)}
	d.onFirst, d.onDone = d.firstCame, d.done
	if cfg.Models <= 1 {
		for i := range cfg.Workers {
			d.add(i, 0)
		}
	}
	d.publish()
	o := scheduler.Options{Now: func() time.Time { return d.base.Add(d.now) }, Seed: cfg.Seed, Evictor: d}
	if tune != nil {
		tune(&o)
	}
	d.s = scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return d.snap }), o)
	for i := range reqs {
		t := &task{id: i, req: &reqs[i]}
		d.seq++
		d.queue = append(d.queue, event{reqs[i].At, d.seq, func() { d.arrive(t) }})
	}
	d.run()
	return d.res.finish()
}

func model(i int) string { return fmt.Sprintf("m%d", i) }

func (d *driver) add(device, m int) *server {
	d.made++
	s := &server{id: fmt.Sprintf("w%d", d.made), model: m, device: device, speed: d.speed(device), slots: d.cfg.Slots, cache: newLRU(d.cfg.CacheBlocks), ready: d.now, lastUse: d.now}
	d.servers = append(d.servers, s)
	d.byID[s.id] = s
	return s
}

// publish makes the snapshot of the fleet as it is.
func (d *driver) publish() {
	snap := &scheduler.Snapshot{Version: 1, Needs: map[string]scheduler.Need{}}
	if d.snap != nil {
		snap.Version = d.snap.Version + 1
	}
	used := map[int]int64{}
	for _, s := range d.servers {
		w := scheduler.Worker{ID: s.id, Node: fmt.Sprintf("h%d", s.device), Device: "0", Model: model(s.model), Slots: s.slots, Memory: d.cfg.ModelBytes, Started: d.base.Add(s.ready)}
		if !d.cfg.Blind {
			w.CacheBlocks, w.PrefillRate, w.DecodeRate = d.cfg.CacheBlocks, d.cfg.Prefill*s.speed, d.cfg.Decode*s.speed
		}
		used[s.device] += d.cfg.ModelBytes
		snap.Workers = append(snap.Workers, w)
	}
	total := d.cfg.ModelBytes * int64(max(d.cfg.Hold, 1))
	for i := range d.cfg.Workers {
		snap.Hives = append(snap.Hives, scheduler.Hive{Name: fmt.Sprintf("h%d", i), Devices: []scheduler.Device{{ID: "0", Total: total, Free: total - used[i]}}})
		if used[i] > total {
			d.res.OverMemory++
		}
	}
	if d.cfg.Models > 1 {
		for m := range d.cfg.Models {
			snap.Needs[model(m)] = scheduler.Need{Memory: d.cfg.ModelBytes, LoadTime: d.loadTime(), Slots: d.cfg.Slots}
		}
	}
	d.snap = snap
}

func (d *driver) arrive(t *task) {
	job := &scheduler.Job{ID: fmt.Sprint(t.id), Model: model(t.req.Model), PromptTokens: t.req.In, MaxTokens: t.req.Out, Blocks: t.req.Blocks, Submitted: d.base.Add(d.now)}
	if d.cfg.Blind {
		job.MaxTokens = 0
	}
	d.tasks[job.ID], d.jobs[t] = t, job
	dec, rel, err := d.s.Place(context.Background(), job)
	if err != nil {
		panic(fmt.Sprintf("schedsim: request %d: %v", t.id, err))
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
	device, m := 0, d.tasks[job.ID].req.Model
	fmt.Sscanf(dec.Node, "h%d", &device)
	d.after(d.loadTime(), func() {
		if !slices.ContainsFunc(d.servers, func(s *server) bool { return s.model == m }) {
			d.emerged[m] = d.now
		}
		d.add(device, m)
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
			panic(fmt.Sprintf("schedsim: %v", err))
		}
		if d.act(d.line[i], dec, rel) {
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
		ids, need, penalty = append(ids, w.ID), need-w.Memory, penalty+d.loadTime()
	}
	return ids, penalty, need <= 0
}
