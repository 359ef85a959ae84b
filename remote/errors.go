package remote

import (
	"errors"
	"fmt"
	"strings"
)

// Sentinels that callers test with errors.Is.
var (
	// ErrLost says that the connection to the machine broke; what ran there may still run.
	ErrLost = errors.New("the connection was lost")
	// ErrClosed says that the Client or Pool was closed by its owner.
	ErrClosed = errors.New("remote: closed")
	// ErrOutput says that a command printed more than Options.MaxOutput.
	ErrOutput = errors.New("the command printed too much")
	// ErrChecksum says that a file did not arrive as it was.
	ErrChecksum = errors.New("the checksum does not match")
	// ErrBanner says that the server talks without end instead of letting anybody in.
	ErrBanner = errors.New("the server sends too much before it lets anybody in")
)

// Error is an operation on a machine that failed. Remedy is one sentence for a person.
type Error struct {
	Op, User, Host string
	Err            error
	Remedy         string
}

// Error names the operation, the machine, the cause and what to do about it.
func (e *Error) Error() string {
	return withRemedy(fmt.Sprintf("ssh %s: %s: %v", at(e.User, e.Host), e.Op, e.Err), e.Remedy)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Code is the stable code of the HTTP contract.
func (e *Error) Code() string { return "HIVE_FAILED" }

// AuthError says that the machine did not let the user in. It is never worth a second attempt by itself.
type AuthError struct {
	User, Host string
	Keys       []string // what was offered: key files, or the agent's comments
	Err        error
}

// Error names host, user and keys.
func (e *AuthError) Error() string {
	keys := "no key at all"
	if len(e.Keys) > 0 {
		keys = strings.Join(e.Keys, ", ")
	}
	return fmt.Sprintf("ssh %s: user %s was refused by host %s with %s; add the public key to ~%s/.ssh/authorized_keys there (ssh-copy-id does it) or name another user or key",
		at(e.User, e.Host), e.User, e.Host, keys, e.User)
}

// Unwrap gives the cause.
func (e *AuthError) Unwrap() error { return e.Err }

// Code is the stable code of the HTTP contract.
func (e *AuthError) Code() string { return "HIVE_FAILED" }

// Permanent says that only a person can mend this.
func (e *AuthError) Permanent() bool { return true }

// Details are the machine-readable facts.
func (e *AuthError) Details() map[string]any {
	return map[string]any{"ssh_host": e.Host, "ssh_user": e.User, "keys": e.Keys}
}

// HostKeyError says that the machine could not prove that it is the right one. Nothing was sent to it.
type HostKeyError struct {
	User, Host  string
	Fingerprint string   // of the key that it showed
	KeyType     string   // of the key that it showed
	Changed     bool     // another key is known for it; false: none is
	Known       []string // where the known ones stand: "file:line", or the pinned key
}

// Error shows both sides and what to do.
func (e *HostKeyError) Error() string {
	if e.Changed {
		return fmt.Sprintf("ssh %s: host key changed: host %s (user %s) shows %s key %s, but %s says otherwise; nothing was sent; if the machine was really set up anew, remove that entry, else somebody is in between",
			at(e.User, e.Host), e.Host, e.User, e.KeyType, e.Fingerprint, strings.Join(e.Known, ", "))
	}
	return fmt.Sprintf("ssh %s: host %s (user %s) is not in known_hosts; it shows %s key %s; compare that on the machine itself, then pin it as the host key, connect once with ssh, or use accept-new",
		at(e.User, e.Host), e.Host, e.User, e.KeyType, e.Fingerprint)
}

// Code is the stable code of the HTTP contract.
func (e *HostKeyError) Code() string { return "HIVE_FAILED" }

// Permanent says that only a person can mend this.
func (e *HostKeyError) Permanent() bool { return true }

// Details are the machine-readable facts; the fingerprint is what a person confirms.
func (e *HostKeyError) Details() map[string]any {
	return map[string]any{"ssh_host": e.Host, "ssh_user": e.User, "fingerprint": e.Fingerprint, "key_type": e.KeyType, "changed": e.Changed}
}

// KeyError says that a private key can't be used.
type KeyError struct {
	Path   string
	Err    error
	Remedy string
}

// Error names the key file and what to do.
func (e *KeyError) Error() string {
	return withRemedy(fmt.Sprintf("ssh key %s: %v", e.Path, e.Err), e.Remedy)
}

// Unwrap gives the cause.
func (e *KeyError) Unwrap() error { return e.Err }

// Code is the stable code of the HTTP contract.
func (e *KeyError) Code() string { return "INVALID_REQUEST" }

// Permanent says that only a person can mend this.
func (e *KeyError) Permanent() bool { return true }

// TargetError says that a target can't be one: a host or user that a shell or ssh could take for something else.
type TargetError struct {
	Field, Value, Reason string
}

// Error shows the value quoted and cut.
func (e *TargetError) Error() string {
	return fmt.Sprintf("ssh target: %s %.80q %s", e.Field, e.Value, e.Reason)
}

// Code is the stable code of the HTTP contract.
func (e *TargetError) Code() string { return "INVALID_REQUEST" }

// Permanent says that only a person can mend this.
func (e *TargetError) Permanent() bool { return true }

// ExitError says that a command did not end with a status: a signal ended it, or nobody knows how it ended.
type ExitError struct {
	Signal string // "" = the machine did not say; the command may still run
	Err    error
}

// Error says how the command ended.
func (e *ExitError) Error() string {
	if e.Signal != "" {
		return "the command was ended by signal " + e.Signal
	}
	return "the machine did not say how the command ended; it may still run"
}

// Unwrap gives the cause.
func (e *ExitError) Unwrap() error { return e.Err }

func at(user, host string) string {
	if user == "" {
		return host
	}
	return user + "@" + host
}

func withRemedy(msg, remedy string) string {
	if remedy == "" {
		return msg
	}
	return msg + "; " + remedy
}
