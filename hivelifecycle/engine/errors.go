package engine

import (
	"errors"
	"fmt"
)

// Sentinels that callers test with errors.Is.
var (
	// ErrNotFound says that there is no such worker.
	ErrNotFound = errors.New("engine: no such worker")
	// ErrClosed says that the Supervisor is closed.
	ErrClosed = errors.New("engine: the supervisor is closed")
	// ErrNoBinary says that the engine's program is not on this machine.
	ErrNoBinary = errors.New("engine: the program is not on this machine")
)

// Error is a worker that could not be started or has failed. Message is a sentence for a person.
type Error struct {
	Name     string // the contract's code; "" = WORKER_FAILED
	WorkerID string
	Message  string
	Err      error
}

// Error is the sentence.
func (e *Error) Error() string {
	if e.WorkerID == "" {
		return e.Message
	}
	return fmt.Sprintf("worker %s: %s", e.WorkerID, e.Message)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Code is the stable code of the contract.
func (e *Error) Code() string {
	switch {
	case e.Name != "":
		return e.Name
	case errors.Is(e.Err, ErrNotFound):
		return "WORKER_NOT_FOUND"
	case errors.Is(e.Err, ErrClosed):
		return "SHUTTING_DOWN"
	}
	return "WORKER_FAILED"
}

// Details are the machine-readable facts.
func (e *Error) Details() map[string]any {
	if e.WorkerID == "" {
		return nil
	}
	return map[string]any{"worker_id": e.WorkerID}
}
