package queue

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Options adjusts a Queue. The zero value is usable.
type Options struct {
	// Holder names this queue in the leases it gives; by default host:pid and a random word.
	Holder string
	// Max is how many jobs may wait before Submit refuses with ErrOverloaded: 100,000 when zero, no limit below.
	Max int
	// Backlog is how many changes may wait for the writer: 65,536 when zero.
	Backlog int
	// Lease is how long a job taken by Next is held without Extend: 30 s when zero.
	Lease time.Duration
	// MaxAttempts fails a job that was given back or lost by its holder that many times; zero: no limit.
	MaxAttempts int
	// BatchShare makes one claim in that many go to batch jobs while any wait: 8 when zero.
	BatchShare int
	// Weight is a tenant's share inside a priority class; nil or a result below 1 means 1.
	Weight func(tenant string) int
	// Pace is the least time between the starts of two commits while there is load, or four times what the last one took
	// where that is less: 2 ms when zero, none below
	// zero. An idle queue commits at once.
	Pace time.Duration
	// Lazy is how long a FinishLazy may wait for a commit that happens anyway: 50 ms when zero.
	Lazy time.Duration
	// Retention is how long finished jobs are kept: 168 h when zero, for ever below zero.
	Retention time.Duration
	// KeepPayloads keeps the payloads of finished jobs.
	KeepPayloads bool
	// IdempotencyWindow is how long an idempotency key is remembered: 24 h when zero.
	IdempotencyWindow time.Duration
	// PayloadCache bounds the bytes of waiting payloads held in memory: 64 MiB when zero.
	PayloadCache int64
	// Clock tells the time. The default starts at the system's time and then goes by elapsed time alone, so that a
	// step of the system clock expires nothing; a clock given here must not step either.
	Clock func() time.Time
	// Rand is the source of the random part of ids; crypto/rand by default.
	Rand io.Reader
	// Logger gets the writer's troubles; nil discards.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	dur := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.Max, 100_000)
	def(&o.Backlog, 65_536)
	def(&o.BatchShare, 8)
	dur(&o.Lease, 30*time.Second)
	dur(&o.Pace, 2*time.Millisecond)
	dur(&o.Lazy, 50*time.Millisecond)
	dur(&o.Retention, 168*time.Hour)
	dur(&o.IdempotencyWindow, 24*time.Hour)
	if o.PayloadCache == 0 {
		o.PayloadCache = 64 << 20
	}
	clock := o.Clock
	if clock == nil {
		clock = SystemClock()
	}
	o.Clock = func() time.Time { return norm(clock()) }
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Queue is a durable queue over a Store. It is safe for concurrent use.
type Queue struct {
	store Store
	o     Options
	ids   *minter
	log   *slog.Logger

	loadMu sync.Mutex // held while the store is being loaded

	mu       sync.Mutex
	loaded   bool
	closed   bool
	draining bool
	running  bool // the writer goroutine is up
	live     map[int64]*entry
	idem     map[[2]string]*entry
	line     *line
	timers   timerHeap
	tallies  map[kind]*tally
	waiting  map[string]int // by model, everything queued
	queued   int
	active   int // running jobs
	pauses   map[Pause]bool
	cacheLen int64
	forming  *group
	flying   *group // being committed
	ops      []Op   // of flying; the writer's
	list     []*Op  // to them
	lazy     []*write
	lazyAt   time.Time
	all      bool // the next group takes what could still wait
	waiters  []*waiter
	watchers map[*watcher]struct{}
	idle     chan struct{} // closed when the last running job ends while draining

	wake chan struct{}
	quit chan struct{}
	done chan struct{}
}

// New returns a queue over a store. It reads the store at its first call; call Recover first to take over the jobs
// that a dead holder ran, otherwise they go back into the line. Close it before the store.
func New(store Store, o Options) *Queue {
	o = o.withDefaults()
	q := &Queue{
		store: store, o: o, ids: newMinter(o.Rand), log: o.Logger,
		live: map[int64]*entry{}, idem: map[[2]string]*entry{}, line: newLine(o.BatchShare),
		tallies: map[kind]*tally{}, waiting: map[string]int{}, pauses: map[Pause]bool{},
		forming: newGroup(), watchers: map[*watcher]struct{}{},
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	if q.o.Holder == "" {
		host, _ := os.Hostname()
		id, _ := q.ids.next(o.Clock())
		q.o.Holder = fmt.Sprintf("%s:%d:%s", host, os.Getpid(), id[idLen-saltChars:])
	}
	return q
}

// NewID returns an id that a job may be submitted with, for callers that need it earlier.
func (q *Queue) NewID() string {
	id, _ := q.ids.next(q.o.Clock())
	return id
}

// ready loads the store once and starts the writer.
func (q *Queue) ready(ctx context.Context) error {
	q.mu.Lock()
	ok, closed := q.loaded, q.closed
	q.mu.Unlock()
	switch {
	case closed:
		return ErrClosed
	case ok:
		return nil
	}
	_, err := q.load(ctx, true)
	return err
}

// load reads the store. With rescue the running jobs of dead holders go back into the line; without, it returns
// them as they are.
func (q *Queue) load(ctx context.Context, rescue bool) (fresh bool, err error) {
	q.loadMu.Lock()
	defer q.loadMu.Unlock()
	q.mu.Lock()
	ok, closed := q.loaded, q.closed
	q.mu.Unlock()
	if closed {
		return false, ErrClosed
	}
	if ok {
		return false, nil
	}
	var recs []Record
	snap, err := q.store.Load(ctx, func(r Record) error { recs = append(recs, r); return nil })
	if err != nil {
		return false, fmt.Errorf("queue: load: %w", err)
	}
	q.ids.raise(snap.MaxKey)
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range snap.Finished {
		q.tallyOf(kind{t.Model, t.Tenant, t.Priority}).n[indexOf(t.State)] += t.N
	}
	for _, p := range snap.Pauses {
		q.pauses[p] = true
	}
	q.line.interactive.now, q.line.batch.now = lowestRank(recs, Interactive), lowestRank(recs, Batch)
	for _, r := range recs {
		q.adopt(r)
	}
	q.loaded, q.running = true, true
	if rescue {
		for _, r := range recs {
			if e := q.live[r.Key]; e != nil && e.rec.State == Running {
				q.giveBack(e, e.rec.Attempt, time.Time{}, "its holder died")
			}
		}
	}
	go q.run()
	return true, nil
}

func lowestRank(recs []Record, priority string) int64 {
	low, any := int64(0), false
	for _, r := range recs {
		if r.State == Queued && r.Priority == priority && (!any || r.Rank < low) {
			low, any = r.Rank, true
		}
	}
	return low
}

// adopt takes a record of the store into memory. q.mu is held.
func (q *Queue) adopt(r Record) *entry {
	e := &entry{rec: r, cls: q.line.class(r.Priority)}
	q.live[r.Key] = e
	if r.IdempotencyKey != "" {
		q.idem[[2]string{r.Tenant, r.IdempotencyKey}] = e
	}
	e.cls.restore(r.Tenant, q.weight(r.Tenant), r.Rank)
	if r.State == Queued && !r.Deadline.IsZero() {
		q.timers.push(r.Deadline, r.Key, timerDeadline)
	}
	q.cache(e, r.Payload)
	q.count(e, 1)
	q.settle(e)
	return e
}

func (q *Queue) weight(tenant string) int {
	if q.o.Weight == nil {
		return 1
	}
	return max(1, q.o.Weight(tenant))
}

// cache keeps a payload in memory while the budget lasts. q.mu is held.
func (q *Queue) cache(e *entry, payload []byte) {
	e.rec.Payload, e.cached = nil, false
	if n := int64(len(payload)); q.cacheLen+n <= q.o.PayloadCache {
		e.rec.Payload, e.cached = payload, true
		q.cacheLen += n
	}
}

func (q *Queue) uncache(e *entry) {
	if e.cached {
		q.cacheLen -= int64(len(e.rec.Payload))
		e.rec.Payload, e.cached = nil, false
	}
}
