package registry_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/registry/registrytest"
)

func TestMemoryStore(t *testing.T) {
	registrytest.Run(t, registrytest.Harness{Open: func(*testing.T) registry.Store { return registry.NewMemoryStore() }})
}

func open(t *testing.T, s registry.Store, o registry.Options) *registry.Registry {
	t.Helper()
	if s == nil {
		s = registry.NewMemoryStore()
	}
	r, err := registry.New(context.Background(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func put(t *testing.T, r *registry.Registry, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := r.Put(context.Background(), registry.Hive{Name: n, Mode: registry.ModeLocal}); err != nil {
			t.Fatal(err)
		}
	}
}

func full(node string, epoch, seq uint64, ids ...string) registry.Report {
	rep := registry.Report{Node: node, Epoch: epoch, Seq: seq, Full: true}
	for _, id := range ids {
		rep.Workers = append(rep.Workers, registry.Worker{ID: id, Model: "m", State: registry.WorkerIdle, SlotsTotal: 4, SlotsFree: 4})
	}
	return rep
}

func ids(s *registry.Snapshot) (out []string) {
	for _, w := range s.Workers {
		out = append(out, w.ID)
	}
	return out
}

func TestFault22StaleAndDuplicateReports(t *testing.T) {
	r := open(t, nil, registry.Options{})
	put(t, r, "a")
	steps := []struct {
		name string
		rep  registry.Report
		want error
		ids  []string
	}{
		{"first", full("a", 5, 1, "w1", "w2"), nil, []string{"w1", "w2"}},
		{"again", full("a", 5, 1, "w9"), nil, []string{"w1", "w2"}},
		{"next", full("a", 5, 3, "w1"), nil, []string{"w1"}},
		{"out of order", full("a", 5, 2, "w7"), registry.ErrStale, []string{"w1"}},
		{"old epoch", full("a", 4, 99, "w7"), registry.ErrStale, []string{"w1"}},
		{"new epoch, not full", registry.Report{Node: "a", Epoch: 6, Seq: 1}, registry.ErrStale, []string{"w1"}},
		{"new epoch", full("a", 6, 1, "w3"), nil, []string{"w3"}},
		{"change", registry.Report{Node: "a", Epoch: 6, Seq: 2, Workers: full("", 0, 0, "w4").Workers}, nil, []string{"w3", "w4"}},
		{"gone", registry.Report{Node: "a", Epoch: 6, Seq: 3, Gone: []string{"w3"}}, nil, []string{"w4"}},
		{"unknown hive", full("b", 1, 1), registry.ErrUnknownHive, []string{"w4"}},
	}
	for _, s := range steps {
		if err := r.Apply(s.rep); !errors.Is(err, s.want) {
			t.Fatalf("%s: got %v, want %v", s.name, err, s.want)
		}
		if diff := cmp.Diff(s.ids, ids(r.Snapshot())); diff != "" {
			t.Fatalf("%s: workers (-want +got):\n%s", s.name, diff)
		}
	}
	var coded interface{ Code() string }
	if err := r.Apply(full("a", 1, 1)); !errors.As(err, &coded) || coded.Code() != "CONFLICT" {
		t.Fatalf("a stale report must be CONFLICT: %v", err)
	}
	if err := r.Begin("a"); err != nil { // the queen dialled: a hive whose counter went back is believed
		t.Fatal(err)
	}
	if err := r.Apply(full("a", 2, 1, "w5")); err != nil {
		t.Fatal(err)
	}
}

func TestTwoHivesWithOneName(t *testing.T) {
	r := open(t, nil, registry.Options{})
	ctx := context.Background()
	first := registry.Hive{Name: "gpu1", Mode: registry.ModeNetwork, SSH: &registry.SSHTarget{User: "ops", Host: "10.0.0.1"}}
	if err := r.Put(ctx, first); err != nil {
		t.Fatal(err)
	}
	again := first
	again.SSH = &registry.SSHTarget{User: "ops", Host: "10.0.0.1", Port: 22}
	again.Labels = map[string]string{"room": "attic"}
	if err := r.Put(ctx, again); err != nil {
		t.Fatalf("the same machine, port said explicitly: %v", err)
	}
	other := first
	other.SSH = &registry.SSHTarget{User: "ops", Host: "10.0.0.2"}
	if err := r.Put(ctx, other); !errors.Is(err, registry.ErrConflict) {
		t.Fatalf("another machine with the name: %v", err)
	}
	if h, _ := r.Snapshot().Hive("gpu1"); h.SSH.Host != "10.0.0.1" || h.Labels["room"] != "attic" {
		t.Fatalf("%+v", h)
	}
	if err := r.Remove(ctx, "gpu1"); err != nil {
		t.Fatal(err)
	}
	if err := r.Put(ctx, other); err != nil {
		t.Fatalf("after removal the name is free: %v", err)
	}
}

func TestWorkerOfAnotherHive(t *testing.T) {
	r := open(t, nil, registry.Options{})
	put(t, r, "a", "b")
	if err := r.Apply(full("a", 1, 1, "w1")); err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(full("b", 1, 1, "w1", "w2")); !errors.Is(err, registry.ErrConflict) {
		t.Fatalf("a hive took another's worker: %v", err)
	}
	s := r.Snapshot()
	if w, _ := s.Worker("w1"); w.Node != "a" {
		t.Fatalf("w1 moved to %s", w.Node)
	}
	if _, ok := s.Worker("w2"); !ok {
		t.Fatal("the rest of the report was lost")
	}
}

func TestBadRecords(t *testing.T) {
	r := open(t, nil, registry.Options{})
	ctx := context.Background()
	for _, h := range []registry.Hive{
		{}, {Name: "-x"}, {Name: "a b"}, {Name: "a/b"}, {Name: "a\x00"}, {Name: "$(x)"}, {Name: "a", Mode: "cloud"}, {Name: "a", Budget: 2},
		{Name: "a", Mode: registry.ModeLocal, SSH: &registry.SSHTarget{Host: "h"}},
		{Name: "a", SSH: &registry.SSHTarget{Host: "-oProxyCommand=x"}}, {Name: "a", SSH: &registry.SSHTarget{Host: "h", User: "-l"}},
		{Name: "a", SSH: &registry.SSHTarget{Host: "h;reboot"}}, {Name: "a", SSH: &registry.SSHTarget{Host: "h", Port: 70000}},
	} {
		if err := r.Put(ctx, h); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%+v: %v", h, err)
		}
	}
	put(t, r, "a")
	bad := full("a", 1, 1, "w1")
	bad.Workers[0].SlotsFree = 9
	if err := r.Apply(bad); !errors.Is(err, registry.ErrInvalid) {
		t.Fatal(err)
	}
	if err := r.PutWorker(registry.Worker{ID: "w", Node: "nowhere"}); !errors.Is(err, registry.ErrUnknownHive) {
		t.Fatal(err)
	}
	if err := r.SetWorkerState("w", registry.WorkerIdle, ""); !errors.Is(err, registry.ErrUnknownWorker) {
		t.Fatal(err)
	}
	r.Touch("w", time.Now(), 1) // gone: no complaint
}

func TestStatusAndDraining(t *testing.T) {
	store := registry.NewMemoryStore()
	r := open(t, store, registry.Options{})
	ctx := context.Background()
	put(t, r, "a")
	status := func(r *registry.Registry) registry.Status { h, _ := r.Snapshot().Hive("a"); return h.Status }
	check := func(want registry.Status) {
		t.Helper()
		if got := status(r); got != want {
			t.Fatalf("status %s, want %s", got, want)
		}
	}
	check(registry.StatusOffline)
	set := func(s registry.Status) {
		t.Helper()
		if err := r.SetStatus("a", s, ""); err != nil {
			t.Fatal(err)
		}
	}
	set(registry.StatusOnline)
	check(registry.StatusOnline)
	if err := r.SetDraining(ctx, "a", true); err != nil {
		t.Fatal(err)
	}
	check(registry.StatusDraining)
	set(registry.StatusSuspect)
	check(registry.StatusSuspect)
	set(registry.StatusOnline)
	check(registry.StatusDraining) // the wish to drain outlives a cut
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, store, registry.Options{})
	check(registry.StatusSuspect) // a restart of ours declares nothing dead, nor alive
	set(registry.StatusOnline)
	check(registry.StatusDraining)
	if err := r.SetDraining(ctx, "a", false); err != nil {
		t.Fatal(err)
	}
	check(registry.StatusOnline)
}

