package monitor

import (
	"context"
	"fmt"
	"time"
)

type worker struct {
	id, pool  string
	failures  int // in a row
	ejections int // so far; forgotten one by one with good results
	ejected   bool
	until     time.Time
	trial     bool // restored a moment ago: the next failure ejects it again
	probing   bool
	blamed    bool // an alert was raised because it could not be ejected
}

// Pool says which workers serve a pool (a model) now. Those that left are forgotten. Without it a pool
// consists of the workers that results were seen of.
func (m *Monitor) Pool(pool string, ids []string) {
	m.mu.Lock()
	keep := make(map[string]bool, len(ids))
	for _, id := range ids {
		keep[id] = true
		m.workerLocked(id, pool)
	}
	for id := range m.pools[pool] {
		if !keep[id] {
			m.forgetWorkerLocked(id)
		}
	}
	m.mu.Unlock()
	m.flush()
}

// ForgetWorker drops a worker that has ended.
func (m *Monitor) ForgetWorker(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgetWorkerLocked(id)
}

func (m *Monitor) forgetWorkerLocked(id string) {
	w, ok := m.workers[id]
	if !ok {
		return
	}
	delete(m.workers, id)
	delete(m.pools[w.pool], id)
	if len(m.pools[w.pool]) == 0 {
		delete(m.pools, w.pool)
	}
}

func (m *Monitor) workerLocked(id, pool string) *worker {
	w, ok := m.workers[id]
	if ok && w.pool == pool {
		return w
	}
	if ok {
		m.forgetWorkerLocked(id)
	}
	w = &worker{id: id, pool: pool}
	m.workers[id] = w
	if m.pools[pool] == nil {
		m.pools[pool] = map[string]*worker{}
	}
	m.pools[pool][id] = w
	return w
}

// Result records how a request to a worker went. A failure is the worker's own: lost connection, timer,
// 5xx; a client's error, 429 and 503 are none and must be given as ok or not at all.
func (m *Monitor) Result(workerID, pool string, ok bool) {
	m.mu.Lock()
	w := m.workerLocked(workerID, pool)
	switch {
	case ok:
		w.failures, w.blamed = 0, false
		if w.trial {
			w.trial = false
		} else if !w.ejected && w.ejections > 0 {
			w.ejections--
		}
	case w.ejected: // a request that was under way when it was ejected
	default:
		w.failures++
		if w.trial || w.failures >= m.o.Failures {
			m.ejectLocked(w)
		}
	}
	m.mu.Unlock()
	m.flush()
}

// ejectLocked takes a worker out, unless that would leave less than half of its pool, or nobody.
func (m *Monitor) ejectLocked(w *worker) {
	out := 1
	for _, other := range m.pools[w.pool] {
		if other.ejected {
			out++
		}
	}
	if size := len(m.pools[w.pool]); 2*out > size {
		if !w.blamed {
			w.blamed = true
			message := fmt.Sprintf("worker %s failed %d times in a row but stays: %d of the %d workers of %s are out already and no more may be", w.id, w.failures, out-1, size, w.pool)
			m.news = append(m.news, func() { m.rep.Alert(AlertPoolExhausted, message) })
		}
		return
	}
	w.ejected, w.trial, w.failures = true, false, 0
	w.ejections++
	w.until = m.o.Now().Add(min(m.o.Ejection*time.Duration(w.ejections), m.o.MaxEjection))
	until := w.until
	m.news = append(m.news, func() { m.rep.WorkerEjected(w.id, until) })
}

// Ejected says whether a worker is out, and until when.
func (m *Monitor) Ejected(workerID string) (until time.Time, out bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w, ok := m.workers[workerID]; ok && w.ejected {
		return w.until, true
	}
	return time.Time{}, false
}

// tickWorkersLocked restores workers whose time is over, on trial: one failure ejects them again.
func (m *Monitor) tickWorkersLocked(ctx context.Context, now time.Time) {
	for _, w := range m.workers {
		if !w.ejected || w.probing || now.Before(w.until) {
			continue
		}
		if m.o.WorkerProber == nil {
			m.restoreLocked(w)
			continue
		}
		w.probing = true
		m.probes.Go(func() { m.probeWorker(ctx, w) })
	}
}

func (m *Monitor) restoreLocked(w *worker) {
	w.ejected, w.trial, w.failures = false, true, 0
	m.news = append(m.news, func() { m.rep.WorkerRestored(w.id) })
}

func (m *Monitor) probeWorker(ctx context.Context, w *worker) {
	ctx, cancel := context.WithTimeout(ctx, m.o.ProbeTimeout)
	defer cancel()
	err := m.o.WorkerProber.Probe(ctx, w.id)
	m.mu.Lock()
	w.probing = false
	if m.workers[w.id] == w && w.ejected {
		if err == nil {
			m.restoreLocked(w)
		} else {
			w.ejections++
			w.until = m.o.Now().Add(min(m.o.Ejection*time.Duration(w.ejections), m.o.MaxEjection))
			until := w.until
			m.news = append(m.news, func() { m.rep.WorkerEjected(w.id, until) })
		}
	}
	m.mu.Unlock()
	m.flush()
}

type crash struct {
	count int
	last  time.Time
	until time.Time
}

// Restart backoff: the first replacement at once, then from one second up to a minute; a worker that
// lived for ten minutes starts with a clean slate.
const (
	restartFirst = time.Second
	restartMax   = time.Minute
	restartClean = 10 * time.Minute
)

// Exit records that a worker of a model on a node died by itself, and says how long to wait before
// it is replaced there: not at all the first time, then longer with each crash.
func (m *Monitor) Exit(node, model string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, key := m.o.Now(), node+"\x00"+model
	for k, c := range m.crashes { // few, and only crashes come here
		if now.Sub(c.last) > restartClean {
			delete(m.crashes, k)
		}
	}
	c, ok := m.crashes[key]
	if !ok {
		c = &crash{}
		m.crashes[key] = c
	}
	var wait time.Duration
	if c.count > 0 {
		wait = min(restartFirst<<min(c.count-1, 10), restartMax)
	}
	c.count++
	c.last, c.until = now, now.Add(wait)
	return wait
}

// MayStart says whether a worker of the model may be started on the node now, as far as earlier crashes
// go, and when otherwise. A scheduler asks it before it places one.
func (m *Monitor) MayStart(node, model string) (at time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, known := m.crashes[node+"\x00"+model]
	if !known || !m.o.Now().Before(c.until) {
		return time.Time{}, true
	}
	return c.until, false
}
