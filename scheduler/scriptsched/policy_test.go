package scriptsched

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

const gib = int64(1 << 30)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func fleet() *scheduler.Snapshot {
	return &scheduler.Snapshot{Version: 1,
		Workers: []scheduler.Worker{
			{ID: "slow", Node: "attic", Model: "m", Slots: 2, PrefillRate: 100, DecodeRate: 5},
			{ID: "fast", Node: "cellar", Model: "m", Slots: 1, PrefillRate: 10000, DecodeRate: 100},
			{ID: "paid", Node: "cloud", Model: "m", Slots: 100, External: true, PrefillRate: 50000, DecodeRate: 200},
		},
		Hives: []scheduler.Hive{
			{Name: "attic", Labels: map[string]string{"region": "eu"}, Devices: []scheduler.Device{{ID: "0", Total: 16 * gib, Free: 16 * gib}}},
			{Name: "cellar", Labels: map[string]string{"region": "us"}, Devices: []scheduler.Device{{ID: "0", Total: 24 * gib, Free: 24 * gib}, {ID: "1", Total: 24 * gib, Free: 24 * gib}}},
			{Name: "cloud"},
		},
		Needs: map[string]scheduler.Need{"m": {Memory: 8 * gib, LoadTime: time.Minute}, "new": {Memory: 8 * gib, LoadTime: time.Minute}, "huge": {Memory: 23 * gib, LoadTime: time.Minute}},
	}
}

// desk is a scheduler over a fleet with a policy, in a given hour; it fails the test when the policy fails.
type desk struct {
	*scheduler.Scheduler
	snap *scheduler.Snapshot
	now  time.Time
	err  error
}

func newDesk(t *testing.T, policy string) *desk {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("policies", policy))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(policy, src, Limits{Time: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return deskOf(t, p)
}

func deskOf(t *testing.T, p scheduler.Policy) *desk {
	d := &desk{snap: fleet(), now: noon}
	d.Scheduler = scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return d.snap }), scheduler.Options{Policy: p,
		Now: func() time.Time { return d.now }, Hooks: scheduler.Hooks{PolicyFailed: func(_ string, err error) { d.err = err }}})
	t.Cleanup(func() {
		if d.err != nil {
			t.Errorf("the policy failed: %v", d.err)
		}
	})
	return d
}

func (d *desk) want(t *testing.T, what string, job scheduler.Job, action scheduler.Action, where string) {
	t.Helper()
	if job.PromptTokens == 0 {
		job.PromptTokens = 1000
	}
	if job.Submitted.IsZero() {
		job.Submitted = d.now
	}
	got := d.Decide(&job)
	if got.Action != action || where != "" && got.Worker != where && got.Node != where {
		t.Errorf("%s: got %s %s%s (%s), want %s %s", what, got.Action, got.Worker, at(got.Node), got.Reason, action, where)
	}
}

func (d *desk) fill(t *testing.T, worker string, n int) {
	t.Helper()
	var others []string
	for _, w := range d.snap.Workers {
		if w.ID != worker {
			others = append(others, w.ID)
		}
	}
	s := d.Scheduler
	if err := s.SetPolicy(nil); err != nil {
		t.Fatal(err)
	}
	for range n {
		if got, _, err := s.Place(context.Background(), &scheduler.Job{Model: "m", PromptTokens: 10, MaxTokens: 1000, Exclude: others}); err != nil || got.Worker != worker {
			t.Fatalf("fill %s: %+v %v", worker, got, err)
		}
		d.now = d.now.Add(time.Second) // its prefill is over, its slot is not
	}
}

func TestPolicyDefault(t *testing.T) {
	d := newDesk(t, "default.star")
	d.want(t, "the cheapest", scheduler.Job{Model: "m"}, scheduler.Route, "paid")
	d.want(t, "an unloaded model is the native policy's", scheduler.Job{Model: "new"}, scheduler.Provision, "")
}

