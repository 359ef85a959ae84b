package router

import (
	"sync"
	"time"
)

// lately is how long a tenant's use of a model is remembered after its last job.
const lately = 5 * time.Second

// shares keeps one tenant's flood from holding every slot of a model: whoever has more than an equal share leaves free
// what the others used lately, up to a quarter of the slots. The fair order of the line alone can't do that, since a job
// that runs is never interrupted: a tenant that asks seldom would wait for one of the flood's to end, each time.
type shares struct {
	slots func(model string) int // nil: nothing is kept free

	mu     sync.Mutex
	models map[string]*share
}

// share is who uses a model.
type share struct {
	running int // jobs that hold a slot
	tenants map[string]*use
	swept   time.Time
}

// use is one tenant's use of a model.
type use struct {
	inside  int // unfinished jobs
	running int // of these, those that hold a slot
	peak    int // most inside at once, lately
	peaked  time.Time
	seen    time.Time
}

func (s *shares) change(j *Job, inside, running int, now time.Time) {
	if s.slots == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(j, inside, running, now)
}

// enter counts a job that arrives, and says what may and owed would.
func (s *shares) enter(j *Job, now time.Time) (may, owed bool) {
	if s.slots == nil {
		return true, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(j, 1, 0, now)
	return s.rule(j, now)
}

// note is change. The caller holds mu.
func (s *shares) note(j *Job, inside, running int, now time.Time) {
	m := s.models[j.Model]
	if m == nil {
		m = &share{tenants: make(map[string]*use)}
		if s.models == nil {
			s.models = make(map[string]*share)
		}
		s.models[j.Model] = m
	}
	u := m.tenants[j.Tenant]
	if u == nil {
		u = &use{}
		m.tenants[j.Tenant] = u
	}
	u.inside += inside
	u.running += running
	m.running += running
	u.seen = now
	if u.inside >= u.peak || now.Sub(u.peaked) > lately {
		u.peak, u.peaked = u.inside, now
	}
}

// forget drops the tenants of a model that have not been seen lately, now and then, and says how many there are. The
// caller holds mu.
func (m *share) forget(now time.Time) int {
	if now.Sub(m.swept) < lately/20 {
		return len(m.tenants)
	}
	m.swept = now
	for name, u := range m.tenants {
		if u.inside <= 0 && u.running <= 0 && now.Sub(u.seen) > lately {
			delete(m.tenants, name)
		}
	}
	return len(m.tenants)
}

// may says whether a job may take a slot now, as far as the other tenants are concerned.
func (s *shares) may(j *Job, now time.Time) bool {
	ok, _ := s.judge(j, now)
	return ok
}

// judge is may, and says whether a job may go past those that wait: its tenant has less than its share and nothing else in
// line.
func (s *shares) judge(j *Job, now time.Time) (may, owed bool) {
	if s.slots == nil {
		return true, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rule(j, now)
}

// rule is judge. The caller holds mu.
func (s *shares) rule(j *Job, now time.Time) (may, owed bool) {
	m := s.models[j.Model]
	if m == nil || len(m.tenants) < 2 {
		return true, false
	}
	n := m.forget(now)
	mine := m.tenants[j.Tenant]
	if n < 2 || mine == nil {
		return true, false
	}
	slots := s.slots(j.Model)
	fair := max(1, slots/n)
	if mine.running < fair {
		return true, mine.inside <= mine.running+1
	}
	kept, most := 0, slots/4
	for _, u := range m.tenants {
		if u != mine {
			kept += max(0, min(u.peak, fair)-u.running)
		}
		if kept >= most {
			break
		}
	}
	return m.running+min(kept, most) < slots, false
}
