package router

import (
	"context"
	"io"
	"net"
	"net/http"
)

// Scheduler decides. Its methods are called from several goroutines, Pick from one at a time.
type Scheduler interface {
	// Place decides for an arriving (or failed over) job and reserves what the decision needs.
	Place(ctx context.Context, j *Job) (Placement, error)
	// Pick chooses job and worker together, given the waiting line in fair order. It returns the index in line, or a
	// negative one when nothing can go now; the placement's RetryAfter then says when to ask again at the latest.
	Pick(ctx context.Context, line []*Job) (int, Placement, error)
	// Observe learns from an attempt.
	Observe(j *Job, w Worker, o Outcome)
}

// Pending is a job on its way into the store.
type Pending interface {
	// Wait returns once the job is committed. Several goroutines may wait.
	Wait(ctx context.Context) error
}

// Queue is the durable side of a job.
type Queue interface {
	// Submit stores the job, as running on a worker or as waiting. It returns at once.
	Submit(j *Job, running bool, worker, node string) (Pending, error)
	// Claim makes a waiting job running, durably. An error that Is ErrConflict means that it no longer waits.
	Claim(ctx context.Context, id, worker, node string) error
	// Started notes that a running job goes on on another worker; it need not be durable at once.
	Started(ctx context.Context, id, worker, node string, attempt int) error
	// Requeue makes a running job waiting again.
	Requeue(ctx context.Context, id string) error
	// Finish records the terminal state; it may be written a little later.
	Finish(ctx context.Context, id string, r Result) error
	// Line gives the waiting jobs in fair order.
	Line(ctx context.Context, limit int) ([]*Job, error)
	// Recover gives the unfinished running jobs of a queen that is gone; they now belong to this one.
	Recover(ctx context.Context) ([]*Job, error)
}

// Fleet is the hives and their workers.
type Fleet interface {
	// Load makes a worker with the model ready on the node, stopping the workers in evict first.
	Load(ctx context.Context, l LoadRequest) (workerID string, err error)
	// Changed is sent to when a worker or hive changed so that waiting jobs may go. One reader.
	Changed() <-chan struct{}
	// Report tells how a worker did: nil when it answered.
	Report(workerID string, err error)
}

// LoadRequest is what Fleet.Load is asked for.
type LoadRequest struct {
	Model, ModelRef, Node, Device string
	Evict                         []string
	Progress                      func(Progress) // may be called from any goroutine; extends the load's time limit
}

// Dialer connects to a worker.
type Dialer interface {
	DialWorker(ctx context.Context, w Worker) (net.Conn, error)
}

// Streams opens the event stream of a job, so that readers can attach to it by the job's id.
type Streams interface {
	// Open makes the stream, or, when recovered, rebuilds it from its journal.
	Open(j *Job, recovered bool) (Stream, error)
}

// Stream is the events of one job: the router writes, readers that it does not know read.
//
// An error of Copy or Body that has a Code() other than WORKER_FAILED is the stream's own failure (a full disk, say) and
// ends the job with that code; any other error is the worker's fault.
type Stream interface {
	// Started records the beginning of an attempt.
	Started(ctx context.Context, workerID, node string, attempt int) error
	// Copy relays the worker's event stream until its own end. Anything but a proper end is an error.
	Copy(ctx context.Context, body io.ReadCloser, o CopyOptions) (Outcome, error)
	// Body relays a whole answer. With a status of 400 or more it is the worker's refusal, shown as it is where a reader
	// has seen nothing yet; Fail follows. header is without what is about the exchange alone (Date, Content-Length,
	// Connection and the like); answers share it, so it must not be changed.
	Body(ctx context.Context, status int, header http.Header, body []byte) (Outcome, error)
	// End and Fail write the terminal event; exactly one of them is called, once.
	End(ctx context.Context, r Result) error
	Fail(ctx context.Context, code, message string) error
	// Queued tells the readers a position in the line.
	Queued(position int)
	// Prefix is what was emitted so far: its text, its tokens, and whether one text is all there is, so that another
	// worker could go on.
	Prefix() (text string, tokens int, continuable bool)
	// Readers counts those attached now.
	Readers() int
	// Idle is closed when the last reader has gone.
	Idle() <-chan struct{}
	// Ended says whether a recovered stream already has its terminal event, and which.
	Ended() (Result, bool)
}

// IdleNotifier is an optional extension of Stream that saves the goroutine that would wait for Idle.
type IdleNotifier interface {
	// OnIdle calls fn, once, when the last reader has gone.
	OnIdle(fn func())
}

// PollStream is an optional extension of Stream: a relay that needs no goroutine while it waits.
type PollStream interface {
	// CopyThen is Copy, but may return before the end with parked set: then is called with what Copy would have returned,
	// on a goroutine of its own.
	CopyThen(ctx context.Context, body PolledBody, o CopyOptions, then func(Outcome, error)) (out Outcome, parked bool, err error)
}

// PolledBody is a worker's answer that can be read without waiting.
type PolledBody interface {
	io.ReadCloser
	// TryRead is Read where it would not have to wait, else it returns 0 and no error. It may also do so always.
	TryRead(p []byte) (int, error)
	// Poll has Read return 0 and no error from now on where it would wait. After Resume, fn is called whenever there may be
	// more, also after Close, on a goroutine that it must not hold up, until Unpoll. false: this body can't.
	Poll(fn func()) bool
	Pause()
	Resume()
	Unpoll()
	// Later has fn called on the same goroutine once the calls that are due have been made.
	Later(fn func())
}
