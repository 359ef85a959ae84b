package scheduler

// recent is a bounded map, oldest entry dropped first (by insertion).
type recent[V any] struct {
	m    map[string]V
	ring []string
	next int
	max  int
}

func newRecent[V any](max int) recent[V] {
	return recent[V]{m: make(map[string]V), max: max}
}

func (r *recent[V]) put(k string, v V) {
	if _, ok := r.m[k]; !ok {
		if len(r.ring) < r.max {
			r.ring = append(r.ring, k)
		} else {
			delete(r.m, r.ring[r.next])
			r.ring[r.next] = k
			r.next = (r.next + 1) % r.max
		}
	}
	r.m[k] = v
}

func (r *recent[V]) get(k string) (V, bool) { v, ok := r.m[k]; return v, ok }

// ended is what Observe needs of a reservation that was released before it.
type ended struct {
	worker         string
	cached, blocks int
	work           int
	seq            int
	start          int64
	estFirst       int64
}
