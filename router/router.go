package router

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Router carries jobs. Make one with New, keep Run going, end with Drain.
type Router struct {
	sched   Scheduler
	queue   Queue
	fleet   Fleet
	streams Streams
	pool    *pool
	o       Options
	log     *slog.Logger

	base context.Context // the life of every job and load
	stop context.CancelCauseFunc
	wake chan struct{}

	recovering sync.Mutex
	recovered  bool

	mu       sync.Mutex
	tasks    map[string]*task
	line     []*task        // in fair order
	waiting  map[string]int // tasks in the line by model
	orphans  []*task        // attached, without a reader since the last queen died
	loads    map[loadKey]*load
	loaded   map[loadKey]time.Time
	failed   []failedLoad
	draining bool
	active   int             // goroutines
	quiet    chan struct{}   // closed when active falls to 0; nil when nobody waits
	empty    chan struct{}   // closed when tasks is empty; nil when nobody waits
	gone     map[string]bool // jobs that ended while the line was read; nil when nobody reads
	more     bool            // the store holds waiting jobs that the line has no room for
	shuffled bool            // the line is not known to be in fair order

	nobody Worker      // of a task that has not been on any: never written
	waits  atomic.Bool // somebody is in the line or an orphan
	shares shares
	crew   crew
}

// New makes a router over its five neighbours.
func New(s Scheduler, q Queue, f Fleet, d Dialer, st Streams, o Options) *Router {
	o = o.withDefaults()
	r := &Router{sched: s, queue: q, fleet: f, streams: st, o: o, log: o.Log,
		pool: newPool(d, o.Poller, o.Dial, o.MaxIdle), wake: make(chan struct{}, 1),
		tasks: make(map[string]*task), waiting: make(map[string]int),
		loads: make(map[loadKey]*load), loaded: make(map[loadKey]time.Time), shares: shares{slots: o.Slots}}
	r.base, r.stop = context.WithCancelCause(context.Background())
	return r
}

// Submit takes a job. It returns once the job is under way or, when it has to wait, once it is stored. The error is
// coded when the job is refused; nothing of a refused job is kept. The job goes on after ctx ends: an attached one until
// its last reader has gone, a detached one to its end.
func (r *Router) Submit(ctx context.Context, j *Job) (*Handle, error) {
	now := time.Now()
	if j.ID == "" {
		j.ID = r.o.NewID()
	}
	if j.Submitted.IsZero() {
		j.Submitted = now
	}
	t := newTask(r, j)
	may, err := r.register(t, now)
	if err != nil {
		t.cancel(err)
		return nil, err
	}
	taken := false
	defer func() {
		if !taken { // refused, failed, or a neighbour panicked
			r.forget(t)
		}
	}()
	p := Placement{Action: Wait}
	if may {
		if p, err = r.sched.Place(ctx, j); err != nil {
			return nil, err
		}
	}
	res := r.hold(t, &p, now)
	switch p.Action {
	case Reject:
		return nil, refuse(orCode(p.Code), p.RetryAfter, nil, "%s", orText(p.Reason, "no worker or hive can run this"))
	case Route:
		err = r.submitRouted(ctx, t, res)
	default:
		err = r.submitWaiting(ctx, t, res)
	}
	if err != nil {
		return nil, err
	}
	taken = true
	return &t.handle, nil
}

func orCode(code string) string { return orText(code, "NO_HIVE_AVAILABLE") }

func orText(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// register makes the job known; it reports whether it may have a slot now: who waits for the same model goes first, except
// where a tenant is owed one.
func (r *Router) register(t *task, now time.Time) (may bool, err error) {
	first, err := r.book(t)
	if err != nil {
		return false, err
	}
	var owed bool
	t.seat, may, owed = r.shares.enter(t.job, now)
	return may && first || owed, nil
}

// book puts the job into the books; it reports whether nobody waits for the same model.
func (r *Router) book(t *task) (first bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return false, refuse(CodeShuttingDown, 5*time.Second, ErrShuttingDown, "the queen is shutting down; retry in a few seconds")
	}
	if len(r.line) >= r.o.MaxWaiting {
		return false, refuse(CodeCapacity, 10*time.Second, nil, "%d jobs wait already; retry later", len(r.line))
	}
	if _, ok := r.tasks[t.job.ID]; ok {
		return false, refuse("CONFLICT", 0, nil, "job %s exists already", t.job.ID)
	}
	r.tasks[t.job.ID] = t
	return r.waiting[t.job.Model] == 0, nil
}

// forget drops a job that was never taken.
func (r *Router) forget(t *task) {
	t.cancel(errCancelled)
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.state == born {
		r.remove(t)
	}
}

