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

func write(t *testing.T, path, text string, stamp int) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(int64(1_700_000_000+stamp), 0)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func to(worker string) string {
	return "def schedule(job, workers, hives):\n    return route('" + worker + "')\n"
}

// A file's policy is reloaded live; a bad edit, or one that fails a golden job, leaves the old one.
func TestManagerReload(t *testing.T) {
	snap := fleet()
	s := scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return snap }), scheduler.Options{})
	path := filepath.Join(t.TempDir(), "policy.star")
	write(t, path, to("slow"), 1)
	changed := make(chan error, 8)
	m := NewManager(s.SetPolicy, Options{Interval: time.Millisecond, OnChange: func(_ Version, err error) { changed <- err }})
	ctx, cancel := context.WithCancel(t.Context())
	if err := m.Open(ctx, path); err != nil {
		t.Fatal(err)
	}
	<-changed
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	route := func() string { return s.Decide(&scheduler.Job{Model: "m", PromptTokens: 10}).Worker }
	if w := route(); w != "slow" {
		t.Fatalf("got %s", w)
	}
	write(t, path, to("fast"), 2)
	if err := <-changed; err != nil || route() != "fast" {
		t.Fatalf("live reload: %v, %s", err, route())
	}
	write(t, path, "def schedule(job)\n", 3)
	if err := <-changed; err == nil || route() != "fast" || m.Err() == nil {
		t.Fatalf("a bad edit: %v, %s", err, route())
	}
	write(t, path+".golden.json", `[{"name":"stays fast","job":{"Model":"m","PromptTokens":10},"snapshot":{"Version":1,"Workers":[{"ID":"fast","Model":"m"},{"ID":"slow","Model":"m"}]},"action":"route","worker":"fast"}]`, 4)
	write(t, path, to("slow"), 5)
	var err error
	for err = <-changed; err == nil || !strings.Contains(err.Error(), "golden"); err = <-changed {
	}
	if !strings.Contains(err.Error(), `golden job "stays fast"`) || route() != "fast" {
		t.Fatalf("a golden job: %v, %s", err, route())
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestManagerPlatformIsImmutable(t *testing.T) {
	set := 0
	m := NewManager(func(scheduler.Policy) error { set++; return nil }, Options{Immutable: true})
	if err := m.Apply(t.Context(), "embedded.star", []byte(to("fast"))); err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(t.Context(), "other.star", []byte(to("slow"))); !errors.Is(err, ErrImmutable) || set != 1 || m.Current().Name != "embedded.star" {
		t.Errorf("got %v, set %d times, %+v", err, set, m.Current())
	}
}

func TestRulesCompile(t *testing.T) {
	src := `rules:
- name: night
  when: {priority: batch, hours: 6-22}
  then: {queue: later}
- when: {model: "huge*", prompt_over: 10}
  then: {reject: "not \"here\""}
- when: {session: true}
  then: {use: sticky}
- when: {labels: {team: a}}
  then: {use: cheapest, label: {region: us}}
default: fastest
`
	p, err := Compile("p.yaml", []byte(src), Limits{Time: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if p.Info().Language != "yaml" {
		t.Errorf("language %s", p.Info().Language)
	}
	d := deskOf(t, p)
	d.want(t, "night", scheduler.Job{Model: "m", Priority: scheduler.Batch}, scheduler.Queue, "")
	d.want(t, "huge", scheduler.Job{Model: "huge"}, scheduler.Reject, "")
	d.want(t, "region", scheduler.Job{Model: "m", Labels: map[string]string{}}, scheduler.Route, "paid")
	d.want(t, "label for an unloaded model", scheduler.Job{Model: "new"}, scheduler.Provision, "")
}

func TestRulesRefuse(t *testing.T) {
	for src, want := range map[string]string{
		"rules:\n- when: {colour: red}\n  then: {queue: x}\n": "colour",
		"rules:\n- then: {queue: x, reject: y}\n":             "exactly one",
		"rules:\n- then: {use: magic}\n":                      "not a selector",
		"default: magic\n":                                    "not a selector",
		"rules:\n- when: {hours: noon}\n  then: {queue: x}\n": "want from-to",
	} {
		if _, err := Rules("p.yaml", []byte(src)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", src, err)
		}
	}
}

func TestStoreKeepsVersions(t *testing.T) {
	s := &memory{}
	for _, n := range []string{"a", "b"} {
		if err := s.Save(t.Context(), Version{Name: n}); err != nil {
			t.Fatal(err)
		}
	}
	last, _ := s.Latest(t.Context())
	all, _ := s.List(t.Context(), 10)
	if diff := cmp.Diff([]string{"b", "b", "a"}, []string{last.Name, all[0].Name, all[1].Name}); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkDefault is the default policy in Starlark over 100 workers.
func BenchmarkDefault(b *testing.B) {
	src, err := os.ReadFile("policies/default.star")
	if err != nil {
		b.Fatal(err)
	}
	p, err := Compile("default.star", src, Limits{})
	if err != nil {
		b.Fatal(err)
	}
	snap := &scheduler.Snapshot{Version: 1}
	for i := range 100 {
		snap.Workers = append(snap.Workers, scheduler.Worker{ID: string(rune('a'+i/26)) + string(rune('a'+i%26)), Node: "n", Model: "m", Slots: 4, PrefillRate: 1000})
	}
	s := scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return snap }), scheduler.Options{Policy: p})
	job := &scheduler.Job{ID: "j", Model: "m", PromptTokens: 1000, Blocks: []uint64{1, 2, 3, 4}}
	b.ReportAllocs()
	for b.Loop() {
		if d := s.Decide(job); d.Policy != "default.star" || d.Action != scheduler.Route {
			b.Fatal(d)
		}
	}
}
