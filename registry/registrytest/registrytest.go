// Package registrytest holds what every registry.Store must do.
package registrytest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/queen-rbee/queen-rbee/registry"
)

// Harness opens stores for the suite. Reopen closes the store and opens the same data again; nil where
// an implementation keeps nothing.
type Harness struct {
	Open   func(t *testing.T) registry.Store
	Reopen func(t *testing.T, s registry.Store) registry.Store
}

// Sample is a hive with every field set.
func Sample(name string) registry.Hive {
	return registry.Hive{
		Name: name, Mode: registry.ModeNetwork, Address: "10.0.0.7:7835",
		SSH:     &registry.SSHTarget{User: "ops", Host: "gpu1", Port: 2222, Identity: "/keys/id", HostKey: "ssh-ed25519 AAAA"},
		Labels:  map[string]string{"room": "attic", "ünï": "çode"},
		Budget:  0.8,
		Devices: []registry.Device{{ID: "cuda0", Name: "RTX", Backend: "cuda", MemoryTotal: 24 << 30, MemoryFree: 20 << 30, Utilization: 0.5, Temperature: 61}, {ID: "cpu", Backend: "cpu", Unified: true, MemoryTotal: 64 << 30, MemoryFree: 1}},
		Models:  []registry.Model{{Ref: "sim:a", State: "ready", SizeBytes: 7, SHA256: "ab", Progress: 1, ContextLength: 4096, Parameters: 7e9, Memory: 5 << 30, Message: "m"}},
		Status:  registry.StatusOnline, Draining: true, Message: "fine", Version: "1.2.3", Epoch: 1<<63 + 5, Seq: 1<<64 - 1,
		LastSeen: time.Date(2026, 11, 23, 1, 2, 3, 456000000, time.UTC), DiskTotal: 1 << 40, DiskFree: 1 << 39,
	}
}

// Run holds a Store against the suite.
func Run(t *testing.T, h Harness) {
	t.Run("RoundTrip", func(t *testing.T) { roundTrip(t, h) })
	t.Run("Delete", func(t *testing.T) { remove(t, h) })
	t.Run("Isolation", func(t *testing.T) { isolation(t, h) })
	t.Run("Concurrent", func(t *testing.T) { concurrent(t, h) })
	t.Run("Context", func(t *testing.T) { cancelled(t, h) })
	t.Run("Reopen", func(t *testing.T) { reopen(t, h) })
}

func roundTrip(t *testing.T, h Harness) {
	ctx, s := context.Background(), h.Open(t)
	if got := must(s.Hives(ctx))(t); len(got) != 0 {
		t.Fatalf("a new store holds %d hives", len(got))
	}
	b, a := Sample("b"), Sample("a")
	a.SSH, a.Labels, a.Devices, a.Models = nil, nil, nil, nil
	for _, x := range []registry.Hive{b, a} {
		if err := s.SaveHive(ctx, x); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]registry.Hive{a, b}, must(s.Hives(ctx))(t)); diff != "" {
		t.Fatalf("not what was saved, or not by name (-want +got):\n%s", diff)
	}
	b.Message, b.Epoch = "changed", 9
	if err := s.SaveHive(ctx, b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]registry.Hive{a, b}, must(s.Hives(ctx))(t)); diff != "" {
		t.Fatalf("saving again must replace (-want +got):\n%s", diff)
	}
}

func remove(t *testing.T, h Harness) {
	ctx, s := context.Background(), h.Open(t)
	if err := s.SaveHive(ctx, Sample("a")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.DeleteHive(ctx, "a"); err != nil {
			t.Fatalf("deleting must be idempotent: %v", err)
		}
	}
	if got := must(s.Hives(ctx))(t); len(got) != 0 {
		t.Fatalf("%d hives left", len(got))
	}
}

func isolation(t *testing.T, h Harness) {
	ctx, s := context.Background(), h.Open(t)
	x := Sample("a")
	if err := s.SaveHive(ctx, x); err != nil {
		t.Fatal(err)
	}
	x.Labels["room"], x.Devices[0].MemoryFree, x.SSH.Host = "cellar", 0, "other"
	first := must(s.Hives(ctx))(t)
	first[0].Labels["room"] = "garage"
	if diff := cmp.Diff([]registry.Hive{Sample("a")}, must(s.Hives(ctx))(t)); diff != "" {
		t.Fatalf("the store shares memory with its callers (-want +got):\n%s", diff)
	}
}

func concurrent(t *testing.T, h Harness) {
	ctx, s := context.Background(), h.Open(t)
	const n = 16
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprintf("hive-%02d", i)
			for range 5 {
				errs[i] = errors.Join(errs[i], s.SaveHive(ctx, Sample(name)))
				_, err := s.Hives(ctx)
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got := must(s.Hives(ctx))(t); len(got) != n {
		t.Fatalf("%d hives stored, want %d", len(got), n)
	}
}

func cancelled(t *testing.T, h Harness) {
	s := h.Open(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.SaveHive(ctx, Sample("a")); !errors.Is(err, context.Canceled) {
		t.Fatalf("saving under a cancelled context: %v", err)
	}
	if got := must(s.Hives(context.Background()))(t); len(got) != 0 {
		t.Fatalf("a refused save left %d hives", len(got))
	}
}

func reopen(t *testing.T, h Harness) {
	if h.Reopen == nil {
		return
	}
	ctx, s := context.Background(), h.Open(t)
	if err := s.SaveHive(ctx, Sample("a")); err != nil {
		t.Fatal(err)
	}
	s = h.Reopen(t, s)
	if diff := cmp.Diff([]registry.Hive{Sample("a")}, must(s.Hives(ctx))(t)); diff != "" {
		t.Fatalf("after reopening (-want +got):\n%s", diff)
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
