package router

import (
	"slices"
	"time"
)

// lineUp puts a job into the line: at the front when it already ran, else behind those of its priority. It reports false,
// and leaves the job to the caller, when the job was stopped meanwhile.
func (r *Router) lineUp(t *task, front bool) bool {
	r.mu.Lock()
	if t.ctx.Err() != nil {
		t.state = running
		r.mu.Unlock()
		return false
	}
	t.state, t.since, t.front = lined, time.Now(), front
	at := len(r.line)
	switch {
	case front:
		for at = 0; at < len(r.line) && r.line[at].front; at++ {
		}
	case t.job.Priority != "batch":
		for at > 0 && r.line[at-1].job.Priority == "batch" && !r.line[at-1].front {
			at--
		}
	}
	r.line = slices.Insert(r.line, at, t)
	r.counted()
	r.waiting[t.job.Model]++
	for _, l := range r.loads {
		if l.serves(t) {
			t.load = l
		}
	}
	r.shuffled = r.shuffled || len(r.line) > 1
	t.pos = at + 1
	t.told = t.pos
	pos := t.pos // positions writes both
	r.mu.Unlock()
	if s := t.opened(); s != nil {
		s.Queued(pos)
	}
	return true
}

// unline takes a job out of the line or from the orphans. The caller holds mu.
func (r *Router) unline(t *task) {
	defer r.counted()
	if t.state == orphan {
		if i := slices.Index(r.orphans, t); i >= 0 {
			r.orphans = slices.Delete(r.orphans, i, i+1)
		}
		return
	}
	i := slices.Index(r.line, t)
	if i < 0 {
		return
	}
	r.line = slices.Delete(r.line, i, i+1)
	if r.waiting[t.job.Model]--; r.waiting[t.job.Model] <= 0 {
		delete(r.waiting, t.job.Model)
	}
	t.until, t.pause = time.Time{}, time.Time{}
	t.load = nil
}

// take moves a job out of the line into the caller's hands; false when somebody else has it.
func (r *Router) take(t *task) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.state != lined {
		return false
	}
	r.unline(t)
	t.state = running
	r.active++
	return true
}

// Bounds of what Pick is shown: enough of each model that a long line for one never hides another.
const (
	viewModel = 64
	viewAll   = 1024
)

// view is the part of the line that Pick is shown.
type view struct {
	tasks []*task
	jobs  []*Job
	count map[string]int
	may   map[holder]bool // whose jobs may take a slot, as far as other tenants are concerned
	held  bool            // somebody's may not
}

type holder struct{ model, tenant string }

// look fills the view, leaving out what this pass has put aside.
func (r *Router) look(v *view, aside map[*task]bool, models map[string]bool) {
	v.tasks, v.jobs = v.tasks[:0], v.jobs[:0]
	clear(v.count)
	clear(v.may)
	v.held = false
	r.mu.Lock()
	defer r.mu.Unlock()
	full := 0
	now := time.Now()
	for _, t := range r.line {
		m := t.job.Model
		if !t.pause.IsZero() && now.Before(t.pause) {
			continue
		}
		if !t.front && !v.allowed(&r.shares, t.job, now) {
			continue
		}
		if t.owed {
			if !r.o.Budget.Take() {
				t.pause = now.Add(quickTick)
				continue
			}
			t.owed = false
		}
		if models[m] || v.count[m] >= viewModel || aside[t] {
			continue
		}
		v.tasks, v.jobs = append(v.tasks, t), append(v.jobs, t.job)
		if v.count[m]++; v.count[m] == viewModel {
			full++
		}
		if len(v.tasks) >= viewAll || full == len(r.waiting) {
			return
		}
	}
}

// allowed asks once a pass for each tenant.
func (v *view) allowed(s *shares, j *Job, now time.Time) bool {
	if s.slots == nil {
		return true
	}
	k := holder{j.Model, j.Tenant}
	ok, known := v.may[k]
	if !known {
		ok = s.may(j, now)
		v.may[k] = ok
	}
	v.held = v.held || !ok
	return ok
}

// reorder puts the line into the queue's fair order; jobs that already ran stay in front.
func (r *Router) reorder(ids map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rank := func(t *task) int {
		if t.front {
			return -1
		}
		if i, ok := ids[t.job.ID]; ok {
			return i
		}
		return len(ids)
	}
	slices.SortStableFunc(r.line, func(a, b *task) int { return rank(a) - rank(b) })
	for i, t := range r.line {
		t.pos = i + 1
	}
}

// urgent says whether a job in front, that already ran, waits: its patience or its exclusions are counted in tenths of
// a second. The caller holds mu.
func (r *Router) urgent() bool { return len(r.line) > 0 && r.line[0].front }

// overdue takes out of the line whose time is up.
func (r *Router) overdue(now time.Time) []*task {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*task
	for _, t := range r.line {
		rescue := !t.until.IsZero() && !now.Before(t.until)
		if rescue || t.ctx.Err() != nil || (t.load == nil && now.Sub(t.since) >= r.o.QueueTimeout) {
			out = append(out, t)
		}
	}
	return out
}

// positions tells the readers of waiting jobs where they stand.
func (r *Router) positions() {
	type news struct {
		s   Stream
		pos int
	}
	var list []news
	r.mu.Lock()
	for i, t := range r.line {
		t.pos = i + 1
		if t.told == t.pos {
			continue
		}
		t.told = t.pos
		if s := t.opened(); s != nil {
			list = append(list, news{s, t.pos})
		}
	}
	r.mu.Unlock()
	for _, n := range list {
		if n.s.Readers() > 0 {
			n.s.Queued(n.pos)
		}
	}
}
