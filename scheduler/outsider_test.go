package scheduler_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

// An outsider's simulator: it knows the public API only, hashes prompts' text with Blocks, reports neither cached
// tokens nor first tokens, keeps no Wait hint, gives no rates, and its workers slow down as they decode more at once.
// Whatever it leaves out, the native policy must beat binding to the least loaded worker at arrival.
type outsider struct {
	now     time.Duration
	workers []*outWorker
	sched   *scheduler.Scheduler // nil: least loaded at arrival, queues at the workers
	line    []*scheduler.Job
	reqs    map[string]*outReq
	ttft    []time.Duration
	over    bool
}

type outReq struct {
	id         string
	at, first  time.Duration
	prompt     []byte
	out        int
	left       float64 // prefill seconds, then tokens
	prefilling bool
	rel        scheduler.Release
	job        *scheduler.Job
}

type outWorker struct {
	id      string
	speed   float64
	slots   int
	running []*outReq // the first that is prefilling holds the engine
	waiting []*outReq
	held    map[uint64]int // block -> when used
	order   []uint64
}

const outTick = 20 * time.Millisecond

// seat starts a request: what its prompt shares with the cache is not computed again.
func (w *outWorker) seat(r *outReq) {
	blocks := scheduler.Blocks("m", r.prompt)
	hit := 0
	for hit < len(blocks) && w.held[blocks[hit]] > 0 {
		hit++
	}
	for _, b := range blocks {
		if w.held[b]++; w.held[b] == 1 {
			w.order = append(w.order, b)
		}
	}
	for len(w.order) > 2000 { // first in, first out: not what the scheduler assumes
		delete(w.held, w.order[0])
		w.order = w.order[1:]
	}
	uncached := len(r.prompt) - hit*scheduler.BlockBytes
	r.left, r.prefilling = float64(uncached)/4/(3000*w.speed), true
	w.running = append(w.running, r)
}

// tick runs one worker for a tick and returns what ended.
func (w *outWorker) tick(now time.Duration) (done []*outReq) {
	decoding := 0
	for _, r := range w.running {
		if !r.prefilling {
			decoding++
		}
	}
	budget := outTick.Seconds()
	for _, r := range w.running {
		switch {
		case !r.prefilling:
			r.left -= outTick.Seconds() * 60 * w.speed / (1 + 0.15*float64(decoding))
			if r.left <= 0 {
				done = append(done, r)
			}
		case budget > 0:
			used := min(budget, r.left)
			r.left, budget = r.left-used, budget-used
			if r.left <= 1e-9 {
				r.prefilling, r.first, r.left = false, now, float64(r.out)
			}
		}
	}
	w.running = slices.DeleteFunc(w.running, func(r *outReq) bool { return slices.Contains(done, r) })
	return done
}

func (o *outsider) arrive(r *outReq) {
	if o.sched == nil {
		best := o.workers[0]
		for _, w := range o.workers {
			if len(w.running)+len(w.waiting) < len(best.running)+len(best.waiting) {
				best = w
			}
		}
		best.waiting = append(best.waiting, r)
		return
	}
	r.job = &scheduler.Job{ID: r.id, Model: "m", PromptTokens: len(r.prompt) / 4, Blocks: scheduler.Blocks("m", r.prompt)}
	o.reqs[r.id] = r
	d, rel, err := o.sched.Place(context.Background(), r.job)
	if err != nil || !o.start(r, d, rel) {
		o.line = append(o.line, r.job)
	}
	o.pick()
}

func (o *outsider) start(r *outReq, d scheduler.Decision, rel scheduler.Release) bool {
	if d.Action != scheduler.Route {
		return false
	}
	w := o.workers[slices.IndexFunc(o.workers, func(w *outWorker) bool { return w.id == d.Worker })]
	r.rel = rel
	o.over = o.over || len(w.running) >= w.slots
	w.seat(r)
	return true
}

func (o *outsider) pick() {
	for len(o.line) > 0 {
		i, d, rel, err := o.sched.Pick(context.Background(), o.line)
		if i < 0 || err != nil || !o.start(o.reqs[o.line[i].ID], d, rel) {
			return
		}
		o.line = slices.Delete(o.line, i, i+1)
	}
}

