package auth_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/auth"
)

func TestHiveTokens(t *testing.T) {
	k, _ := newKeys(t, auth.Options{})
	key, secret := create(t, k, auth.Request{Tenant: "home", Label: "gpu1", Scope: auth.Hive})
	id, err := k.Verify(secret)
	if err != nil || id.Node != "gpu1" || id.Tenant != "hives" || id.Scope != auth.Hive || key.Tenant != "hives" {
		t.Fatalf("Verify = %+v, %v", id, err)
	}
	for _, need := range []auth.Scope{auth.Infer, auth.Operate, auth.Admin} {
		if auth.Hive.Allows(need) {
			t.Errorf("a hive's token may %s", need)
		}
	}
	if auth.Operate.Allows(auth.Hive) || !auth.Admin.Allows(auth.Hive) || !auth.Hive.Allows(auth.Hive) || auth.Scope("root").Allows(auth.Hive) {
		t.Error("only Hive and Admin report for hives")
	}
	for name, r := range map[string]auth.Request{"no node": {Scope: auth.Hive}, "models": {Scope: auth.Hive, Label: "a", Models: []string{"m"}}} {
		if _, _, err := k.Create(t.Context(), "test", r); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	create(t, k, auth.Request{Label: "gpu1", Scope: auth.Hive}) // rotation
	if _, _, err := k.Create(t.Context(), "test", auth.Request{Label: "gpu1", Scope: auth.Hive}); !errors.Is(err, auth.ErrTooManyActive) {
		t.Errorf("a third token of one node: %v", err)
	}
}

func TestSomebodyMayAlwaysMakeKeys(t *testing.T) {
	k, c := newKeys(t, auth.Options{KeepAdmin: true})
	for _, r := range []auth.Request{{Tenant: "a", Scope: auth.Infer}, {Label: "gpu1", Scope: auth.Hive}} {
		if _, _, err := k.Create(t.Context(), "test", r); !errors.Is(err, auth.ErrInvalid) || !strings.Contains(err.Error(), "--scope admin") {
			t.Errorf("a first key of scope %s: %v", r.Scope, err)
		}
	}
	first, _ := create(t, k, auth.Request{Tenant: "a", Scope: auth.Admin})
	create(t, k, auth.Request{Tenant: "a", Scope: auth.Infer})
	if err := k.Revoke(t.Context(), "test", first.ID); !errors.Is(err, auth.ErrConflict) {
		t.Errorf("the last admin key was revoked: %v", err)
	}
	create(t, k, auth.Request{Tenant: "a", Scope: auth.Admin, ExpiresAt: c.t.Add(time.Hour)})
	if err := k.Revoke(t.Context(), "test", first.ID); err != nil {
		t.Errorf("with another admin key: %v", err)
	}
}

func TestRestartAuditKeepsTheEvidence(t *testing.T) {
	store, path := auth.NewMemoryStore(), filepath.Join(t.TempDir(), "audit.jsonl")
	a, aside, err := auth.RestartAudit(t.Context(), path, "test", store, nil)
	if err != nil || aside != "" {
		t.Fatalf("a new log: %q, %v", aside, err)
	}
	for range 2 {
		if err := a.Record(t.Context(), auth.Entry{Actor: "admin", Action: "key.create"}); err != nil {
			t.Fatal(err)
		}
	}
	_ = a.Close()
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	a, aside, err = auth.RestartAudit(t.Context(), path, "the operator", store, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
	if st, err := os.Stat(aside); err != nil || st.Size() != 10 {
		t.Errorf("the evidence %q: %v %v", aside, st, err)
	}
	data, err := os.ReadFile(path)
	if err != nil || strings.Count(string(data), "\n") != 1 || !strings.Contains(string(data), `"audit.restart"`) || !strings.Contains(string(data), "2 entries") {
		t.Errorf("the new log %s, %v", data, err)
	}
	if a, err = auth.OpenAudit(t.Context(), path, store, nil); err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
}

func TestNarrow(t *testing.T) {
	all, some := auth.Identity{}, auth.Identity{Models: []string{"a", "b"}}
	if id := all.Narrow([]string{"a"}); !id.MayUse("a") || id.MayUse("b") {
		t.Errorf("all narrowed to a: %v", id.Models)
	}
	if id := some.Narrow([]string{"b", "c"}); id.MayUse("a") || !id.MayUse("b") || id.MayUse("c") {
		t.Errorf("a and b narrowed to b and c: %v", id.Models)
	}
	if id := some.Narrow([]string{"c"}); id.MayUse("a") || id.MayUse("c") {
		t.Errorf("nothing in common: %v", id.Models)
	}
	if id := some.Narrow(nil); !id.MayUse("a") || id.MayUse("c") {
		t.Errorf("not narrowed: %v", id.Models)
	}
}
