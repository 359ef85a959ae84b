package scheduler

import (
	"math"
	"slices"
)

// rankAll orders the window: by age, with each job set back by a few times what it takes. Short jobs
// pass long ones that came shortly before, and nobody waits for ever, since every rank is fixed.
func (s *Scheduler) rankAll(items []item, now int64) {
	longest, sum := 0.0, int64(0)
	for k := range items {
		longest = max(longest, float64(now-max(items[k].eff, 0)))
	}
	for k := range items {
		it := &items[k]
		it.best = never
		if it.m != nil {
			s.index.candidates(s, it.job, it.m, func(w *worker) {
				if w.why == "" {
					cached := cachedTokens(it.job, w.cache.match(it.job.Blocks), w)
					hold := w.speed.hold(it.m.out.expect(it.job.MaxTokens)) / int64(w.Slots)
					it.best = min(it.best, w.speed.own(max(it.job.PromptTokens-cached, 1))+hold)
				}
			})
		}
		own := it.best
		if own == never {
			own = int64(float64(it.job.PromptTokens) / s.opts.PrefillRate * 1e9)
		}
		it.best, sum = own, sum+own
		if it.m != nil {
			it.m.waitWork += own
		}
	}
	mean := float64(max(sum/int64(max(len(items), 1)), 1))
	for k := range items {
		it := &items[k]
		it.rank = it.eff + s.setback(float64(it.best), mean, s.uneven(it.m), longest)
		if it.job.Priority == Batch {
			it.rank += int64(s.opts.BatchDelay)
		}
	}
	slices.SortStableFunc(items, func(a, b item) int { return cmp(a.rank, b.rank) })
}

// setback is how far a job that takes own ranks behind its age, never by more than a share of the longest wait: by a
// few times what it takes, up to most of that, and beyond it by how it compares with the mean of the line, so that
// order among long jobs is kept where all of them are set back that far. Where workers are uneven, what a job takes
// on its best one says too little of what it takes of the fleet: it is set back further.
func (s *Scheduler) setback(own, mean, uneven, longest float64) int64 {
	share := s.opts.Weights.Setback
	if s.pace.off {
		share /= 2 // behind us the workers' own queues are first come, first served
	}
	share = 1 - (1-share)/math.Sqrt(uneven)
	limit := max(share*longest, 1e9)
	size := s.opts.Weights.Size * (1 + uneven) / 2
	return int64(min(size*own, 0.75*limit) + 0.25*limit*own/(own+mean))
}

// uneven is how many times longer a job takes on a worker of the model on average than on its fastest one.
func (s *Scheduler) uneven(m *model) float64 {
	if m == nil {
		return 1
	}
	if m.vuneven == s.pick.gen {
		return m.unevenness
	}
	fast, sum, n := 0.0, 0.0, 0.0
	for _, w := range m.workers[:min(len(m.workers), 64)] {
		if w.why == "" {
			fast, sum, n = max(fast, w.speed.rate), sum+1/w.speed.rate, n+1
		}
	}
	m.vuneven, m.unevenness = s.pick.gen, max(sum*fast/max(n, 1), 1)
	return m.unevenness
}
