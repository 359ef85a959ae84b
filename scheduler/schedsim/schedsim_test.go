package schedsim

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/queen-rbee/queen-rbee/scheduler"
)

// talk makes a trace of conversations: each turn repeats what came before.
func talk(n int, seed uint64) []Request {
	rng := rand.New(rand.NewPCG(seed, 5))
	var reqs []Request
	turns := make([]int, 60)
	at := time.Duration(0)
	for range n {
		at += time.Duration(rng.ExpFloat64() * float64(700*time.Millisecond))
		c := rng.IntN(len(turns))
		turns[c] = turns[c]%12 + 1
		r := Request{At: at, In: 512*2*turns[c] - rng.IntN(400), Out: 20 + rng.IntN(200)}
		for b := range 2 * turns[c] {
			r.Blocks = append(r.Blocks, uint64(c*1000+b+1))
		}
		reqs = append(reqs, r)
	}
	return reqs
}

func base() Config {
	return Config{Workers: 4, Slots: 4, CacheBlocks: 200, Prefill: 4000, Decode: 50, Models: 1, Hold: 2, ModelBytes: 8 << 30, Bandwidth: 2 << 30, Seed: 1}
}

var unexported = cmpopts.IgnoreUnexported(Result{})

// Equal inputs give equal results, and everything that was asked is answered within the limits.
func TestDeterministicAndSound(t *testing.T) {
	reqs := Shape(talk(800, 1), 0, 1, 1, 0, 1)
	many := base()
	many.Models, many.Workers = 5, 2
	manyReqs := Shape(talk(400, 2), 0, 8, 5, 0.5, 1)
	for _, name := range append([]string{"native", "native-blind", "native-plain", "native-eager", "basic"}, Rivals()...) {
		for i, cfg := range []Config{base(), many} {
			in := [][]Request{reqs, manyReqs}[i]
			a, err := Run(name, in, cfg, scheduler.Weights{})
			if err != nil {
				t.Fatal(err)
			}
			b, _ := Run(name, in, cfg, scheduler.Weights{})
			if diff := cmp.Diff(a, b, unexported); diff != "" {
				t.Errorf("%s: two equal runs differ: %s", name, diff)
			}
			if a.Done != len(in) || a.OverSlots+a.OverMemory+a.Rejected > 0 {
				t.Errorf("%s: %d of %d done, over slots %d, over memory %d, rejected %d", name, a.Done, len(in), a.OverSlots, a.OverMemory, a.Rejected)
			}
		}
	}
}

