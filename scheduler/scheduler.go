package scheduler

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Scheduler decides and keeps the ledger. Its methods may be called from any goroutine.
type Scheduler struct {
	source Source
	opts   Options

	mu        sync.Mutex
	base      time.Time
	last      int64
	snap      *Snapshot
	workers   map[string]*worker
	models    map[string]*model
	hives     map[string]*hive
	hiveList  []*hive
	devices   map[string]*device
	speeds    map[speedKey]*speed
	sessions  recent[string]
	recent    recent[ended]
	arrivals  recent[int64] // of jobs in the line that don't say when they were submitted
	res       []reservation
	freeRes   []int32
	byJob     map[string]int32
	index     index
	fresh     []*worker
	seen      map[string]bool
	viewBuf   []WorkerView
	viewSnap  *Snapshot // what viewBuf was filled from
	viewModel *model
	version   uint64 // of the snapshot taken in
	ends      []int64
	victims   []Worker
	fits      []fit
	pick      picker
	drained   []*worker // that make way for another model
	lineLen   int
	coldAge   float64 // how long the oldest job of a model has usually waited when it is loaded, ns
	pace      pacing
	freed     int64 // when a slot was last given back that Pick has not seen yet; 0 = none
	policy    Policy
	fails     atomic.Uint64
}

// New makes a Scheduler over a source of snapshots.
func New(source Source, o Options) *Scheduler {
	s := &Scheduler{source: source, opts: o.withDefaults(), workers: map[string]*worker{}, models: map[string]*model{},
		hives: map[string]*hive{}, devices: map[string]*device{}, speeds: map[speedKey]*speed{}, byJob: map[string]int32{},
		seen: map[string]bool{}, sessions: newRecent[string](maxSessions), recent: newRecent[ended](4096), arrivals: newRecent[int64](maxSessions), policy: o.Policy}
	s.pace.w, s.pace.off = s.opts.Weights, true
	s.base = s.opts.Now()
	s.pick.at = -int64(time.Hour)
	return s
}

const maxSessions = 65536

// now is the clock in ns since New; it never goes back.
func (s *Scheduler) now() int64 {
	s.last = max(s.last, int64(s.opts.Now().Sub(s.base)))
	return s.last
}

func (s *Scheduler) at(ns int64) time.Time { return s.base.Add(time.Duration(ns)) }

// since converts a caller's time; zero is before everything.
func (s *Scheduler) since(t time.Time) int64 {
	if t.IsZero() {
		return -1 << 62
	}
	return int64(t.Sub(s.base))
}

// Decide says what Place would do, and reserves nothing.
func (s *Scheduler) Decide(job *Job) Decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sync()
	return s.decide(context.Background(), job, s.now())
}

// decide asks the policy, and the native one where there is none or it fails.
func (s *Scheduler) decide(ctx context.Context, job *Job, now int64) Decision {
	if s.policy != nil {
		if d, ok := s.scripted(ctx, job, now); ok {
			return d
		}
	}
	return s.native(job, now)
}

// Place decides about an arriving job and reserves what the decision takes. A Route or Provision comes
// with a Release; Queue means that the job goes into the line; a Reject comes with a *RejectError.
func (s *Scheduler) Place(ctx context.Context, job *Job) (Decision, Release, error) {
	if err := ctx.Err(); err != nil {
		return Decision{}, Release{}, err
	}
	for try := 0; ; try++ {
		d, rel, err := s.place(ctx, job)
		if err != nil || d.Action == Queue {
			return d, rel, err
		}
		if err = s.external(ctx, job, d, rel); err == nil {
			return d, rel, nil
		}
		if try > 0 {
			return Decision{Action: Queue, Reason: err.Error()}, Release{}, err
		}
	}
}

func (s *Scheduler) place(ctx context.Context, job *Job) (Decision, Release, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sync()
	now := s.now()
	s.arrived(job, now)
	d := s.decide(ctx, job, now)
	s.record(job, &d, now, true)
	switch d.Action {
	case Reject:
		return d, Release{}, s.rejection(job, &d)
	case Queue:
		if s.pace.hint == 0 {
			s.pace.hinted(now, d.Wait)
		}
		return d, Release{}, nil
	}
	return d, s.reserve(job, &d, now), nil
}

// arrived notes the rhythm of a model's requests, for its scale.
func (s *Scheduler) arrived(job *Job, now int64) {
	m := s.models[job.Model]
	if m == nil {
		return
	}
	if m.lastArrival > 0 {
		gap := float64(now - m.lastArrival)
		if m.gap == 0 {
			m.gap = gap
		}
		m.gap += (gap - m.gap) / 16
	}
	m.lastArrival = now
}

// SetPolicy changes the policy for the decisions from now on; nil = native.
func (s *Scheduler) SetPolicy(p Policy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts.Immutable {
		return ErrImmutable
	}
	s.policy = p
	s.fails.Store(0)
	return nil
}

// Policy names the policy that decides.
func (s *Scheduler) Policy() PolicyInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.policyInfo()
}

func (s *Scheduler) policyInfo() PolicyInfo {
	if s.policy == nil {
		return PolicyInfo{Name: nativeName, Hash: nativeHash, Language: "native"}
	}
	info := s.policy.Info()
	info.Fails = s.fails.Load()
	return info
}

const (
	nativeName = "default"
	nativeHash = "builtin-3"
)
