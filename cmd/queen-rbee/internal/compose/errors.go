package compose

import (
	"errors"
	"time"
)

// codedError is an error of the joints themselves, with a code of the contract.
type codedError struct {
	code  string
	msg   string
	after time.Duration
	facts map[string]any
}

func (e *codedError) Error() string             { return e.msg }
func (e *codedError) Code() string              { return e.code }
func (e *codedError) RetryAfter() time.Duration { return e.after }
func (e *codedError) Details() map[string]any   { return e.facts }

// codeOf finds the contract's code of an error; INTERNAL when it has none.
func codeOf(err error) string {
	var c interface{ Code() string }
	if errors.As(err, &c) && c.Code() != "" {
		return c.Code()
	}
	return "INTERNAL"
}
