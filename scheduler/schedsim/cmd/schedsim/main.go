// Command schedsim runs a trace through the scheduler and its rivals and prints what each measured.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler"
	"github.com/queen-rbee/queen-rbee/scheduler/schedsim"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "schedsim:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("schedsim", flag.ContinueOnError)
	trace := fs.String("trace", "", "trace file: Mooncake's .jsonl or Azure's .csv; or gen:FAMILY for 2,000 requests of our own making ("+strings.Join(schedsim.Families(), ", ")+")")
	cfg := schedsim.Config{}
	fs.IntVar(&cfg.Workers, "workers", 4, "workers; with several models, devices")
	fs.IntVar(&cfg.Slots, "slots", 32, "slots of a worker")
	fs.IntVar(&cfg.CacheBlocks, "cache-blocks", 1000, "prefix cache of a worker in 512-token blocks")
	fs.Float64Var(&cfg.Prefill, "prefill", 8000, "prefill tokens/s")
	fs.Float64Var(&cfg.Decode, "decode", 50, "decode tokens/s of a slot")
	speeds := fs.String("speeds", "1", "factors of the workers' speeds, cyclic")
	fs.IntVar(&cfg.Models, "models", 1, "models; above 1 none is loaded at the start")
	fs.IntVar(&cfg.Hold, "hold", 2, "models that a device holds")
	load := fs.Duration("load", 8*time.Second, "time to load a model (size over bandwidth)")
	scale := fs.Float64("scale", 1, "stretch arrival times by this")
	spread := fs.Duration("spread", 3*time.Second, "spread the arrivals of one timestamp over this")
	skew := fs.Float64("skew", 0, "popularity of models: 0 = equal")
	policy := fs.String("policy", "all", "native, native-blind, native-plain, basic, shared-cache, a rival, or all")
	fs.Uint64Var(&cfg.Seed, "seed", 1, "seed")
	grid := fs.Bool("grid", false, "run the fleets of the grid over -trace (every family without it) and count where -policy (native) is behind the best rival")
	cells := fs.String("cells", "", "with -grid: only the cells whose family and name match this regular expression, with all that was measured")
	worst := fs.Int("worst", 12, "with -grid: the worst cells to list of each metric")
	format := fs.String("o", "table", "table, markdown or json")
	var w scheduler.Weights
	fs.Float64Var(&w.Uncached, "k", 0, "weight of uncached work; 0 = default")
	fs.Float64Var(&w.Size, "size", 0, "weight of a job's own size in its rank; 0 = default")
	fs.Float64Var(&w.Setback, "setback", 0, "most a job is set back, as a share of the longest wait; 0 = default")
	fs.Float64Var(&w.Linger, "linger", 0, "share of the load time that an idle worker is kept; 0 = default")
	fs.DurationVar(&w.Pace, "pace", 0, "prefill lookahead; 0 = default")
	fs.DurationVar(&w.Hold, "margin", 0, "by how much waiting must win; 0 = default")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *grid {
		return runGrid(out, *trace, *policy, *cells, w, *worst)
	}
	for f := range strings.SplitSeq(*speeds, ",") {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil || v <= 0 {
			return fmt.Errorf("-speeds: %q is not a positive number", f)
		}
		cfg.Speeds = append(cfg.Speeds, v)
	}
	if *trace == "" || cfg.Workers < 1 || cfg.Slots < 1 || cfg.Models < 1 || *scale <= 0 {
		return errors.New("-trace is needed; -workers, -slots, -models and -scale must be positive")
	}
	cfg.ModelBytes, cfg.Bandwidth = 8<<30, float64(8<<30)/load.Seconds()
	reqs, err := requests(*trace, cfg.Seed)
	if err != nil {
		return err
	}
	reqs = schedsim.Shape(reqs, *spread, *scale, cfg.Models, *skew, cfg.Seed)
	var results []*schedsim.Result
	for _, name := range names(*policy, cfg) {
		r, err := schedsim.Run(name, reqs, cfg, w)
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	return write(out, *format, results)
}

func requests(trace string, seed uint64) ([]schedsim.Request, error) {
	if family, ok := strings.CutPrefix(trace, "gen:"); ok {
		return schedsim.Synthetic(family, 2000, seed)
	}
	return schedsim.Load(trace)
}

func names(policy string, cfg schedsim.Config) []string {
	if policy != "all" {
		return strings.Split(policy, ",")
	}
	all := append([]string{"native"}, schedsim.Rivals()...)
	if cfg.Models == 1 {
		all = append(all, "shared-cache")
	}
	return all
}

func write(out io.Writer, format string, results []*schedsim.Result) error {
	switch format {
	case "json":
		return json.NewEncoder(out).Encode(results)
	case "markdown":
		return schedsim.Markdown(out, results)
	}
	_, err := fmt.Fprintf(out, "%-14s %6s %8s %8s %8s %8s %6s %6s %8s %6s %8s\n", "policy", "done", "p50 s", "p90 s", "p99 s", "max s", "hit %", "swaps", "swaps/h", "cold", "cold p50")
	for _, r := range results {
		if err == nil {
			_, err = fmt.Fprintf(out, "%-14s %6d %8.2f %8.2f %8.2f %8.2f %6.1f %6d %8.1f %6d %8.2f\n", r.Policy, r.Done, r.TTFT50, r.TTFT90, r.TTFT99, r.TTFTMax, r.Hit, r.Swaps, r.SwapsHour, r.Cold, r.ColdP50)
		}
	}
	return err
}

// runGrid counts the cells in which the policy is behind.
func runGrid(out io.Writer, trace, policy, cells string, w scheduler.Weights, worst int) error {
	only, err := regexp.Compile(cells)
	if err != nil {
		return fmt.Errorf("-cells: %w", err)
	}
	traces := []string{trace}
	if trace == "" {
		traces = traces[:0]
		for _, f := range schedsim.Families() {
			traces = append(traces, "gen:"+f)
		}
	}
	if policy == "all" {
		policy = "native"
	}
	var scores []schedsim.Score
	for _, t := range traces {
		some := slices.DeleteFunc(schedsim.Cells(), func(c schedsim.Cell) bool { return !only.MatchString(t + " " + c.Name) })
		each := func(c *schedsim.Cell, rs []*schedsim.Result) {
			fmt.Fprintln(out, t, c.Name)
			err = errors.Join(err, write(out, "table", rs))
		}
		if cells == "" {
			each = nil
		}
		s, failed := schedsim.Grid(policy, t, some, func(seed uint64) ([]schedsim.Request, error) { return requests(t, seed) }, w, each)
		if err = errors.Join(err, failed); err != nil {
			return err
		}
		scores = append(scores, s...)
	}
	return schedsim.WriteScores(out, scores, worst)
}
