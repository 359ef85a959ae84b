package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time      { return c.t }
func (c *clock) add(d time.Duration) { c.t = c.t.Add(d) }
func fixed(s *Snapshot) Source       { return SourceFunc(func() *Snapshot { return s }) }
func chain(conv, n int) (b []uint64) { return chainFrom(uint64(conv)<<32, n) }
func chainFrom(base uint64, n int) []uint64 {
	var b []uint64
	for i := range n {
		b = append(b, base+uint64(i)+1)
	}
	return b
}

// The turns of one conversation land where its prefix is, also when another worker is emptier.
func TestConversationStaysWithItsPrefix(t *testing.T) {
	for _, kind := range []CacheKind{CacheBlocks, CacheSlots} {
		c := &clock{time.Unix(0, 0)}
		snap := &Snapshot{Version: 1}
		for i := range 3 {
			snap.Workers = append(snap.Workers, Worker{ID: fmt.Sprint("w", i), Model: "m", Slots: 2, Cache: kind, PrefillRate: 1000, DecodeRate: 100})
		}
		s := New(fixed(snap), Options{Now: c.now})
		home := ""
		for turn := 1; turn <= 6; turn++ {
			job := &Job{ID: fmt.Sprint("t", turn), Model: "m", PromptTokens: 500 * turn, MaxTokens: 50, Blocks: chain(1, turn*4)}
			d, rel, err := s.Place(context.Background(), job)
			if err != nil || d.Action != Route || home != "" && d.Worker != home {
				t.Fatalf("%v turn %d: %+v %v, home %s", kind, turn, d, err, home)
			}
			if turn > 1 && d.Cached < 400*(turn-1) {
				t.Errorf("%v turn %d: expects %d cached tokens", kind, turn, d.Cached)
			}
			home = d.Worker
			c.add(2 * time.Second)
			rel.Done()
			for k := range 2 { // others come and go meanwhile
				_, other, _ := s.Place(context.Background(), &Job{ID: fmt.Sprint("o", turn, k), Model: "m", PromptTokens: 300, Blocks: chain(10+turn*2+k, 3)})
				c.add(time.Second)
				other.Done()
			}
		}
	}
}

// What the raw JSON of a conversation's next turn begins with is what Blocks sees.
func TestBlocksOfTurns(t *testing.T) {
	msg := func(n int) []byte {
		var m []map[string]string
		for i := range n {
			m = append(m, map[string]string{"role": "user", "content": strings.Repeat(fmt.Sprint("turn ", i, " "), 60)})
		}
		b, _ := json.Marshal(m)
		return b
	}
	a, b := Blocks("m", msg(3)), Blocks("m", msg(4))
	if len(a) < 4 || len(b) <= len(a) || !slices.Equal(a, b[:len(a)]) {
		t.Fatalf("%d and %d blocks, common %d", len(a), len(b), common(a, b))
	}
	if other := Blocks("n", msg(3)); common(a, other) != 0 {
		t.Error("another model shares blocks")
	}
}

func FuzzBlocks(f *testing.F) {
	f.Add([]byte("hello"), []byte("world"))
	f.Add(bytes.Repeat([]byte("a"), 1000), []byte("b"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x := Blocks("m", a)
		y := Blocks("m", append(slices.Clone(a), b...))
		if len(x) > MaxBlocks || common(x, y) != len(x) {
			t.Fatalf("%d blocks, %d shared with an extension", len(x), common(x, y))
		}
	})
}

