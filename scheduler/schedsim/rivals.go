package schedsim

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A rival binds a request to a worker when it arrives, and the worker queues it.
type rival func(r *rivals, m string, t *task, ws []*server) *server

// rivals runs one of them. A model with no worker is loaded on the device with the most free memory, else
// in the place of the least recently used idle worker; requests wait for the load in their order.
type rivals struct {
	*world
	rule    rival
	rng     *rand.Rand
	loading map[string]bool
	held    []*task
	used    map[int]int
	views   map[*server]*lru // sglang's own tree of what each worker was sent
	emerged map[string]time.Duration
}

// Rivals are the policies beside the scheduler's, by name.
func Rivals() []string { return []string{"least-loaded", "power-of-two", "sglang", "gateway-api"} }

func ruleOf(name string) rival {
	switch name {
	case "least-loaded":
		return leastLoaded
	case "power-of-two":
		return powerOfTwo
	case "sglang":
		return sglang
	case "gateway-api":
		return gatewayAPI
	}
	return nil
}

// RunRival runs a trace against a rival; nil for an unknown name.
func RunRival(name string, reqs []Request, cfg Config) *Result {
	rule := ruleOf(name)
	if rule == nil {
		return nil
	}
	r := &rivals{world: &world{cfg: cfg, res: &Result{Policy: name, Requests: len(reqs)}}, rule: rule, rng: rand.New(rand.NewPCG(cfg.Seed, 3)),
		loading: map[string]bool{}, used: map[int]int{}, views: map[*server]*lru{}, emerged: map[string]time.Duration{}}
	r.onDone = func(*server, *task) { r.retry() }
	if cfg.Models <= 1 {
		for i := range cfg.Workers {
			r.add(i, modelName(0))
		}
	}
	for i := range reqs {
		t := &task{id: i, req: &reqs[i]}
		r.seq++
		r.queue = append(r.queue, event{reqs[i].At, r.seq, func() { r.arrive(t) }})
	}
	r.run()
	return r.res.finish()
}

func (r *rivals) add(device int, m string) {
	s := &server{model: m, device: device, prefillRate: r.cfg.Prefill * r.speed(device), decodeRate: r.cfg.Decode * r.speed(device), slots: r.cfg.Slots, cache: newLRU(r.cfg.CacheBlocks), ready: r.now, lastUse: r.now}
	r.servers = append(r.servers, s)
	r.views[s] = newLRU(r.cfg.CacheBlocks)
	r.used[device]++
}

func (r *rivals) of(m string) []*server {
	var ws []*server
	for _, s := range r.servers {
		if s.model == m {
			ws = append(ws, s)
		}
	}
	return ws
}

func (r *rivals) arrive(t *task) {
	if !r.try(t) {
		r.held = append(r.held, t)
	}
}

func (r *rivals) try(t *task) bool {
	m := t.req.Model
	ws := r.of(m)
	if len(ws) == 0 {
		r.load(m)
		return false
	}
	s := r.rule(r, m, t, ws)
	t.cold = r.emerged[m] > t.req.At
	r.views[s].use(t.req.Blocks)
	r.dispatch(s, t)
	return true
}

// retry looks at the held requests again, in their order.
func (r *rivals) retry() {
	r.held = slices.DeleteFunc(r.held, r.try)
}

func (r *rivals) load(m string) {
	if r.loading[m] {
		return
	}
	device, victim := -1, (*server)(nil)
	for i := range r.cfg.Workers {
		if r.used[i] < max(r.cfg.Hold, 1) && (device < 0 || r.used[i] < r.used[device]) {
			device = i
		}
	}
	if device < 0 {
		for _, s := range r.servers {
			if s.load() == 0 && (victim == nil || s.lastUse < victim.lastUse) {
				victim, device = s, s.device
			}
		}
		if victim == nil {
			return
		}
		r.res.Swaps++
		r.servers = slices.DeleteFunc(r.servers, func(s *server) bool { return s == victim })
		r.used[device]--
	}
	r.res.Loads++
	r.loading[m] = true
	r.used[device]++
	r.after(r.loadTime(), func() {
		r.loading[m] = false
		r.used[device]--
		r.emerged[m] = r.now
		r.add(device, m)
		r.retry()
	})
}

func leastLoaded(_ *rivals, _ string, _ *task, ws []*server) *server {
	best := ws[0]
	for _, s := range ws {
		if s.load() < best.load() {
			best = s
		}
	}
	return best
}

func powerOfTwo(r *rivals, _ string, _ *task, ws []*server) *server {
	a, b := ws[r.rng.IntN(len(ws))], ws[r.rng.IntN(len(ws))]
	if b.load() < a.load() {
		return b
	}
	return a
}

// sglang is like its router's cache-aware policy with its defaults: the shortest queue when the fleet is
// out of balance (64 absolute, 1.5 relative), else the longest prefix when it covers 30 %, else the
// smallest tree.
func sglang(r *rivals, m string, t *task, ws []*server) *server {
	low, high := leastLoaded(r, m, t, ws), ws[0]
	for _, s := range ws {
		if s.load() > high.load() {
			high = s
		}
	}
	if high.load()-low.load() > 64 && float64(high.load()) > 1.5*float64(low.load()) {
		return low
	}
	best, match, small := ws[0], -1, ws[0]
	for _, s := range ws {
		if n := r.views[s].peek(t.req.Blocks); n > match {
			best, match = s, n
		}
		if len(r.views[s].at) < len(r.views[small].at) {
			small = s
		}
	}
	if len(t.req.Blocks) > 0 && float64(match) > 0.3*float64(len(t.req.Blocks)) {
		return best
	}
	return small
}

// gatewayAPI is like the inference extension's default scorers: queue 2, cache utilisation 2, prefix 3.
func gatewayAPI(r *rivals, _ string, t *task, ws []*server) *server {
	lo, hi := ws[0].load(), ws[0].load()
	for _, s := range ws {
		lo, hi = min(lo, s.load()), max(hi, s.load())
	}
	best, score := ws[0], -1.0
	for _, s := range ws {
		queue := 1.0
		if hi > lo {
			queue = float64(hi-s.load()) / float64(hi-lo)
		}
		util := min(float64(s.pending)/float64(max(r.cfg.CacheBlocks, 1)*BlockTokens), 1)
		prefix := 0.0
		if n := len(t.req.Blocks); n > 0 {
			prefix = float64(r.views[s].peek(t.req.Blocks)) / float64(n)
		}
		if v := 2*queue + 2*(1-util) + 3*prefix; v > score {
			best, score = s, v
		}
	}
	return best
}

// RunShared is the bound: one line, first come first served, over the same prefill servers, with one cache
// of the total size.
func RunShared(reqs []Request, cfg Config) *Result {
	w := &world{cfg: cfg, res: &Result{Policy: "shared-cache", Requests: len(reqs)}}
	cache := newLRU(cfg.CacheBlocks * cfg.Workers)
	free := make([]time.Duration, cfg.Workers)
	for i := range reqs {
		k := 0
		for n := range free {
			if free[n] < free[k] {
				k = n
			}
		}
		t := &task{id: i, req: &reqs[i]}
		t.cached = min(cache.use(t.req.Blocks)*BlockTokens, max(t.req.In-1, 0))
		start := max(reqs[i].At, free[k])
		free[k] = start + time.Duration(float64(t.req.In-t.cached)/(cfg.Prefill*w.speed(k))*1e9)
		w.res.first(t, free[k])
	}
	return w.res.finish()
}
