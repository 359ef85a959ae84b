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
	if s.opts.Recorder != nil {
		kept := o
		s.opts.Recorder.Record(Event{At: s.at(s.now()), Observation: &kept})
	}
	w := s.workers[o.Worker]
	if w == nil {
		return
	}
	e, ok := s.ended(o)
	if !o.OK {
		w.cache.forget(o.Job.Blocks, 0, w.onDrop)
		return
	}
	if o.LoadTime > 0 {
		s.learnLoad(w, o.LoadTime)
	}
	w.model.out.learn(o.Job.MaxTokens, o.Output)
	w.speed.decode(o.Output, o.Decode)
	if ok && o.Cached >= 0 {
		w.cache.correct(float64(e.cached), float64(o.Cached))
		w.model.learnBlock(e.blocks, e.cached, o.Cached)
	}
	if o.Cold || o.TTFT <= 0 || !ok {
		return
	}
	work := e.work
	if o.Cached >= 0 && o.Prompt > 0 {
		work = o.Prompt - o.Cached
	}
	defer func() { w.model.reclass = w.model.reclass || w.tree != nil && classOf(w) != w.class }()
	w.prefillDone(e.seq, e.start+int64(o.TTFT), work)
}

// ended finds what was expected of the attempt, and takes its first token in if nobody said it.
func (s *Scheduler) ended(o Observation) (ended, bool) {
	if i, ok := s.byJob[o.Job.ID]; ok {
		if r := &s.res[i]; r.live && r.action == Route && r.w.ID == o.Worker {
			if o.TTFT > 0 {
				s.first(r, min(r.start+int64(o.TTFT), s.now()))
			}
			r.observed = true
			return ended{worker: o.Worker, cached: r.cached, blocks: r.cachedBlocks, work: r.work, seq: r.seq, start: r.start}, true
		}
	}
	e, ok := s.recent.get(o.Job.ID)
	if ok = ok && e.worker == o.Worker; ok && o.TTFT > 0 {
		s.reflow(s.workers[o.Worker], e.seq, min(e.start+int64(o.TTFT), s.now()))
	}
	return e, ok
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

// learnBlock learns how many tokens a block stands for, from matches that an engine confirmed.
func (m *model) learnBlock(blocks, expected, got int) {
	if blocks < 4 || float64(got) < 0.8*float64(expected) || float64(got) > 1.25*float64(expected) {
		return
	}
	per := float64(got) / float64(blocks)
	if m.perBlock == 0 {
		m.perBlock = per
	}
	m.perBlock += (per - m.perBlock) / 8
}
