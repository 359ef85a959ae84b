package router

import (
	"crypto/rand"
	"log/slog"
	"time"
)

// Options tune a Router. The zero value works.
type Options struct {
	FirstToken   time.Duration // until a worker's first byte; 0 = 5 min
	InterToken   time.Duration // between two reads of a stream; 0 = 60 s
	Reply        time.Duration // until a non-streaming answer; 0 = FirstToken and 200 ms for each of max_tokens (4,096 when not given)
	Dial         time.Duration // connecting to a worker; 0 = 5 s
	QueueTimeout time.Duration // in the line; 0 = 10 min
	Reattach     time.Duration // attached jobs of a queen that died wait this long for a reader; 0 = 30 s
	RescueWait   time.Duration // a stream that lost its worker waits this long for a slot elsewhere (detached: QueueTimeout); 0 = 900 ms
	LoadBase     time.Duration // a load without any progress; 0 = 5 min
	LoadPerGiB   time.Duration // and this much more for each GiB; 0 = 20 s

	Retries int // plain retries before the first frame; 0 = 1, negative = none
	Rescues int // continuations after it; 0 = 2, negative = none
	Loads   int // loads that one job may see fail or vanish; 0 = 2

	MaxWaiting int   // jobs in the line; 0 = 10,000
	MaxReply   int64 // bytes of a non-streaming answer; 0 = 64 MiB
	MaxIdle    int   // idle connections kept for each worker; 0 = 16

	// Budget, when not nil, bounds the attempts that follow a failed one, so that a failing fleet is not flooded: a job
	// that gets no leave to try again waits for it in the line. A stream that goes on after a loss is not held up by it:
	// Rescues bounds that.
	Budget Budget
	// LateCommit lets an attached job that is not streamed run to its end before it is stored, so that a short one costs
	// the store one write: its readers must then wait for Handle.Committed before they show anybody its answer.
	LateCommit bool
	// Ready, when not nil, holds back every load until it is closed: until the hives that already run have been heard.
	Ready <-chan struct{}
	// Slots, when not nil, says how many slots the workers of a model have. A tenant that has more than its share of them
	// then leaves free what others used lately, so that a flood does not make these wait.
	Slots func(model string) int
	// Poller, when not nil, lets an attached stream go on without a goroutine while its worker is silent, where the Stream is
	// a PollStream and the worker's connection one of the system.
	Poller Poller
	NewID  func() string // nil: random
	Log    *slog.Logger  // nil: discard
	Hooks  Hooks
}

// Budget bounds retries relative to requests.
type Budget interface {
	Request()   // a job's first attempt begins
	Take() bool // may another one try again?
}

// Hooks observe; all are optional and must not block.
type Hooks struct {
	OnDone  func(*Job, Result)                                       // once per job, at its terminal event
	OnRetry func(j *Job, workerID string, continued bool, err error) // an attempt failed and another follows
	OnLoad  func(model, node string, took time.Duration, err error)
	OnTry   func(*Job, Worker, Outcome) // once per attempt
}

func orDur(v *time.Duration, d time.Duration) {
	if *v <= 0 {
		*v = d
	}
}

func (o Options) withDefaults() Options {
	orDur(&o.FirstToken, 5*time.Minute)
	orDur(&o.InterToken, time.Minute)
	orDur(&o.Dial, 5*time.Second)
	orDur(&o.QueueTimeout, 10*time.Minute)
	orDur(&o.Reattach, 30*time.Second)
	orDur(&o.RescueWait, 900*time.Millisecond)
	orDur(&o.LoadBase, 5*time.Minute)
	orDur(&o.LoadPerGiB, 20*time.Second)
	if o.Retries == 0 {
		o.Retries = 1
	}
	if o.Rescues == 0 {
		o.Rescues = 2
	}
	if o.Loads <= 0 {
		o.Loads = 2
	}
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = 10_000
	}
	if o.MaxReply <= 0 {
		o.MaxReply = 64 << 20
	}
	if o.MaxIdle <= 0 {
		o.MaxIdle = 16
	}
	if o.NewID == nil {
		o.NewID = func() string { return "job_" + rand.Text() }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// reply is the time limit of a non-streaming answer.
func (o *Options) reply(maxTokens int) time.Duration {
	if o.Reply > 0 {
		return o.Reply
	}
	if maxTokens <= 0 {
		maxTokens = 4096
	}
	return o.FirstToken + time.Duration(maxTokens)*200*time.Millisecond
}
