package retry

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ExhaustedError says that an operation was given up, and why.
type ExhaustedError struct {
	Op       string
	Attempts int
	Reason   string // attempts, deadline, budget, breaker, cancelled
	Err      error  // of the last attempt
	Cause    error  // what ended the waiting, if anything did
}

// Error names the operation, the number of attempts and the last error.
func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("%s: given up after %d attempts (%s): %v", e.Op, e.Attempts, e.Reason, e.Err)
}

// Unwrap returns the last attempt's error, and what ended the waiting.
func (e *ExhaustedError) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Cause}
}

// ErrOpen is matched by every *OpenError.
var ErrOpen = errors.New("circuit breaker is open")

// OpenError says that a breaker lets nothing through for now.
type OpenError struct {
	Name  string
	After time.Duration // until it lets a probe through
	Last  error         // the failure that opened it
}

// Error names the breaker, the last failure and the time to wait.
func (e *OpenError) Error() string {
	return fmt.Sprintf("%s: too many failures in a row, next try in %s: %v", e.Name, e.After.Round(time.Millisecond), e.Last)
}

// RetryAfter returns how long to wait.
func (e *OpenError) RetryAfter() time.Duration { return e.After }

// Is matches ErrOpen.
func (e *OpenError) Is(target error) bool { return target == ErrOpen }

// Unwrap returns the failure that opened the breaker.
func (e *OpenError) Unwrap() error { return e.Last }

// RetryAfterError carries what a server asked for.
type RetryAfterError struct {
	After time.Duration
	Err   error
}

// Error returns the wrapped error's text.
func (e *RetryAfterError) Error() string { return e.Err.Error() }

// RetryAfter returns the wait that was asked for.
func (e *RetryAfterError) RetryAfter() time.Duration { return e.After }

// Unwrap returns the wrapped error.
func (e *RetryAfterError) Unwrap() error { return e.Err }

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent marks an error that no retry can mend. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// unwrapPermanent takes the mark off when it is the outermost error.
func unwrapPermanent(err error) error {
	if p, ok := err.(*permanentError); ok {
		return p.err
	}
	return err
}

// Classify is the default classification: cancellation and an error with Retryable() false are Stop, one
// with RetryAfter() is Busy, everything else is a Fault.
func Classify(err error) Class {
	var after interface{ RetryAfter() time.Duration }
	var can interface{ Retryable() bool }
	switch {
	case errors.Is(err, context.Canceled):
		return Stop
	case errors.As(err, &can) && !can.Retryable():
		return Stop
	case errors.Is(err, ErrOpen):
		return Busy
	case errors.As(err, &after):
		return Busy
	}
	return Fault
}
