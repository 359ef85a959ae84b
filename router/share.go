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

// seat is where a job is counted. It stays valid while the job is inside or holds a slot.
type seat struct {
	m *share
	u *use
}

// seat finds a job's. The caller holds mu.
func (s *shares) seat(j *Job) seat {
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
	return seat{m, u}
}

// enter counts a job that arrives; may and owed are what judge says.
func (s *shares) enter(j *Job, now time.Time) (at seat, may, owed bool) {
	if s.slots == nil {
		return seat{}, true, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at = s.seat(j)
	at.note(1, 0, now)
	may, owed = s.rule(at.m, at.u, j.Model, now)
	return at, may, owed
}

// change counts a job that goes (inside), or takes or leaves a slot (running).
func (s *shares) change(at seat, inside, running int, now time.Time) {
	if at.u == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at.note(inside, running, now)
}

// note is change. The caller holds mu.
func (at seat) note(inside, running int, now time.Time) {
	u := at.u
	u.inside += inside
	u.running += running
	at.m.running += running
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
	m := s.models[j.Model]
	if m == nil {
		return true, false
	}
	return s.rule(m, m.tenants[j.Tenant], j.Model, now)
}

// rule is judge for a tenant's use of a model. The caller holds mu.
func (s *shares) rule(m *share, mine *use, model string, now time.Time) (may, owed bool) {
	if len(m.tenants) < 2 {
		return true, false
	}
	n := m.forget(now)
	if n < 2 || mine == nil {
		return true, false
	}
	slots := s.slots(model)
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