func TestMemoryAndBudget(t *testing.T) {
	h := registry.Hive{Budget: 0.8, Devices: []registry.Device{
		{ID: "cpu", Backend: "cpu", MemoryTotal: 100, MemoryFree: 60},
		{ID: "metal", Backend: "metal", Unified: true, MemoryTotal: 75, MemoryFree: 50},
		{ID: "cuda0", Backend: "cuda", MemoryTotal: 24, MemoryFree: 24},
	}}
	if total, free := h.Memory(); total != 124 || free != 74 {
		t.Fatalf("total %d free %d: shared memory must count once", total, free)
	}
	if got := h.Usable(h.Devices[0]); got != 40 {
		t.Fatalf("usable %d, want 40", got)
	}
	if got := (&registry.Hive{}).Usable(registry.Device{MemoryTotal: 100, MemoryFree: 5}); got != 0 {
		t.Fatalf("usable %d, want 0", got)
	}
}

func TestTouchAndMerge(t *testing.T) {
	r := open(t, nil, registry.Options{})
	put(t, r, "a")
	if err := r.Apply(full("a", 1, 1, "w1")); err != nil {
		t.Fatal(err)
	}
	used := time.Now()
	r.Touch("w1", used, 700)
	r.Touch("w1", used.Add(-time.Hour), 800)
	if err := r.Apply(full("a", 1, 2, "w1")); err != nil {
		t.Fatal(err)
	}
	w, _ := r.Snapshot().Worker("w1")
	if !w.LastUsedAt.Equal(used) || w.PendingTokens != 800 {
		t.Fatalf("a hive's report undid what the queen knows: %+v", w)
	}
	v := r.Snapshot().Version
	r.Touch("w1", used, 800)
	if r.Snapshot().Version != v {
		t.Fatal("nothing changed, but the version did")
	}
}

