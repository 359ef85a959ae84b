package queue

import (
	"fmt"
	"time"
)

// coded is an error that a client may see: Code is a code of the HTTP contract.
type coded struct{ code, msg string }

func (e *coded) Error() string { return e.msg }

// Code returns the stable code of the error.
func (e *coded) Code() string { return e.code }

// later is a coded error that goes away by itself.
type later struct {
	coded
	after time.Duration
}

// RetryAfter says when to try again.
func (e *later) RetryAfter() time.Duration { return e.after }

// The errors of the package; test with errors.Is.
var (
	// ErrNotFound: no such job, or it is past its retention.
	ErrNotFound error = &coded{"JOB_NOT_FOUND", "queue: no such job: list the jobs to see what there is"}
	// ErrConflict: the job is not in a state that allows this, or an idempotency key was used with another body.
	ErrConflict error = &coded{"CONFLICT", "queue: the job is gone or in another state: read it again"}
	// ErrDuplicate: the idempotency key already made a job; the error is a *DuplicateError that carries it.
	ErrDuplicate error = &coded{"CONFLICT", "queue: this idempotency key already made a job: attach to that one"}
	// ErrLeaseLost: the job was taken over, cancelled or finished under another lease; stop working on it.
	ErrLeaseLost error = &coded{"CONFLICT", "queue: the lease is lost: stop working on this job"}
	// ErrInvalid: the job or argument can't be accepted as it is.
	ErrInvalid error = &coded{"INVALID_REQUEST", "queue: invalid job"}
	// ErrOverloaded: the waiting line or the writer's backlog is full.
	ErrOverloaded error = &later{coded{"SYSTEM_AT_CAPACITY", "queue: the waiting line is full: try again later"}, 2 * time.Second}
	// ErrStorageFull: the disk is full; nothing was stored, and reads go on. Free space and it recovers by itself.
	ErrStorageFull error = &later{coded{"SYSTEM_AT_CAPACITY", "queue: the disk is full: free some space, the queue recovers by itself"}, 5 * time.Second}
	// ErrClosed: the queue is closed or drains.
	ErrClosed error = &later{coded{"SHUTTING_DOWN", "queue: shutting down: try again in a moment"}, 2 * time.Second}
	// ErrLocked: another process holds the store; the message names it.
	ErrLocked error = &coded{"INTERNAL", "queue: another process holds this store"}
	// ErrCorrupt: the store's file is damaged; it is never recreated. Restore it or move it away.
	ErrCorrupt error = &coded{"INTERNAL", "queue: the store is corrupt"}
	// ErrDiverged: a frame does not follow the journal's last one, or a resume lies beyond the journal's end.
	ErrDiverged error = &coded{"RESUME_DIVERGED", "queue: the journal does not hold what was asked for: start from its beginning"}
)

// DuplicateError says which job an idempotency key made first.
type DuplicateError struct{ First Job }

// Error implements error.
func (e *DuplicateError) Error() string {
	return fmt.Sprintf("queue: this idempotency key already made job %s: attach to that one", e.First.ID)
}

// Code returns the stable code of the error.
func (e *DuplicateError) Code() string { return "CONFLICT" }

// Is makes errors.Is(err, ErrDuplicate) true.
func (e *DuplicateError) Is(target error) bool { return target == ErrDuplicate }

// Details names the first job.
func (e *DuplicateError) Details() map[string]any { return map[string]any{"job_id": e.First.ID} }

// invalidError says what is wrong with a job or a filter; it is ErrInvalid.
type invalidError struct{ coded }

// Is makes errors.Is(err, ErrInvalid) true.
func (e *invalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(format string, args ...any) error {
	return &invalidError{coded{"INVALID_REQUEST", "queue: " + fmt.Sprintf(format, args...)}}
}
