package router

import "sync/atomic"

// reservation is a placement whose Release runs exactly once.
type reservation struct {
	p    Placement
	done atomic.Bool
}

func hold(p Placement) *reservation { return &reservation{p: p} }

func (r *reservation) release(o Outcome) {
	if r.done.Swap(true) || r.p.Release == nil {
		return
	}
	r.p.Release(o)
}
