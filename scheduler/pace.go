package scheduler

import "time"

// Weights tune the native policy; zero means the default of each.
type Weights struct {
	Uncached float64       // what a second of recomputing a cached prefix costs for each job behind; 0 = 1.2
	Size     float64       // how far a long job ranks behind a short one, in its own prefill times; 0 = 6
	Setback  float64       // no job is set back by more than this share of the longest wait, below 1; 0 = 0.8
	Linger   float64       // an idle worker is kept for this share of its load time, up to five times as long behind a long line, unless the model that wants its place has waited unusually long; 0 = 0.15, negative = none
	Pace     time.Duration // a worker whose prefill is busy for longer gets nothing yet; 0 = 20 ms
	Hold     time.Duration // waiting must win by this much over a free worker; 0 = 50 ms
}

func (w Weights) withDefaults() Weights {
	if w.Uncached == 0 {
		w.Uncached = 1.2
	}
	if w.Size == 0 {
		w.Size = 6
	}
	if w.Setback == 0 {
		w.Setback = 0.8
	}
	if w.Linger == 0 {
		w.Linger = 0.15
	}
	if w.Pace == 0 {
		w.Pace = 20 * time.Millisecond
	}
	if w.Hold == 0 {
		w.Hold = 50 * time.Millisecond
	}
	return w
}

// pacing keeps jobs in the line while a worker's prefill is busy, which needs a caller that comes back
// at the hinted time (Decision.Wait) or says when first tokens come. It begins once the caller has shown
// that it does, and ends when it stops: until then a free slot is filled at once.
type pacing struct {
	w     Weights
	off   bool
	hint  int64 // when the caller ought to look again; 0 = no hint open
	score int   // kept hints against missed ones
}

func (p *pacing) horizon(w *worker) int64 {
	if p.off || (w.speed.n < 3 && !w.speed.given) {
		return never
	}
	return int64(p.w.Pace)
}

// hinted opens a hint in the place of an earlier one.
func (p *pacing) hinted(now int64, wait time.Duration) {
	p.hint = 0
	if wait > 0 {
		p.hint = now + int64(wait)
	}
}

// called notes that the caller looks at the line again: at the hinted time, or long after it.
func (p *pacing) called(now int64) {
	if p.hint == 0 || now < p.hint {
		return
	}
	if now-p.hint > int64(20*time.Millisecond) {
		p.told(-2)
	} else {
		p.told(1)
	}
	p.hint = 0
}

// told adds evidence for or against a caller that comes back in time.
func (p *pacing) told(n int) {
	p.score = min(max(p.score+n, -16), 16)
	switch {
	case p.score <= -4:
		p.off = true
	case p.score >= 4:
		p.off = false
	}
}
