package queue

import "maps"

// kind is what jobs are counted by, beside their state.
type kind struct{ model, tenant, priority string }

// tally counts the jobs of a kind by state. An entry that is counted keeps it, so one that counts nothing may go.
type tally struct{ n [len(states)]int64 }

// states in the order in which a tally counts them; the last stands for any other.
var states = [...]State{Queued, Running, Complete, Failed, Cancelled, ""} //nolint:gochecknoglobals // constant

func indexOf(s State) int {
	switch s {
	case Queued:
		return 0
	case Running:
		return 1
	case Complete:
		return 2
	case Failed:
		return 3
	case Cancelled:
		return 4
	}
	return len(states) - 1
}

// tallyOf returns the counters of a kind. q.mu is held.
func (q *Queue) tallyOf(k kind) *tally {
	t := q.tallies[k]
	if t == nil {
		t = &tally{}
		q.tallies[k] = t
	}
	return t
}

// count adds an entry to the counters, or takes it out. q.mu is held.
func (q *Queue) count(e *entry, n int) {
	r := &e.rec
	if e.tally == nil {
		e.tally = q.tallyOf(kind{r.Model, r.Tenant, r.Priority})
	}
	e.tally.n[indexOf(r.State)] += int64(n)
	switch r.State {
	case Queued:
		q.queued += n
		if q.waiting[r.Model] += n; q.waiting[r.Model] == 0 {
			delete(q.waiting, r.Model)
		}
	case Running:
		q.active += n
	}
}

// counted lists what there is. q.mu is held.
func (q *Queue) counted() []Tally {
	var out []Tally
	for k, t := range q.tallies {
		for i, n := range t.n {
			if n != 0 {
				out = append(out, Tally{State: states[i], Model: k.model, Tenant: k.tenant, Priority: k.priority, N: n})
			}
		}
	}
	return out
}

// discount takes deleted jobs out of the counters. q.mu is held.
func (q *Queue) discount(t Tally) {
	have := q.tallyOf(kind{t.Model, t.Tenant, t.Priority})
	have.n[indexOf(t.State)] = max(0, have.n[indexOf(t.State)]-t.N)
}

// tidy forgets kinds of which there is no job any more. q.mu is held.
func (q *Queue) tidy() {
	maps.DeleteFunc(q.tallies, func(_ kind, t *tally) bool { return *t == tally{} })
}
