package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Limits of what a key request may hold.
const (
	MaxKeys       = 10_000
	MaxModels     = 256
	maxNameLength = 128
	maxPerLabel   = 2 // two active: the old and the new one of a rotation
)

// Options are all optional.
type Options struct {
	Now      func() time.Time // time.Now when nil
	Logger   *slog.Logger     // silent when nil
	Audit    *Audit           // records key changes when given
	Attempts int              // failed attempts an address may make with a key id in a minute; 0: 20, negative: no limit
	// KeepAdmin refuses what would leave nobody who may make keys: a first key of another scope than Admin, and the
	// revocation of the last active key of scope Admin.
	KeepAdmin bool
}

// Keys is the set of API keys. It is safe for concurrent use: Verify reads an immutable map through an atomic
// pointer, changes are serialised and written to the store before they take effect.
type Keys struct {
	store Store
	now   func() time.Time
	log   *slog.Logger
	audit *Audit
	damp  *damper
	admin bool // Options.KeepAdmin
	mu    sync.Mutex
	byID  atomic.Pointer[map[string]*Key]
}

// New loads the keys from the store.
func New(ctx context.Context, store Store, o Options) (*Keys, error) {
	k := &Keys{store: store, now: o.Now, log: o.Logger, audit: o.Audit, admin: o.KeepAdmin}
	if k.now == nil {
		k.now = time.Now
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	k.damp = newDamper(o.Attempts, k.now)
	list, err := store.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("auth: load keys: %w", err)
	}
	m := make(map[string]*Key, len(list))
	for i := range list {
		m[list[i].ID] = &list[i]
	}
	k.byID.Store(&m)
	return k, nil
}

// Request says what key to make. Tenant and Scope are required; Label defaults to the tenant. A key of scope Hive is a
// hive's token: its Label is the name of the node, its Tenant is always "hives", and Models must be empty.
type Request struct {
	Tenant    string
	Label     string
	Scope     Scope
	Models    []string
	ExpiresAt time.Time
}

func (r *Request) check(now time.Time) error {
	if r.Scope == Hive {
		if r.Label == "" {
			return refuse(ErrInvalid, "a hive's token needs the name of its node as label: rbee key create --scope hive --label NODE")
		}
		if len(r.Models) > 0 {
			return refuse(ErrInvalid, "a hive's token runs no models: leave models out")
		}
		r.Tenant = "hives"
	}
	if r.Label == "" {
		r.Label = r.Tenant
	}
	for what, s := range map[string]string{"tenant_id": r.Tenant, "label": r.Label} {
		if s == "" || len(s) > maxNameLength || strings.ContainsFunc(s, func(c rune) bool { return c < 0x21 || c == 0x7f }) {
			return refuse(ErrInvalid, "%s must be 1 to %d characters without spaces or control characters", what, maxNameLength)
		}
	}
	if !r.Scope.Valid() {
		return refuse(ErrInvalid, "scope must be infer, operate, admin or hive")
	}
	if len(r.Models) > MaxModels {
		return refuse(ErrInvalid, "models lists %d names, at most %d are allowed", len(r.Models), MaxModels)
	}
	if !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now) {
		return refuse(ErrInvalid, "expires_at lies in the past: give a later time or leave it out")
	}
	return nil
}

