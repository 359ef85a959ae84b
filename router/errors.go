package router

import (
	"errors"
	"fmt"
	"time"
)

// The codes that the router itself gives.
const (
	CodeCancelled    = "CANCELLED"
	CodeWorkerFailed = "WORKER_FAILED"
	CodeDeadline     = "DEADLINE_EXCEEDED"
	CodeShuttingDown = "SHUTTING_DOWN"
	CodeCapacity     = "SYSTEM_AT_CAPACITY"
	CodeProvision    = "PROVISION_FAILED"
	CodeInvalid      = "INVALID_REQUEST"
	CodeNotFound     = "JOB_NOT_FOUND"
	CodeLoading      = "MODEL_LOADING"
	CodeInternal     = "INTERNAL"
)

// ErrConflict is what Queue.Claim returns (wrapped or not) for a job that no longer waits.
var ErrConflict = errors.New("router: job is no longer waiting")

// ErrShuttingDown matches, with errors.Is, the refusal of a router that drains.
var ErrShuttingDown = errors.New("router: shutting down")

// ErrNotFound matches, with errors.Is, the error for a job that the router does not hold: finished, or never seen.
var ErrNotFound = errors.New("router: no such job here")

// RefusedError says why a job was not taken, or why it failed, in a form that a client may see.
type RefusedError struct {
	code    string
	message string
	after   time.Duration
	details map[string]any
	is      error // sentinel or cause
}

func refuse(code string, after time.Duration, is error, format string, args ...any) *RefusedError {
	return &RefusedError{code: code, message: fmt.Sprintf(format, args...), after: after, is: is}
}

// Error is the message for the client.
func (e *RefusedError) Error() string { return e.message }

// Code is one of the contract's codes.
func (e *RefusedError) Code() string { return e.code }

// RetryAfter says when a retry makes sense; 0 when unknown.
func (e *RefusedError) RetryAfter() time.Duration { return e.after }

// Details are facts for the client, or nil.
func (e *RefusedError) Details() map[string]any { return e.details }

// Unwrap gives the sentinel or cause.
func (e *RefusedError) Unwrap() error { return e.is }

// coded is what an error of any module may be.
type coded interface{ Code() string }

// codeOf gives an error's code, or the fallback.
func codeOf(err error, fallback string) string {
	var c coded
	if errors.As(err, &c) && c.Code() != "" {
		return c.Code()
	}
	return fallback
}

// Causes with which a job's context is cancelled.
var (
	errCancelled  = errors.New("cancelled on request")
	errClientGone = errors.New("the client has gone")
	errDeadline   = errors.New("the job's deadline passed")
	errCut        = errors.New("the queen shut down")
	errFirstToken = errors.New("no first token in time")
	errInterToken = errors.New("no further token in time")
	errTruncated  = errors.New("the worker's answer was cut")
)
