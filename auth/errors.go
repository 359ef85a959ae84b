package auth

import (
	"errors"
	"fmt"
	"time"
)

// Sentinels for errors.Is. Every error that can reach a client is an *Error that wraps one of them.
var (
	ErrUnauthenticated = errors.New("unauthenticated") // no key, or one that is unknown, revoked or expired
	ErrForbidden       = errors.New("forbidden")       // the key is good, but not for this
	ErrDamped          = errors.New("too many failed attempts")
	ErrNotFound        = errors.New("key not found")
	ErrInvalid         = errors.New("invalid key request")
	ErrTooManyActive   = errors.New("too many active keys under this label")
	ErrConflict        = errors.New("key is still needed")
	ErrTampered        = errors.New("audit log does not match its anchor")
)

// Error says why a request was refused and what to do about it. It never holds any part of a secret.
type Error struct {
	Kind    error         // one of the sentinels
	Message string        // a sentence that says what to do
	After   time.Duration // for ErrDamped: when to try again
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("auth: %s: %s", e.Kind, e.Message) }

// Unwrap makes errors.Is work with the sentinels.
func (e *Error) Unwrap() error { return e.Kind }

// Code is the stable code of the contract.
func (e *Error) Code() string {
	switch e.Kind {
	case ErrUnauthenticated:
		return "UNAUTHENTICATED"
	case ErrForbidden:
		return "FORBIDDEN"
	case ErrDamped:
		return "RATE_LIMITED"
	case ErrNotFound:
		return "NOT_FOUND"
	case ErrInvalid:
		return "INVALID_REQUEST"
	case ErrTooManyActive, ErrConflict:
		return "CONFLICT"
	}
	return "INTERNAL"
}

// RetryAfter is how long a damped caller should wait; zero otherwise.
func (e *Error) RetryAfter() time.Duration { return e.After }

func refuse(kind error, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}