func TestSnapshotsAreImmutable(t *testing.T) {
	r := open(t, nil, registry.Options{})
	put(t, r, "a", "b")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for last := uint64(0); ; {
				select {
				case <-stop:
					return
				default:
				}
				s := r.Snapshot()
				if s.Version < last {
					t.Error("versions went back")
					return
				}
				last = s.Version
				for i, w := range s.Workers {
					if i > 0 && s.Workers[i-1].ID >= w.ID {
						t.Error("workers are out of order")
						return
					}
					if w.PendingTokens != int64(w.SlotsTotal-w.SlotsFree) {
						t.Errorf("a torn record: %+v", w)
						return
					}
				}
			}
		})
	}
	for i := range uint64(500) {
		rep := full("a", 1, i+1)
		for j := range 8 {
			if (int(i)+j)%3 == 0 {
				continue
			}
			n := int(i) % 5
			rep.Workers = append(rep.Workers, registry.Worker{ID: fmt.Sprintf("w%d", j), SlotsTotal: 4, SlotsFree: 4 - n%4, PendingTokens: int64(n % 4)})
		}
		for j := range rep.Workers { // a zero from a hive means "not said": make it always said
			if rep.Workers[j].PendingTokens == 0 {
				rep.Workers[j].SlotsFree, rep.Workers[j].PendingTokens = 0, 4
			}
		}
		if err := r.Apply(rep); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := registry.New(t.Context(), registry.NewMemoryStore(), registry.Options{WatchBuffer: 4})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		feed := r.Watch(ctx)
		put(t, r, "a")
		if c := <-feed; c.Kind != registry.HiveAdded || c.ID != "a" || c.Version != r.Snapshot().Version {
			t.Fatalf("%+v", c)
		}
		for i := range uint64(50) { // nobody reads
			if err := r.Apply(full("a", 1, i+1, fmt.Sprintf("w%d", i))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		resync, n := false, 0
		for {
			synctest.Wait()
			select {
			case c := <-feed:
				n++
				resync = resync || c.Kind == registry.Resync
				continue
			default:
			}
			break
		}
		if !resync || n > 12 {
			t.Fatalf("resync %v after %d changes: a slow reader must be told, and the queue bounded", resync, n)
		}
		cancel()
		synctest.Wait()
		if _, open := <-feed; open {
			t.Fatal("the feed must close with its context")
		}
		rest := r.Watch(t.Context())
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if _, open := <-rest; open {
			t.Fatal("the feed must close with the registry")
		}
	})
}

// countingStore counts saves and fails on demand.
type countingStore struct {
	registry.Store
	mu    sync.Mutex
	saves int
	fail  error
}

func (s *countingStore) SaveHive(ctx context.Context, h registry.Hive) error {
	s.mu.Lock()
	s.saves++
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		return fail
	}
	return s.Store.SaveHive(ctx, h)
}

func TestSavesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &countingStore{Store: registry.NewMemoryStore()}
		r, err := registry.New(t.Context(), store, registry.Options{})
		if err != nil {
			t.Fatal(err)
		}
		put(t, r, "a")
		for i := range uint64(600) { // a report every 100 ms for a minute
			rep := full("a", 1, i+1, "w1")
			rep.Devices = []registry.Device{{ID: "cpu", MemoryTotal: 1 << 40, MemoryFree: int64(i)}}
			if err := r.Apply(rep); err != nil {
				t.Fatal(err)
			}
			<-time.After(100 * time.Millisecond)
		}
		store.mu.Lock()
		if store.saves > 4 {
			t.Fatalf("%d saves for a minute of beats that changed nothing durable", store.saves)
		}
		store.fail = errors.New("disk full")
		store.mu.Unlock()
		if err := r.SetStatus("a", registry.StatusError, "broken"); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * time.Second)
		store.mu.Lock()
		store.fail = nil
		store.mu.Unlock()
		<-time.After(3 * time.Second)
		if hives, _ := store.Hives(t.Context()); hives[0].Status != registry.StatusError {
			t.Fatal("a failed save was not tried again")
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFault14ClockSteps(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := open(t, nil, registry.Options{Now: func() time.Time { return now }})
	put(t, r, "a")
	for i, step := range []time.Duration{0, time.Hour, -2 * time.Hour, 24 * time.Hour, -48 * time.Hour} {
		now = now.Add(step)
		if err := r.Apply(full("a", 1, uint64(i+1), "w1")); err != nil {
			t.Fatalf("step %v: %v", step, err)
		}
		s := r.Snapshot()
		if h, _ := s.Hive("a"); !h.LastSeen.Equal(now) || len(s.Workers) != 1 {
			t.Fatalf("step %v: %+v", step, h)
		}
	}
}
