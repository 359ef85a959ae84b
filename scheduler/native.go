package scheduler

import (
	"math"
	"slices"
	"time"
)

// fit is one worker seen from one job.
type fit struct {
	w      *worker
	blocks int   // cached, as matched
	cached int   // tokens
	own    int64 // ns of its prefill there
	wait   int64 // ns until its prefill could start
	cost   int64 // what is minimised
	now    bool  // may be sent there at once
}

func (f *fit) ttft() int64 { return f.wait + f.own }

const never = int64(math.MaxInt64 / 4)

// cachedTokens converts matched blocks into prompt tokens; an engine computes at least the last token.
func cachedTokens(job *Job, blocks int, w *worker) int {
	if blocks == 0 || len(job.Blocks) == 0 {
		return 0
	}
	per := float64(job.PromptTokens) / float64(len(job.Blocks))
	if p := w.model.perBlock; p > 0 && p < 2*per && per < 2*p {
		per = p
	}
	n := float64(blocks) * per
	if w.cache.trust < 0.95 {
		n *= w.cache.trust
	}
	return min(int(n), job.PromptTokens-1)
}

// barred says why a worker may never take this job; "" when it may.
func (s *Scheduler) barred(w *worker, job *Job) string {
	if w.why != "" {
		return w.why
	}
	if w.evicting > 0 {
		return "about to be stopped for another model"
	}
	if job.Node != "" && w.Node != job.Node {
		return "not on the node that the job names"
	}
	if len(job.Labels) > 0 && !hasLabels(w.hive, job.Labels) {
		return "its hive lacks a label that the job wants"
	}
	if len(job.Exclude) > 0 && slices.Contains(job.Exclude, w.ID) {
		return "failed this job before"
	}
	return ""
}

func hasLabels(h *hive, want map[string]string) bool {
	if h == nil {
		return false
	}
	for k, v := range want {
		if h.Labels[k] != v {
			return false
		}
	}
	return true
}

// freeSlots is how many more jobs a worker may have now.
func (w *worker) freeSlots() int {
	slots := w.Slots
	if w.External && w.Free != 0 {
		slots = min(slots, max(w.Free, 0)+w.inflight)
	}
	return slots - w.inflight
}

// fitOf prices one worker for one job. With virtual set, the line that Pick has laid out so far counts.
func (s *Scheduler) fitOf(job *Job, w *worker, now int64, virtual bool) fit {
	f := fit{w: w}
	f.blocks = w.cache.match(job.Blocks)
	f.cached = cachedTokens(job, f.blocks, w)
	f.own = w.speed.own(max(job.PromptTokens-f.cached, 1))
	busy, extra := w.busyUntil, 0
	if virtual && w.vgen == s.pick.gen {
		busy, extra = max(busy, w.vbusy), w.vcount
	}
	f.wait = max(busy-now, 0)
	free := w.freeSlots() - extra
	f.now = free > 0 && w.drainFor == "" && f.wait <= s.pace.horizon(w)
	if free <= 0 {
		f.wait = max(f.wait, s.slotWait(w, 1-free, now))
	}
	if w.drainFor != "" {
		f.wait = never / 2
	}
	f.cost = f.wait + f.own + s.displaced(job, &f, now)
	return f
}

// displaced is what the blocks that the job would push out of a worker's cache are worth: what they take to compute,
// as likely as they are to be wanted again.
func (s *Scheduler) displaced(job *Job, f *fit, now int64) int64 {
	age := f.w.cache.idle(now, len(job.Blocks)-f.blocks)
	if age < 0 {
		return 0
	}
	return int64(displaceWeight * f.w.model.reuse.odds[ageOf(age)] * float64(f.own))
}

// displaceWeight is above one because what is computed again pushes others out in its turn.
const displaceWeight = 3

// slotWait is the expected time until n slots of a full worker have come free.
func (s *Scheduler) slotWait(w *worker, n int, now int64) int64 {
	ends := s.ends[:0]
	for _, i := range w.res {
		r := &s.res[i]
		end := r.estEnd
		if late := now - end; late >= 0 { // overdue: as likely to go on as it has gone on
			end = now + max((now-r.start)/4, int64(5*time.Millisecond))
		}
		ends = append(ends, end)
	}
	s.ends = ends
	if len(ends) == 0 {
		return int64(time.Second)
	}
	slices.Sort(ends)
	if n <= len(ends) {
		return ends[n-1] - now
	}
	round := (ends[len(ends)-1] - now)
	return round * int64(n) / int64(len(ends))
}

// best finds the best worker to send the job to now and the best one to wait for. What is minimised is
// the time to the first token plus what recomputing a prefix that another worker holds takes away from
// the jobs behind: the longer the line, the more that weighs.
func (s *Scheduler) best(job *Job, m *model, now int64, virtual bool) (at, wait fit) {
	at.cost, wait.cost = never, never
	fits := s.fits[:0]
	most, busy, fast := fit{}, int64(0), 1.0
	s.index.candidates(s, job, m, func(w *worker) {
		if s.barred(w, job) != "" {
			return
		}
		f := s.fitOf(job, w, now, virtual)
		if f.cached > most.cached {
			most = f
		}
		busy += max(w.busyUntil-now, 0)
		fast = max(fast, w.speed.rate)
		fits = append(fits, f)
	})
	s.fits = fits
	k := s.weight(m, busy, len(fits)) * once(job, &most, now, fast)
	for i := range fits {
		f := &fits[i]
		if waste := most.cached - f.cached; waste > 0 {
			here := k
			if f.now && f.w.spare {
				here *= spareShare
			}
			f.cost += int64(here * float64(waste) / fast * 1e9)
		}
		if job.Session != "" && f.blocks == 0 {
			if id, ok := s.sessions.get(job.Session); ok && id == f.w.ID {
				f.cost -= f.own / 2 // its history is likely there although we can't see it
			}
		}
		if f.now && s.better(f, &at) {
			at = *f
		}
		if !f.now && s.better(f, &wait) {
			wait = *f
		}
	}
	return at, wait
}

