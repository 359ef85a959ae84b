package hivelifecycle

import (
	"errors"
	"fmt"
	"maps"
)

// Sentinels that callers test with errors.Is.
var (
	// ErrClosed is returned by every method of a Manager after Close.
	ErrClosed = errors.New("hivelifecycle: the manager is closed")
	// ErrNotFound says that no hive of that name was ever started by this Manager.
	ErrNotFound = errors.New("hivelifecycle: no such hive")
	// ErrStopped says that the hive was stopped while the call waited for it.
	ErrStopped = errors.New("hivelifecycle: the hive was stopped")
	// ErrBinary says that no usable rbee-hive was found.
	ErrBinary = errors.New("hivelifecycle: no rbee-hive program")
	// ErrHandshake says that what answers at the hive's address does not know the hive's token.
	ErrHandshake = errors.New("hivelifecycle: the handshake failed")
	// ErrName says that a hive's name can't be used as one.
	ErrName = errors.New("hivelifecycle: invalid hive name")
	// ErrNoConnector says that StartNetwork was called on a Manager without Options.Connector.
	ErrNoConnector = errors.New("hivelifecycle: no connector for network hives")
)

// Error is a step in a hive's life that failed. Remedy is one sentence for a person.
type Error struct {
	Node   string
	Step   Step
	Remedy string
	Err    error
}

// Error names the hive, the step, the cause and what to do about it.
func (e *Error) Error() string {
	msg := fmt.Sprintf("hive %s: %s: %v", e.Node, e.Step, e.Err)
	if e.Remedy != "" {
		msg += "; " + e.Remedy
	}
	return msg
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Code is the stable code of the HTTP contract.
func (e *Error) Code() string {
	var inner interface{ Code() string }
	switch {
	case errors.As(e.Err, &inner):
		return inner.Code()
	case errors.Is(e.Err, ErrNotFound):
		return "NODE_NOT_FOUND"
	case errors.Is(e.Err, ErrName):
		return "INVALID_REQUEST"
	case errors.Is(e.Err, ErrClosed):
		return "SHUTTING_DOWN"
	}
	return "HIVE_FAILED"
}

// Details are the machine-readable facts of the failure.
func (e *Error) Details() map[string]any {
	d := map[string]any{}
	var inner interface{ Details() map[string]any }
	if errors.As(e.Err, &inner) { // a host key's fingerprint, for one
		maps.Copy(d, inner.Details())
	}
	d["node"], d["step"] = e.Node, string(e.Step)
	if e.Remedy != "" {
		d["remedy"] = e.Remedy
	}
	return d
}

// Permanent says whether trying again without a change by a person is pointless. It asks the cause, so that a
// refused SSH key or a changed host key ends the attempts instead of starting a storm of them.
func (e *Error) Permanent() bool { return permanent(e.Err) }

func permanent(err error) bool {
	var p interface{ Permanent() bool }
	if errors.As(err, &p) {
		return p.Permanent()
	}
	return errors.Is(err, ErrBinary) || errors.Is(err, ErrName) || errors.Is(err, ErrNoConnector)
}

func fail(node string, step Step, err error, remedy string) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Node: node, Step: step, Err: err, Remedy: remedy}
}
