package provisioner_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/provisioner/provisionertest"
)

// fakeHives is a fleet in memory.
type fakeHives struct {
	mu     sync.Mutex
	nodes  []string
	models map[string][]provisioner.Model
	calls  atomic.Int64
	specs  []provisioner.Spec
	do     func(ctx context.Context, spec provisioner.Spec, progress func(provisioner.Progress)) (provisioner.Model, error)
}

func (f *fakeHives) Nodes() []string { return f.nodes }

func (f *fakeHives) Models(_ context.Context, node string) ([]provisioner.Model, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.models[node], nil
}

func (f *fakeHives) Provision(ctx context.Context, node string, spec provisioner.Spec, progress func(provisioner.Progress)) (provisioner.Model, error) {
	f.calls.Add(1)
	f.mu.Lock()
	f.specs = append(f.specs, spec)
	f.mu.Unlock()
	if f.do != nil {
		return f.do(ctx, spec, progress)
	}
	return provisioner.Model{Ref: spec.Ref, State: provisioner.StateReady, SizeBytes: 7}, nil
}

func (f *fakeHives) Evict(_ context.Context, node, ref string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, m := range f.models[node] {
		if m.Ref == ref {
			f.models[node] = append(f.models[node][:i:i], f.models[node][i+1:]...)
			return nil
		}
	}
	return errors.New("not there")
}

