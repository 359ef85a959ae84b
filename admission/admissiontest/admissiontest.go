// Package admissiontest is the conformance suite of admission.Store: every implementation runs it.
package admissiontest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/queen-rbee/queen-rbee/admission"
)

// Run tests a store. open returns a fresh store; reopen (nil when the store does not persist) closes it and opens it anew.
func Run(t *testing.T, open func(t *testing.T) admission.Store, reopen func(t *testing.T, s admission.Store) admission.Store) {
	again := func(t *testing.T, s admission.Store) admission.Store {
		if reopen == nil {
			return s
		}
		return reopen(t, s)
	}
	t.Run("tenants", func(t *testing.T) {
		s := open(t)
		a := admission.Tenant{ID: "a", Limits: admission.Limits{RPM: 1, TPM: 2, Concurrent: 3, TokensPerDay: 4, Models: []string{"m"}}}
		must(t, s.SaveTenant(t.Context(), a))
		must(t, s.SaveTenant(t.Context(), admission.Tenant{ID: "b"}))
		a.Limits.RPM = 10
		must(t, s.SaveTenant(t.Context(), a))
		got, err := again(t, s).Tenants(t.Context())
		must(t, err)
		slices.SortFunc(got, func(a, b admission.Tenant) int { return strings.Compare(a.ID, b.ID) })
		if len(got) != 2 || !reflect.DeepEqual(got[0], a) || got[1].ID != "b" || len(got[1].Limits.Models) != 0 {
			t.Fatalf("Tenants = %+v", got)
		}
	})
	t.Run("usage adds up per tenant and hour", func(t *testing.T) {
		s := open(t)
		for i := range 3 {
			must(t, s.AddUsage(t.Context(), []admission.Hour{
				{Tenant: "a", Hour: 100, Usage: admission.Usage{Prompt: 1, Output: 2}, Jobs: 1},
				{Tenant: "a", Hour: 100, Usage: admission.Usage{Prompt: 10}, Jobs: 1},
				{Tenant: "b", Hour: 101, Usage: admission.Usage{Output: 5}, Jobs: 1},
			}, 101, []string{fmt.Sprint("x", i), fmt.Sprint("y", i)}))
		}
		s = again(t, s)
		got, err := s.UsageSince(t.Context(), 100)
		must(t, err)
		slices.SortFunc(got, func(a, b admission.Hour) int { return strings.Compare(a.Tenant, b.Tenant) })
		want := []admission.Hour{{Tenant: "a", Hour: 100, Usage: admission.Usage{Prompt: 33, Output: 6}, Jobs: 6},
			{Tenant: "b", Hour: 101, Usage: admission.Usage{Output: 15}, Jobs: 3}}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("UsageSince(100) = %+v, want %+v", got, want)
		}
		if got, err = s.UsageSince(t.Context(), 101); err != nil || len(got) != 1 {
			t.Fatalf("UsageSince(101) = %+v, %v", got, err)
		}
		ids, err := s.RecentIDs(t.Context(), 101)
		must(t, err)
		slices.Sort(ids)
		if !slices.Equal(ids, []string{"x0", "x1", "x2", "y0", "y1", "y2"}) {
			t.Fatalf("RecentIDs = %v", ids)
		}
		if ids, err = s.RecentIDs(t.Context(), 102); err != nil || len(ids) != 0 {
			t.Fatalf("RecentIDs(102) = %v, %v", ids, err)
		}
		must(t, s.DropUsage(t.Context(), 101))
		if got, err = s.UsageSince(t.Context(), 0); err != nil || len(got) != 1 || got[0].Tenant != "b" {
			t.Fatalf("after DropUsage(101): %+v, %v", got, err)
		}
	})
	t.Run("concurrent additions lose nothing", func(t *testing.T) {
		s := open(t)
		var wg sync.WaitGroup
		errs := make(chan error, 64)
		for range 64 {
			wg.Go(func() {
				errs <- s.AddUsage(context.WithoutCancel(t.Context()), []admission.Hour{{Tenant: "a", Hour: 7, Usage: admission.Usage{Prompt: 1}, Jobs: 1}}, 7, nil)
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			must(t, err)
		}
		got, err := s.UsageSince(t.Context(), 0)
		if err != nil || len(got) != 1 || got[0].Usage.Prompt != 64 || got[0].Jobs != 64 {
			t.Fatalf("sum = %+v, %v", got, err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
