package router

import (
	"sync/atomic"
	"time"
)

// reservation is a placement whose Release runs exactly once.
type reservation struct {
	p      Placement
	job    *Job
	shares *shares // where it counts; nil: it holds no slot
	done   atomic.Bool
	x      exchange // of the one attempt that is made with it
}

// hold makes a placement a reservation.
func (r *Router) hold(j *Job, p *Placement, now time.Time) *reservation {
	res := &reservation{p: *p, job: j}
	if p.Action == Route {
		res.shares = &r.shares
		res.shares.change(j, 0, 1, now)
	}
	return res
}

func (r *reservation) release(o Outcome) {
	if r.done.Swap(true) {
		return
	}
	if r.shares != nil {
		now := o.Started.Add(o.Duration)
		if o.Started.IsZero() {
			now = time.Now()
		}
		r.shares.change(r.job, 0, -1, now)
	}
	if r.p.Release != nil {
		r.p.Release(o)
	}
}
