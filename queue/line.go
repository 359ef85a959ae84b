package queue

import "maps"

// unit is the virtual time that one job of weight 1 costs its tenant.
const unit = 1 << 20

// place says which structure holds an entry that is not running.
type place uint8

const (
	nowhere place = iota
	inLine        // may be claimed
	inDelay       // waits for NotBefore
	parked        // its model or tenant is paused
)

// entry is an unfinished job in memory.
type entry struct {
	rec     Record
	cls     *class
	tally   *tally // of its kind; nil while it is not counted
	place   place
	pending *write // staged, not yet taken by the writer
	flying  int    // writes taken and not yet committed
	left    *entry
	right   *entry
	prio    uint64
	cached  bool // rec.Payload is here
}

func (e *entry) less(o *entry) bool {
	if e.rec.Rank != o.rec.Rank {
		return e.rec.Rank < o.rec.Rank
	}
	return e.rec.Key < o.rec.Key
}

// class is one priority's line: start-time fair queuing between tenants. Each tenant's jobs get consecutive virtual
// start times, unit/weight apart; the smallest start goes first; virtual now follows what was claimed.
type class struct {
	root *entry // treap ordered by (rank, key)
	n    int
	now  int64
	tags map[string]int64 // where each tenant's next job starts
	// prune is the size at which tags are freed of those in the past
	prune int
}

func newClass() *class { return &class{tags: map[string]int64{}, prune: 1024} }

// rank gives the next job of a tenant its place.
func (c *class) rank(tenant string, weight int) int64 {
	if len(c.tags) >= c.prune {
		maps.DeleteFunc(c.tags, func(_ string, tag int64) bool { return tag <= c.now })
		c.prune = max(1024, 2*len(c.tags))
	}
	start := max(c.now, c.tags[tenant])
	c.tags[tenant] = start + unit/int64(max(1, min(weight, unit)))
	return start
}

// restore accounts for a queued job found in the store.
func (c *class) restore(tenant string, weight int, rank int64) {
	c.tags[tenant] = max(c.tags[tenant], rank+unit/int64(max(1, min(weight, unit))))
}

// claimed moves virtual time to the job that left the line.
func (c *class) claimed(rank int64) { c.now = max(c.now, rank) }

func (c *class) insert(e *entry) {
	e.left, e.right = nil, nil
	e.prio = scramble(uint64(e.rec.Key))
	c.root = treapInsert(c.root, e)
	c.n++
}

func (c *class) remove(e *entry) {
	c.root = treapRemove(c.root, e)
	e.left, e.right = nil, nil
	c.n--
}

// scramble spreads keys into treap priorities.
func scramble(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

func treapInsert(t, e *entry) *entry {
	if t == nil {
		return e
	}
	if e.prio > t.prio {
		e.left, e.right = treapSplit(t, e)
		return e
	}
	if e.less(t) {
		t.left = treapInsert(t.left, e)
	} else {
		t.right = treapInsert(t.right, e)
	}
	return t
}

// treapSplit divides t into what goes before e and what goes after it.
func treapSplit(t, e *entry) (before, after *entry) {
	if t == nil {
		return nil, nil
	}
	if e.less(t) {
		before, t.left = treapSplit(t.left, e)
		return before, t
	}
	t.right, after = treapSplit(t.right, e)
	return t, after
}

func treapRemove(t, e *entry) *entry {
	switch {
	case t == nil:
		return nil
	case t == e:
		return treapJoin(t.left, t.right)
	case e.less(t):
		t.left = treapRemove(t.left, e)
	default:
		t.right = treapRemove(t.right, e)
	}
	return t
}

func treapJoin(a, b *entry) *entry {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.prio > b.prio:
		a.right = treapJoin(a.right, b)
		return a
	default:
		b.left = treapJoin(a, b.left)
		return b
	}
}

// walker steps through a class in order.
type walker struct{ stack []*entry }

func (w *walker) down(e *entry) {
	for ; e != nil; e = e.left {
		w.stack = append(w.stack, e)
	}
}

func (c *class) walk() *walker {
	w := &walker{}
	w.down(c.root)
	return w
}

// peek returns the next entry without stepping; nil at the end.
func (w *walker) peek() *entry {
	if len(w.stack) == 0 {
		return nil
	}
	return w.stack[len(w.stack)-1]
}

func (w *walker) step() {
	e := w.stack[len(w.stack)-1]
	w.stack = w.stack[:len(w.stack)-1]
	w.down(e.right)
}

// line is both classes. One claim in share goes to the batch class while batch jobs wait, so that a batch job at
// place p of its class starts after at most share*p claims, however much interactive work arrives.
type line struct {
	interactive, batch *class
	share, streak      int
}

func newLine(share int) *line {
	return &line{interactive: newClass(), batch: newClass(), share: share}
}

func (l *line) class(priority string) *class {
	if priority == Batch {
		return l.batch
	}
	return l.interactive
}

// each calls fn in the order in which jobs would be claimed, until fn returns false.
func (l *line) each(fn func(*entry) bool) {
	a, b, streak := l.interactive.walk(), l.batch.walk(), l.streak
	for {
		i, j := a.peek(), b.peek()
		switch {
		case i == nil && j == nil:
			return
		case j == nil || (i != nil && streak < l.share-1):
			if !fn(i) {
				return
			}
			a.step()
			streak++
		default:
			if !fn(j) {
				return
			}
			b.step()
			streak = 0
		}
	}
}

// claimed accounts for an entry that was just taken out of the line to run.
func (l *line) claimed(e *entry) {
	e.cls.claimed(e.rec.Rank)
	switch {
	case e.cls == l.batch || l.batch.n == 0:
		l.streak = 0
	default:
		l.streak++
	}
}
