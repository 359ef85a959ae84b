package schedsim

import (
	"fmt"
	"io"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

// Run runs a trace against a policy by name: native (the scheduler), native-blind (not told output
// lengths, cache sizes and rates), native-plain (driven without hints and first tokens), basic, a rival,
// or shared-cache (the bound).
func Run(name string, reqs []Request, cfg Config, w scheduler.Weights) (*Result, error) {
	tune := func(o *scheduler.Options) { o.Weights = w }
	switch name {
	case "native":
	case "native-blind":
		cfg.Blind = true
	case "native-plain":
		cfg.Plain = true
	case "native-blind-plain":
		cfg.Blind, cfg.Plain = true, true
	case "native-eager":
		tune = func(o *scheduler.Options) { o.Weights, o.Eager = w, true }
	case "basic":
		tune = func(o *scheduler.Options) { o.Policy = scheduler.Basic{} }
	case "shared-cache":
		return RunShared(reqs, cfg), nil
	default:
		if r := RunRival(name, reqs, cfg); r != nil {
			return r, nil
		}
		return nil, fmt.Errorf("schedsim: there is no policy %q", name)
	}
	return RunNative(name, reqs, cfg, tune), nil
}

// Markdown writes a table.
func Markdown(out io.Writer, results []*Result) error {
	_, err := fmt.Fprint(out, "| policy | TTFT p50 s | p99 s | max s | hit % | swaps/h | cold first tokens | cold p50 s |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range results {
		if err == nil {
			_, err = fmt.Fprintf(out, "| %s | %.2f | %.2f | %.2f | %.1f | %.1f | %d | %.1f |\n", r.Policy, r.TTFT50, r.TTFT99, r.TTFTMax, r.Hit, r.SwapsHour, r.Cold, r.ColdP50)
		}
	}
	return err
}
