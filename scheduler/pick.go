package scheduler

import (
	"context"
	"slices"
	"time"
)

// picker is the scratch space of Pick.
type picker struct {
	gen   uint64
	items []item
	at    int64 // when the line was last laid out
	laid  int   // jobs laid out virtually: the trees don't know of them
}

// item is one job of the line's window.
type item struct {
	i    int
	job  *Job
	m    *model
	eff  int64 // when it counts as having come
	rank int64 // lower goes first
	best int64 // what it takes of a worker where that is least: prefill, and its share of a slot's time
	wait int64 // what the layout gives it
}

// Pick chooses a job of the line and its worker together (late binding), and reserves. The line is in
// the queue's fair order; the index returned is the job's place in it, below 0 when nothing can start
// now: then Decision.Wait says when to look again at the latest (0 = at the next change). The decision
// is a Route, a Provision (with Evict), or a Reject with a *RejectError for a job whose time is over.
// Call it until it answers below 0: after a release, a new snapshot, a first token, and after Wait.
func (s *Scheduler) Pick(ctx context.Context, line []*Job) (int, Decision, Release, error) {
	if err := ctx.Err(); err != nil {
		return -1, Decision{}, Release{}, err
	}
	for try := 0; ; try++ {
		i, d, rel, err := s.pickOne(ctx, line)
		if i < 0 || err != nil {
			return i, d, rel, err
		}
		if err = s.external(ctx, line[i], d, rel); err == nil {
			return i, d, rel, nil
		}
		if try > 0 {
			return -1, Decision{Reason: err.Error()}, Release{}, err
		}
	}
}

func (s *Scheduler) pickOne(ctx context.Context, line []*Job) (int, Decision, Release, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sync()
	now := s.now()
	s.pace.called(now)
	s.lineLen = len(line)
	i, d := s.choose(ctx, line, now)
	if i < 0 {
		s.freed = 0
		s.pace.hinted(now, d.Wait)
		return i, d, Release{}, nil
	}
	s.record(line[i], &d, now, false)
	s.lineLen--
	if m := s.models[line[i].Model]; m != nil && d.Action != Provision && m.waiting > 0 {
		m.waiting--
	}
	if d.Action == Reject {
		return i, d, Release{}, s.rejection(line[i], &d)
	}
	return i, d, s.reserve(line[i], &d, now), nil
}

// choose lays the line out over the workers in rank order and returns the first job whose place is now.
func (s *Scheduler) choose(ctx context.Context, line []*Job, now int64) (int, Decision) {
	s.demand(line)
	s.undrain()
	items := s.window(line, now)
	for k := range items {
		it := &items[k]
		if d := (Decision{Snapshot: s.snapVersion(), Model: it.job.Model, Policy: nativeName, PolicyHash: nativeHash}); reject(&d, s.deadline(it.job, now)) {
			return it.i, d
		}
		if it.m == nil {
			if d := s.native(it.job, now); d.Action == Reject {
				return it.i, d
			}
		}
	}
	if s.policy != nil {
		if i, d, ok := s.pickScripted(ctx, items, now); ok {
			return i, d
		}
	}
	if now-s.pick.at < int64(100*time.Millisecond) && s.hopeless(items, now) {
		wait := min(s.wakeup(items, now), 100*time.Millisecond)
		return -1, Decision{Snapshot: s.snapVersion(), Policy: nativeName, PolicyHash: nativeHash, Wait: wait, Reason: "every worker is busy"}
	}
	s.pick.at = now
	s.rankAll(items, now)
	i, d := s.layout(items, now)
	s.pick.laid = 0
	if i >= 0 {
		return i, d
	}
	s.unwanted(items, now)
	if i, d := s.growLine(items, now); i >= 0 {
		return i, d
	}
	return -1, Decision{Snapshot: s.snapVersion(), Policy: nativeName, PolicyHash: nativeHash, Wait: s.wakeup(items, now), Reason: "nothing can start now"}
}

// hopeless says at once that no job of the window can start: every model of theirs has workers, and none of
// these can take one more. Laying the line out would find the same, for far more.
func (s *Scheduler) hopeless(items []item, now int64) bool {
	for k := range items {
		m := items[k].m
		if m == nil || len(m.workers) > 64 {
			return false
		}
		if m.vseen == s.pick.gen {
			continue
		}
		m.vseen = s.pick.gen
		usable := false
		for _, w := range m.workers {
			if w.why != "" || w.evicting > 0 || w.drainFor != "" {
				continue
			}
			usable = true
			if w.freeSlots() > 0 && w.busyUntil-now <= s.pace.horizon(w) {
				return false
			}
		}
		if !usable {
			return false
		}
	}
	return true
}

