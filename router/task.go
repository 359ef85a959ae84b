package router

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// taskState says who owns a task: whoever moves it out of lined or orphan does from then on.
type taskState uint8

const (
	born taskState = iota
	lined
	orphan
	running
	ended
)

// task is a job and everything that happened to it.
type task struct {
	r       *Router
	job     *Job
	ctx     *life // the task's own
	life    life
	handle  Handle
	pending Pending
	seat    seat
	final   Result // valid after done

	// guarded by r.mu
	state taskState
	owed  bool // waits for leave of the retry budget
	front bool
	pos   int
	told  int
	since time.Time // in the line
	until time.Time // for a rescue: the end of its patience
	pause time.Time // not before
	load  *load
	loads int

	mu        sync.Mutex    // guards what a Handle reads, and the opening of the stream
	done      chan struct{} // once somebody asked for it
	over      bool          // done is, or would be, closed
	recovered bool
	stream    Stream
	ready     atomic.Pointer[Stream] // to stream, once it is open
	openErr   error
	worker    *Worker // of the attempt that is under way, or the last one
	started   time.Time

	// the owner's alone
	own        *reservation // of an inline job that Handle.Carry has not begun
	slot       *reservation // the last one, for a panic
	tries      int          // attempts by this router
	settled    bool
	stored     bool // running in the store
	emitted    bool // frames went out
	retries    int
	rescues    int
	tokens     int
	prompt     int
	cached     int
	status     int
	firstToken time.Time
	exclude    []exclusion
	held       []heldReport
	busy       int      // answers in a row that a worker had no room
	last       *verdict // why the last attempt failed
}

// exclusion keeps a job away from a worker for a while.
type exclusion struct {
	worker string
	until  time.Time
}

// heldReport is a worker's 500 that may yet prove to be the client's fault.
type heldReport struct {
	worker string
	err    error
}

func newTask(r *Router, j *Job) *task {
	t := &task{r: r, job: j, worker: &r.nobody}
	t.ctx, t.handle.t = &t.life, t
	if !j.Deadline.IsZero() {
		t.life.limit(j.Deadline)
	}
	return t
}

// cancel stops the task for a reason. Drain ends every task by itself: a common parent would be a lock that all of them share.
func (t *task) cancel(why error) { t.life.cancel(why) }

// ended gives a channel that is closed once the job is settled. Nobody waits that way for a job that its submitter carries.
func (t *task) ended() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done == nil {
		t.done = make(chan struct{})
		if t.over {
			close(t.done)
		}
	}
	return t.done
}

// closed says whether the job is settled.
func (t *task) closed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over
}

// open gives the task's stream, opened at its first use: thousands of waiting jobs after a restart cost nothing.
func (t *task) open() (Stream, error) {
	if s := t.opened(); s != nil {
		return s, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stream == nil && t.openErr == nil {
		if t.stream, t.openErr = t.r.streams.Open(t.job, t.recovered); t.openErr == nil {
			t.ready.Store(&t.stream)
		}
	}
	return t.stream, t.openErr
}

// opened gives the stream when there is one already; it never blocks.
func (t *task) opened() Stream {
	if s := t.ready.Load(); s != nil {
		return *s
	}
	return nil
}

// watchIdle cancels an attached job when its last reader has gone.
func (t *task) watchIdle(s Stream) {
	if t.job.Detached {
		return
	}
	if n, ok := s.(IdleNotifier); ok {
		n.OnIdle(t.abandoned)
		return
	}
	t.r.enter()
	go func() {
		defer t.r.leave()
		select {
		case <-s.Idle():
			t.r.end(t, errClientGone)
		case <-t.ended():
		}
	}()
}

// abandoned hears that the last reader of an attached job has gone.
func (t *task) abandoned() {
	s := t.opened()
	if n, ok := s.(IdleNotifier); ok && s.Readers() > 0 { // one came back meanwhile
		n.OnIdle(t.abandoned)
		return
	}
	t.r.end(t, errClientGone)
}

// result is the end of the job as far as it went.
func (t *task) result(s State, code, message string) *Result {
	res := &Result{State: s, Code: code, Message: message, Completed: time.Now()}
	t.describe(res)
	return res
}

// describe fills in how far the job went.
func (t *task) describe(res *Result) {
	res.Status, res.Attempt = t.status, t.job.Attempt
	res.PromptTokens, res.CachedTokens, res.TokensOut = t.prompt, t.cached, t.tokens
	res.Submitted, res.FirstToken = t.job.Submitted, t.firstToken
	t.mu.Lock()
	defer t.mu.Unlock()
	res.Worker, res.Node, res.Started = t.worker.ID, t.worker.Node, t.started
}

// failure is the result for an error.
func (t *task) failure(err error, fallback string) *Result {
	return t.result(Failed, codeOf(err, fallback), err.Error())
}

// aborted is the result for the reason with which the job's context was cancelled.
func (t *task) aborted() *Result {
	why := t.ctx.why()
	switch {
	case errors.Is(why, errDeadline):
		return t.result(Failed, CodeDeadline, "the deadline passed before the job was done; give it more time")
	case errors.Is(why, errCut):
		return t.result(Failed, CodeShuttingDown, "the queen shut down before the job was done; send it again")
	case errors.Is(why, errClientGone):
		return t.result(CancelledJob, CodeCancelled, "cancelled: the client has gone")
	default:
		return t.result(CancelledJob, CodeCancelled, "cancelled on request")
	}
}

// settle writes the one terminal event and everything that follows it. Only the task's owner calls it.
func (t *task) settle(res *Result) {
	t.settled = true
	ctx := context.Background()
	s, err := t.open()
	if err == nil {
		if res.State == Complete {
			err = s.End(ctx, *res)
		} else {
			err = s.Fail(ctx, res.Code, res.Message)
		}
	}
	if err != nil {
		t.r.log.Error("terminal event not written", "job", t.job.ID, "error", err)
	}
	t.record(res)
}

// record settles the job with the queue and the caller, its terminal event being written.
func (t *task) record(res *Result) {
	t.settled = true
	r := t.r
	if err := r.queue.Finish(context.Background(), t.job.ID, *res); err != nil {
		r.log.Error("terminal state not recorded", "job", t.job.ID, "error", err)
	}
	if r.o.Hooks.OnDone != nil {
		r.o.Hooks.OnDone(t.job, *res)
	}
	t.close(res)
}

// abandon lets go of a job without an end: the next queen goes on with it.
func (t *task) abandon() { t.close(&Result{}) }

func (t *task) close(res *Result) {
	if res != &t.final {
		t.final = *res
	}
	t.cancel(errCancelled) // frees its timer
	t.r.mu.Lock()
	t.r.remove(t)
	t.r.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.done != nil {
		close(t.done)
	}
}

// avoid keeps the job away from a worker for a while.
func (t *task) avoid(worker string, d time.Duration) {
	t.exclude = append(t.exclude, exclusion{worker, time.Now().Add(d)})
	t.refreshExclude(time.Now())
}

// refreshExclude forgets what has passed: a worker that was restarted under its old name is welcome again.
func (t *task) refreshExclude(now time.Time) {
	if len(t.exclude) == 0 {
		return
	}
	keep := t.exclude[:0]
	var names []string
	for _, e := range t.exclude {
		if now.Before(e.until) {
			keep = append(keep, e)
			names = append(names, e.worker)
		}
	}
	t.exclude, t.job.Exclude = keep, names
}
