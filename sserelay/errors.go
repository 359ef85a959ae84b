package sserelay

import (
	"errors"
	"fmt"
)

// Sentinel errors. Those that can reach a client carry a code of the contract.
var (
	// ErrFirstTimeout: the worker sent no frame within CopyOptions.FirstTimeout.
	ErrFirstTimeout = errors.New("no first frame from the worker in time")
	// ErrStalled: the worker sent nothing for CopyOptions.NextTimeout in the middle of its answer.
	ErrStalled = errors.New("the worker stalled in the middle of its answer")
	// ErrTruncated: the worker's stream ended without its protocol's end.
	ErrTruncated = errors.New("the worker's stream ended before its end marker")
	// ErrEnded: a frame was offered after the terminal one.
	ErrEnded = errors.New("the stream has ended")
	// ErrExists: a stream of that job is open already.
	ErrExists = errors.New("a stream of this job is open already")
	// ErrSlowReader: a reader took longer than its write deadline and was cut.
	ErrSlowReader = errors.New("the reader was too slow and was cut")
	// ErrAborted: the stream failed after bytes that leave no room for an error; the connection must be cut.
	ErrAborted = errors.New("the stream failed in the middle of a body: cut the connection")
)

// Error is a failure with a code of the contract. It is what Serve and Result return for a failed stream as long
// as nothing was written, so that the caller can answer with a real status.
type Error struct {
	code    string
	message string
	err     error
}

// NewError makes an Error; cause may be nil.
func NewError(code, message string, cause error) *Error {
	return &Error{code: code, message: message, err: cause}
}

// Error returns the message.
func (e *Error) Error() string { return e.message }

// Code returns the contract's code, for example WORKER_FAILED.
func (e *Error) Code() string { return e.code }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// ErrNotFound is wrapped when neither memory nor the journal knows a job.
var ErrNotFound = errors.New("no stream of this job")

func notFound(job string) error {
	return NewError("JOB_NOT_FOUND", fmt.Sprintf("no events of job %q are kept: it does not exist or its events have expired", job), ErrNotFound)
}

// WorkerError is an error that the worker reported inside its stream.
type WorkerError struct {
	WorkerCode string // the worker's own code or type, may be empty
	Message    string
}

// Error returns the worker's message.
func (e *WorkerError) Error() string { return "worker: " + e.Message }

// LogText is what a log may say: the worker's own words can repeat a prompt or a key.
func (e *WorkerError) LogText() string { return "the worker reported an error in its stream" }

// Code returns WORKER_FAILED.
func (e *WorkerError) Code() string { return "WORKER_FAILED" }

// ProtocolError says what in a worker's stream broke its protocol.
type ProtocolError struct {
	What string
}

// Error describes the breach.
func (e *ProtocolError) Error() string { return "worker broke its protocol: " + e.What }

// Code returns WORKER_FAILED.
func (e *ProtocolError) Code() string { return "WORKER_FAILED" }

// LimitError says which bound of the parser a stream exceeded.
type LimitError struct {
	What  string // "line" or "event"
	Limit int
}

// Error names the bound.
func (e *LimitError) Error() string {
	return fmt.Sprintf("%s of the event stream is longer than %d bytes", e.What, e.Limit)
}

// Code returns WORKER_FAILED.
func (e *LimitError) Code() string { return "WORKER_FAILED" }
