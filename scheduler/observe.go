package scheduler

import "time"

// Observe teaches the scheduler what an attempt really took. Call it once per attempt, before or after
// the release.
func (s *Scheduler) Observe(o Observation) {
	if o.Job == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.opts.Recorder != nil {
		s.opts.Recorder.Observation(o, s.at(now))
	}
	w := s.workers[o.Worker]
	if w == nil {
		return
	}
	e, ok := s.ended(o)
	if !o.OK {
		w.cache.forget(o.Job.Blocks, 0, nil)
		return
	}
	if o.LoadTime > 0 {
		s.learnLoad(w, o.LoadTime)
	}
	w.model.out.learn(o.Job.MaxTokens, o.Output)
	w.speed.decode(o.Output, o.Decode)
	if ok && o.Cached >= 0 {
		w.cache.correct(float64(e.cached), float64(o.Cached))
	}
	if o.Cold || o.TTFT <= 0 || !ok || !e.alone {
		return
	}
	work := e.work
	if o.Cached >= 0 && o.Prompt > 0 {
		work = o.Prompt - o.Cached
	}
	w.speed.prefill(work, o.TTFT)
}

// ended finds what was expected of the attempt, and takes its first token in if nobody said it.
func (s *Scheduler) ended(o Observation) (ended, bool) {
	if i, ok := s.byJob[o.Job.ID]; ok {
		if r := &s.res[i]; r.live && r.action == Route && r.w.ID == o.Worker {
			if o.TTFT > 0 {
				s.first(r, min(r.start+int64(o.TTFT), s.now()))
			}
			return ended{worker: o.Worker, cached: r.cached, work: r.work, alone: r.alone, start: r.start}, true
		}
	}
	e, ok := s.recent.get(o.Job.ID)
	return e, ok && e.worker == o.Worker
}

// learnLoad remembers how long a model takes to load on a hive.
func (s *Scheduler) learnLoad(w *worker, took time.Duration) {
	s.learnLoadOn(w.Node, w.Model, took)
}

func (s *Scheduler) learnLoadOn(node, model string, took time.Duration) {
	key := speedKey{node, "", model}
	p := s.speeds[key]
	if p == nil {
		p = &speed{}
		s.speeds[key] = p
	}
	if p.loadTime == 0 {
		p.loadTime = took.Seconds()
	}
	p.loadTime += (took.Seconds() - p.loadTime) / 4
}
