package router

import (
	"context"
	"time"
)

// Recover takes over what an earlier queen left: running jobs go on from their journals, waiting ones wait on. Run does it
// first thing; a program that serves readers calls it before it listens, so that who comes back finds the job. Once done,
// it does nothing.
func (r *Router) Recover(ctx context.Context) error {
	r.recovering.Lock()
	defer r.recovering.Unlock()
	if r.recovered {
		return nil
	}
	err := r.recoverJobs(ctx)
	r.recovered = err == nil
	return err
}

func (r *Router) recoverJobs(ctx context.Context) error {
	running, err := r.queue.Recover(ctx)
	if err != nil {
		return err
	}
	for _, j := range running {
		r.resume(j)
	}
	line, err := r.readLine(ctx, true)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.more = r.more || len(line) >= r.o.MaxWaiting
	r.mu.Unlock()
	if n := len(running) + len(line); n > 0 {
		r.log.Info("took over unfinished jobs", "running", len(running), "waiting", len(line))
	}
	r.poke()
	return nil
}

// readLine reads the waiting jobs of the store and, where asked, takes in those that are not known. What ended while it
// read is not taken in again.
func (r *Router) readLine(ctx context.Context, adopt bool) ([]*Job, error) {
	if adopt {
		r.mu.Lock()
		r.gone = make(map[string]bool)
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			r.gone = nil
			r.mu.Unlock()
		}()
	}
	jobs, err := r.queue.Line(ctx, r.o.MaxWaiting)
	if err != nil || !adopt {
		return jobs, err
	}
	for _, j := range jobs {
		r.adopt(j)
	}
	return jobs, nil
}

// resume takes over a job that was running.
func (r *Router) resume(j *Job) {
	t := newTask(r, j)
	t.recovered, t.stored = true, true
	if !r.enroll(t) {
		return
	}
	s, err := t.open()
	if err != nil {
		r.log.Error("journal of an unfinished job not readable", "job", j.ID, "error", err)
		t.settle(t.failure(err, CodeInternal))
		return
	}
	if res, ok := s.Ended(); ok { // the terminal event went out, its record did not
		t.record(&res)
		return
	}
	_, tokens, continuable := s.Prefix()
	t.tokens = tokens
	t.emitted = tokens > 0 || !continuable
	if !j.Detached {
		r.orphan(t)
		return
	}
	if !r.lineUp(t, true) {
		t.finish(t.aborted())
	}
}

// adopt takes in a job that waits in the store. A known one is left as it is.
func (r *Router) adopt(j *Job) {
	t := newTask(r, j)
	t.recovered = true
	if !r.enroll(t) {
		t.cancel(errCancelled)
		return
	}
	if !j.Detached {
		r.orphan(t)
		return
	}
	if !r.lineUp(t, false) {
		t.finish(t.aborted())
	}
}

// enroll makes a job of the store known; false when it is already.
func (r *Router) enroll(t *task) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining || r.tasks[t.job.ID] != nil || r.gone[t.job.ID] {
		return false
	}
	r.tasks[t.job.ID] = t
	t.seat, _, _ = r.shares.enter(t.job, time.Now())
	return true
}

// orphan lets an attached job wait for a reader to come back.
func (r *Router) orphan(t *task) {
	r.mu.Lock()
	t.state, t.since = orphan, time.Now()
	r.orphans = append(r.orphans, t)
	r.counted()
	r.mu.Unlock()
}

// claimOrphans goes on with the attached jobs whose readers came back and ends those whose time is up.
func (r *Router) claimOrphans(now time.Time) {
	r.mu.Lock()
	var back, lost []*task
	keep := r.orphans[:0]
	for _, t := range r.orphans {
		s := t.opened()
		switch {
		case s != nil && s.Readers() > 0:
			t.state = running
			back = append(back, t)
		case now.Sub(t.since) >= r.o.Reattach || t.ctx.Err() != nil:
			t.state = running
			lost = append(lost, t)
		default:
			keep = append(keep, t)
		}
	}
	clear(r.orphans[len(keep):])
	r.orphans = keep
	r.counted()
	r.mu.Unlock()
	for _, t := range back {
		t.watchIdle(t.opened())
		if !r.lineUp(t, t.stored) {
			t.finish(t.aborted())
		}
	}
	for _, t := range lost {
		t.cancel(errClientGone)
		t.finish(t.aborted())
	}
}
