// Package provisionertest holds what every provisioner.Store must do.
package provisionertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/queen-rbee/queen-rbee/provisioner"
)

// Harness opens stores for the suite. Reopen opens the same data again; nil where nothing is kept.
type Harness struct {
	Open   func(t *testing.T) provisioner.Store
	Reopen func(t *testing.T, s provisioner.Store) provisioner.Store
}

// Run holds a Store against the suite.
func Run(t *testing.T, h Harness) {
	ctx := context.Background()
	entry := func(name string) provisioner.Entry {
		return provisioner.Entry{Name: name, Ref: "hf:o/r@main::file=ü.gguf", Engine: "llama.cpp", Slots: 2, Context: 1024, TTL: 90 * time.Second, Pin: true, Workers: 1,
			Set: map[string]any{"temperature": 0.5, "nested": map[string]any{"a": "b"}}, Strip: []string{"x"}, Args: []string{"-t", "1"}, Source: provisioner.SourceRuntime}
	}
	record := func(id string) provisioner.Record {
		return provisioner.Record{ID: id, Node: "attic", Ref: "hf:o/r", Created: time.Date(2026, 11, 23, 1, 2, 3, 4000, time.UTC)}
	}
	check := func(t *testing.T, s provisioner.Store, entries []provisioner.Entry, records []provisioner.Record) {
		t.Helper()
		e, err1 := s.Entries(ctx)
		r, err2 := s.Downloads(ctx)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if len(e) != len(entries) || len(r) != len(records) || len(e) > 0 && cmp.Diff(entries, e) != "" || len(r) > 0 && cmp.Diff(records, r) != "" {
			t.Fatalf("entries (-want +got):\n%s\ndownloads:\n%s", cmp.Diff(entries, e), cmp.Diff(records, r))
		}
	}
	t.Run("RoundTrip", func(t *testing.T) {
		s := h.Open(t)
		check(t, s, nil, nil)
		changed := entry("a")
		changed.Slots = 9
		for _, e := range []provisioner.Entry{entry("b"), entry("a"), changed} {
			if err := s.SaveEntry(ctx, e); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range []string{"2", "1", "1"} {
			if err := s.SaveDownload(ctx, record(id)); err != nil {
				t.Fatal(err)
			}
		}
		check(t, s, []provisioner.Entry{changed, entry("b")}, []provisioner.Record{record("1"), record("2")})
		if h.Reopen != nil {
			s = h.Reopen(t, s)
			check(t, s, []provisioner.Entry{changed, entry("b")}, []provisioner.Record{record("1"), record("2")})
		}
		for range 2 {
			if err := errors.Join(s.DeleteEntry(ctx, "a"), s.DeleteDownload(ctx, "1")); err != nil {
				t.Fatalf("deleting must be idempotent: %v", err)
			}
		}
		check(t, s, []provisioner.Entry{entry("b")}, []provisioner.Record{record("2")})
	})
	t.Run("Concurrent", func(t *testing.T) {
		s := h.Open(t)
		var wg sync.WaitGroup
		errs := make([]error, 12)
		for i := range errs {
			wg.Go(func() {
				errs[i] = errors.Join(s.SaveEntry(ctx, entry(fmt.Sprintf("e%02d", i))), s.SaveDownload(ctx, record(fmt.Sprint(i))), s.DeleteDownload(ctx, fmt.Sprint(i)))
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if e, err := s.Entries(ctx); err != nil || len(e) != len(errs) {
			t.Fatalf("%d entries, %v", len(e), err)
		}
	})
	t.Run("Context", func(t *testing.T) {
		s := h.Open(t)
		done, cancel := context.WithCancel(ctx)
		cancel()
		if err := s.SaveEntry(done, entry("a")); !errors.Is(err, context.Canceled) {
			t.Fatalf("saving under a cancelled context: %v", err)
		}
		check(t, s, nil, nil)
	})
}
