package scheduler

import (
	"errors"
	"fmt"
	"time"
)

// Codes of the contract that a rejection carries.
const (
	CodeModelNotFound    = "MODEL_NOT_FOUND"
	CodeNoHive           = "NO_HIVE_AVAILABLE"
	CodeInsufficientVRAM = "INSUFFICIENT_VRAM"
	CodeDeadline         = "DEADLINE_EXCEEDED"
)

// ErrTaken means that a shared Ledger gave the reservation to somebody else; Place and Pick try the
// next best once before they return it.
var ErrTaken = errors.New("scheduler: the reservation was taken by another queen; decide again")

// ErrImmutable is returned by SetPolicy when Options.Immutable is set (platform mode).
var ErrImmutable = errors.New("scheduler: the policy is immutable in platform mode; restart with scheduler.mode home to change it")

// RejectError says why no worker can ever serve a job, and what to do about it.
type RejectError struct {
	Reason string
	code   string
	retry  time.Duration
	facts  map[string]any
}

// Error is the reason with its remedy.
func (e *RejectError) Error() string { return e.Reason }

// Code is the contract's code.
func (e *RejectError) Code() string { return e.code }

// RetryAfter is a hint for rejections that time can mend; 0 = none.
func (e *RejectError) RetryAfter() time.Duration { return e.retry }

// Details are the facts behind the reason (need, best offer).
func (e *RejectError) Details() map[string]any { return e.facts }

// Is matches another RejectError of the same code.
func (e *RejectError) Is(target error) bool {
	t, ok := target.(*RejectError)
	return ok && t.code == e.code && (t.Reason == "" || t.Reason == e.Reason)
}

// PolicyError says that a policy failed; the native policy decided instead.
type PolicyError struct {
	Policy string
	Err    error
}

// Error names the policy.
func (e *PolicyError) Error() string { return fmt.Sprintf("scheduler: policy %s: %v", e.Policy, e.Err) }

// Unwrap gives the cause.
func (e *PolicyError) Unwrap() error { return e.Err }