// Create makes a key and returns it with its secret, which is shown this once and cannot be had again. by names who
// asked, for the audit log.
func (k *Keys) Create(ctx context.Context, by string, r Request) (Key, string, error) {
	now := k.now()
	if err := r.check(now); err != nil {
		return Key{}, "", err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	active, total := 0, 0
	for _, other := range *k.byID.Load() {
		total++
		if other.Tenant == r.Tenant && other.Label == r.Label && other.Active(now) {
			active++
		}
	}
	if total >= MaxKeys {
		return Key{}, "", refuse(ErrInvalid, "there are %d keys already: revoke some", total)
	}
	if k.admin && r.Scope != Admin && k.admins("") == 0 {
		return Key{}, "", refuse(ErrInvalid, "the first key must have scope admin, from then on keys are needed and no other "+
			"could make more: rbee key create --scope admin")
	}
	if r.Label != r.Tenant && active >= maxPerLabel {
		return Key{}, "", refuse(ErrTooManyActive, "label %q has two active keys: revoke the old one first", r.Label)
	}
	id, full, hash := newSecret()
	key := Key{ID: id, Tenant: r.Tenant, Label: r.Label, Scope: r.Scope, Hash: hash,
		Models: slices.Clone(r.Models), CreatedAt: now, ExpiresAt: r.ExpiresAt}
	if err := k.save(ctx, key); err != nil {
		return Key{}, "", err
	}
	k.record(ctx, by, "key.create", key)
	return key, full, nil
}

// Revoke ends a key at once. Revoking twice is not an error; an unknown id is ErrNotFound.
func (k *Keys) Revoke(ctx context.Context, by, id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	old, ok := (*k.byID.Load())[id]
	if !ok {
		return refuse(ErrNotFound, "no key has the id %q: list them with rbee key ls", clip(id))
	}
	if !old.RevokedAt.IsZero() {
		return nil
	}
	if k.admin && old.Scope == Admin && old.Active(k.now()) && k.admins(id) == 0 {
		return refuse(ErrConflict, "this is the last key of scope admin, nobody could make another: make the new one first, with "+
			"rbee key create --scope admin, then revoke this one with it")
	}
	key := *old
	key.RevokedAt = k.now()
	if err := k.save(ctx, key); err != nil {
		return err
	}
	k.record(ctx, by, "key.revoke", key)
	return nil
}

// admins counts the active keys of scope Admin, one left out; the caller holds mu.
func (k *Keys) admins(without string) int {
	n, now := 0, k.now()
	for id, key := range *k.byID.Load() {
		if id != without && key.Scope == Admin && key.Active(now) {
			n++
		}
	}
	return n
}

// save writes the key and then publishes a new map; the caller holds mu.
func (k *Keys) save(ctx context.Context, key Key) error {
	if err := k.store.SaveKey(ctx, key); err != nil {
		return fmt.Errorf("auth: save key: %w", err)
	}
	old := *k.byID.Load()
	m := make(map[string]*Key, len(old)+1)
	for id, v := range old {
		m[id] = v
	}
	m[key.ID] = &key
	k.byID.Store(&m)
	return nil
}

func (k *Keys) record(ctx context.Context, by, action string, key Key) {
	k.log.Info("auth: "+action, "key", key.ID, "tenant", key.Tenant, "scope", key.Scope, "by", by)
	if k.audit == nil {
		return
	}
	err := k.audit.Record(ctx, Entry{Actor: by, Action: action, Object: key.ID,
		Detail: "tenant=" + key.Tenant + " scope=" + string(key.Scope)})
	if err != nil {
		k.log.Error("auth: audit log", "error", err)
	}
}

// List returns all keys, revoked ones too, oldest first. Hashes are zeroed.
func (k *Keys) List() []Key {
	m := *k.byID.Load()
	out := make([]Key, 0, len(m))
	for _, key := range m {
		c := *key
		c.Hash = [32]byte{}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Key) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// Any reports whether at least one key was ever made; the loopback rule ends then.
func (k *Keys) Any() bool { return len(*k.byID.Load()) > 0 }

// Verify says whose key was presented. It takes under a microsecond, allocates nothing on success and does not say
// which part of a wrong key was wrong. Use VerifyFrom to damp guessing.
func (k *Keys) Verify(presented string) (Identity, error) {
	id, secret, ok := split(presented)
	if !ok {
		return Identity{}, errNoKey
	}
	key := (*k.byID.Load())[id]
	// the secret is hashed even for an unknown id, so that time does not tell which ids exist
	sum := sha256.Sum256(unsafe.Slice(unsafe.StringData(secret), len(secret)))
	var want [32]byte
	if key != nil {
		want = key.Hash
	}
	if subtle.ConstantTimeCompare(sum[:], want[:]) != 1 || key == nil {
		return Identity{}, errNoKey
	}
	if !key.RevokedAt.IsZero() {
		return Identity{}, errRevoked
	}
	if !key.ExpiresAt.IsZero() && !k.now().Before(key.ExpiresAt) {
		return Identity{}, errExpired
	}
	who := Identity{KeyID: key.ID, Tenant: key.Tenant, Scope: key.Scope, Models: key.Models}
	if key.Scope == Hive {
		who.Node = key.Label
	}
	return who, nil
}

var (
	errNoKey   = refuse(ErrUnauthenticated, "this key is not known: send Authorization: Bearer rbee_..., made with rbee key create")
	errRevoked = refuse(ErrUnauthenticated, "this key was revoked: ask the operator for a new one")
	errExpired = refuse(ErrUnauthenticated, "this key has expired: ask the operator for a new one")
)

// VerifyFrom is Verify with brute-force damping: an address that has presented too many wrong secrets for a key id in the
// last minute is refused with ErrDamped before the secret is looked at, be it the right one. Other keys from the same address
// are not held up: it may be a proxy's, or this machine's.
// A key that was good once is no guess: a client that goes on with a revoked or expired one locks nobody out.
func (k *Keys) VerifyFrom(addr, presented string) (Identity, error) {
	g := guessed{addr: addr}
	if id, _, ok := split(presented); ok {
		g.id = id
	}
	if after := k.damp.blocked(g); after > 0 {
		return Identity{}, &Error{Kind: ErrDamped, After: after,
			Message: "too many wrong keys from this address: wait, then try again with the right one"}
	}
	id, err := k.Verify(presented)
	if err == error(errNoKey) {
		k.damp.failed(g)
	}
	return id, err
}

func clip(s string) string {
	if len(s) > 32 {
		return s[:32] + "..."
	}
	return s
}
