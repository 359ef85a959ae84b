package auth_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/auth"
	"github.com/queen-rbee/queen-rbee/auth/authtest"
)

func TestMemoryConformance(t *testing.T) {
	authtest.Run(t, func(*testing.T) auth.Store { return auth.NewMemoryStore() }, nil)
}

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newKeys(t testing.TB, o auth.Options) (*auth.Keys, *clock) {
	t.Helper()
	c := &clock{time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	if o.Now == nil {
		o.Now = c.now
	}
	k, err := auth.New(t.Context(), auth.NewMemoryStore(), o)
	if err != nil {
		t.Fatal(err)
	}
	return k, c
}

func create(t testing.TB, k *auth.Keys, r auth.Request) (auth.Key, string) {
	t.Helper()
	key, secret, err := k.Create(context.Background(), "test", r)
	if err != nil {
		t.Fatal(err)
	}
	return key, secret
}

func TestVerify(t *testing.T) {
	k, c := newKeys(t, auth.Options{})
	key, secret := create(t, k, auth.Request{Tenant: "home", Scope: auth.Operate, Models: []string{"a"}, ExpiresAt: c.t.Add(time.Hour)})
	id, err := k.Verify(secret)
	if err != nil || id.KeyID != key.ID || id.Tenant != "home" || id.Scope != auth.Operate || !id.MayUse("a") || id.MayUse("b") {
		t.Fatalf("Verify = %+v, %v", id, err)
	}
	last := byte('0')
	if secret[len(secret)-1] == last {
		last = '1'
	}
	for name, bad := range map[string]string{
		"empty": "", "no prefix": secret[5:], "wrong secret": secret[:len(secret)-1] + string(last), "short": secret[:40],
		"long": secret + "0", "other id": "rbee_aaaaaaaaaaaaa" + secret[18:], "huge": "rbee_" + strings.Repeat("a", 1<<16),
	} {
		if _, err := k.Verify(bad); !errors.Is(err, auth.ErrUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.t = c.t.Add(2 * time.Hour)
	if _, err := k.Verify(secret); !errors.Is(err, auth.ErrUnauthenticated) {
		t.Errorf("expired key: %v", err)
	}
}

func TestRotationAndRevoke(t *testing.T) {
	k, _ := newKeys(t, auth.Options{})
	r := auth.Request{Tenant: "home", Label: "laptop", Scope: auth.Infer}
	old, oldSecret := create(t, k, r)
	_, newSecret := create(t, k, r)
	if _, _, err := k.Create(t.Context(), "test", r); !errors.Is(err, auth.ErrTooManyActive) {
		t.Fatalf("a third active key: %v", err)
	}
	for range 2 {
		if err := k.Revoke(t.Context(), "test", old.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Verify(oldSecret); !errors.Is(err, auth.ErrUnauthenticated) {
		t.Errorf("revoked key: %v", err)
	}
	if _, err := k.Verify(newSecret); err != nil {
		t.Errorf("the other key of the rotation: %v", err)
	}
	err := k.Revoke(t.Context(), "test", "nobody")
	if e := new(auth.Error); !errors.Is(err, auth.ErrNotFound) || !errors.As(err, &e) || e.Code() != "NOT_FOUND" {
		t.Errorf("unknown id: %v", err)
	}
	for _, listed := range k.List() {
		if listed.Hash != [32]byte{} {
			t.Error("List gives hashes away")
		}
	}
}

func TestBadRequests(t *testing.T) {
	k, c := newKeys(t, auth.Options{})
	for name, r := range map[string]auth.Request{
		"no tenant": {Scope: auth.Infer}, "no scope": {Tenant: "a"}, "odd scope": {Tenant: "a", Scope: "root"},
		"newline": {Tenant: "a\nb", Scope: auth.Infer}, "long": {Tenant: strings.Repeat("a", 200), Scope: auth.Infer},
		"past": {Tenant: "a", Scope: auth.Infer, ExpiresAt: c.t.Add(-1)}, "models": {Tenant: "a", Scope: auth.Infer, Models: make([]string, 300)},
	} {
		if _, _, err := k.Create(t.Context(), "test", r); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDamping(t *testing.T) {
	k, c := newKeys(t, auth.Options{Attempts: 3})
	_, secret := create(t, k, auth.Request{Tenant: "home", Scope: auth.Infer})
	_, other := create(t, k, auth.Request{Tenant: "away", Scope: auth.Infer})
	guess := secret[:len(secret)-1] + map[bool]string{true: "0", false: "1"}[secret[len(secret)-1] == '1']
	for range 3 {
		for _, wrong := range []string{"rbee_wrong", guess} {
			if _, err := k.VerifyFrom("10.0.0.1", wrong); !errors.Is(err, auth.ErrUnauthenticated) {
				t.Fatal(err)
			}
		}
	}
	if _, err := k.VerifyFrom("10.0.0.1", "sk-none"); !errors.Is(err, auth.ErrDamped) {
		t.Errorf("a fourth one that is no key: %v", err)
	}
	if _, err := k.VerifyFrom("10.0.0.1", other); err != nil {
		t.Errorf("another key from the same address: %v", err)
	}
	_, err := k.VerifyFrom("10.0.0.1", secret)
	var e *auth.Error
	if !errors.As(err, &e) || e.Code() != "RATE_LIMITED" || e.RetryAfter() <= 0 || e.RetryAfter() > time.Minute {
		t.Fatalf("a key that was guessed at got %v", err)
	}
	if _, err := k.VerifyFrom("10.0.0.2", secret); err != nil {
		t.Errorf("another address: %v", err)
	}
	c.t = c.t.Add(61 * time.Second)
	if _, err := k.VerifyFrom("10.0.0.1", secret); err != nil {
		t.Errorf("after the window: %v", err)
	}
}

// TestAnOldKeyIsNoGuess: a client that goes on with a key that was good once does not lock out its neighbours.
func TestAnOldKeyIsNoGuess(t *testing.T) {
	k, c := newKeys(t, auth.Options{Attempts: 3})
	_, good := create(t, k, auth.Request{Tenant: "home", Scope: auth.Infer})
	revoked, old := create(t, k, auth.Request{Tenant: "home", Scope: auth.Infer})
	if err := k.Revoke(t.Context(), "test", revoked.ID); err != nil {
		t.Fatal(err)
	}
	_, short := create(t, k, auth.Request{Tenant: "home", Scope: auth.Infer, ExpiresAt: c.t.Add(time.Second)})
	c.t = c.t.Add(2 * time.Second)
	for range 10 {
		for what, key := range map[string]string{"revoked": old, "expired": short} {
			if _, err := k.VerifyFrom("10.0.0.1", key); !errors.Is(err, auth.ErrUnauthenticated) {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	if _, err := k.VerifyFrom("10.0.0.1", good); err != nil {
		t.Errorf("a good key beside them: %v", err)
	}
	for range 3 { // with a secret of somebody's own making it is a guess
		if _, err := k.VerifyFrom("10.0.0.1", old[:len(old)-4]+"0000"); !errors.Is(err, auth.ErrUnauthenticated) {
			t.Fatal(err)
		}
	}
	if _, err := k.VerifyFrom("10.0.0.1", old); !errors.Is(err, auth.ErrDamped) {
		t.Errorf("after three guesses: %v", err)
	}
}

func TestGuard(t *testing.T) {
	k, _ := newKeys(t, auth.Options{Attempts: -1})
	g := &auth.Guard{Keys: k, Loopback: true}
	h := g.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := auth.FromContext(r.Context())
		_, _ = w.Write([]byte(id.Tenant))
	}), func(r *http.Request) auth.Scope {
		switch r.URL.Path {
		case "/health":
			return ""
		case "/admin":
			return auth.Admin
		}
		return auth.Infer
	}, nil)
	do := func(path string, header ...string) int {
		r := httptest.NewRequest("GET", path, nil)
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Add(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	if got := do("/v1", "Authorization", "Bearer anything"); got != 200 {
		t.Errorf("loopback without keys: %d", got)
	}
	_, secret := create(t, k, auth.Request{Tenant: "home", Scope: auth.Infer})
	bearer := "Bearer " + secret
	for _, c := range []struct {
		name, path string
		header     []string
		want       int
	}{
		{"public", "/health", nil, 200}, {"no key", "/v1", nil, 401}, {"good key", "/v1", []string{"Authorization", bearer}, 200},
		{"x-api-key", "/v1", []string{"X-Api-Key", secret}, 200}, {"scope", "/admin", []string{"Authorization", bearer}, 403},
		{"not found path", "/nowhere", nil, 401}, {"twice", "/v1", []string{"Authorization", bearer, "Authorization", bearer}, 401},
		{"basic", "/v1", []string{"Authorization", "Basic abc"}, 401}, {"empty", "/v1", []string{"Authorization", ""}, 401},
		{"64 KiB", "/v1", []string{"Authorization", "Bearer " + strings.Repeat("a", 1<<16)}, 401},
	} {
		if got := do(c.path, c.header...); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestListenRule(t *testing.T) {
	for addr, ok := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "0.0.0.0:1": false, ":1": false, "192.168.1.5:1": false} {
		if err := auth.CheckListen(addr, false); (err == nil) != ok {
			t.Errorf("%s without a key: %v", addr, err)
		}
		if err := auth.CheckListen(addr, true); err != nil {
			t.Errorf("%s with a key: %v", addr, err)
		}
	}
}

func TestAuditShowsTampering(t *testing.T) {
	store := auth.NewMemoryStore()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	open := func() (*auth.Audit, error) { return auth.OpenAudit(t.Context(), path, store, nil) }
	a, err := open()
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"key.create", "key.revoke", "policy.set", "hive.add"} {
		if err := a.Record(t.Context(), auth.Entry{Actor: "admin", Action: action}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	for name, data := range map[string][]byte{
		"edited":     bytes.Replace(good, []byte("policy.set"), []byte("policy.get"), 1),
		"last edit":  bytes.Replace(good, []byte("hive.add"), []byte("hive.rmv"), 1),
		"reordered":  join(lines[1], lines[0], lines[2], lines[3]),
		"middle cut": join(lines[0], lines[2], lines[3]),
		"tail cut":   join(lines[0], lines[1], lines[2]),
		"emptied":    nil,
		"torn":       good[:len(good)-5],
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := open(); !errors.Is(err, auth.ErrTampered) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// a crash in the middle of a line that was never anchored is not tampering, and the log goes on
	if err := os.WriteFile(path, append(bytes.Clone(good), `{"seq":5,"ti`...), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err = open()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Record(t.Context(), auth.Entry{Actor: "admin", Action: "again"}); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if a, err = open(); err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
}

func TestVerifyAllocatesNothing(t *testing.T) {
	k, _ := newKeys(t, auth.Options{})
	_, secret := create(t, k, auth.Request{Tenant: "home", Scope: auth.Infer})
	if n := testing.AllocsPerRun(100, func() {
		if _, err := k.VerifyFrom("10.0.0.1", secret); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a check, want 0", n)
	}
}

func BenchmarkVerify(b *testing.B) {
	k, _ := newKeys(b, auth.Options{})
	_, secret := create(b, k, auth.Request{Tenant: "home", Scope: auth.Infer})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Verify(secret); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzPresented(f *testing.F) {
	f.Add("Bearer rbee_abc_def")
	f.Add("bearer  x")
	f.Add("Basic \x00")
	k, _ := newKeys(f, auth.Options{})
	f.Fuzz(func(t *testing.T, value string) {
		token, err := auth.Presented(http.Header{"Authorization": {value}})
		if err == nil && token == "" {
			t.Fatal("an empty key was accepted")
		}
		if _, err := k.Verify(token); err == nil {
			t.Fatal("a made-up key was accepted")
		}
	})
}
