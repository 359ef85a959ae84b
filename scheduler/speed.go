package scheduler

import "time"

// speed is what was learnt of one model on one device: time to first token = base + tokens/rate, fitted
// over decaying sums so that a short prompt's fixed cost isn't taken for a slow prefill.
type speed struct {
	n, sx, sy, sxx, sxy float64
	base                float64 // seconds
	rate                float64 // prompt tokens/s
	itl                 float64 // seconds per output token in a slot
	itlN                float64
	loadTime            float64
	given               bool // the snapshot says the rate
}

const speedDecay = 0.97

// prefill learns the time of one prefill.
func (p *speed) prefill(tokens int, took time.Duration) {
	x, y := float64(max(tokens, 0)), max(took.Seconds(), 0)
	p.n, p.sx, p.sy = p.n*speedDecay+1, p.sx*speedDecay+x, p.sy*speedDecay+y
	p.sxx, p.sxy = p.sxx*speedDecay+x*x, p.sxy*speedDecay+x*y
	mx, my := p.sx/p.n, p.sy/p.n
	vx := p.sxx/p.n - mx*mx
	if p.n >= 4 && vx > 0.01*mx*mx && mx > 0 {
		if slope := (p.sxy/p.n - mx*my) / vx; slope > 0 && my-slope*mx >= 0 {
			p.rate, p.base = 1/slope, my-slope*mx
			return
		}
	}
	if p.sx > 0 && p.sy > 0 {
		p.rate, p.base = p.sx/p.sy, 0
	}
}

// prefilled is one dispatch of a worker: when it went there, when its first token came, what it computed.
type prefilled struct {
	seq         int
	start, at   int64
	work        int
	done, learn bool
}

// prefillDone notes a first token with what was really computed. A prefill begins when the one before it
// on the same worker ends, so a sample counts as soon as both are known.
func (w *worker) prefillDone(seq int, at int64, work int) {
	p := &w.past[seq%len(w.past)]
	if p.seq != seq || p.done {
		return
	}
	p.at, p.work, p.done = at, work, true
	w.learnPrefill(seq)
	w.learnPrefill(seq + 1)
}

func (w *worker) learnPrefill(seq int) {
	p, before := &w.past[seq%len(w.past)], &w.past[(seq+len(w.past)-1)%len(w.past)]
	if p.seq != seq || !p.done || p.learn || seq > 1 && before.seq == seq-1 && !before.done {
		return
	}
	start := p.start
	if before.seq == seq-1 && seq > 1 {
		start = max(start, before.at)
	}
	p.learn = true
	w.speed.prefill(p.work, time.Duration(p.at-start))
}

// decode learns the time of one output token.
func (p *speed) decode(tokens int, took time.Duration) {
	if tokens < 1 || took <= 0 {
		return
	}
	x := took.Seconds() / float64(tokens)
	if p.itlN < 20 {
		p.itlN++
	}
	p.itl += (x - p.itl) / p.itlN
}

// speedKey is what a respawned worker inherits.
type speedKey struct{ node, device, model string }

// speedOf finds or begins the record of a worker: what the snapshot gives, else what the same model
// does elsewhere, else the defaults.
func (s *Scheduler) speedOf(w *worker) *speed {
	key := speedKey{w.Node, w.Device, w.Model}
	if w.Node == "" || w.External {
		key.device = w.ID
	}
	p := s.speeds[key]
	if p == nil {
		if len(s.speeds) >= maxSpeeds {
			for k := range s.speeds { // any: a bound, not a policy
				delete(s.speeds, k)
				break
			}
		}
		p = &speed{}
		s.speeds[key] = p
	}
	f := w.Speed
	if f <= 0 {
		f = 1
	}
	if w.PrefillRate > 0 && p.n == 0 {
		p.rate, p.given = w.PrefillRate, true
	} else if p.rate == 0 {
		p.rate = s.opts.PrefillRate * f
	}
	if w.DecodeRate > 0 && p.itlN == 0 {
		p.itl = 1 / w.DecodeRate
	} else if p.itl == 0 {
		p.itl = 1 / (s.opts.DecodeRate * f)
	}
	return p
}

const maxSpeeds = 65536

// own is the expected prefill time of so many uncached tokens, in ns.
func (p *speed) own(uncached int) int64 {
	return int64((p.base + float64(uncached)/p.rate) * 1e9)
}

// hold is the expected time of so many output tokens in a slot, in ns.
func (p *speed) hold(out float64) int64 { return int64(out * p.itl * 1e9) }

// outputs learns how long the answers of a model are, as a share of max_tokens where that was given.
type outputs struct{ n, mean, m, share float64 }

func (o *outputs) learn(maxTokens, out int) {
	if o.n < 50 {
		o.n++
	}
	o.mean += (float64(out) - o.mean) / o.n
	if maxTokens > 0 {
		if o.m < 50 {
			o.m++
		}
		o.share += (min(float64(out)/float64(maxTokens), 1) - o.share) / o.m
	}
}

func (o *outputs) expect(maxTokens int) float64 {
	switch {
	case maxTokens > 0 && o.m > 0:
		return float64(maxTokens) * o.share
	case o.n > 0 && (maxTokens == 0 || o.mean < float64(maxTokens)):
		return o.mean
	case maxTokens > 0:
		return min(float64(maxTokens), 256)
	}
	return 128
}
