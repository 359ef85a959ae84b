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
	ctx     context.Context
	cancel  context.CancelCauseFunc
	pending Pending
	done    chan struct{}
	final   Result // valid after done

	// guarded by r.mu
	state taskState
	pos   int
	told  int
	since time.Time // in the line
	until time.Time // for a rescue: the end of its patience
	pause time.Time // not before
	owed  bool      // waits for leave of the retry budget
	front bool
	load  *load
	loads int

	mu        sync.Mutex // guards what a Handle reads, and the opening of the stream
	stream    Stream
	ready     atomic.Pointer[Stream] // to stream, once it is open
	openErr   error
	recovered bool
	worker    Worker
	started   time.Time

	// the owner's alone
	own        *reservation // of an inline job that Handle.Carry has not begun
	slot       *reservation // the last one, for a panic
	settled    bool
	tries      int  // attempts by this router
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
	t := &task{r: r, job: j, done: make(chan struct{})}
	ctx := context.Background() // Drain ends every task by itself: a common parent would be a lock that all of them share
	var end context.CancelFunc
	if !j.Deadline.IsZero() {
		ctx, end = context.WithDeadlineCause(ctx, j.Deadline, errDeadline)
	}
	var cancel context.CancelCauseFunc
	t.ctx, cancel = context.WithCancelCause(ctx)
	t.cancel = func(why error) {
		cancel(why)
		if end != nil {
			end()
		}
	}
	return t
}

// open gives the task's stream, opened at its first use: thousands of waiting jobs after a restart cost nothing.
func (t *task) open() (Stream, error) {
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
	var gone func()
	n, notifies := s.(IdleNotifier)
	gone = func() {
		if notifies && s.Readers() > 0 { // one came back meanwhile
			n.OnIdle(gone)
			return
		}
		t.r.end(t, errClientGone)
	}
	if notifies {
		n.OnIdle(gone)
		return
	}
	t.r.mu.Lock()
	t.r.active++
	t.r.mu.Unlock()
	go func() {
		defer t.r.leave()
		select {
		case <-s.Idle():
			gone()
		case <-t.done:
		}
	}()
}

// result is the end of the job as far as it went.
func (t *task) result(s State, code, message string) Result {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Result{State: s, Code: code, Message: message, Status: t.status, Worker: t.worker.ID, Node: t.worker.Node,
		Attempt: t.job.Attempt, PromptTokens: t.prompt, CachedTokens: t.cached, TokensOut: t.tokens,
		Submitted: t.job.Submitted, Started: t.started, FirstToken: t.firstToken, Completed: time.Now()}
}

// failure is the result for an error.
func (t *task) failure(err error, fallback string) Result {
	return t.result(Failed, codeOf(err, fallback), err.Error())
}

// aborted is the result for the reason with which the job's context was cancelled.
func (t *task) aborted() Result {
	why := context.Cause(t.ctx)
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
func (t *task) settle(res Result) {
	t.settled = true
	ctx := context.Background()
	s, err := t.open()
	if err == nil {
		if res.State == Complete {
			err = s.End(ctx, res)
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
func (t *task) record(res Result) {
	t.settled = true
	r := t.r
	if err := r.queue.Finish(context.Background(), t.job.ID, res); err != nil {
		r.log.Error("terminal state not recorded", "job", t.job.ID, "error", err)
	}
	if r.o.Hooks.OnDone != nil {
		r.o.Hooks.OnDone(t.job, res)
	}
	t.close(res)
}

// abandon lets go of a job without an end: the next queen goes on with it.
func (t *task) abandon() { t.close(Result{}) }

func (t *task) close(res Result) {
	t.final = res
	t.cancel(errCancelled) // frees the context's timers
	t.r.mu.Lock()
	t.r.remove(t)
	t.r.mu.Unlock()
	close(t.done)
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
