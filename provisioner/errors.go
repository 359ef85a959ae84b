package provisioner

import (
	"errors"
	"fmt"
	"time"
)

// The sentinels that errors of this package match with errors.Is.
var (
	ErrInvalidRef    = errors.New("invalid model reference")
	ErrInvalidEntry  = errors.New("invalid model entry")
	ErrModelNotFound = errors.New("model not found")
	ErrConflict      = errors.New("conflict")
	ErrProvision     = errors.New("model could not be provisioned")
	ErrCancelled     = errors.New("download cancelled")
	ErrClosed        = errors.New("provisioner is closed")
)

// Error is an error of this package: a sentinel with the facts and the cause.
type Error struct {
	Kind    error  // one of the sentinels
	Model   string // the name or reference, shortened
	Node    string // where there is one
	Message string // what to do next, or what is wrong
	Err     error  // the cause, if any
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("%v: %q", e.Kind, e.Model)
	if e.Node != "" {
		s += " on " + e.Node
	}
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
	case ErrInvalidRef:
		return "INVALID_MODEL_REF"
	case ErrInvalidEntry:
		return "INVALID_REQUEST"
	case ErrModelNotFound:
		return "MODEL_NOT_FOUND"
	case ErrConflict:
		return "CONFLICT"
	case ErrCancelled:
		return "CANCELLED"
	case ErrClosed:
		return "SHUTTING_DOWN"
	}
	return "PROVISION_FAILED"
}

// RetryAfter is the cause's own wish, 0 where it has none.
func (e *Error) RetryAfter() time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if e.Err != nil && errors.As(e.Err, &r) {
		return r.RetryAfter()
	}
	return 0
}

// Details are the facts for a program: the cause's, with the model and the node.
func (e *Error) Details() map[string]any {
	out := map[string]any{}
	var d interface{ Details() map[string]any }
	if e.Err != nil && errors.As(e.Err, &d) {
		for k, v := range d.Details() {
			out[k] = v
		}
	}
	out["model"] = e.Model
	if e.Node != "" {
		out["node"] = e.Node
	}
	return out
}

func refError(ref, message string) error {
	if len(ref) > 80 {
		ref = ref[:80] + "..."
	}
	return &Error{Kind: ErrInvalidRef, Model: ref, Message: message}
}
