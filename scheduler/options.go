package scheduler

import (
	"context"
	"log/slog"
	"time"
)

// Options tune a Scheduler; the zero value is the default policy with usable defaults.
type Options struct {
	Policy    Policy           // nil = the native policy
	Immutable bool             // platform mode: SetPolicy is refused
	Now       func() time.Time // the clock; nil = time.Now. A simulator passes its own
	Evictor   Evictor          // nil = nothing is ever evicted
	Ledger    Ledger           // nil = this process's memory is the whole truth
	Recorder  Recorder         // nil = nothing is recorded
	Logger    *slog.Logger     // nil = discard
	Seed      uint64           // ties are broken from it: equal seeds, equal decisions
	Hooks     Hooks
	Weights   Weights // of the native policy

	Window      int           // jobs of the line that Pick looks at; 0 = 128
	IndexBlocks int           // prefix blocks remembered in all; 0 = 1<<20
	Headroom    float64       // share of a device kept free when a model is placed; 0 = 0.1, negative = none
	LoadRate    float64       // bytes/s assumed for a load without a LoadTime; 0 = 1e9
	PrefillRate float64       // tokens/s assumed until learnt; 0 = 2000
	DecodeRate  float64       // tokens/s of one slot assumed until learnt; 0 = 30
	BatchDelay  time.Duration // how far behind interactive jobs a batch job ranks; 0 = 60 s
	Eager       bool          // never hold a job back while a worker has a free slot
}

// Hooks are called outside of the hot path; all optional.
type Hooks struct {
	PolicyFailed func(policy string, err error) // the native policy decided instead
	Decided      func(Decision, time.Duration)  // every Place and Pick that ended in an action, with its cost
}

// Evictor chooses what to stop so that need more bytes fit; compose adapts eviction.Plan. The
// candidates are idle, unpinned workers on that device, none of them in demand.
type Evictor interface {
	Plan(node, device string, need int64, candidates []Worker) (evict []string, penalty time.Duration, ok bool)
}

// Ledger is a reservation beyond this process (several queens on one database). It may block.
type Ledger interface {
	Reserve(ctx context.Context, job *Job, d Decision) (release func(), err error)
}

// Usable defaults for what Options leaves at zero.
func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	def := func(p *float64, v float64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.Headroom, 0.1)
	o.Headroom = max(o.Headroom, 0)
	def(&o.LoadRate, 1e9)
	def(&o.PrefillRate, 2000)
	def(&o.DecodeRate, 30)
	o.Weights = o.Weights.withDefaults()
	if o.Window <= 0 {
		o.Window = 128
	}
	if o.IndexBlocks <= 0 {
		o.IndexBlocks = 1 << 20
	}
	if o.BatchDelay == 0 {
		o.BatchDelay = time.Minute
	}
	return o
}
