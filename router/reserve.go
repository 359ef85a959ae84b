package router

import (
	"sync/atomic"
	"time"
)

// reservation is a placement whose Release runs exactly once.
type reservation struct {
	p    Placement
	r    *Router
	seat seat // where it counts; zero: it holds no slot
	done atomic.Bool
	x    exchange // of the one attempt that is made with it
}

// hold makes a placement a reservation.
func (r *Router) hold(t *task, p *Placement, now time.Time) *reservation {
	res := &reservation{p: *p, r: r}
	if p.Action == Route {
		res.seat = t.seat
		r.shares.change(res.seat, 0, 1, now)
	}
	return res
}

func (r *reservation) release(o Outcome) {
	if r.done.Swap(true) {
		return
	}
	if r.seat.u != nil {
		now := o.Started.Add(o.Duration)
		if o.Started.IsZero() {
			now = time.Now()
		}
		r.r.shares.change(r.seat, 0, -1, now)
	}
	if r.p.Release != nil {
		r.p.Release(o)
	}
}
