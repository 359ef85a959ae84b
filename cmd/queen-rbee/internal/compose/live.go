package compose

import (
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/admission"
	"github.com/queen-rbee/queen-rbee/metrics"
	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/router"
	"github.com/queen-rbee/queen-rbee/sserelay"
)

// entry is what compose knows of a job that is not over.
type entry struct {
	job         *router.Job
	stream      *sserelay.Stream
	grant       *admission.Grant
	commit      commit // of the insert
	fingerprint string // of the body, for an Idempotency-Key
	usage       bool   // its client reads a stream and wants a chunk with the usage
	keep        string // keep_alive: how long its worker stays afterwards, "" = not said

	trace *metrics.Trace // nil: not traced

	mu    sync.Mutex
	lease queue.Lease
	waits time.Time // since it was not routed at once; of a traced job only
}

func (e *entry) setLease(l queue.Lease) {
	e.mu.Lock()
	e.lease = l
	e.mu.Unlock()
}

func (e *entry) getLease() queue.Lease {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lease
}

// live holds the entries by job id.
type live struct {
	shards [16]struct {
		mu sync.RWMutex
		m  map[string]*entry
	}
}

func newLive() *live {
	l := &live{}
	for i := range l.shards {
		l.shards[i].m = map[string]*entry{}
	}
	return l
}

func (l *live) shard(id string) int {
	if id == "" {
		return 0
	}
	return int(id[len(id)-1]) & 15
}

func (l *live) put(id string, e *entry) {
	s := &l.shards[l.shard(id)]
	s.mu.Lock()
	s.m[id] = e
	s.mu.Unlock()
}

func (l *live) get(id string) (*entry, bool) {
	s := &l.shards[l.shard(id)]
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.m[id]
	return e, ok
}

func (l *live) drop(id string) *entry {
	s := &l.shards[l.shard(id)]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.m[id]
	delete(s.m, id)
	return e
}
