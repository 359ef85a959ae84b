package schedsim

import (
	"container/heap"
	"container/list"
	"time"
)

// Config shapes a fleet.
type Config struct {
	Workers     int       // prefill servers; with several models: devices
	Slots       int       // of each worker
	CacheBlocks int       // of each worker
	Prefill     float64   // tokens/s
	Decode      float64   // tokens/s of one slot
	Speeds      []float64 // factor of worker i, cyclic; empty = 1
	Models      int       // above 1, nothing is loaded at the start
	Hold        int       // models that one device holds at once
	ModelBytes  int64
	Bandwidth   float64 // bytes/s
	Seed        uint64
	Blind       bool // the scheduler isn't told output lengths, cache sizes and rates
	Plain       bool // the driver neither keeps Wait hints nor says first tokens
}

// lru is a worker's real prefix cache.
type lru struct {
	cap   int
	order *list.List
	at    map[uint64]*list.Element
}

func newLRU(capacity int) *lru {
	return &lru{cap: capacity, order: list.New(), at: map[uint64]*list.Element{}}
}

// use counts the cached leading blocks and then holds all of them.
func (c *lru) use(blocks []uint64) int {
	hit := 0
	for hit < len(blocks) && c.at[blocks[hit]] != nil {
		hit++
	}
	for i := len(blocks) - 1; i >= 0; i-- {
		if e := c.at[blocks[i]]; e != nil {
			c.order.MoveToFront(e)
		} else {
			c.at[blocks[i]] = c.order.PushFront(blocks[i])
		}
	}
	for len(c.at) > c.cap {
		e := c.order.Back()
		c.order.Remove(e)
		delete(c.at, e.Value.(uint64))
	}
	return hit
}

// peek counts without touching.
func (c *lru) peek(blocks []uint64) int {
	hit := 0
	for hit < len(blocks) && c.at[blocks[hit]] != nil {
		hit++
	}
	return hit
}

// task is a request on its way.
type task struct {
	id                int
	req               *Request
	dispatched, first time.Duration
	cached            int
	cold              bool // it waited for a load
}

// server is one worker.
type server struct {
	id                      string
	model                   string
	device                  int
	prefillRate, decodeRate float64 // tokens/s
	node, place             string  // replay: as recorded
	memory                  int64
	slots                   int
	cache                   *lru
	waiting                 []*task // dispatched, no slot yet (early binding only)
	queue                   []*task // in a slot, waiting for the prefill
	prefill                 *task
	inflight                int // in a slot
	pending                 int // prompt tokens dispatched and not prefilled
	ready                   time.Duration
	lastUse                 time.Duration
}

func (w *server) load() int { return w.inflight + len(w.waiting) }

// event is something that happens at a time.
type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// world runs events over servers; a driver decides.
type world struct {
	cfg     Config
	now     time.Duration
	seq     int
	queue   events
	servers []*server
	res     *Result
	onFirst func(*server, *task)
	onDone  func(*server, *task)
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + max(d, 0), w.seq, do})
}

func (w *world) run() {
	for len(w.queue) > 0 {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
}

func (w *world) speed(i int) float64 {
	if len(w.cfg.Speeds) == 0 {
		return 1
	}
	return w.cfg.Speeds[i%len(w.cfg.Speeds)]
}

// dispatch hands a task to a worker, which queues it when it has no slot.
func (w *world) dispatch(s *server, t *task) {
	t.dispatched = w.now
	s.pending += t.req.In
	s.lastUse = w.now
	if s.inflight >= s.slots {
		s.waiting = append(s.waiting, t)
		return
	}
	w.seat(s, t)
}

func (w *world) seat(s *server, t *task) {
	s.inflight++
	w.res.maxSlots(s)
	s.queue = append(s.queue, t)
	w.pump(s)
}

// pump starts the next prefill.
func (w *world) pump(s *server) {
	if s.prefill != nil || len(s.queue) == 0 {
		return
	}
	t := s.queue[0]
	s.queue = s.queue[1:]
	s.prefill = t
	t.cached = min(s.cache.use(t.req.Blocks)*t.req.block(), max(t.req.In-1, 0))
	took := time.Duration(float64(t.req.In-t.cached) / s.prefillRate * 1e9)
	w.after(took, func() { w.firstToken(s, t) })
}

func (w *world) firstToken(s *server, t *task) {
	s.prefill = nil
	s.pending -= t.req.In
	t.first = w.now
	w.res.first(t, w.now)
	w.after(time.Duration(float64(t.req.Out)/s.decodeRate*1e9), func() { w.finish(s, t) })
	w.pump(s)
	if w.onFirst != nil {
		w.onFirst(s, t)
	}
}

func (w *world) finish(s *server, t *task) {
	s.inflight--
	s.lastUse = w.now
	if len(s.waiting) > 0 {
		next := s.waiting[0]
		s.waiting = s.waiting[1:]
		w.seat(s, next)
	}
	w.onDone(s, t)
}

func (w *world) loadTime() time.Duration {
	return time.Duration(float64(w.cfg.ModelBytes) / w.cfg.Bandwidth * 1e9)
}
