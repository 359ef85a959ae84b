package scheduler

import (
	"context"
	"slices"
	"time"
)

// Cost is the terms of one candidate's cost, as an explanation shows them.
type Cost struct {
	Wait     time.Duration `json:"wait_ns"`    // until its prefill can start
	Prefill  time.Duration `json:"prefill_ns"` // of the uncached tokens
	Total    time.Duration `json:"total_ns"`   // wait + prefill + what the blocks pushed out are worth
	Cached   int           `json:"cached_tokens"`
	Pending  int           `json:"pending_tokens"`
	InFlight int           `json:"in_flight"`
}

// Candidate is a worker or a hive as the decision saw it.
type Candidate struct {
	Worker string `json:"worker_id,omitempty"`
	Node   string `json:"node"`
	Device string `json:"device,omitempty"`
	Kept   bool   `json:"kept"`
	Reason string `json:"reason,omitempty"`
	Cost   Cost   `json:"cost"`
	Rank   int    `json:"rank,omitempty"` // 1 = best; 0 = not kept
}

// Explanation is a decision with every candidate and why it was or wasn't taken.
type Explanation struct {
	Decision   Decision    `json:"decision"`
	Candidates []Candidate `json:"candidates"`
	Waiting    int         `json:"waiting"` // jobs of the model in the line
	Policy     PolicyInfo  `json:"policy"`
}

// Explain decides without reserving, and says why.
func (s *Scheduler) Explain(job *Job) Explanation {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sync()
	now := s.now()
	e := Explanation{Decision: s.decide(context.Background(), job, now), Policy: s.policyInfo()}
	if e.Decision.Action == Reject {
		e.Decision.Reason = s.rejection(job, &e.Decision).Reason
	}
	if m := s.models[job.Model]; m != nil {
		e.Waiting = m.waiting
	}
	var order []int
	for _, v := range s.viewed(job, now) {
		if v.Kept {
			order = append(order, len(e.Candidates))
		}
		e.Candidates = append(e.Candidates, Candidate{Worker: v.ID, Node: v.Node, Device: v.Device, Kept: v.Kept, Reason: v.Why,
			Cost: Cost{Wait: v.Busy, Prefill: v.TTFT - v.Busy, Total: v.Cost, Cached: v.Cached, Pending: v.PendingTokens, InFlight: v.InFlight}})
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp(int64(e.Candidates[a].Cost.Total), int64(e.Candidates[b].Cost.Total)) })
	for rank, i := range order {
		e.Candidates[i].Rank = rank + 1
	}
	for _, h := range s.hiveViews(job, now) {
		e.Candidates = append(e.Candidates, Candidate{Node: h.Name, Device: h.Fits, Kept: h.Kept && h.Fits != "", Reason: h.Why})
	}
	return e
}

// viewed are the worker views in the scheduler's own buffer.
func (s *Scheduler) viewed(job *Job, now int64) []WorkerView {
	s.viewBuf = s.workerViews(job, now, s.viewBuf)
	return s.viewBuf
}

// workerViews are the workers of the job's model with what the ledger and the index know. What dst holds of
// an earlier call with the same snapshot is used again: only what changes with the job is written.
func (s *Scheduler) workerViews(job *Job, now int64, dst []WorkerView) []WorkerView {
	m := s.models[job.Model]
	if m == nil {
		return dst[:0]
	}
	same := s.viewSnap == s.snap && s.viewModel == m && len(dst) == len(m.workers)
	s.viewSnap, s.viewModel = s.snap, m
	dst = slices.Grow(dst[:0], len(m.workers))[:len(m.workers)]
	for i, w := range m.workers {
		v := &dst[i]
		if !same || v.ID != w.ID { // a policy may have sorted them
			v.Worker = w.Worker
		}
		f := s.fitOf(job, w, now, false)
		v.InFlight, v.FreeSlots, v.PendingTokens, v.Cached = w.inflight, max(w.freeSlots(), 0), int(w.pending), f.cached
		v.Busy, v.TTFT, v.Cost = time.Duration(f.wait), time.Duration(f.ttft()), time.Duration(f.cost)
		v.Prefill, v.Decode = w.speed.rate, 1/w.speed.itl
		v.Kept, v.Why = false, s.barred(w, job)
		switch {
		case v.Why != "":
		case w.drainFor != "":
			v.Why = "draining to make way for another model"
		case v.FreeSlots == 0:
			v.Why = "every slot is taken"
		default:
			v.Kept = true
		}
	}
	return dst
}

// hiveViews are the hives with what they could load of the job's model.
func (s *Scheduler) hiveViews(job *Job, now int64) []HiveView {
	m := s.models[job.Model]
	if m == nil {
		m = &model{name: job.Model}
	}
	n := s.need(job)
	out := make([]HiveView, 0, len(s.hiveList))
	for _, h := range s.hiveList {
		v := HiveView{Hive: h.Hive, Why: hiveBarred(h, job)}
		for _, d := range h.devs {
			dv := DeviceView{Device: d.Device, Available: d.available(), Workers: len(d.workers)}
			for _, w := range d.workers {
				if s.evictable(w) == "" {
					dv.Evictable += w.Memory / int64(len(w.devs))
				}
			}
			v.Views = append(v.Views, dv)
		}
		v.Kept = v.Why == ""
		if v.Kept {
			if p, ok := s.roomOn(h, m, n); ok && (m.known || job.Need.Memory > 0) {
				v.Fits = s.provision(Decision{}, &p).Device
			} else if m.known {
				v.Why = "no device has enough free memory"
			} else {
				v.Why = "the model has no entry to load it from"
			}
		}
		out = append(out, v)
	}
	return out
}
