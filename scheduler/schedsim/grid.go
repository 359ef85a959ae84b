package schedsim

import (
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

// Cell is one fleet under one load.
type Cell struct {
	Name   string
	Config Config
	Load   float64 // one model: share of the fleet's capacity that is asked for; several: seconds between requests
	Skew   float64 // popularity of the models
	Seed   uint64
}

// Cells are the fleets and loads that a grid runs one trace on: 36 with one model (1, 2 and 4 slots; equal and
// mixed speeds; three loads; two seeds) and 36 with five models (1, 2 and 3 devices that hold two; equal and
// unequal popularity; three loads; two seeds).
func Cells(seeds ...uint64) []Cell {
	if len(seeds) == 0 {
		seeds = []uint64{1, 2}
	}
	base := Config{Workers: 4, CacheBlocks: 1000, Prefill: 8000, Decode: 100, Models: 1, Hold: 2, ModelBytes: 8 << 30, Bandwidth: 1 << 30}
	var out []Cell
	for _, seed := range seeds {
		base.Seed = seed
		for _, slots := range []int{1, 2, 4} {
			for _, speeds := range [][]float64{{1}, {1, 0.5, 0.1}} {
				for _, load := range []float64{0.3, 0.7, 1.1} {
					c := base
					c.Slots, c.Speeds = slots, speeds
					out = append(out, Cell{fmt.Sprintf("slots=%d speeds=%v load=%v seed=%d", slots, speeds, load, seed), c, load, 0, seed})
				}
			}
		}
		for _, devices := range []int{1, 2, 3} {
			for _, skew := range []float64{0, 1} {
				for _, gap := range gaps(devices) {
					c := base
					c.Slots, c.Models, c.Workers = 4, 5, devices
					out = append(out, Cell{fmt.Sprintf("models=5 devices=%d skew=%v gap=%v seed=%d", devices, skew, gap, seed), c, gap, skew, seed})
				}
			}
		}
	}
	return out
}

// gaps are the mean seconds between requests: where not every model has a place, swaps take most of the time.
func gaps(devices int) []float64 {
	switch devices {
	case 1:
		return []float64{1, 3, 10}
	case 2:
		return []float64{0.5, 1.5, 5}
	}
	return []float64{0.15, 0.3, 1}
}

// reshape stretches a trace for a cell.
func (c *Cell) reshape(reqs []Request) []Request {
	span := (reqs[len(reqs)-1].At - reqs[0].At).Seconds()
	want := c.Load * float64(len(reqs))
	if c.Config.Models <= 1 {
		want = c.work(reqs) / c.Load
	}
	return Shape(reqs, 0, want/max(span, 1e-9), c.Config.Models, c.Skew, c.Seed)
}

// work is the time that the fleet needs for a trace when its caches hold everything: for the prefills, or for the
// slots where that is longer.
func (c *Cell) work(reqs []Request) float64 {
	seen := map[uint64]bool{}
	prefill, slot, speed := 0.0, 0.0, 0.0
	for i := range reqs {
		r, cached := &reqs[i], 0
		for cached < len(r.Blocks) && seen[r.Blocks[cached]] {
			cached++
		}
		for _, b := range r.Blocks[cached:] {
			seen[b] = true
		}
		took := float64(max(r.In-cached*r.block(), 1)) / c.Config.Prefill
		prefill += took
		slot += took + float64(r.Out)/c.Config.Decode
	}
	w := world{cfg: c.Config}
	for i := range c.Config.Workers {
		speed += w.speed(i)
	}
	return max(prefill, slot/float64(c.Config.Slots)) / speed
}

// Score compares a policy with the best of the rivals in one cell, each metric with the rival that is best at it.
type Score struct {
	Trace      string
	Cell       *Cell
	Ours, Best [4]float64 // as in Metrics
}

// metrics are what a grid compares; less is better in each.
var metrics = [4]string{"TTFT p50", "TTFT p99", "swaps/h", "cold first tokens"}

func (r *Result) metrics() [4]float64 {
	return [4]float64{r.TTFT50, r.TTFT99, r.SwapsHour, float64(r.Cold)}
}

// Ratio says how far behind the best rival a metric is; 1 = equal.
func (s *Score) Ratio(metric int) float64 {
	if s.Ours[metric] <= s.Best[metric] {
		return min(1, (s.Ours[metric]+1e-9)/(s.Best[metric]+1e-9))
	}
	return s.Ours[metric] / max(s.Best[metric], 1e-3)
}

// Grid runs a policy and the rivals on every cell over a trace; each, when given, sees every result of a cell.
func Grid(policy, trace string, cells []Cell, load func(seed uint64) ([]Request, error), w scheduler.Weights, each func(*Cell, []*Result)) ([]Score, error) {
	var out []Score
	for i := range cells {
		c := &cells[i]
		raw, err := load(c.Seed)
		if err != nil {
			return nil, err
		}
		reqs := c.reshape(raw)
		ours, err := Run(policy, reqs, c.Config, w)
		if err != nil {
			return nil, err
		}
		all := []*Result{ours}
		s := Score{Trace: trace, Cell: c, Ours: ours.metrics()}
		names := Rivals()
		if c.Config.Models > 1 {
			names = names[:1] // each model has one worker at most: they differ in nothing
		}
		for k, name := range names {
			r := RunRival(name, reqs, c.Config)
			all = append(all, r)
			m := r.metrics()
			for j := range m {
				if k == 0 || m[j] < s.Best[j] {
					s.Best[j] = m[j]
				}
			}
		}
		out = append(out, s)
		if each != nil {
			each(c, all)
		}
	}
	return out, nil
}

// WriteScores prints how often the policy is behind the best rival, by metric, at all and by more than 2 %, and the
// worst cells of each.
func WriteScores(out io.Writer, scores []Score, worst int) error {
	_, err := fmt.Fprintf(out, "| metric | cells | behind | by more than 2 %% | by more than 10 %% | worst | geometric mean |\n|---|---|---|---|---|---|---|\n")
	for m, name := range metrics {
		var behind, two, ten int
		top, sum := 0.0, 0.0
		for i := range scores {
			r := scores[i].Ratio(m)
			top = max(top, r)
			sum += math.Log(min(max(r, 0.01), 100))
			behind += count(r > 1)
			two += count(r > 1.02)
			ten += count(r > 1.1)
		}
		if err == nil {
			_, err = fmt.Fprintf(out, "| %s | %d | %d | %d | %d | %.2fx | %.2fx |\n", name, len(scores), behind, two, ten, top, math.Exp(sum/float64(max(len(scores), 1))))
		}
	}
	for m, name := range metrics {
		order := slices.Clone(scores)
		slices.SortStableFunc(order, func(a, b Score) int { return int(1e6 * (b.Ratio(m) - a.Ratio(m))) })
		for i := range order[:min(worst, len(order))] {
			s := &order[i]
			if r := s.Ratio(m); r > 1 && err == nil {
				_, err = fmt.Fprintf(out, "%-17s %5.2fx %9.3f %9.3f  %s %s\n", name, r, s.Ours[m], s.Best[m], s.Trace, s.Cell.Name)
			}
		}
	}
	return err
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}
