package scheduler

import (
	"math"
	"math/bits"
	"slices"
)

// flatLimit is the number of workers of a model up to which every one is looked at. Above it a decision
// looks at those that hold the job's prefix and, for each class of speed, at those free soonest.
const flatLimit = 16

// index finds good workers of big models without looking at all of them.
type index struct {
	owners map[uint64]owner // block -> who holds it, for workers of big models
	seen   []*worker        // scratch
}

// owner counts the holders of a block and names the latest few.
type owner struct {
	n int32
	w [4]*worker
}

// tree is a tournament over the workers of one class of speed: its root is the one free soonest.
type tree struct {
	class int
	ws    []*worker
	keys  []int64
	win   []int32 // winner of each inner node, as an index into ws
	size  int
}

// drop forgets a worker's cached blocks.
func (x *index) drop(w *worker) {
	if w.indexed {
		for h := range w.cache.at {
			x.removed(w, h)
		}
	}
	w.indexed = false
	w.cache.at = nil
	w.cache.nodes = w.cache.nodes[:0]
	for i := range w.cache.slots {
		w.cache.slots[i] = sequence{blocks: w.cache.slots[i].blocks[:0]}
	}
}

func (x *index) added(w *worker, h uint64) {
	o := x.owners[h]
	copy(o.w[1:], o.w[:])
	o.w[0] = w
	o.n++
	x.owners[h] = o
}

func (x *index) removed(w *worker, h uint64) {
	o, ok := x.owners[h]
	if !ok {
		return
	}
	if o.n--; o.n <= 0 {
		delete(x.owners, h)
		return
	}
	k := 0
	for _, v := range o.w {
		if v != w {
			o.w[k] = v
			k++
		}
	}
	clear(o.w[k:])
	x.owners[h] = o
}

// touch feeds a worker's cache, and the owners where its model is big.
func (x *index) touch(w *worker, job *Job, now int64) int {
	w.cache.now = now
	w.model.reuse.use(job.Blocks, now)
	per := 0.0
	if len(job.Blocks) > 0 {
		per = float64(job.PromptTokens) / float64(len(job.Blocks))
	}
	if !w.indexed {
		return w.cache.touch(job.Blocks, per, nil, nil)
	}
	return w.cache.touch(job.Blocks, per, w.onDrop, w.onAdd)
}

// rebuild renews a model's trees after its workers changed or turned out faster or slower.
func (x *index) rebuild(m *model) {
	m.trees = m.trees[:0]
	m.reclass = false
	if len(m.workers) <= flatLimit {
		return
	}
	if x.owners == nil {
		x.owners = map[uint64]owner{}
	}
	for _, w := range m.workers {
		x.adopt(w)
		if w.why != "" {
			w.tree = nil
			continue
		}
		w.class = classOf(w)
		k := slices.IndexFunc(m.trees, func(t *tree) bool { return t.class == w.class })
		if k < 0 {
			m.trees = append(m.trees, &tree{class: w.class})
			k = len(m.trees) - 1
		}
		w.tree, w.leaf = m.trees[k], int32(len(m.trees[k].ws))
		m.trees[k].ws = append(m.trees[k].ws, w)
	}
	for _, t := range m.trees {
		t.build()
	}
}

// adopt enters a worker's blocks when its model has become big.
func (x *index) adopt(w *worker) {
	if w.indexed {
		return
	}
	w.indexed = true
	w.onAdd = func(h uint64) { x.added(w, h) }
	w.onDrop = func(h uint64) { x.removed(w, h) }
	for h := range w.cache.at {
		x.added(w, h)
	}
}

func classOf(w *worker) int {
	return min(max(int(math.Round(2*math.Log2(max(w.speed.rate, 1)))), 0), 63)
}

// key is when a worker can take one more job, with a little on top for what it does already.
func (w *worker) key() int64 {
	k := max(w.busyUntil, 0) + int64(w.inflight)*10_000_000
	if w.why != "" || w.evicting > 0 || w.drainFor != "" {
		return never
	}
	if w.freeSlots() <= 0 {
		k += never / 2
	}
	return k
}

func (t *tree) build() {
	t.size = 1 << bits.Len(uint(max(len(t.ws)-1, 1)))
	t.keys = slices.Grow(t.keys[:0], t.size)[:t.size]
	t.win = slices.Grow(t.win[:0], t.size)[:t.size]
	for i := range t.keys {
		t.keys[i] = never
		if i < len(t.ws) {
			t.keys[i] = t.ws[i].key()
		}
	}
	for i := t.size - 1; i >= 1; i-- {
		t.play(i)
	}
}

// play decides inner node i.
func (t *tree) play(i int) {
	l, r := t.child(2*i), t.child(2*i+1)
	if t.keys[r] < t.keys[l] {
		l = r
	}
	t.win[i] = l
}

func (t *tree) child(i int) int32 {
	if i >= t.size {
		return int32(i - t.size)
	}
	return t.win[i]
}

// moved tells that a worker's load changed.
func (x *index) moved(w *worker) {
	t := w.tree
	if t == nil || int(w.leaf) >= len(t.ws) || t.ws[w.leaf] != w {
		return
	}
	t.keys[w.leaf] = w.key()
	for i := (t.size + int(w.leaf)) / 2; i >= 1; i /= 2 {
		t.play(i)
	}
}

// candidates visits the workers of m that may be best for the job.
func (x *index) candidates(s *Scheduler, job *Job, m *model, visit func(*worker)) {
	if len(m.workers) <= flatLimit || len(m.trees) == 0 || s.pick.laid > flatLimit ||
		job.Node != "" || len(job.Labels) > 0 || len(job.Exclude) > 0 {
		for _, w := range m.workers {
			visit(w)
		}
		return
	}
	if m.reclass {
		x.rebuild(m)
	}
	seen := x.seen[:0]
	add := func(w *worker) {
		if w != nil && w.model == m && !slices.Contains(seen, w) {
			seen = append(seen, w)
			visit(w)
		}
	}
	if deep := x.deepest(job.Blocks); deep > 0 {
		for _, w := range x.owners[job.Blocks[deep-1]].w {
			add(w)
		}
		for _, w := range x.owners[job.Blocks[(deep-1)/2]].w {
			add(w)
		}
	}
	if job.Session != "" {
		if id, ok := s.sessions.get(job.Session); ok {
			add(s.workers[id])
		}
	}
	for _, t := range m.trees {
		w := t.win[1]
		add(t.ws[w])
		t.second(w, add)
	}
	x.seen = seen
}

// second visits the losers on the winner's way up: the runner-up is among them.
func (t *tree) second(w int32, add func(*worker)) {
	best := int32(-1)
	for i := t.size + int(w); i > 1; i /= 2 {
		if o := t.child(i ^ 1); int(o) < len(t.ws) && (best < 0 || t.keys[o] < t.keys[best]) {
			best = o
		}
	}
	if best >= 0 {
		add(t.ws[best])
	}
}

// deepest is the length of the longest prefix of blocks that anybody holds.
func (x *index) deepest(blocks []uint64) int {
	if len(blocks) == 0 {
		return 0
	}
	if _, ok := x.owners[blocks[0]]; !ok {
		return 0
	}
	lo, hi := 0, len(blocks)
	for lo+1 < hi {
		mid := int(uint(lo+hi) >> 1)
		if _, ok := x.owners[blocks[mid]]; ok {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo + 1
}
