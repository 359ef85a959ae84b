package scheduler

// index finds good workers without looking at all of them.
type index struct{}

// drop forgets a worker's cached blocks.
func (x *index) drop(w *worker) {
	w.cache.at = nil
	w.cache.nodes = w.cache.nodes[:0]
	for i := range w.cache.slots {
		w.cache.slots[i] = sequence{blocks: w.cache.slots[i].blocks[:0]}
	}
}

// rebuild renews a model's structures after its workers changed.
func (x *index) rebuild(*model) {}

// moved tells that a worker's load changed.
func (x *index) moved(*worker) {}

// candidates visits the workers of m that may be best for the job.
func (x *index) candidates(s *Scheduler, job *Job, m *model, visit func(*worker)) {
	for _, w := range m.workers {
		visit(w)
	}
}