// run plays the requests and returns the median and the 99th percentile of the time to the first token.
func (o *outsider) run(reqs []*outReq) (p50, p99 time.Duration) {
	for next := 0; len(o.ttft) < len(reqs) && o.now < 24*time.Hour; o.now += outTick {
		for next < len(reqs) && reqs[next].at <= o.now {
			o.arrive(reqs[next])
			next++
		}
		for _, w := range o.workers {
			for o.sched == nil && len(w.waiting) > 0 && len(w.running) < w.slots {
				w.seat(w.waiting[0])
				w.waiting = w.waiting[1:]
			}
			for _, r := range w.tick(o.now) {
				o.ttft = append(o.ttft, r.first-r.at)
				if o.sched != nil {
					r.rel.Done()
					o.sched.Observe(scheduler.Observation{Job: r.job, Worker: w.id, Prompt: len(r.prompt) / 4, Cached: -1, Output: r.out, OK: true})
					o.pick()
				}
			}
		}
	}
	slices.Sort(o.ttft)
	return o.ttft[len(o.ttft)/2], o.ttft[len(o.ttft)*99/100]
}

// outTraffic is text: conversations under one of three system prompts, sometimes in bursts.
func outTraffic(n int, rate float64, seed uint64) (reqs []*outReq) {
	g := rand.New(rand.NewPCG(seed, 1))
	text := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('a' + g.IntN(26))
		}
		return b
	}
	systems := [][]byte{text(3000), text(9000), text(20000)}
	var talks [][]byte
	at := 0.0
	for i := range n {
		if i%60 < 45 {
			at += g.ExpFloat64() / rate
		}
		k := len(talks)
		if k > 0 && g.IntN(10) < 6 {
			k = g.IntN(k)
		} else if talks = append(talks, slices.Clone(systems[g.IntN(3)])); k >= 40 {
			talks, k = talks[1:], k-1
		}
		talks[k] = append(talks[k], text(400+g.IntN(6000))...)
		reqs = append(reqs, &outReq{id: fmt.Sprint(i), at: time.Duration(at * 1e9), prompt: slices.Clone(talks[k]), out: 20 + g.IntN(150)})
	}
	return reqs
}

func outFleet(speeds []float64, slots int) (ws []*outWorker) {
	for i, s := range speeds {
		ws = append(ws, &outWorker{id: fmt.Sprint("w", i), speed: s, slots: slots, held: map[uint64]int{}})
	}
	return ws
}

func TestOutsidersSimulator(t *testing.T) {
	for _, c := range []struct {
		name   string
		speeds []float64
		slots  int
		rate   float64
		told   float64 // prefill rate that the snapshot gives; 0 = none
	}{
		{"equal", []float64{1, 1, 1, 1}, 4, 5, 0},
		{"one slot", []float64{1, 1, 1, 1}, 1, 1.6, 0},
		{"uneven", []float64{1, 0.5, 0.25}, 2, 1.2, 0},
		{"overload", []float64{1, 1}, 4, 4, 0},
		{"told three times too fast", []float64{1, 1, 1, 1}, 4, 5, 9000},
		{"told three times too slow", []float64{1, 1, 1, 1}, 4, 5, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			least := &outsider{workers: outFleet(c.speeds, c.slots)}
			l50, l99 := least.run(outTraffic(500, c.rate, 3))
			o := &outsider{workers: outFleet(c.speeds, c.slots), reqs: map[string]*outReq{}}
			snap := &scheduler.Snapshot{Version: 1}
			for _, w := range o.workers {
				snap.Workers = append(snap.Workers, scheduler.Worker{ID: w.id, Model: "m", Slots: w.slots, PrefillRate: c.told})
			}
			o.sched = scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return snap }),
				scheduler.Options{Now: func() time.Time { return time.Unix(0, 0).Add(o.now) }})
			n50, n99 := o.run(outTraffic(500, c.rate, 3))
			t.Logf("p50 %v against %v, p99 %v against %v", n50, l50, n99, l99)
			if len(o.ttft) != 500 || o.over {
				t.Fatalf("%d of 500 answered, over the slots: %v", len(o.ttft), o.over)
			}
			if n50 > l50 || n99 > l99 {
				t.Errorf("behind the least loaded worker: p50 %v against %v, p99 %v against %v", n50, l50, n99, l99)
			}
		})
	}
}