func compiled(t *testing.T, name string) *Policy {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("policies", name))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(name, src, Limits{Time: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicyCost(t *testing.T) {
	d := newDesk(t, "cost.star")
	d.want(t, "our own first", scheduler.Job{Model: "m"}, scheduler.Route, "fast")
	d.fill(t, "fast", 1)
	d.fill(t, "slow", 2)
	_ = d.SetPolicy(compiled(t, "cost.star"))
	d.want(t, "patience", scheduler.Job{Model: "m"}, scheduler.Queue, "")
	d.want(t, "impatience", scheduler.Job{Model: "m", Submitted: noon.Add(-11 * time.Second)}, scheduler.Route, "paid")
	d.want(t, "batch is patient", scheduler.Job{Model: "m", Priority: scheduler.Batch, Submitted: noon.Add(-time.Hour)}, scheduler.Queue, "")
}

func TestPolicyLatency(t *testing.T) {
	d := newDesk(t, "latency.star")
	d.want(t, "the soonest", scheduler.Job{Model: "m"}, scheduler.Route, "paid")
	d.snap = &scheduler.Snapshot{Version: 2, Workers: d.snap.Workers[:1], Hives: d.snap.Hives}
	d.want(t, "batch with slots to spare", scheduler.Job{Model: "m", Priority: scheduler.Batch}, scheduler.Route, "slow")
	d.fill(t, "slow", 1)
	_ = d.SetPolicy(compiled(t, "latency.star"))
	d.want(t, "the last slot is not for batch", scheduler.Job{Model: "m", Priority: scheduler.Batch}, scheduler.Queue, "")
	d.want(t, "but for a person", scheduler.Job{Model: "m"}, scheduler.Route, "slow")
}

func TestPolicyMultiGPU(t *testing.T) {
	d := newDesk(t, "multi-gpu.star")
	d.want(t, "large", scheduler.Job{Model: "huge"}, scheduler.Provision, "cellar")
	d.want(t, "small", scheduler.Job{Model: "new"}, scheduler.Provision, "attic")
	d.want(t, "loaded", scheduler.Job{Model: "m"}, scheduler.Route, "")
}

func TestPolicyOneRegion(t *testing.T) {
	d := newDesk(t, "one-region.star")
	d.want(t, "here, though slow", scheduler.Job{Model: "m"}, scheduler.Route, "slow")
	d.want(t, "loaded here", scheduler.Job{Model: "new"}, scheduler.Provision, "attic")
	d.want(t, "too big for here", scheduler.Job{Model: "huge"}, scheduler.Queue, "")
	d.snap = &scheduler.Snapshot{Version: 2, Workers: d.snap.Workers[1:], Hives: d.snap.Hives[1:], Needs: d.snap.Needs}
	d.want(t, "nobody is here", scheduler.Job{Model: "new"}, scheduler.Reject, "")
}

func TestPolicyBatchAtNight(t *testing.T) {
	d := newDesk(t, "batch-at-night.star")
	batch := scheduler.Job{Model: "m", Priority: scheduler.Batch}
	d.want(t, "on what is idle", batch, scheduler.Route, "")
	d.snap = &scheduler.Snapshot{Version: 2, Workers: d.snap.Workers[:1], Hives: d.snap.Hives}
	d.fill(t, "slow", 1)
	_ = d.SetPolicy(compiled(t, "batch-at-night.star"))
	d.want(t, "waits by day", batch, scheduler.Queue, "")
	d.want(t, "a person doesn't", scheduler.Job{Model: "m"}, scheduler.Route, "slow")
	batch.Deadline = noon.Add(time.Minute)
	d.want(t, "nor one with a deadline", batch, scheduler.Route, "slow")
	d.now = noon.Add(11 * time.Hour)
	batch.Deadline = time.Time{}
	d.want(t, "runs by night", batch, scheduler.Route, "slow")
}

func TestPolicyStickySessions(t *testing.T) {
	d := newDesk(t, "sticky-sessions.star")
	d.snap = &scheduler.Snapshot{Version: 2, Hives: d.snap.Hives}
	for _, id := range []string{"a", "b", "c", "d"} {
		d.snap.Workers = append(d.snap.Workers, scheduler.Worker{ID: id, Node: "attic", Model: "m", Slots: 4, PrefillRate: 1000})
	}
	homes := map[string]bool{}
	for _, s := range []string{"s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"} {
		job := scheduler.Job{Model: "m", Session: s, PromptTokens: 100, Submitted: noon}
		first := d.Decide(&job).Worker
		homes[first] = true
		for range 3 {
			d.want(t, "same session, same worker", job, scheduler.Route, first)
		}
	}
	if len(homes) < 2 {
		t.Error("all sessions live on one worker")
	}
	ev := compiled(t, "sticky-sessions.star").Evictor(nil, func() time.Time { return noon })
	ids, _, ok := ev.Plan("attic", "0", 5, []scheduler.Worker{{ID: "new", Memory: 8, LastUsed: noon}, {ID: "old", Memory: 8, LastUsed: noon.Add(-time.Hour)}})
	if !ok || len(ids) != 1 || ids[0] != "old" {
		t.Errorf("evict: got %v %v", ids, ok)
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"def schedule(job, workers, hives):\n    x = 1\n    return job.nope\n", "p.star:3:"},
		{"def schedule(job, workers, hives)\n    return 1\n", "p.star:2:"},
		{"def schedule(job, workers, hives):\n    return undefined_name\n", "p.star:2:"},
		{"x = 1 +\n", "p.star:1:"},
		{"load('a', 'b')\n", "p.star:1:"},
		{"def schedule(job, workers, hives):\n    return cheapest(1)\n", "cheapest: argument 1 is a int, want workers"},
		{"def schedule(job, workers, hives):\n    return 7\n", "schedule returned a int"},
		{"y = 1\n", "it defines none of schedule"},
		{"schedule = 3\n", "schedule is a int, not a function"},
		{"def schedule(a):\n    return None\n", "accepts 1 positional argument"},
		{strings.Repeat("#\n", 5<<20), "at most 65536"},
		{"x = " + strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "brackets are nested"},
	} {
		p, err := Compile("p.star", []byte(c.src), Limits{Time: time.Minute})
		if err == nil {
			_, err = decide(p)
		}
		var se *ScriptError
		if !errors.As(err, &se) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: got %v, want %s", c.src, err, c.want)
		}
	}
}