// unwanted marks the workers that are free although jobs wait: every one of these prefers another worker.
func (s *Scheduler) unwanted(items []item, now int64) {
	for k := range items {
		m := items[k].m
		if m == nil || len(m.workers) > 64 || m.vspare == s.pick.gen {
			continue
		}
		m.vspare = s.pick.gen
		for _, w := range m.workers {
			w.spare = w.why == "" && w.drainFor == "" && w.freeSlots() > 0 && w.busyUntil-now <= s.pace.horizon(w)
		}
	}
}

// demand counts what the whole line wants of each model.
func (s *Scheduler) demand(line []*Job) {
	s.pick.gen++
	s.pick.laid = 0
	for _, m := range s.models {
		m.waiting, m.waitWork, m.vloads, m.taken, m.asked = 0, 0, 0, 0, 0
	}
	for i, j := range line {
		if i == demandLimit {
			break
		}
		if m := s.models[j.Model]; m != nil {
			m.waiting++
		}
	}
}

// demandLimit bounds how much of the line counts as demand.
const demandLimit = 4096

// window takes the first jobs of the line, and further on the first few of each model that is not among
// them: a long line for one model that can't be served must not hide what the idle workers of another could
// do. A job counts as having come no earlier than those that the queue's fair order puts before it, so
// ranking by time never undoes fairness between tenants.
func (s *Scheduler) window(line []*Job, now int64) []item {
	items := s.pick.items[:0]
	eff := int64(-1 << 61)
	for i, j := range line {
		if i == demandLimit || len(items) >= 2*s.opts.Window {
			break
		}
		eff = max(eff, s.submitted(j, now))
		m := s.models[j.Model]
		if i >= s.opts.Window && (m == nil || m.taken >= perModel) {
			continue
		}
		if m != nil {
			m.taken++
		}
		items = append(items, item{i: i, job: j, m: m, eff: eff})
	}
	s.pick.items = items
	return items
}

// perModel is how many jobs of a model the window has at least, where the line has them.
const perModel = 8

// submitted is when a job came: what it says, else when it was first seen, so that a caller that leaves
// Submitted out gets the same order, and nobody waits for ever.
func (s *Scheduler) submitted(job *Job, now int64) int64 {
	if !job.Submitted.IsZero() || job.ID == "" {
		return s.since(job.Submitted)
	}
	at, ok := s.arrivals.get(job.ID)
	if !ok {
		at = now
		s.arrivals.put(job.ID, now)
	}
	return at
}

// layout gives every job its best worker in turn, counting those before it. The first whose turn is now
// is the answer; the others only take their places.
func (s *Scheduler) layout(items []item, now int64) (int, Decision) {
	for k := range items {
		it := &items[k]
		it.wait = never
		if it.m == nil || len(it.m.workers) == 0 {
			continue
		}
		at, wait := s.best(it.job, it.m, now, true)
		if at.w != nil && !s.holds(it.job, &at, &wait) {
			d := Decision{Model: it.job.Model, Snapshot: s.snapVersion(), Policy: nativeName, PolicyHash: nativeHash}
			return it.i, s.route(d, &at)
		}
		f := wait
		if f.w == nil || at.w != nil && at.cost < f.cost {
			f = at
		}
		if f.w == nil {
			continue
		}
		it.wait = f.wait
		s.lay(f, now)
	}
	return -1, Decision{}
}

// lay puts a job virtually onto a worker.
func (s *Scheduler) lay(f fit, now int64) {
	w := f.w
	if w.vgen != s.pick.gen {
		w.vgen, w.vbusy, w.vcount = s.pick.gen, 0, 0
	}
	w.vbusy = max(w.vbusy, now+f.wait+f.own)
	w.vcount++
	s.pick.laid++
}

// growLine loads a model for the line: first the one whose jobs have waited longest in sum among those
// that nobody serves, then another worker of one whose line justifies it.
func (s *Scheduler) growLine(items []item, now int64) (int, Decision) {
	for {
		it := s.mostWaiting(items, now)
		if it == nil {
			break
		}
		it.m.vloads++
		n := s.need(it.job)
		if p, ok := s.placing(it.job, it.m, n, now, false); ok {
			d := s.provision(s.blank(it.job), &p)
			d.Reason = "no worker has the model"
			s.coldAge += (float64(it.m.oldest) - s.coldAge) / 16
			return it.i, d
		}
		s.makeWay(it, n, now)
	}
	for k := range items {
		it := &items[k]
		if it.wait >= never/2 || it.m == nil || it.m.vloads > 0 || !it.m.known {
			continue
		}
		n := s.need(it.job)
		if loading, _ := it.m.loading(now); loading || !s.justified(it.m, n, it.wait, now) {
			continue
		}
		it.m.vloads++
		if p, ok := s.placing(it.job, it.m, n, now, true); ok && s.pays(&p, it.wait) {
			return it.i, s.provision(s.blank(it.job), &p)
		}
	}
	return -1, Decision{}
}

