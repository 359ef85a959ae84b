package scheduler

import (
	"context"
	"slices"
)

// reservation is one entry of the ledger: a slot and its tokens, or a device's memory.
type reservation struct {
	gen                  uint32
	live, first, landed  bool
	observed             bool // what its attempt took was learnt already
	action               Action
	seq                  int // number of its dispatch on the worker
	job, tenant          string
	model                *model
	w                    *worker
	start                int64
	estFirst, estEnd     int64
	own                  int64
	work                 int
	cached, cachedBlocks int
	slot                 int
	node, device         string
	devs                 []*device
	memory               int64
	victims              []*worker
	external             func()
}

// Release gives a reservation back; Done may be called more than once. The zero value does nothing.
type Release struct {
	s   *Scheduler
	i   int32
	gen uint32
}

// Done gives the slot or the memory back. For a Route: when the attempt has ended. For a Provision:
// when the load failed, or when its worker is in a snapshot (call it after publishing that snapshot).
func (r Release) Done() {
	if r.s == nil {
		return
	}
	if external := r.s.release(r.i, r.gen); external != nil {
		external()
	}
}

// reserve enters a Route or Provision into the ledger.
func (s *Scheduler) reserve(job *Job, d *Decision, now int64) Release {
	i := s.alloc()
	r := &s.res[i]
	gen := r.gen
	*r = reservation{gen: gen, live: true, action: d.Action, job: job.ID, tenant: job.Tenant, start: now, slot: -1,
		devs: r.devs[:0], victims: r.victims[:0]}
	r.model = s.model(job.Model)
	switch d.Action {
	case Route:
		s.take(r, i, job, s.workers[d.Worker], now)
	case Provision:
		s.claim(r, job, d)
	}
	if job.ID != "" {
		s.byJob[job.ID] = i
	}
	return Release{s: s, i: i, gen: gen}
}

func (s *Scheduler) alloc() int32 {
	if n := len(s.freeRes); n > 0 {
		i := s.freeRes[n-1]
		s.freeRes = s.freeRes[:n-1]
		return i
	}
	s.res = append(s.res, reservation{gen: 1})
	return int32(len(s.res) - 1)
}

// take reserves a slot of w and lays the job's prefill behind what is there.
func (s *Scheduler) take(r *reservation, i int32, job *Job, w *worker, now int64) {
	blocks := w.cache.match(job.Blocks)
	r.w, r.cachedBlocks = w, blocks
	r.cached = cachedTokens(job, blocks, w)
	r.work = max(job.PromptTokens-r.cached, 1)
	r.own = w.speed.own(r.work)
	w.model.meanOwn += (float64(r.own) - w.model.meanOwn) / 32
	r.estFirst = max(w.busyUntil, now) + r.own
	hold := w.speed.hold(w.model.out.expect(job.MaxTokens))
	w.model.meanHold += (float64(hold) - w.model.meanHold) / 32
	r.estEnd = r.estFirst + hold
	if !w.parallel() {
		w.busyUntil = r.estFirst
		w.res = append(w.res, i)
	}
	w.pending += int64(r.work)
	w.inflight++
	w.jobs++
	w.spare = false
	r.seq = w.jobs
	w.past[r.seq%len(w.past)] = prefilled{seq: r.seq, start: now}
	w.lastUse = now
	r.slot = s.index.touch(w, job, now)
	s.index.moved(w)
	if job.Session != "" {
		s.sessions.put(job.Session, w.ID)
	}
}

// claim reserves the memory of a load.
func (s *Scheduler) claim(r *reservation, job *Job, d *Decision) {
	need := s.need(job)
	r.node, r.device, r.memory = d.Node, d.Device, need.Memory
	r.estFirst = r.start + int64(s.loadTime(r.model, need, s.hives[d.Node]))
	for _, id := range d.Evict {
		if v := s.workers[id]; v != nil {
			r.victims = append(r.victims, v)
			v.evicting++
			s.index.moved(v)
			if v.evicting == 1 {
				for _, dev := range v.devs {
					dev.freeing += v.Memory / int64(len(v.devs))
				}
			}
		}
	}
	r.devs = s.devicesOf(d.Node, d.Device, r.devs)
	for _, dev := range r.devs {
		dev.reserved += need.Memory / int64(len(r.devs))
		dev.loads++
	}
	r.model.loads++
	r.model.loadUntil = max(r.model.loadUntil, r.estFirst)
	r.model.lastLoad = r.start
}