// decide runs a policy once over the fleet and gives its own error.
func decide(p *Policy) (d scheduler.Decision, failed error) {
	snap := fleet()
	s := scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return snap }), scheduler.Options{Policy: p, Now: func() time.Time { return noon },
		Hooks: scheduler.Hooks{PolicyFailed: func(_ string, err error) { failed = err }}})
	d = s.Decide(&scheduler.Job{ID: "j", Model: "m", PromptTokens: 100})
	return d, failed
}

func TestFailureFallsBackAndCounts(t *testing.T) {
	p, err := Compile("p.star", []byte("def schedule(job, workers, hives):\n    return route('nobody')\n"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	snap := fleet()
	s := scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return snap }), scheduler.Options{Policy: p})
	for range 3 {
		if d := s.Decide(&scheduler.Job{Model: "m", PromptTokens: 10}); d.Action != scheduler.Route || d.Policy != "default" {
			t.Fatalf("got %+v", d)
		}
	}
	if n := s.Policy().Fails; n != 3 {
		t.Errorf("counted %d failures", n)
	}
}

func TestSelectWorkerAlone(t *testing.T) {
	p, err := Compile("p.star", []byte("def select_worker(job, workers):\n    return worker('slow')\n"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	deskOf(t, p).want(t, "its worker", scheduler.Job{Model: "m"}, scheduler.Route, "slow")
}

// The README's table of helpers is the registered ones, word for word and in their order.
func TestHelperTable(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Helpers\n\n")
	got, _, _ := strings.Cut(section, "\n\n")
	want, group := "| helper | what |\n|---|---|", ""
	for _, h := range Helpers() {
		if h.Group != group {
			group = h.Group
			want += "\n| **" + group + "** | |"
		}
		want += "\n| `" + h.Usage + "` | " + h.Doc + " |"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the table of README.md differs from Helpers(); it must be (-want +got):\n%s", diff)
	}
}

// Every helper runs.
func TestHelpers(t *testing.T) {
	hs := Helpers()
	if len(hs) < 40 {
		t.Errorf("%d helpers: at least 40", len(hs))
	}
	calls := []string{"cheapest(workers)", "soonest(workers)", "least_loaded(workers)", "least_pending(workers)", "most_cached(workers)", "most_free_slots(workers)", "fastest(workers)",
		"fastest_decode(workers)", "random_worker(workers)", "sticky(workers, 'k')", "kept(workers)", "idle(workers)", "by_node(workers, 'attic')", "by_label(workers, 'region', 'eu')",
		"with_cached(workers, 0)", "owned(workers)", "external(workers)", "worker('slow')", "free_memory(hives[0])", "total_memory(hives[0])", "evictable_memory(hives[0])", "device_count(hives[0])",
		"workers_on(hives[0])", "best_device(hives[0])", "fits(hives[0])", "most_free(hives)", "best_fit(hives)", "online(hives)", "hives_with(hives, 'region', 'eu')", "on_disk(hives)", "hive('attic')",
		"running()", "running('t', 'm')", "over_share('t', 50)", "waiting()", "waiting('m')", "is_batch(job)", "seconds_left(job)", "need_memory()", "load_seconds('new')", "slots_of()", "devices_of()",
		"ttl_seconds()", "is_pinned()", "is_known('nope')", "loaded()", "lru(workers)", "largest(workers)", "smallest(workers)", "oldest(workers)", "enough(workers, 0)", "idle_seconds(workers[0])",
		"age_seconds(workers[0])", "hour()", "minute()", "weekday()", "between(22, 6)", "route(workers[0])", "provision(hives[0], '0', [workers[0]])", "queue('x')", "reject('x')", "native()"}
	for _, c := range calls {
		src := "def schedule(job, workers, hives):\n    x = " + c + "\n    y = str(x) + repr(job) + str(dir(x))\n    return native()\n"
		p, err := Compile("p.star", []byte(src), Limits{Time: time.Minute})
		if err == nil {
			_, err = decide(p)
		}
		if err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
	for _, h := range hs {
		used := false
		for _, c := range calls {
			used = used || strings.HasPrefix(c, h.Name+"(")
		}
		if !used {
			t.Errorf("%s is not called by this test", h.Name)
		}
	}
}