// mostWaiting is the first job of the unserved model whose jobs have waited longest in sum.
func (s *Scheduler) mostWaiting(items []item, now int64) *item {
	for k := range items {
		if m := items[k].m; m != nil {
			m.ages, m.oldest = 0, 0
		}
	}
	for k := range items {
		if m := items[k].m; m != nil {
			age := now - max(items[k].eff, 0) + int64(time.Millisecond)
			m.ages, m.oldest = m.ages+age, max(m.oldest, age)
		}
	}
	var best *item
	for k := range items {
		it := &items[k]
		if it.m == nil || it.wait < never/2 || it.m.vloads > 0 || !it.m.known && it.job.Need.Memory == 0 {
			continue
		}
		if best != nil && it.m.ages+4*it.m.oldest <= best.m.ages+4*best.m.oldest {
			continue
		}
		if loading, _ := it.m.loading(now); !loading {
			best = it
		}
	}
	return best
}

func (s *Scheduler) blank(job *Job) Decision {
	return Decision{Model: job.Model, Snapshot: s.snapVersion(), Policy: nativeName, PolicyHash: nativeHash}
}

// makeWay stops feeding one busy worker, so that the model that waits longest gets its memory once
// that worker has drained. Each model keeps a turn of many load times.
func (s *Scheduler) makeWay(it *item, n Need, now int64) {
	if s.opts.Evictor == nil || n.Devices > 1 {
		return
	}
	var victim *worker
	for _, h := range s.hiveList {
		if hiveBarred(h, it.job) != "" {
			continue
		}
		for _, d := range h.devs {
			if !fitsBackend(n, d) || max(d.Total, d.Free) < n.Memory {
				continue
			}
			for _, w := range d.workers {
				if w.drainFor == it.m.name {
					return
				}
				if w.model == it.m || w.External || w.Pinned || w.model.need.Pin || w.evicting > 0 || w.drainFor != "" || w.State != WorkerReady ||
					w.Memory+d.available() < n.Memory || now-w.since < s.turn(w) {
					continue
				}
				if victim == nil || w.since < victim.since {
					victim = w
				}
			}
		}
	}
	if victim != nil {
		victim.drainFor = it.m.name
		s.drained = append(s.drained, victim)
		s.index.moved(victim)
	}
}

// undrain gives work again to the workers that were to make way for a model which no longer needs it: its
// jobs have left the line, or it has found another place.
func (s *Scheduler) undrain() {
	s.drained = slices.DeleteFunc(s.drained, func(w *worker) bool {
		m := s.models[w.drainFor]
		if !w.gone && (w.evicting > 0 || m != nil && m.waiting > 0 && m.loads == 0 && s.usable(m) == 0) {
			return false
		}
		w.drainFor = ""
		s.index.moved(w)
		return true
	})
}

// turn is how long a busy worker serves its model before another model's line may take its memory: 60 loads,
// so that loading stays a small part of the time, and at most 7 minutes, so that nobody waits for it until a queue gives him up.
func (s *Scheduler) turn(w *worker) int64 {
	load := int64(s.loadTime(w.model, w.model.need, w.hive))
	return max(min(60*load, int64(7*time.Minute)), 20*load, int64(2*time.Second))
}

// wakeup is when something is expected to change by itself.
func (s *Scheduler) wakeup(items []item, now int64) time.Duration {
	best := never
	unserved := false
	for k := range items {
		it := &items[k]
		if it.m == nil {
			continue
		}
		unserved = unserved || it.wait >= never/2
		if it.m.vwake == s.pick.gen {
			continue
		}
		it.m.vwake = s.pick.gen
		for _, w := range it.m.workers {
			if w.why != "" || w.drainFor != "" || w.freeSlots() <= 0 {
				continue
			}
			if left := w.busyUntil - now - int64(s.pace.w.Pace); left > 0 {
				best = min(best, left)
			}
		}
	}
	if unserved {
		best = min(best, s.lingering(now))
	}
	if best >= never {
		if len(items) == 0 {
			return 0
		}
		return time.Second
	}
	return time.Duration(best) + time.Millisecond
}

// lingering is when the next idle worker may be given up.
func (s *Scheduler) lingering(now int64) int64 {
	best := never
	for _, d := range s.devices {
		for _, w := range d.workers {
			if left := w.lastUse + s.linger(w) - now; left > 0 && s.evictable(w) == "" {
				best = min(best, left)
			}
		}
	}
	return best
}