// spareShare is how much of its weight recomputing keeps on a worker that nobody in the line wants.
const spareShare = 0.4

// weight is what a second of recomputing costs beyond itself: about one for each job that stands behind
// on the same worker, in our line or in its own.
func (s *Scheduler) weight(m *model, busy int64, seen int) float64 {
	behind := float64(m.waiting) / float64(max(len(m.workers), 1))
	if seen > 0 && m.meanOwn > 0 {
		behind += float64(busy) / m.meanOwn / float64(seen)
	}
	return s.opts.Weights.Uncached * min(1+behind*m.prefillBound(), 64)
}

// prefillBound is the share of a second of prefill that delays those behind: all of it where prefills are what a
// worker is busy with, less where its slots are full of answers being decoded.
func (m *model) prefillBound() float64 {
	if m.meanOwn <= 0 || len(m.workers) == 0 {
		return 1
	}
	slots := float64(m.workers[0].Slots)
	return min(1, max(m.meanOwn*slots/(m.meanOwn+m.meanHold), 1/slots))
}

// once is the share of recomputing a prefix that is wasted: nearly all where it is wanted now and then (a
// conversation's turns), little where it is wanted again within the time that it takes (a common system prompt or
// document: soon every worker ought to have it).
func once(job *Job, most *fit, now int64, fast float64) float64 {
	if most.cached == 0 || most.w.cache.kind != CacheBlocks {
		return 1
	}
	gap := float64(most.w.cache.unused(now, job.Blocks[most.blocks-1])) + 1
	return gap / (gap + 0.5*float64(most.cached)/fast*1e9)
}

// better breaks ties by load, then by a seeded order, so that equal seeds give equal decisions.
func (s *Scheduler) better(a, b *fit) bool {
	if b.w == nil || a.cost != b.cost {
		return b.w == nil || a.cost < b.cost
	}
	if a.w.inflight != b.w.inflight {
		return a.w.inflight < b.w.inflight
	}
	if a.w.cache.kind == CacheSlots && a.w.lastUse != b.w.lastUse {
		return a.w.lastUse < b.w.lastUse // what it caches is the oldest
	}
	ha, hb := mix(uint64(a.w.ord)^s.opts.Seed, 0x9e3779b97f4a7c15), mix(uint64(b.w.ord)^s.opts.Seed, 0x9e3779b97f4a7c15)
	return ha < hb
}

// native is the default policy for one job that has just arrived.
func (s *Scheduler) native(job *Job, now int64) Decision {
	d := Decision{Model: job.Model, Snapshot: s.snapVersion(), Policy: nativeName, PolicyHash: nativeHash}
	if reject(&d, s.deadline(job, now)) {
		return d
	}
	m := s.models[job.Model]
	if m == nil || (len(m.workers) == 0 && !m.known && job.Need.Memory == 0 && m.loads == 0) {
		d.Action, d.Code = Reject, CodeModelNotFound
		d.Reason = "no worker serves this model and none may be loaded; GET /v1/models lists those that exist"
		return d
	}
	if m.waiting > 0 && s.freed > 0 && now-s.freed < int64(50*time.Millisecond) {
		d.Reason, d.Wait = "others wait before it for the slot that has just come free", time.Millisecond
		return d
	}
	at, wait := s.best(job, m, now, false)
	if wait.w != nil && m.waiting > 0 {
		wait.wait += m.waitWork / int64(len(m.workers))
		wait.cost += m.waitWork / int64(len(m.workers))
	}
	if at.w != nil && !s.holds(job, &at, &wait) {
		return s.route(d, &at)
	}
	if at.w != nil {
		d.Reason, d.Wait = "waiting for the worker that answers sooner", time.Duration(wait.wait)
		return d
	}
	return s.grow(d, job, m, &wait, now)
}

// holds says that waiting for another worker pays, though one is free.
func (s *Scheduler) holds(job *Job, at, wait *fit) bool {
	if s.opts.Eager || wait.w == nil {
		return false
	}
	return wait.cost+int64(s.opts.Weights.Hold) < at.cost
}

func (s *Scheduler) route(d Decision, f *fit) Decision {
	d.Action, d.Worker, d.Node, d.Device = Route, f.w.ID, f.w.Node, f.w.Device
	d.Cached, d.Estimate = f.cached, time.Duration(f.ttft())
	d.Reason = "lowest cost"
	return d
}

func (s *Scheduler) deadline(job *Job, now int64) string {
	if !job.Deadline.IsZero() && s.since(job.Deadline) <= now {
		return CodeDeadline
	}
	return ""
}

func reject(d *Decision, code string) bool {
	if code == "" {
		return false
	}
	d.Action, d.Code = Reject, code
	if code == CodeDeadline {
		d.Reason = "the job's deadline has passed; send it again with a later one"
	}
	return true
}

func (s *Scheduler) snapVersion() uint64 {
	if s.snap == nil {
		return 0
	}
	return s.snap.Version
}
