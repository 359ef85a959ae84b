package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
	"time"
)

// Scope says what a key may do. A wider scope includes the narrower ones.
type Scope string

// The scopes, narrow to wide: run inference; operate hives, models and jobs; administer keys, tenants and policies.
const (
	Infer   Scope = "infer"
	Operate Scope = "operate"
	Admin   Scope = "admin"
)

// Hive is the scope of a hive's token: it reports for the node that its label names, and nothing else. It includes no
// other scope; only Admin includes it.
const Hive Scope = "hive"

func (s Scope) rank() int {
	switch s {
	case Infer:
		return 1
	case Operate:
		return 2
	case Admin:
		return 3
	}
	return 0
}

// Allows reports whether a key of scope s may do what needs scope need. An unknown scope allows nothing.
func (s Scope) Allows(need Scope) bool {
	if s == Hive || need == Hive {
		return s == need || s == Admin
	}
	return s.rank() > 0 && s.rank() >= need.rank()
}

// Valid reports whether s is one of the three scopes of users, or Hive.
func (s Scope) Valid() bool { return s.rank() > 0 || s == Hive }

// Key is what is kept of an API key. The secret itself is never kept.
type Key struct {
	ID        string    // public part, in logs and lists
	Tenant    string    // whose work it is
	Label     string    // what the operator calls it; at most two active keys share one (rotation)
	Scope     Scope     // what it may do
	Hash      [32]byte  // SHA-256 of the secret part
	Models    []string  // model names it may use; empty: all
	CreatedAt time.Time //
	ExpiresAt time.Time // zero: never
	RevokedAt time.Time // zero: active
}

// Active reports whether the key works at the given time.
func (k *Key) Active(now time.Time) bool {
	return k.RevokedAt.IsZero() && (k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt))
}

// Identity is who a request comes from.
type Identity struct {
	KeyID     string   // "" when no key was needed
	Tenant    string   // "default" when no key was needed
	Scope     Scope    //
	Models    []string // models it may use; empty: all
	Anonymous bool     // let in without a key, by the loopback rule
	Node      string   // with scope Hive: the node that it reports for, which is the token's label
}

// MayUse reports whether the identity may use the named model.
func (id Identity) MayUse(model string) bool {
	if len(id.Models) == 0 {
		return true
	}
	for _, m := range id.Models {
		if m == model {
			return true
		}
	}
	return false
}

// Narrow returns the identity with only those of its models that are also in the list; an empty list changes nothing.
// With nothing in common it may use none.
func (id Identity) Narrow(models []string) Identity {
	if len(models) == 0 {
		return id
	}
	both := []string{}
	for _, m := range models {
		if id.MayUse(m) {
			both = append(both, m)
		}
	}
	if len(both) == 0 {
		both = append(both, "") // no model has an empty name
	}
	id.Models = both
	return id
}

// Head is the anchor of the audit log: how many entries it has and the hash of the last.
type Head struct {
	Entries uint64
	Hash    [32]byte
}

// Store keeps keys and the audit head. Implementations are safe for concurrent use; SaveKey inserts or replaces by ID.
// The conformance suite is authtest.Run.
type Store interface {
	Keys(ctx context.Context) ([]Key, error)
	SaveKey(ctx context.Context, k Key) error
	AuditHead(ctx context.Context) (Head, error)
	SetAuditHead(ctx context.Context, h Head) error
}

const prefix = "rbee_"

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newSecret returns the id, the whole key as the user sees it, and the hash that is kept.
func newSecret() (id, full string, hash [32]byte) {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // crypto/rand never fails
	id = idEncoding.EncodeToString(raw[:])
	var secret [32]byte
	_, _ = rand.Read(secret[:])
	text := hex.EncodeToString(secret[:])
	return id, prefix + id + "_" + text, sha256.Sum256([]byte(text))
}

// split takes a presented key apart; ok is false when it does not have the form.
func split(presented string) (id, secret string, ok bool) {
	rest, ok := strings.CutPrefix(presented, prefix)
	if !ok || len(rest) > 128 {
		return "", "", false
	}
	id, secret, ok = strings.Cut(rest, "_")
	return id, secret, ok && len(id) == 13 && len(secret) == 64
}
