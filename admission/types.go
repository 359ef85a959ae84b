package admission

import (
	"context"
	"fmt"
	"time"
)

// Limits are what a tenant may use; zero means no limit.
type Limits struct {
	RPM          int64    // requests per minute
	TPM          int64    // tokens per minute, prompt and output
	Concurrent   int64    // jobs waiting or running at once
	TokensPerDay int64    // tokens in any 24 hours, prompt and output
	Models       []string // models that may be used; empty: all
}

// Tenant is a tenant with limits of its own; others have Options.Default.
type Tenant struct {
	ID     string
	Limits Limits
}

// Request is what admission needs to know of a job.
type Request struct {
	ID           string // the job's id: makes its settlement idempotent over a crash; may be empty
	Tenant       string
	Model        string
	Batch        bool // batch priority: gives way to interactive when capacity is short
	PromptTokens int64
	MaxTokens    int64 // what it may produce at most; 0: Options.AssumeOutput is reserved
	Deadline     time.Time
}

// Load is the state of the line for a model.
type Load struct {
	Waiting int           // jobs waiting, all models
	Max     int           // how many may wait; 0: no bound
	Idle    bool          // a worker with the model has a free slot
	Wait    time.Duration // estimated time until a new job of the model starts
	Took    time.Duration // how long a job of the model takes once it has started; 0: not known
}

// Depth tells the state of the line; it is asked once per admission and must be quick.
type Depth interface {
	Load(model string) Load
}

// DepthFunc makes a Depth of a func.
type DepthFunc func(model string) Load

// Load implements Depth.
func (f DepthFunc) Load(model string) Load { return f(model) }

// Usage is what a job really took, or, as a record, what a tenant took in one hour.
type Usage struct {
	Prompt int64
	Output int64
}

// Total is prompt plus output.
func (u Usage) Total() int64 { return u.Prompt + u.Output }

// Hour is the settled usage of a tenant in one hour of the controller's own clock (hours since 1970).
type Hour struct {
	Tenant string
	Hour   int64
	Usage  Usage
	Jobs   int64
}

// Served is a job that ended, as the caller's own records know it.
type Served struct {
	ID     string
	Tenant string
	Usage  Usage
	At     time.Time
}

// Store keeps tenants and usage. Implementations are safe for concurrent use; the conformance suite is
// admissiontest.Run.
type Store interface {
	Tenants(ctx context.Context) ([]Tenant, error)
	SaveTenant(ctx context.Context, t Tenant) error
	// UsageSince returns the sums per tenant and hour, from the given hour on.
	UsageSince(ctx context.Context, hour int64) ([]Hour, error)
	// AddUsage adds to the sums and remembers the ids of the jobs in them, all or nothing.
	AddUsage(ctx context.Context, delta []Hour, hour int64, ids []string) error
	// RecentIDs returns the ids that AddUsage was given, from the given hour on.
	RecentIDs(ctx context.Context, hour int64) ([]string, error)
	// DropUsage forgets what is older than the given hour.
	DropUsage(ctx context.Context, before int64) error
}

// The codes of a refusal.
const (
	CodeRateLimited = "RATE_LIMITED"
	CodeQuota       = "QUOTA_EXCEEDED"
	CodeCapacity    = "SYSTEM_AT_CAPACITY"
	CodeDeadline    = "DEADLINE_EXCEEDED"
	CodeForbidden   = "FORBIDDEN"
	CodeInvalid     = "INVALID_REQUEST"
)

// Refusal is why a request may not enter.
type Refusal struct {
	Reason  string        // one of the codes
	Message string        // a sentence that says what to do
	After   time.Duration // when a retry may succeed; 0: a retry does not help
	State   Remaining     // the tenant's limits at that moment
}

// Error implements error.
func (r *Refusal) Error() string { return fmt.Sprintf("admission: %s", r.Message) }

// Code is the stable code of the contract.
func (r *Refusal) Code() string { return r.Reason }

// RetryAfter says when a retry may succeed; zero means that it does not help.
func (r *Refusal) RetryAfter() time.Duration { return r.After }

// Remaining is the state of a tenant's limits, as the x-ratelimit-* headers show it. A limit of 0 is none.
type Remaining struct {
	LimitRequests, RemainingRequests int64
	ResetRequests                    time.Duration // until the request bucket is full again
	LimitTokens, RemainingTokens     int64
	ResetTokens                      time.Duration
}

// Report is a tenant with its limits and usage, for consoles.
type Report struct {
	Tenant
	Running     int64 // jobs admitted and not settled
	Reserved    int64 // tokens reserved by them
	TokensToday int64 // settled in the last 24 hours
	JobsToday   int64
	Own         bool // has limits of its own
}
