package scheduler

import "time"

// Weights tune the native policy; zero means the default of each.
type Weights struct {
	Uncached float64       // what a second of own prefill costs against a second of waiting; 0 = 2
	Size     float64       // how far a long job ranks behind a short one, in its own prefill times; 0 = 2
	Setback  float64       // no job is set back by more than this share of the longest wait, below 1; 0 = 0.5
	Pace     time.Duration // a worker whose prefill is busy for longer gets nothing yet; 0 = 20 ms
	Hold     time.Duration // waiting must win by this much over a free worker; 0 = 50 ms
}

func (w Weights) withDefaults() Weights {
	if w.Uncached == 0 {
		w.Uncached = 2
	}
	if w.Size == 0 {
		w.Size = 2
	}
	if w.Setback == 0 {
		w.Setback = 0.5
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
// at the hinted time (Decision.Wait) or says when first tokens come. One that doesn't is noticed, and
// from then on a free slot is filled at once.
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

// hinted opens a hint.
func (p *pacing) hinted(now int64, wait time.Duration) {
	if wait > 0 && (p.hint == 0 || now+int64(wait) < p.hint) {
		p.hint = now + int64(wait)
	}
}

// called notes that the caller looks at the line again.
func (p *pacing) called(now int64) {
	if p.hint == 0 || now < p.hint {
		return
	}
	if late := now - p.hint; late > int64(100*time.Millisecond) {
		p.score -= 2
	} else if p.score < 16 {
		p.score++
	}
	p.hint = 0
	switch {
	case p.score <= -8:
		p.off, p.score = true, -8
	case p.score >= 8:
		p.off = false
	}
}
