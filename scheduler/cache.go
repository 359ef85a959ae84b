package scheduler

// cache is what we believe one worker's prefix cache holds. Blocks leave least recently used first, and
// a prompt is touched from its end to its beginning, so what is held is always closed under prefixes:
// the longest match is found by binary search.
type cache struct {
	kind    CacheKind
	fixed   int // capacity in blocks the snapshot gives; 0 = learn
	tokens  int // capacity in tokens the snapshot gives
	limit   int // never more than this
	learnt  int // capacity learnt from observations; 0 = not yet
	perTok  float64
	trust   float64 // share of what we expected that engines confirm
	at      map[uint64]int32
	nodes   []node
	head    int32
	tail    int32
	free    int32
	slots   []sequence
	seqTick int64
	now     int64 // of the touch under way
}

type node struct {
	hash       uint64
	prev, next int32
	used       int64 // when a job last wanted it
}

// sequence is what one llama.cpp slot still holds.
type sequence struct {
	blocks []uint64
	used   int64
	busy   bool
}

const none = int32(-1)

func (c *cache) configure(w *Worker, limit int) {
	if c.at == nil {
		c.at = make(map[uint64]int32)
		c.head, c.tail, c.free, c.trust = none, none, none, 1
	}
	c.kind, c.fixed, c.tokens = w.Cache, w.CacheBlocks, w.CacheTokens
	c.limit = max(limit, 256)
	if c.kind == CacheSlots && len(c.slots) != w.Slots {
		n := min(max(w.Slots, 1), 64)
		for len(c.slots) < n {
			c.slots = append(c.slots, sequence{})
		}
		c.slots = c.slots[:n]
	}
}

// capacity in blocks.
func (c *cache) capacity() int {
	n := c.limit
	switch {
	case c.fixed > 0:
		n = min(n, c.fixed)
	case c.tokens > 0 && c.perTok > 0:
		n = min(n, max(int(float64(c.tokens)/c.perTok), 1))
	case c.learnt > 0:
		n = min(n, c.learnt)
	}
	return n
}

// match is the number of leading blocks that the worker should still have.
func (c *cache) match(blocks []uint64) int {
	if c.kind == CacheNone || len(blocks) == 0 || len(c.at) == 0 {
		return 0
	}
	if c.kind == CacheSlots {
		n, _ := c.bestSlot(blocks)
		return n
	}
	lo, hi := 0, len(blocks)
	if _, ok := c.at[blocks[0]]; !ok {
		return 0
	}
	for lo+1 < hi {
		mid := int(uint(lo+hi) >> 1)
		if _, ok := c.at[blocks[mid]]; ok {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo + 1
}

// idle is how long the block that more new ones would push out first has lain unused; below 0 when nothing is
// known to be pushed out.
func (c *cache) idle(now int64, more int) int64 {
	if c.kind != CacheBlocks || c.tail == none || c.fixed+c.tokens+c.learnt == 0 || len(c.at)+more <= c.capacity() {
		return -1
	}
	return now - c.nodes[c.tail].used
}

// unused is how long a block that is held has not been wanted; 0 for one that isn't held.
func (c *cache) unused(now int64, block uint64) int64 {
	if n, ok := c.at[block]; ok {
		return now - c.nodes[n].used
	}
	return 0
}

// bestSlot is the idle slot with the longest common prefix, the least recently used among equals.
func (c *cache) bestSlot(blocks []uint64) (n, slot int) {
	n, slot = 0, -1
	for i := range c.slots {
		q := &c.slots[i]
		if q.busy {
			continue
		}
		l := common(q.blocks, blocks)
		if slot < 0 || l > n || l == n && q.used < c.slots[slot].used {
			n, slot = l, i
		}
	}
	return n, slot
}

// common is the length of the common prefix of two chains.
func common(a, b []uint64) int {
	lo, hi := 0, min(len(a), len(b))
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if a[mid] == b[mid] {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// touch records that the worker is about to hold these blocks; the slot is busy until done.
func (c *cache) touch(blocks []uint64, perBlock float64, dropped func(uint64), added func(uint64)) (slot int) {
	slot = -1
	if c.kind == CacheNone {
		return slot
	}
	if c.kind == CacheSlots {
		_, slot = c.bestSlot(blocks)
		if slot >= 0 {
			q := &c.slots[slot]
			c.seqTick++
			q.blocks, q.used, q.busy = append(q.blocks[:0], blocks...), c.seqTick, true
		}
	}
	if len(blocks) == 0 {
		return slot
	}
	if perBlock > 0 {
		if c.perTok == 0 {
			c.perTok = perBlock
		}
		c.perTok += (perBlock - c.perTok) / 16
	}
	limit := c.capacity()
	if len(blocks) > limit {
		blocks = blocks[:limit]
	}
	for i := len(blocks) - 1; i >= 0; i-- {
		if n, ok := c.at[blocks[i]]; ok {
			c.unlink(n)
			c.push(n)
			continue
		}
		if len(c.at) >= limit {
			c.evict(dropped)
		}
		c.insert(blocks[i])
		if added != nil {
			added(blocks[i])
		}
	}
	for len(c.at) > limit {
		c.evict(dropped)
	}
	return slot
}

func (c *cache) evict(dropped func(uint64)) {
	n := c.tail
	h := c.nodes[n].hash
	c.unlink(n)
	delete(c.at, h)
	c.nodes[n].next, c.free = c.free, n
	if dropped != nil {
		dropped(h)
	}
}

func (c *cache) insert(h uint64) {
	n := c.free
	if n == none {
		n = int32(len(c.nodes))
		c.nodes = append(c.nodes, node{})
	} else {
		c.free = c.nodes[n].next
	}
	c.nodes[n].hash = h
	c.at[h] = n
	c.push(n)
}

func (c *cache) push(n int32) {
	c.nodes[n].used = c.now
	c.nodes[n].prev, c.nodes[n].next = none, c.head
	if c.head != none {
		c.nodes[c.head].prev = n
	}
	c.head = n
	if c.tail == none {
		c.tail = n
	}
}

func (c *cache) unlink(n int32) {
	p, x := c.nodes[n].prev, c.nodes[n].next
	if p != none {
		c.nodes[p].next = x
	} else {
		c.head = x
	}
	if x != none {
		c.nodes[x].prev = p
	} else {
		c.tail = p
	}
}

// forget removes the blocks beyond n: an attempt that failed has not left them there.
func (c *cache) forget(blocks []uint64, n int, dropped func(uint64)) {
	for i := len(blocks) - 1; i >= n; i-- {
		if at, ok := c.at[blocks[i]]; ok {
			c.unlink(at)
			delete(c.at, blocks[i])
			c.nodes[at].next, c.free = c.free, at
			if dropped != nil {
				dropped(blocks[i])
			}
		}
	}
}

// correct learns the capacity from what the engine said it had.
func (c *cache) correct(expected, got float64) {
	if expected < 64 {
		return
	}
	ratio := min(got/expected, 1)
	c.trust += (ratio - c.trust) / 16
	if c.fixed > 0 || c.tokens > 0 {
		return
	}
	size := len(c.at)
	switch {
	case ratio < 0.8:
		c.learnt = max(size*9/10, 64)
	case c.learnt > 0 && size >= c.learnt:
		c.learnt += max(c.learnt/100, 1)
	}
}
