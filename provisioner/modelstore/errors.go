package modelstore

import (
	"errors"
	"fmt"
	"time"
)

// The sentinels that errors of this package match with errors.Is.
var (
	ErrNotFound  = errors.New("model not in the store")
	ErrInUse     = errors.New("model in use")
	ErrCorrupt   = errors.New("content does not match")
	ErrNoSpace   = errors.New("not enough disk space")
	ErrForbidden = errors.New("source not allowed")
	ErrSource    = errors.New("source failed")
	ErrCancelled = errors.New("download cancelled")
	ErrLocked    = errors.New("the store is in use by another process")
	ErrClosed    = errors.New("the store is closed")
)

// Error is an error of this package: a sentinel with the facts and the cause.
type Error struct {
	Kind    error
	Ref     string
	Message string
	Err     error
	Facts   map[string]any
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("%v: %s", e.Kind, e.Ref)
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap lets errors.Is and errors.As find the sentinel and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Code is the error code of the queen's API: the cause's own where it has one.
func (e *Error) Code() string {
	var coded interface{ Code() string }
	if e.Err != nil && errors.As(e.Err, &coded) {
		return coded.Code()
	}
	switch e.Kind {
	case ErrNotFound:
		return "MODEL_NOT_FOUND"
	case ErrInUse:
		return "CONFLICT"
	case ErrForbidden:
		return "FORBIDDEN"
	case ErrCancelled:
		return "CANCELLED"
	case ErrClosed:
		return "SHUTTING_DOWN"
	}
	return "PROVISION_FAILED"
}

// RetryAfter is the cause's own wish.
func (e *Error) RetryAfter() time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if e.Err != nil && errors.As(e.Err, &r) {
		return r.RetryAfter()
	}
	return 0
}

// Temporary says that the same request may succeed later.
func (e *Error) Temporary() bool {
	var t interface{ Temporary() bool }
	return e.Err != nil && errors.As(e.Err, &t) && t.Temporary()
}

// Details are the facts for a program.
func (e *Error) Details() map[string]any {
	out := map[string]any{"model_ref": e.Ref}
	for k, v := range e.Facts {
		out[k] = v
	}
	return out
}

func human(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}
