package queue

import (
	"context"
	"time"
)

// Record is a job as a store keeps it: with its integer key (inside its id) and its rank in the waiting line.
type Record struct {
	Job
	Key  int64
	Rank int64
}

// OpKind says what an Op does.
type OpKind uint8

// The kinds of operation.
const (
	// OpInsert adds Record with its payload.
	OpInsert OpKind = iota + 1
	// OpUpdate replaces everything of the record but its payload, if the row is in IfState with fence IfFence.
	OpUpdate
	// OpPause and OpResume add and remove Pause.
	OpPause
	OpResume
)

// Op is one change in a group. The store sets Err when this operation alone could not be done; it changed nothing.
type Op struct {
	Kind   OpKind
	Record Record
	// IfState and IfFence guard an update: otherwise Err is ErrConflict (ErrNotFound when there is no such row).
	IfState State
	IfFence int64
	// Scrub drops the payload of the row.
	Scrub bool
	// Since is when idempotency keys that still count were submitted at the earliest. An insert that meets one of
	// them (same tenant, same key) sets Err to a *DuplicateError; an older key gives way.
	Since time.Time
	Pause Pause
	Err   error
}

// Snapshot is what Load returns beside the unfinished jobs.
type Snapshot struct {
	MaxKey   int64
	Finished []Tally
	Pauses   []Pause
}

// Store keeps jobs. All methods may be called at once; Apply groups are whole and in order. Errors wrap
// ErrStorageFull, ErrCorrupt, ErrNotFound or ErrClosed where they apply. Every returned Record is the caller's own.
type Store interface {
	// Load calls fn for every unfinished job, with its payload, in the order of keys.
	Load(ctx context.Context, fn func(Record) error) (Snapshot, error)
	// Apply does the operations in order in one transaction and returns after its commit, by when every Op.Err is
	// set. An error means that nothing of the group was stored.
	Apply(ctx context.Context, ops []*Op) error
	// Get returns one job with its payload, or ErrNotFound.
	Get(ctx context.Context, key int64) (Record, error)
	// Find returns the job that an idempotency key of a tenant made, not submitted before since, or ErrNotFound.
	Find(ctx context.Context, tenant, idempotencyKey string, since time.Time) (Record, error)
	// List returns up to f.Limit jobs without payload, keys descending and smaller than before (0: from the newest).
	List(ctx context.Context, f Filter, before int64) ([]Record, error)
	// Purge deletes up to limit finished jobs that were completed before the given time, and counts them.
	Purge(ctx context.Context, before time.Time, limit int) ([]Tally, error)
	// Arrivals returns, once, jobs that came into the store in another way than Apply (a caller's own transaction).
	Arrivals(ctx context.Context) ([]Record, error)
	// Close releases the store.
	Close() error
}
