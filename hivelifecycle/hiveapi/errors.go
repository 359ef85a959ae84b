package hiveapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Sentinels that callers test with errors.Is.
var (
	// ErrHandshake says that what answers at the address does not know the hive's token: it is another hive, or none.
	ErrHandshake = errors.New("hiveapi: the hive did not prove that it knows the token")
	// ErrSilent says that the watch stream brought nothing, not even a beat, for Options.WatchIdle.
	ErrSilent = errors.New("hiveapi: no word from the hive")
	// ErrUnauthorized says that the hive refused the token.
	ErrUnauthorized = errors.New("hiveapi: the hive refused the token")
	// ErrProtocol says that the answer was not what a hive sends.
	ErrProtocol = errors.New("hiveapi: not a hive's answer")
	// ErrCertificate says that mutual TLS failed: one side does not take the other's certificate.
	ErrCertificate = errors.New("hiveapi: the hive was not talked to")
	// ErrNotFound says that the hive knows no such worker, model or download.
	ErrNotFound = errors.New("hiveapi: not found")
)

// Error is a refusal by the hive, with the contract's code.
type Error struct {
	Status  int            // HTTP status
	Name    string         // the contract's code, e.g. WORKER_NOT_FOUND
	Message string         // one sentence, says what to do next
	Facts   map[string]any // details
	After   time.Duration  // Retry-After, 0 when none was given
}

// Error is the hive's own sentence with its code.
func (e *Error) Error() string { return fmt.Sprintf("hive: %s: %s", e.Name, e.Message) }

// Code is the stable code of the contract.
func (e *Error) Code() string { return e.Name }

// Details are the machine-readable facts.
func (e *Error) Details() map[string]any { return e.Facts }

// RetryAfter is how long the hive asks to wait.
func (e *Error) RetryAfter() time.Duration { return e.After }

// Is matches ErrUnauthorized and ErrNotFound by the status.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	}
	return false
}

// ErrorBody is the JSON of an error answer.
type ErrorBody struct {
	Error ErrorInfo `json:"error"`
}

// ErrorInfo is what an error answer says.
type ErrorInfo struct {
	Code    string         `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details,omitempty"`
}

func errorFrom(res *http.Response, body []byte) error {
	e := &Error{Status: res.StatusCode, Name: "HIVE_FAILED"}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 && s < 86400 {
		e.After = time.Duration(s) * time.Second
	}
	var eb ErrorBody
	if err := json.Unmarshal(body, &eb); err == nil && eb.Error.Code != "" {
		e.Name, e.Message, e.Facts = eb.Error.Code, eb.Error.Message, eb.Error.Details
		return e
	}
	if res.StatusCode >= 300 && res.StatusCode < 400 {
		return fmt.Errorf("%w: it answered with a redirect (%d), which is never followed", ErrProtocol, res.StatusCode)
	}
	e.Message = "it answered " + res.Status
	return e
}