// unload takes a load's claim off its devices: its worker's own memory counts from now on, or it failed.
func (s *Scheduler) unload(r *reservation) {
	if r.landed {
		return
	}
	for _, dev := range r.devs {
		dev.reserved -= r.memory / int64(len(r.devs))
		dev.loads--
	}
	r.model.loads--
}

func (s *Scheduler) release(i int32, gen uint32) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.res[i]
	if !r.live || r.gen != gen {
		return nil
	}
	now := s.now()
	switch r.action {
	case Route:
		s.first(r, min(now, r.estFirst))
		s.leave(r, i, now)
	case Provision:
		s.unload(r)
		for _, v := range r.victims {
			v.evicting--
			s.index.moved(v)
			if v.evicting == 0 {
				for _, dev := range v.devs {
					if !v.gone {
						dev.freeing -= v.Memory / int64(len(v.devs))
					}
				}
			}
		}
	}
	external := r.external
	r.live, r.external = false, nil
	r.gen++
	if s.byJob[r.job] == i {
		delete(s.byJob, r.job)
		if r.action == Route && !r.observed {
			s.recent.put(r.job, ended{worker: r.w.ID, cached: r.cached, blocks: r.cachedBlocks, work: r.work, seq: r.seq, start: r.start, estFirst: r.estFirst})
		}
	}
	s.freeRes = append(s.freeRes, i)
	return external
}

func (s *Scheduler) leave(r *reservation, i int32, now int64) {
	w := r.w
	s.freed = max(now, 1)
	w.inflight--
	w.lastUse = now
	if k := slices.Index(w.res, i); k >= 0 {
		w.res = slices.Delete(w.res, k, k+1)
	}
	if r.slot >= 0 && r.slot < len(w.cache.slots) {
		w.cache.slots[r.slot].busy = false
	}
	s.index.moved(w)
}

// first notes that the first token of a reservation has come, and moves what is expected behind it.
func (s *Scheduler) first(r *reservation, at int64) {
	if r.first {
		return
	}
	r.first = true
	r.w.pending -= int64(r.work)
	r.estEnd += at - r.estFirst
	r.estFirst = at
	s.reflow(r.w, r.seq, at)
}

// reflow lays the prefills behind number seq out anew from when that one is known to have ended. A number
// below one that is known already says nothing new: prefills of a worker end in their order.
func (s *Scheduler) reflow(w *worker, seq int, at int64) {
	if seq <= w.known || w.parallel() {
		return
	}
	w.known = seq
	for _, k := range w.res {
		if o := &s.res[k]; !o.first && o.seq > seq {
			at = max(at, o.start) + o.own
			o.estEnd += at - o.estFirst
			o.estFirst = at
		}
	}
	w.busyUntil = at
	s.index.moved(w)
}

// parallel workers have so many slots (a service behind an API) that their prefills don't queue.
func (w *worker) parallel() bool { return w.Slots > 256 }

// FirstToken says that a job's first token has come. It is optional: without it the scheduler goes by
// its own estimate until the attempt is released; with it, it paces prefills exactly.
func (s *Scheduler) FirstToken(jobID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.byJob[jobID]; ok && s.res[i].action == Route {
		s.first(&s.res[i], s.now())
		s.pace.told(1)
	}
}

// external asks the shared ledger, outside of the lock; on failure the local entry is taken back.
func (s *Scheduler) external(ctx context.Context, job *Job, d Decision, rel Release) error {
	if s.opts.Ledger == nil {
		return nil
	}
	release, err := s.opts.Ledger.Reserve(ctx, job, d)
	if err != nil {
		rel.Done()
		return err
	}
	s.mu.Lock()
	r := &s.res[rel.i]
	if r.live && r.gen == rel.gen {
		r.external, release = release, nil
	}
	s.mu.Unlock()
	if release != nil {
		release()
	}
	return nil
}
