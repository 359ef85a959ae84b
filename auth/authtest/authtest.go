// Package authtest is the conformance suite of auth.Store: every implementation runs it.
package authtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/auth"
)

// Run tests a store. open returns a fresh store; reopen (nil when the store does not persist) closes it and opens it anew.
func Run(t *testing.T, open func(t *testing.T) auth.Store, reopen func(t *testing.T, s auth.Store) auth.Store) {
	t.Run("empty", func(t *testing.T) {
		s := open(t)
		keys, err := s.Keys(t.Context())
		if err != nil || len(keys) != 0 {
			t.Fatalf("Keys of an empty store = %v, %v", keys, err)
		}
		head, err := s.AuditHead(t.Context())
		if err != nil || head != (auth.Head{}) {
			t.Fatalf("AuditHead of an empty store = %v, %v", head, err)
		}
	})
	t.Run("save, replace, read back", func(t *testing.T) {
		s := open(t)
		want := sample("a")
		must(t, s.SaveKey(t.Context(), want))
		must(t, s.SaveKey(t.Context(), sample("b")))
		want.RevokedAt = want.CreatedAt.Add(time.Minute)
		must(t, s.SaveKey(t.Context(), want))
		if reopen != nil {
			s = reopen(t, s)
		}
		got := read(t, s)
		if len(got) != 2 || !equal(got[0], want) || !equal(got[1], sample("b")) {
			t.Fatalf("read back %+v, want %+v and b", got, want)
		}
	})
	t.Run("audit head", func(t *testing.T) {
		s := open(t)
		for i := range uint64(3) {
			must(t, s.SetAuditHead(t.Context(), auth.Head{Entries: i, Hash: [32]byte{byte(i), 7}}))
		}
		if reopen != nil {
			s = reopen(t, s)
		}
		head, err := s.AuditHead(t.Context())
		if err != nil || head != (auth.Head{Entries: 2, Hash: [32]byte{2, 7}}) {
			t.Fatalf("AuditHead = %v, %v", head, err)
		}
	})
	t.Run("concurrent saves are all kept", func(t *testing.T) {
		s := open(t)
		var wg sync.WaitGroup
		errs := make(chan error, 64)
		for i := range 64 {
			wg.Go(func() { errs <- s.SaveKey(context.WithoutCancel(t.Context()), sample(fmt.Sprintf("k%02d", i))) })
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			must(t, err)
		}
		if got := read(t, s); len(got) != 64 {
			t.Fatalf("%d keys kept, want 64", len(got))
		}
	})
}

func sample(id string) auth.Key {
	at := time.Date(2026, 11, 23, 12, 0, 0, 123_000, time.UTC)
	return auth.Key{ID: id, Tenant: "t-" + id, Label: "laptop", Scope: auth.Operate, Hash: [32]byte{1, 2, 3, byte(len(id))},
		Models: []string{"m1", "org/m2"}, CreatedAt: at, ExpiresAt: at.Add(time.Hour)}
}

func equal(a, b auth.Key) bool {
	return a.ID == b.ID && a.Tenant == b.Tenant && a.Label == b.Label && a.Scope == b.Scope && a.Hash == b.Hash &&
		slices.Equal(a.Models, b.Models) && a.CreatedAt.Equal(b.CreatedAt) && a.ExpiresAt.Equal(b.ExpiresAt) &&
		a.RevokedAt.Equal(b.RevokedAt) && a.RevokedAt.IsZero() == b.RevokedAt.IsZero()
}

func read(t *testing.T, s auth.Store) []auth.Key {
	t.Helper()
	keys, err := s.Keys(t.Context())
	must(t, err)
	slices.SortFunc(keys, func(a, b auth.Key) int { return strings.Compare(a.ID, b.ID) })
	return keys
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