// On conversations of our own making the scheduler beats every rival in p50, p99 and hit rate.
func TestBeatsRivals(t *testing.T) {
	reqs := Shape(talk(1500, 3), 0, 1, 1, 0, 1)
	ours, err := Run("native", reqs, base(), scheduler.Weights{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Rivals() {
		r := RunRival(name, reqs, base())
		if ours.P50 > r.P50 || ours.P99 > r.P99 {
			t.Errorf("%s: TTFT %v and %v, ours %v and %v", name, r.P50, r.P99, ours.P50, ours.P99)
		}
	}
}

// On traffic of six kinds, each with its own scale for a busy fleet, the median ratio to the best of the rivals (per
// metric, so no one rival has to be best at both) is below 1, and no cell is far behind.
func TestFamilies(t *testing.T) {
	scale := map[string]float64{"agents": 0.09, "bursty": 0.13, "chat": 0.19, "diurnal": 0.26, "documents": 0.11, "tails": 0.13}
	p50s, p99s := 1.0, 1.0
	for _, name := range Families() {
		raw, err := Synthetic(name, 800, 9)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := Synthetic(name, 800, 9); !cmp.Equal(raw, again, cmp.AllowUnexported(Request{})) {
			t.Errorf("%s: equal seeds gave different requests", name)
		}
		cfg := Config{Workers: 4, Slots: 4, CacheBlocks: 1000, Prefill: 8000, Decode: 100, Models: 1, ModelBytes: 8, Bandwidth: 1, Seed: 1}
		reqs := Shape(raw, 0, scale[name], 1, 0, 1)
		ours, _ := Run("native", reqs, cfg, scheduler.Weights{})
		p50, p99 := math.Inf(1), math.Inf(1)
		for _, rival := range Rivals() {
			r := RunRival(rival, reqs, cfg)
			p50, p99 = min(p50, r.TTFT50), min(p99, r.TTFT99)
		}
		a, b := (ours.TTFT50+0.02)/(p50+0.02), (ours.TTFT99+0.02)/(p99+0.02)
		if a > 1.3 || b > 1.15 {
			t.Errorf("%s: p50 %.2fx and p99 %.2fx of the best rival's", name, a, b)
		}
		p50s, p99s = p50s*a, p99s*b
	}
	if n := float64(len(scale)); math.Pow(p50s, 1/n) > 0.95 || math.Pow(p99s, 1/n) > 0.85 {
		t.Errorf("over all: p50 %.2fx, p99 %.2fx of the best rival's", math.Pow(p50s, 1/n), math.Pow(p99s, 1/n))
	}
	if _, err := Synthetic("nope", 1, 1); err == nil {
		t.Error("an unknown family was taken")
	}
}

// Where every model has its place, further workers of a busy one come and go without throwing others out.
func TestNoThrash(t *testing.T) {
	for _, name := range []string{"agents", "diurnal", "tails"} {
		raw, err := Synthetic(name, 800, 9)
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{Workers: 3, Slots: 4, CacheBlocks: 1000, Prefill: 8000, Decode: 100, Models: 5, Hold: 2, ModelBytes: 8, Bandwidth: 1, Seed: 1}
		reqs := Shape(raw, 0, 0.2, 5, 0.5, 1)
		ours, _ := Run("native", reqs, cfg, scheduler.Weights{})
		rival := RunRival("least-loaded", reqs, cfg)
		if ours.Swaps > rival.Swaps || ours.P99 > rival.P99 || ours.P50 > rival.P50 {
			t.Errorf("%s: %d swaps, %v and %v against %d, %v and %v", name, ours.Swaps, ours.P50, ours.P99, rival.Swaps, rival.P50, rival.P99)
		}
	}
}

// The figures of issue 6 on the trace in ../shared.
func TestFigures(t *testing.T) {
	path := filepath.Join("..", "..", "..", "shared", "data", "traces", "mooncake-synthetic.jsonl")
	if _, err := os.Stat(path); err != nil {
		t.Skip("no test data: mooncake-synthetic.jsonl is not in ../shared/data/traces")
	}
	if testing.Short() {
		t.Skip("short")
	}
	reqs, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	reqs = Shape(reqs, 3*time.Second, 1, 1, 0, 1)
	blocks := []int{4000}
	if os.Getenv("RBEE_LONG") == "1" {
		blocks = append(blocks, 1000)
	}
	for _, n := range blocks {
		cfg := Config{Workers: 4, Slots: 32, CacheBlocks: n, Prefill: 8000, Decode: 50, Models: 1, ModelBytes: 1, Bandwidth: 1, Seed: 1}
		ours, _ := Run("native", reqs, cfg, scheduler.Weights{})
		bound := RunShared(reqs, cfg)
		p50, p99, hit := ours.TTFT50/bound.TTFT50, ours.TTFT99/bound.TTFT99, ours.Hit/bound.Hit
		t.Logf("%d blocks: p50 %.2fx, p99 %.2fx, hit %.0f%% of the shared cache", n, p50, p99, 100*hit)
		if p50 > 1.3 || p99 > 1.1 || hit < 0.85 {
			t.Errorf("%d blocks: p50 %.2fx (1.3), p99 %.2fx (1.1), hit %.2f (0.85)", n, p50, p99, hit)
		}
		for _, name := range Rivals() {
			if r := RunRival(name, reqs, cfg); ours.P50 > r.P50 || ours.P99 > r.P99 || ours.Hit < r.Hit {
				t.Errorf("%d blocks: %s is better somewhere: %v %v %.1f against %v %v %.1f", n, name, r.P50, r.P99, r.Hit, ours.P50, ours.P99, ours.Hit)
			}
		}
	}
}

// A recording of one scheduler replays under others, and comes out the same each time.
func TestReplay(t *testing.T) {
	ring := scheduler.NewRing(100000)
	reqs := Shape(talk(300, 4), 0, 6, 3, 0, 1)
	cfg := base()
	cfg.Models, cfg.Workers = 3, 2
	RunNative("recorded", reqs, cfg, func(o *scheduler.Options) { o.Recorder = ring })
	var file bytes.Buffer
	if err := scheduler.WriteEvents(&file, ring.Events()); err != nil {
		t.Fatal(err)
	}
	events, err := scheduler.ReadEvents(&file)
	if err != nil {
		t.Fatal(err)
	}
	run := func() *Comparison {
		c, err := Replay(events, 1, Contender{Name: "native"}, Contender{Name: "basic", Policy: scheduler.Basic{}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := run(), run()
	if diff := cmp.Diff(a, b, unexported); diff != "" {
		t.Error(diff)
	}
	if a.Jobs != 300 || a.Results[0].Done != 300 || a.Measured == 0 || a.Results[0].Loads == 0 {
		t.Errorf("%d jobs, %d speeds, %+v", a.Jobs, a.Measured, a.Results[0])
	}
	if a.Results[0].TTFTMean > a.Results[1].TTFTMean {
		t.Errorf("basic is better than native: %v against %v", a.Results[1].TTFTMean, a.Results[0].TTFTMean)
	}
	again := slices.Clone(events) // as of jobs that were placed again because what they were placed on had failed
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Arrived {
			again = slices.Insert(again, i+1, events[i])
		}
	}
	c, err := Replay(again, 1, Contender{Name: "native"}, Contender{Name: "basic", Policy: scheduler.Basic{}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, c, unexported); diff != "" {
		t.Error(diff)
	}
	if _, err := Replay(nil, 1); err == nil {
		t.Error("an empty recording must be refused")
	}
}

func TestReadTraces(t *testing.T) {
	reqs, err := ReadCSV(strings.NewReader("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"))
	if err != nil || len(reqs) != 2 || reqs[1].At.Round(time.Millisecond) != 4315*time.Millisecond || reqs[0].In != 374 {
		t.Errorf("%+v %v", reqs, err)
	}
	for _, bad := range []string{"", "{}x\n", `{"timestamp":-1}`, "[1]\n"} {
		if _, err := ReadJSONL(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	same := []Request{{At: time.Second}, {At: time.Second}, {At: time.Second}}
	if got := fmt.Sprint(Shape(same, 3*time.Second, 2, 1, 0, 1)[2].At); got != "6s" {
		t.Errorf("spread and stretched: %s", got)
	}
}

func FuzzReadJSONL(f *testing.F) {
	f.Add([]byte(`{"timestamp": 40, "input_length": 3, "output_length": 3, "hash_ids": [1, 2]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if reqs, err := ReadJSONL(bytes.NewReader(data)); err == nil && len(reqs) == 0 {
			t.Fatal("no requests and no error")
		}
	})
}
