package registry

import (
	"errors"
	"fmt"
)

// The sentinels that errors of this package match with errors.Is.
var (
	ErrNotFound      = errors.New("not found") // matches both of the next two
	ErrUnknownHive   = errors.New("unknown hive")
	ErrUnknownWorker = errors.New("unknown worker")
	ErrConflict      = errors.New("conflict")
	ErrStale         = errors.New("stale report")
	ErrInvalid       = errors.New("invalid record")
	ErrClosed        = errors.New("registry is closed")
)

// Error is an error of this package: a sentinel with the facts. Code maps it to the queen's API.
type Error struct {
	Kind    error  // one of the sentinels
	Subject string // the hive or worker that it is about
	Message string // what happened and what to do next
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("%v: %s: %s", e.Kind, e.Subject, e.Message)
}

// Unwrap makes errors.Is find the sentinel.
func (e *Error) Unwrap() error { return e.Kind }

// Is lets ErrNotFound match whatever is unknown.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && (e.Kind == ErrUnknownHive || e.Kind == ErrUnknownWorker)
}

// Code is the error code of the queen's API.
func (e *Error) Code() string {
	switch e.Kind {
	case ErrUnknownHive:
		return "NODE_NOT_FOUND"
	case ErrUnknownWorker:
		return "WORKER_NOT_FOUND"
	case ErrConflict, ErrStale:
		return "CONFLICT"
	case ErrInvalid:
		return "INVALID_REQUEST"
	case ErrClosed:
		return "SHUTTING_DOWN"
	}
	return "INTERNAL"
}

// Details are the facts of the error for a program.
func (e *Error) Details() map[string]any { return map[string]any{"subject": e.Subject} }

func unknownHive(name string) error {
	return &Error{Kind: ErrUnknownHive, Subject: name, Message: "no hive has this name; list them with `rbee hive ls` or add it with `rbee hive add`"}
}

func unknownWorker(id string) error {
	return &Error{Kind: ErrUnknownWorker, Subject: id, Message: "no worker has this id; list them with `rbee worker ls`"}
}

func invalid(subject, message string) error {
	return &Error{Kind: ErrInvalid, Subject: subject, Message: message}
}
