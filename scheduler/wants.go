package scheduler

import "time"

// Want is something that the fleet needs whatever the line says.
type Want struct {
	Load         string        // model to load: one more worker of it (`workers: N`)
	Node, Device string        // where
	Evict        []string      // idle workers to stop first
	Stop         string        // worker to stop: its time to live without a request is over
	Idle         time.Duration // Stop: how long it has been idle
	Reason       string
}

// Wants says what the loop of the program ought to do now: load models that are to be kept, and stop
// workers that have been idle for their model's TTL. It reserves nothing; to carry a Load out, Claim
// it first, so that the ledger counts the memory.
func (s *Scheduler) Wants() []Want {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sync()
	if s.snap == nil {
		return nil
	}
	now := s.now()
	var out []Want
	for i := range s.snap.Workers {
		w := s.workers[s.snap.Workers[i].ID]
		ttl := int64(w.model.need.TTL)
		if ttl <= 0 || w.why != "" || s.evictable(w) != "" || w.model.waiting > 0 || s.usable(w.model) <= w.model.need.Workers {
			continue
		}
		if idle := now - max(w.lastUse, w.since); idle >= ttl {
			out = append(out, Want{Stop: w.ID, Node: w.Node, Device: w.Device, Idle: time.Duration(idle), Reason: "idle for its model's ttl"})
		}
	}
	return append(out, s.keep(now)...)
}

// keep lists the loads that `workers: N` asks for.
func (s *Scheduler) keep(now int64) []Want {
	var out []Want
	for _, name := range sortedKeys(s.snap.Needs) {
		m := s.models[name]
		have := m.loads
		for _, w := range m.workers {
			if w.State == WorkerReady || w.State == WorkerLoading {
				have++
			}
		}
		if have >= m.need.Workers {
			continue
		}
		job := &Job{Model: name}
		if p, ok := s.placing(job, m, s.need(job), now, false); ok {
			d := s.provision(Decision{}, &p)
			out = append(out, Want{Load: name, Node: d.Node, Device: d.Device, Evict: d.Evict, Reason: "kept loaded by its model's entry"})
		}
	}
	return out
}

// Claim reserves the memory of a load that no job asked for (a Want or an operator's spawn): it is
// counted until Done. Node and device "" let the scheduler choose.
func (s *Scheduler) Claim(model, node, device string) (Decision, Release, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sync()
	now := s.now()
	job := &Job{Model: model, Node: node}
	d := s.blank(job)
	m := s.models[model]
	if m == nil || !m.known {
		d.Action, d.Code, d.Reason = Reject, CodeModelNotFound, "it has no entry to load it from; rbee model add gives it one"
		return d, Release{}, s.rejection(job, &d)
	}
	p, ok := s.placing(job, m, s.need(job), now, false)
	if ok && device != "" && (len(p.devs) != 1 || p.devs[0].ID != device) {
		p.devs = s.devicesOf(p.h.Name, device, nil)
		p.evict = nil
		ok = len(p.devs) > 0 && p.devs[0].available() >= s.need(job).Memory/int64(len(p.devs))
	}
	if !ok {
		d = s.noRoom(d, job, s.need(job))
		if d.Action == Queue {
			d.Action, d.Code = Reject, CodeInsufficientVRAM
		}
		return d, Release{}, s.rejection(job, &d)
	}
	d = s.provision(d, &p)
	return d, s.reserve(job, &d, now), nil
}