func open(t *testing.T, h provisioner.Hives, s provisioner.Store, o provisioner.Options) *provisioner.Provisioner {
	t.Helper()
	if s == nil {
		s = provisioner.NewMemoryStore()
	}
	p, err := provisioner.New(context.Background(), h, s, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func code(err error) string {
	var c interface{ Code() string }
	if errors.As(err, &c) {
		return c.Code()
	}
	return ""
}

func TestResolve(t *testing.T) {
	p := open(t, &fakeHives{}, nil, provisioner.Options{
		Entries: []provisioner.Entry{{Name: "demo", Ref: "sim:demo"}, {Name: "small", Ref: "llama3", Slots: 2}},
		Aliases: map[string]string{"llama3": "hf:org/llama::file=q4.gguf", "best": "small", "gpt-4": "best"},
	})
	for name, want := range map[string]string{
		"demo": "sim:demo", "small": "hf:org/llama::file=q4.gguf", "llama3": "hf:org/llama::file=q4.gguf",
		"best": "hf:org/llama::file=q4.gguf", "gpt-4": "hf:org/llama::file=q4.gguf", "sim:demo": "sim:demo",
	} {
		if e, err := p.Resolve(name); err != nil || e.Ref != want {
			t.Errorf("%s: %+v %v", name, e, err)
		}
	}
	if e, _ := p.Resolve("gpt-4"); e.Name != "small" || e.Slots != 2 {
		t.Errorf("an alias of a model must be that model: %+v", e)
	}
	for name, want := range map[string]string{"none": "MODEL_NOT_FOUND", "hf:other/model": "MODEL_NOT_FOUND", "file:/etc/passwd": "MODEL_NOT_FOUND", "../x": "INVALID_MODEL_REF", "-x": "INVALID_MODEL_REF"} {
		if _, err := p.Resolve(name); code(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if e, err := p.ResolveRef("file:/m/x.gguf"); err != nil || e.Source != provisioner.SourceRef {
		t.Errorf("%+v %v", e, err)
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, o := range []provisioner.Options{
		{Entries: []provisioner.Entry{{Name: "a", Ref: "nowhere"}}},
		{Entries: []provisioner.Entry{{Name: "a b", Ref: "sim:x"}}},
		{Entries: []provisioner.Entry{{Name: "a", Ref: "sim:x"}, {Name: "a", Ref: "sim:y"}}},
		{Entries: []provisioner.Entry{{Name: "a", Ref: "sim:x", Slots: -1}}},
		{Entries: []provisioner.Entry{{Name: "hf:a/b", Ref: "sim:x"}}},
		{Aliases: map[string]string{"a": "b", "b": "a"}},
		{Aliases: map[string]string{"a": "../b"}},
	} {
		if p, err := provisioner.New(context.Background(), &fakeHives{}, provisioner.NewMemoryStore(), o); err == nil {
			p.Close()
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestPutDeleteAndKeep(t *testing.T) {
	ctx, store := context.Background(), provisioner.NewMemoryStore()
	commit := strings.Repeat("c", 40)
	o := provisioner.Options{Entries: []provisioner.Entry{{Name: "demo", Ref: "sim:demo"}},
		Pin: func(_ context.Context, r provisioner.Ref) (string, error) {
			if r.Repo == "away" {
				return "", errors.New("no network")
			}
			return commit, nil
		}}
	p := open(t, &fakeHives{}, store, o)
	for _, e := range []provisioner.Entry{
		{Name: "mine", Ref: "hf:org/repo@main::file=a.gguf", Slots: 3, Set: map[string]any{"temperature": 0.2}, Strip: []string{"x"}, TTL: time.Minute},
		{Name: "demo", Ref: "sim:other"}, {Name: "far", Ref: "hf:org/away"},
	} {
		if err := p.Put(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Put(ctx, provisioner.Entry{Name: "bad", Ref: "nothing"}); err == nil {
		t.Fatal("an entry that leads nowhere was kept")
	}
	p.Close()
	p = open(t, &fakeHives{}, store, o)
	e, err := p.Resolve("mine")
	want := provisioner.Entry{Name: "mine", Ref: "hf:org/repo@" + commit + "::file=a.gguf", Slots: 3, Set: map[string]any{"temperature": 0.2}, Strip: []string{"x"}, TTL: time.Minute, Source: provisioner.SourceRuntime}
	if diff := cmp.Diff(want, e); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	if e, _ := p.Resolve("far"); e.Ref != "hf:org/away" {
		t.Fatalf("what can't be pinned stays as it is: %+v", e)
	}
	if e, _ := p.Resolve("demo"); e.Ref != "sim:other" {
		t.Fatalf("%+v", e)
	}
	if err := p.Delete(ctx, "demo"); err != nil {
		t.Fatal(err)
	}
	if e, _ := p.Resolve("demo"); e.Ref != "sim:demo" {
		t.Fatalf("the configured one must show again: %+v", e)
	}
	if err := p.Delete(ctx, "demo"); code(err) != "CONFLICT" {
		t.Fatal(err)
	}
	if err := p.Delete(ctx, "none"); code(err) != "MODEL_NOT_FOUND" {
		t.Fatal(err)
	}
}

func TestEnsureIsOneJob(t *testing.T) {
	hold := make(chan struct{})
	h := &fakeHives{nodes: []string{"a"}, do: func(ctx context.Context, spec provisioner.Spec, progress func(provisioner.Progress)) (provisioner.Model, error) {
		progress(provisioner.Progress{State: provisioner.Downloading, BytesDone: 1, BytesTotal: 2})
		select {
		case <-hold:
		case <-ctx.Done():
			return provisioner.Model{}, ctx.Err()
		}
		return provisioner.Model{Ref: spec.Ref, State: provisioner.StateReady, SizeBytes: 2}, nil
	}}
	p := open(t, h, nil, provisioner.Options{})
	first, err := p.Start(context.Background(), "a", "hf:o/r")
	if err != nil {
		t.Fatal(err)
	}
	leaver, leave := context.WithCancel(context.Background())
	leave()
	if _, err := p.Ensure(leaver, "a", "hf:o/r"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	var joined, wg sync.WaitGroup
	var bad atomic.Int64
	for range 100 {
		joined.Add(1)
		wg.Go(func() {
			d, err := p.Start(context.Background(), "a", "hf:o/r")
			joined.Done()
			if err == nil {
				_, err = d.Wait(context.Background())
			}
			if err != nil {
				bad.Add(1)
			}
		})
	}
	events := first.Events(context.Background())
	for e := range events { // until the download shows
		if e.BytesTotal == 2 {
			break
		}
	}
	joined.Wait()
	close(hold)
	wg.Wait()
	last := provisioner.Progress{}
	for e := range events {
		last = e
	}
	if bad.Load() != 0 || h.calls.Load() != 1 || last.State != provisioner.Ready {
		t.Fatalf("%d failed, %d downloads, last %+v", bad.Load(), h.calls.Load(), last)
	}
	if d, ok := p.Download(first.ID()); !ok || d.Progress().State != provisioner.Ready {
		t.Fatal("a finished download can be looked up for a while")
	}
}

type refusal struct{}

func (refusal) Error() string             { return "disk full" }
func (refusal) Code() string              { return "PROVISION_FAILED" }
func (refusal) RetryAfter() time.Duration { return 3 * time.Second }
func (refusal) Details() map[string]any   { return map[string]any{"need_bytes": 5} }

func TestFailureReachesEachWaiter(t *testing.T) {
	h := &fakeHives{do: func(context.Context, provisioner.Spec, func(provisioner.Progress)) (provisioner.Model, error) {
		return provisioner.Model{}, refusal{}
	}}
	p := open(t, h, nil, provisioner.Options{})
	_, err := p.Ensure(context.Background(), "a", "sim:x")
	var e *provisioner.Error
	if !errors.As(err, &e) || !errors.Is(err, provisioner.ErrProvision) || e.RetryAfter() != 3*time.Second || e.Details()["need_bytes"] != 5 || !strings.Contains(err.Error(), "disk full") {
		t.Fatalf("%v", err)
	}
}

func TestCancelAndClose(t *testing.T) {
	h := &fakeHives{do: func(ctx context.Context, _ provisioner.Spec, _ func(provisioner.Progress)) (provisioner.Model, error) {
		<-ctx.Done()
		return provisioner.Model{}, ctx.Err()
	}}
	store := provisioner.NewMemoryStore()
	p := open(t, h, store, provisioner.Options{})
	d, err := p.Start(context.Background(), "a", "hf:o/one")
	if err != nil {
		t.Fatal(err)
	}
	d.Cancel()
	if _, err := d.Wait(context.Background()); code(err) != "CANCELLED" {
		t.Fatal(err)
	}
	d, err = p.Start(context.Background(), "a", "hf:o/two")
	if err != nil {
		t.Fatal(err)
	}
	for h.calls.Load() < 2 { // until it is under way
		runtime.Gosched()
	}
	p.Close()
	if _, err := d.Wait(context.Background()); code(err) == "" {
		t.Fatal(err)
	}
	if _, err := p.Start(context.Background(), "a", "hf:o/two"); code(err) != "SHUTTING_DOWN" {
		t.Fatal(err)
	}
	// the next life goes on with it under the same id, and with nothing that was cancelled
	h2 := &fakeHives{nodes: []string{"a", "b"}}
	p2 := open(t, h2, store, provisioner.Options{})
	p2.Resume(context.Background(), "b")
	p2.Resume(context.Background(), "a")
	again, ok := p2.Download(d.ID())
	if !ok || len(p2.Downloads()) != 1 {
		t.Fatalf("%v", p2.Downloads())
	}
	if _, err := again.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	if left, _ := store.Downloads(context.Background()); len(left) != 0 {
		t.Fatalf("%+v", left)
	}
}

func TestPeersTokenAndPin(t *testing.T) {
	commit := strings.Repeat("d", 40)
	pinned := "hf:o/r@" + commit
	h := &fakeHives{nodes: []string{"a", "b", "c"}, models: map[string][]provisioner.Model{
		"b": {{Ref: pinned, State: provisioner.StateReady, SHA256: "x"}}, "c": {{Ref: pinned, State: provisioner.StateDownloading}}}}
	p := open(t, h, nil, provisioner.Options{
		Pin:   func(context.Context, provisioner.Ref) (string, error) { return commit, nil },
		Token: func(r provisioner.Ref) string { return "secret-" + r.Org },
	})
	if _, err := p.Ensure(context.Background(), "a", "hf:o/r"); err != nil {
		t.Fatal(err)
	}
	want := provisioner.Spec{Ref: pinned, Token: "secret-o", Peers: []provisioner.Peer{{Node: "b", SHA256: "x"}}}
	if diff := cmp.Diff(want, h.specs[0]); diff != "" {
		t.Fatal(diff)
	}
}

func TestCatalog(t *testing.T) {
	h := &fakeHives{nodes: []string{"b", "a"}, models: map[string][]provisioner.Model{
		"a": {{Ref: "file:/m.gguf", State: provisioner.StateReady, SizeBytes: 10, ContextLength: 128}, {Ref: "hf:o/stray", State: provisioner.StateReady}},
		"b": {{Ref: "file:/m.gguf", State: provisioner.StateReady, SizeBytes: 10}, {Ref: "sim:demo", State: provisioner.StateFailed}}}}
	p := open(t, h, nil, provisioner.Options{Entries: []provisioner.Entry{{Name: "m", Ref: "file:/m.gguf"}, {Name: "demo", Ref: "sim:demo"}}, Aliases: map[string]string{"alias": "m"}})
	var got []string
	for _, c := range p.Catalog() {
		got = append(got, fmt.Sprintf("%s %s %v %d %d", c.Name, c.Ref, c.Nodes, c.SizeBytes, c.ContextLength))
	}
	want := []string{"alias file:/m.gguf [a b] 10 128", "demo sim:demo [] 0 0", "hf:o/stray hf:o/stray [a] 0 0", "m file:/m.gguf [a b] 10 128"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if err := p.Evict(context.Background(), "a", "m"); err != nil {
		t.Fatal(err)
	}
}

func TestNeed(t *testing.T) {
	p := open(t, &fakeHives{}, nil, provisioner.Options{})
	if n := p.Need("sim:x?memory=4GiB&load=2s&slots=8", 0, 0); n.Memory != 4<<30 || n.LoadTime != 2*time.Second || n.Slots != 8 || !n.Known {
		t.Fatalf("%+v", n)
	}
	if n := p.Need("sim:x", 2, 0); n.Memory <= 0 || n.Memory > 1<<30 || n.Slots != 2 {
		t.Fatalf("%+v", n)
	}
	if n := p.Need("hf:o/r", 1, 0); n.Known || n.Memory <= 0 {
		t.Fatalf("a guess must say so: %+v", n)
	}
	p.Learn(provisioner.Model{Ref: "hf:o/r", SizeBytes: 4 << 30, ContextLength: 8192, Memory: provisioner.Memory{Weights: 4 << 30, Fixed: 100 << 20, PerToken: 128 << 10, PerSlot: 1 << 20}})
	n := p.Need("hf:o/r", 2, 8192)
	if want := int64(4<<30 + 100<<20 + 8192*(128<<10) + 2<<20); n.Memory != want || !n.Known || n.LoadBytes != 4<<30 {
		t.Fatalf("%+v, want %d", n, want)
	}
	if small := p.Need("hf:o/r", 2, 1024); small.Memory >= n.Memory {
		t.Fatal("less context must need less memory")
	}
	p.Observe("hf:o/r", 2, 8192, n.Memory*3/2, 7*time.Second)
	after := p.Need("hf:o/r", 2, 8192)
	if after.Memory != n.Memory*3/2 || after.LoadTime != 7*time.Second {
		t.Fatalf("a report must be believed: %+v", after)
	}
	if other := p.Need("hf:o/r", 4, 8192); other.Memory <= n.Memory {
		t.Fatalf("other shapes are corrected too: %+v", other)
	}
	if d := p.LoadTimeout("hf:o/r"); d != 5*time.Minute+80*time.Second {
		t.Fatal(d)
	}
}

func TestConfigureAtRunTime(t *testing.T) {
	p := open(t, &fakeHives{}, nil, provisioner.Options{Entries: []provisioner.Entry{{Name: "a", Ref: "sim:a"}}})
	if err := p.Configure(context.Background(), []provisioner.Entry{{Name: "b", Ref: "sim:b"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Configure(context.Background(), []provisioner.Entry{{Name: "c", Ref: "broken"}}, nil); err == nil {
		t.Fatal("a broken configuration was taken")
	}
	if got := p.Entries(); len(got) != 1 || got[0].Name != "b" {
		t.Fatalf("%+v", got)
	}
}

func TestOldDownloadsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, &fakeHives{}, nil, provisioner.Options{})
		d, err := p.Start(t.Context(), "a", "sim:a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Hour)
		if _, err := p.Ensure(t.Context(), "a", "sim:b"); err != nil {
			t.Fatal(err)
		}
		if _, ok := p.Download(d.ID()); ok {
			t.Fatal("downloads pile up")
		}
		p.Close()
	})
}

func TestMemoryStore(t *testing.T) {
	provisionertest.Run(t, provisionertest.Harness{Open: func(*testing.T) provisioner.Store { return provisioner.NewMemoryStore() }})
}