// submitRouted stores the job as running and carries it at once: the commit overlaps with the forwarding.
func (r *Router) submitRouted(ctx context.Context, t *task, res *reservation) error {
	w := &res.p.Worker
	pending, err := r.queue.Submit(t.job, true, w.ID, w.Node)
	if err == nil && t.job.IdempotencyKey != "" {
		err = pending.Wait(ctx) // a second job with the key must not reach a worker
	}
	if err != nil {
		res.release(Outcome{Kind: Internal, Err: err})
		return err
	}
	t.pending, t.stored = pending, true
	if err := r.openNew(t); err != nil {
		res.release(Outcome{Kind: Internal, Err: err})
		return err
	}
	if t.counts() {
		r.enter()
	}
	if t.job.Inline {
		t.own = res
		return nil
	}
	t.slot = res
	r.crew.carry(t)
	return nil
}

// submitWaiting stores the job as waiting, waits for the commit, and puts it into the line.
func (r *Router) submitWaiting(ctx context.Context, t *task, res *reservation) error {
	pending, err := r.queue.Submit(t.job, false, "", "")
	if err == nil {
		err = pending.Wait(context.WithoutCancel(ctx)) // the outcome is needed either way, and is near
	}
	if err != nil {
		res.release(Outcome{Kind: Internal, Err: err})
		return err
	}
	if err := r.openNew(t); err != nil {
		res.release(Outcome{Kind: Internal, Err: err})
		return err
	}
	if ctx.Err() != nil && !t.job.Detached {
		t.cancel(errClientGone)
	}
	if !r.lineUp(t, false) {
		res.release(Outcome{Kind: Aborted})
		t.settle(t.aborted())
		return nil
	}
	if res.p.Action == Provision {
		r.joinLoad(t, res)
	}
	r.poke()
	return nil
}

// openNew opens the stream of a job that is stored.
func (r *Router) openNew(t *task) error {
	s, err := t.open()
	if err != nil {
		_ = r.queue.Finish(context.Background(), t.job.ID, *t.result(Failed, codeOf(err, CodeInternal), "the event stream could not be opened"))
		return err
	}
	t.watchIdle(s)
	return nil
}

// Cancel ends a job in whatever state it is. Cancelling twice is the same as once; a job that is not here any more gives
// an error that Is ErrNotFound.
func (r *Router) Cancel(_ context.Context, id string) error {
	r.mu.Lock()
	t := r.tasks[id]
	r.mu.Unlock()
	if t == nil {
		return refuse(CodeNotFound, 0, ErrNotFound, "no unfinished job %s", id)
	}
	r.end(t, errCancelled)
	return nil
}

// end stops a job for a reason: one that waits is settled here, one that runs by its carrier.
func (r *Router) end(t *task, why error) {
	t.cancel(why)
	r.mu.Lock()
	if t.state != lined && t.state != orphan {
		r.mu.Unlock()
		return
	}
	r.unline(t)
	t.state = running // this goroutine's now
	r.active++
	r.mu.Unlock()
	defer r.leave()
	if errors.Is(why, errCut) && t.job.Detached {
		t.abandon()
		return
	}
	t.settle(t.aborted())
}

// Position is a job's place in the line, from 1; 0 when it does not wait.
func (r *Router) Position(id string) int {
	if h, ok := r.Handle(id); ok {
		return h.Position()
	}
	return 0
}

// Handle finds an unfinished job.
func (r *Router) Handle(id string) (*Handle, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tasks[id]
	if !ok {
		return nil, false
	}
	return &t.handle, true
}

// Stats are counts of the moment.
type Stats struct {
	Waiting, Running, Loading int
	ByModel                   map[string]int // waiting
}

// Stats counts what the router holds.
func (r *Router) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Stats{Waiting: len(r.line), Loading: len(r.loads), ByModel: make(map[string]int, len(r.waiting))}
	s.Running = len(r.tasks) - len(r.line) - len(r.orphans)
	for m, n := range r.waiting {
		s.ByModel[m] = n
	}
	return s
}

// poke wakes the dispatcher.
func (r *Router) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// counted notes whether anybody waits for what becomes free. The caller holds mu. Whoever joins those that wait pokes the
// dispatcher after this, and whoever frees something asks after that: one of the two is seen.
func (r *Router) counted() { r.waits.Store(len(r.line) > 0 || len(r.orphans) > 0) }

// remove takes a job out of the books. The caller holds mu.
func (r *Router) remove(t *task) {
	if r.tasks[t.job.ID] == t {
		delete(r.tasks, t.job.ID)
		now := t.final.Completed
		if now.IsZero() {
			now = time.Now()
		}
		r.shares.change(t.seat, -1, 0, now)
	}
	t.state = ended
	if r.gone != nil {
		r.gone[t.job.ID] = true
	}
	if len(r.tasks) == 0 && r.empty != nil {
		close(r.empty)
		r.empty = nil
	}
}

// enter counts a goroutine.
func (r *Router) enter() {
	r.mu.Lock()
	r.active++
	r.mu.Unlock()
}

// leave ends a goroutine that was counted.
func (r *Router) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active--; r.active == 0 && r.quiet != nil {
		close(r.quiet)
		r.quiet = nil
	}
}