// FuzzReadEvents: a recording is untrusted input.
func FuzzReadEvents(f *testing.F) {
	f.Add([]byte(`{"at":"2026-01-01T00:00:00Z","job":{"ID":"a"},"arrived":true}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		events, err := ReadEvents(bytes.NewReader(data))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := WriteEvents(&b, events); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadEvents(&b); err != nil || len(again) != len(events) {
			t.Fatalf("%d events became %d: %v", len(events), len(again), err)
		}
	})
}

// The cache agrees with a plain LRU.
func TestCacheIsLRU(t *testing.T) {
	c := &cache{}
	c.configure(&Worker{CacheBlocks: 8}, 1000)
	c.touch(chain(1, 6), 1, nil, nil)
	c.touch(chain(2, 2), 1, nil, nil)
	if c.match(chain(1, 6)) != 6 || c.match(chain(2, 2)) != 2 {
		t.Fatal("8 of 8 must fit")
	}
	c.touch(chain(1, 1), 1, nil, nil)
	c.touch(chain(3, 4), 1, nil, nil)
	if got := c.match(chain(1, 6)); got != 2 {
		t.Errorf("the tail of the oldest goes first: %d blocks are left", got)
	}
	c.forget(chain(3, 4), 1, nil)
	if got := c.match(chain(3, 4)); got != 1 {
		t.Errorf("forget: %d", got)
	}
}

// A worker that reports fewer cached tokens than expected is trusted less, and its size is learnt.
func TestCacheLearnsFromObservations(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	s := New(fixed(&Snapshot{Version: 1, Workers: []Worker{{ID: "w", Model: "m", Slots: 4, PrefillRate: 1000}}}), Options{Now: c.now})
	for i := range 60 {
		job := &Job{ID: fmt.Sprint(i), Model: "m", PromptTokens: 1000, Blocks: chain(1, 10)}
		_, rel, err := s.Place(context.Background(), job)
		if err != nil {
			t.Fatal(err)
		}
		c.add(time.Second)
		rel.Done()
		s.Observe(Observation{Job: job, Worker: "w", Prompt: 1000, Cached: 0, Output: 1, TTFT: time.Second, Decode: time.Millisecond, OK: true})
	}
	if d := s.Decide(&Job{Model: "m", PromptTokens: 1000, Blocks: chain(1, 10)}); d.Cached > 200 {
		t.Errorf("still expects %d cached tokens of an engine that caches nothing", d.Cached)
	}
}

// Speeds are learnt per worker, so that jobs go to the fast one and wait for it while that is sooner.
func TestLearnsSpeeds(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	s := New(fixed(&Snapshot{Version: 1, Workers: []Worker{{ID: "fast", Node: "a", Model: "m", Slots: 1}, {ID: "slow", Node: "b", Model: "m", Slots: 1}}}), Options{Now: c.now})
	rate := map[string]float64{"fast": 5000, "slow": 200}
	for i := range 40 {
		ex := []string{"slow", "fast"}[i%2]
		job := &Job{ID: fmt.Sprint(i), Model: "m", PromptTokens: 500 + i*20, MaxTokens: 10, Exclude: []string{ex}}
		d, rel, err := s.Place(context.Background(), job)
		if err != nil || d.Worker == ex || d.Action != Route {
			t.Fatalf("%d: %+v %v", i, d, err)
		}
		ttft := time.Duration(float64(job.PromptTokens) / rate[d.Worker] * 1e9)
		c.add(ttft + 100*time.Millisecond)
		rel.Done()
		s.Observe(Observation{Job: job, Worker: d.Worker, Prompt: job.PromptTokens, Cached: 0, Output: 10, TTFT: ttft, Decode: 100 * time.Millisecond, OK: true})
	}
	job := &Job{ID: "x", Model: "m", PromptTokens: 2000, MaxTokens: 10}
	if d, _, _ := s.Place(context.Background(), job); d.Worker != "fast" || d.Estimate < 350*time.Millisecond || d.Estimate > 450*time.Millisecond {
		t.Errorf("got %+v, want fast in about 400 ms", d)
	}
	if d := s.Decide(job); d.Action != Queue || d.Wait <= 0 {
		t.Errorf("waiting half a second beats ten on the slow one: %+v", d)
	}
}

func TestWantsKeepsAndExpires(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	snap := &Snapshot{Version: 1, Needs: map[string]Need{"kept": {Memory: 4, Workers: 2, LoadTime: time.Second}, "ttl": {Memory: 4, TTL: time.Minute, LoadTime: time.Second}},
		Workers: []Worker{{ID: "k", Node: "h", Device: "0", Model: "kept", Memory: 4}, {ID: "t", Node: "h", Device: "0", Model: "ttl", Memory: 4}},
		Hives:   []Hive{{Name: "h", Devices: []Device{{ID: "0", Total: 16, Free: 8}}}}}
	s := New(fixed(snap), Options{Now: c.now})
	w := s.Wants()
	if len(w) != 1 || w[0].Load != "kept" || w[0].Node != "h" {
		t.Fatalf("got %+v", w)
	}
	d, rel, err := s.Claim("kept", "", "")
	if err != nil || d.Action != Provision || len(s.Wants()) != 0 {
		t.Fatalf("a claimed load is wanted still: %+v %v %+v", d, err, s.Wants())
	}
	rel.Done()
	c.add(2 * time.Minute)
	if w := s.Wants(); len(w) != 2 || w[0].Stop != "t" {
		t.Errorf("got %+v", w)
	}
}

// A load counts on its device until its worker is seen, and not twice after.
func TestProvisionMemory(t *testing.T) {
	snap := &Snapshot{Version: 1, Needs: map[string]Need{"a": {Memory: 6, LoadTime: time.Second}, "b": {Memory: 6, LoadTime: time.Second}},
		Hives: []Hive{{Name: "h", Devices: []Device{{ID: "0", Total: 10, Free: 10}}}}}
	s := New(SourceFunc(func() *Snapshot { return snap }), Options{})
	d, rel, err := s.Place(context.Background(), &Job{ID: "1", Model: "a"})
	if err != nil || d.Action != Provision {
		t.Fatalf("%+v %v", d, err)
	}
	if d := s.Decide(&Job{Model: "a"}); d.Action != Queue {
		t.Errorf("a second job must attach to the load: %+v", d)
	}
	if d := s.Decide(&Job{Model: "b"}); d.Action == Provision {
		t.Errorf("6 and 6 don't fit in 10: %+v", d)
	}
	snap = &Snapshot{Version: 2, Needs: snap.Needs, Hives: []Hive{{Name: "h", Devices: []Device{{ID: "0", Total: 13, Free: 7}}}},
		Workers: []Worker{{ID: "w", Node: "h", Device: "0", Model: "a", Memory: 6, State: WorkerLoading}}}
	if d := s.Decide(&Job{Model: "b"}); d.Action != Provision {
		t.Errorf("the worker is seen, 7 are free: %+v", d)
	}
	rel.Done()
}

func TestExplainSaysWhy(t *testing.T) {
	snap := &Snapshot{Version: 9, Hives: []Hive{{Name: "h"}, {Name: "off", State: HiveOffline}},
		Workers: []Worker{{ID: "a", Node: "h", Model: "m"}, {ID: "b", Node: "h", Model: "m", Ejected: true}, {ID: "c", Node: "off", Model: "m"}, {ID: "d", Node: "h", Model: "m", State: WorkerLoading}}}
	e := New(fixed(snap), Options{}).Explain(&Job{Model: "m", PromptTokens: 10, Exclude: []string{"zz"}})
	var got []string
	for _, c := range e.Candidates {
		got = append(got, fmt.Sprint(c.Worker, "/", c.Node, " ", c.Kept, " ", c.Reason, " ", c.Rank))
	}
	want := []string{"a/h true  1", "b/h false ejected after failures 0", "c/off false its hive is offline 0", "d/h false loading 0",
		"/h false the model has no entry to load it from 0", "/off false offline 0"}
	if !reflect.DeepEqual(got, want) || e.Decision.Worker != "a" || e.Decision.Snapshot != 9 || e.Policy.Name != "default" {
		t.Errorf("got %q %+v", got, e.Decision)
	}
}

// A caller that changes its snapshot in place and raises the version is understood.
func TestSnapshotChangedInPlace(t *testing.T) {
	snap := &Snapshot{Version: 1, Workers: []Worker{{ID: "a", Model: "m", Slots: 1}}}
	s := New(fixed(snap), Options{})
	s.Decide(&Job{Model: "m"})
	snap.Workers = append(snap.Workers[:0], Worker{ID: "b", Model: "m", Slots: 1})
	snap.Version++
	if d := s.Decide(&Job{Model: "m"}); d.Worker != "b" || d.Snapshot != 2 {
		t.Errorf("got %+v", d)
	}
}

type failing struct{ Basic }

func (failing) Choose(context.Context, *View, *Job) (Choice, error) {
	return Choice{}, errors.New("no")
}

func TestPolicies(t *testing.T) {
	snap := &Snapshot{Version: 1, Workers: []Worker{{ID: "a", Node: "h", Model: "m", Slots: 2}, {ID: "b", Node: "h", Model: "m", Slots: 2}}, Hives: []Hive{{Name: "h", Devices: []Device{{ID: "0", Free: 10}}}},
		Needs: map[string]Need{"n": {Memory: 5}}}
	s := New(fixed(snap), Options{Policy: Basic{}})
	first, _, _ := s.Place(context.Background(), &Job{ID: "1", Model: "m"})
	second, _, _ := s.Place(context.Background(), &Job{ID: "2", Model: "m"})
	if first.Worker == second.Worker || first.Policy != "basic" {
		t.Errorf("least loaded: %+v then %+v", first, second)
	}
	if d := s.Decide(&Job{Model: "n"}); d.Action != Provision || d.Node != "h" {
		t.Errorf("most free memory: %+v", d)
	}
	if err := s.SetPolicy(failing{}); err != nil {
		t.Fatal(err)
	}
	if d := s.Decide(&Job{Model: "m"}); d.Action != Route || d.Policy != "default" || s.Policy().Fails != 1 {
		t.Errorf("fallback: %+v, %+v", d, s.Policy())
	}
	if err := New(fixed(snap), Options{Immutable: true}).SetPolicy(nil); !errors.Is(err, ErrImmutable) {
		t.Errorf("platform mode: %v", err)
	}
}

func TestRingIsBounded(t *testing.T) {
	r := NewRing(10)
	snap := &Snapshot{Version: 1, Workers: []Worker{{ID: "w", Model: "m", Slots: 1000}}}
	s := New(fixed(snap), Options{Recorder: r})
	for i := range 50 {
		if _, _, err := s.Place(context.Background(), &Job{ID: fmt.Sprint(i), Model: "m", PromptTokens: 1, Blocks: chain(i, 3)}); err != nil {
			t.Fatal(err)
		}
	}
	events := r.Events()
	if len(events) != 11 || events[0].Snapshot != snap || len(r.Of("49")) != 1 || len(r.Of("1")) != 0 {
		t.Errorf("%d events, of 49: %d, of 1: %d", len(events), len(r.Of("49")), len(r.Of("1")))
	}
	var b bytes.Buffer
	if err := WriteEvents(&b, events); err != nil {
		t.Fatal(err)
	}
	back, err := ReadEvents(&b)
	if err != nil || len(back) != len(events) || back[10].Job.ID != "49" || len(back[10].Job.Blocks) != 3 {
		t.Errorf("%d events came back, %v", len(back), err)
	}
}

// Whatever comes, a Ring keeps the latest events in their order, within both bounds.
func TestRingAgreesWithAList(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	shared := make([]uint64, ringBlocks/5)
	r, ids, sizes := NewRing(50), []string(nil), []int(nil)
	total := 0
	for i := range 3000 {
		job := &Job{ID: fmt.Sprint(i)}
		if i/300%2 == 1 { // stretches where the hashes are what fills it
			job.Blocks = shared[:rng.IntN(len(shared))]
		}
		ids, sizes, total = append(ids, job.ID), append(sizes, len(job.Blocks)), total+len(job.Blocks)
		for len(ids) > 50 || total > ringBlocks {
			ids, sizes, total = ids[1:], sizes[1:], total-sizes[0]
		}
		r.Record(Event{Job: job, Arrived: true, Decision: &Decision{}})
		var got []string
		for _, e := range r.Events() {
			got = append(got, e.Job.ID)
		}
		if !slices.Equal(got, ids) || len(r.Of(job.ID)) != 1 {
			t.Fatalf("after %d: %v, want %v", i, got, ids)
		}
	}
}

type taken struct{ n int }

func (l *taken) Reserve(context.Context, *Job, Decision) (func(), error) {
	if l.n--; l.n >= 0 {
		return nil, ErrTaken
	}
	return func() {}, nil
}

// A reservation that a shared ledger refuses leaves nothing behind.
func TestSharedLedger(t *testing.T) {
	snap := &Snapshot{Version: 1, Workers: []Worker{{ID: "w", Model: "m", Slots: 1}}}
	s := New(fixed(snap), Options{Ledger: &taken{n: 2}})
	if _, _, err := s.Place(context.Background(), &Job{ID: "1", Model: "m"}); !errors.Is(err, ErrTaken) {
		t.Fatalf("got %v", err)
	}
	if d, _, err := s.Place(context.Background(), &Job{ID: "1", Model: "m"}); err != nil || d.Action != Route {
		t.Errorf("got %+v %v", d, err)
	}
}

// A slot count of 20,000 costs no more than one of 2.
func TestHugeExternal(t *testing.T) {
	snap := &Snapshot{Version: 1, Workers: []Worker{{ID: "x", Model: "m", Slots: 20000, External: true}}}
	s := New(fixed(snap), Options{})
	var rels []Release
	for i := range 20000 {
		d, rel, err := s.Place(context.Background(), &Job{ID: fmt.Sprint(i), Model: "m", PromptTokens: 1000})
		if err != nil || d.Action != Route {
			t.Fatalf("%d: %+v %v", i, d, err)
		}
		rels = append(rels, rel)
	}
	if d := s.Decide(&Job{Model: "m"}); d.Action != Queue {
		t.Errorf("20,001st: %+v", d)
	}
	for _, r := range rels {
		r.Done()
	}
}

// A decision allocates nothing.
func TestDecideAllocatesNothing(t *testing.T) {
	s, jobs := benchFleet(100)
	i := 0
	if n := testing.AllocsPerRun(1000, func() { i++; s.Decide(jobs[i&255]) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
