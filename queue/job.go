package queue

import "time"

// State says where a job is in its life.
type State string

// The states of a job. Complete, Failed and Cancelled are terminal: a job never leaves them.
const (
	Queued    State = "queued"
	Running   State = "running"
	Complete  State = "complete"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Terminal reports whether a job in this state is over.
func (s State) Terminal() bool { return s == Complete || s == Failed || s == Cancelled }

// The two priorities. An empty priority means Interactive.
const (
	Interactive = "interactive"
	Batch       = "batch"
)

// Job is one unit of work and what became of it. Payload is the caller's own and never looked into.
type Job struct {
	// ID is made by the queue when it is empty (see Queue.NewID): it sorts by time and is safe in URLs.
	ID       string
	Tenant   string
	Model    string
	ModelRef string
	Priority string
	State    State
	Worker   string
	Node     string
	// Attempt counts the claims of the job: 1 in its first run.
	Attempt   int
	Submitted time.Time
	// NotBefore delays the job: it is not in the line before then.
	NotBefore  time.Time
	Started    time.Time
	FirstToken time.Time
	Completed  time.Time
	// Deadline ends a job that still waits then, with code DEADLINE_EXCEEDED. A running job is its runner's care.
	Deadline     time.Time
	PromptTokens int
	CachedTokens int
	TokensOut    int
	ErrorCode    string
	ErrorMessage string
	// IdempotencyKey makes a second job of the same tenant and key within Options.IdempotencyWindow a duplicate.
	IdempotencyKey string
	// Fingerprint tells whether two jobs with one IdempotencyKey ask the same; empty means the hash of Payload.
	Fingerprint string
	// Detached jobs run to their end whoever listens.
	Detached bool
	// Payload is dropped from the store at the terminal event unless Options.KeepPayloads.
	Payload []byte
	// Lease is set while the job runs.
	Lease Lease
}

// Lease is the right to finish a running job. Fence grows with every change of hands: a call with an old lease
// gets ErrLeaseLost. Until is zero when the lease lasts as long as its holder (the Queue) lives.
type Lease struct {
	Job    string
	Holder string
	Fence  int64
	Until  time.Time
}

// Result is how a job ended. Zero times and empty strings leave what the record has; a zero State means Complete.
type Result struct {
	State        State
	Worker       string
	Node         string
	Attempt      int // of the runner's own count, when it went on without giving the job back; 0 leaves the record's
	Started      time.Time
	FirstToken   time.Time
	Completed    time.Time
	PromptTokens int
	CachedTokens int
	TokensOut    int
	ErrorCode    string
	ErrorMessage string
}

// apply writes the result into a job record.
func (r *Result) apply(j *Job, now time.Time) {
	j.State = r.State
	if j.State == "" {
		j.State = Complete
	}
	if r.Worker != "" {
		j.Worker = r.Worker
	}
	if r.Node != "" {
		j.Node = r.Node
	}
	if r.Attempt > 0 {
		j.Attempt = r.Attempt
	}
	if !r.Started.IsZero() {
		j.Started = norm(r.Started)
	}
	if !r.FirstToken.IsZero() {
		j.FirstToken = norm(r.FirstToken)
	}
	j.Completed = norm(r.Completed)
	if j.Completed.IsZero() {
		j.Completed = now
	}
	if r.PromptTokens != 0 {
		j.PromptTokens = r.PromptTokens
	}
	if r.CachedTokens != 0 {
		j.CachedTokens = r.CachedTokens
	}
	if r.TokensOut != 0 {
		j.TokensOut = r.TokensOut
	}
	j.ErrorCode, j.ErrorMessage = r.ErrorCode, r.ErrorMessage
}

// Filter selects jobs for List. Empty fields select all.
type Filter struct {
	State    State
	Model    string
	Tenant   string
	Priority string
	// Cursor is the Page.Next of the page before.
	Cursor string
	// Limit is the size of a page: 100 when zero, at most 1,000.
	Limit int
}

// Page is one page of List, newest job first, without payloads. Next is empty on the last page.
type Page struct {
	Jobs []Job
	Next string
}

// Tally is how many jobs share a state, model, tenant and priority.
type Tally struct {
	State    State
	Model    string
	Tenant   string
	Priority string
	N        int64
}

// Pause names what is paused: a Model, a Tenant, or both together when both are set.
type Pause struct {
	Model  string
	Tenant string
}

// covers reports whether the pause holds back a job.
func (p Pause) covers(model, tenant string) bool {
	return (p.Model == "" || p.Model == model) && (p.Tenant == "" || p.Tenant == tenant)
}

// Change is one committed change of a job. Resync means that the reader was too slow and changes are missing.
type Change struct {
	Job    Job
	Resync bool
}
