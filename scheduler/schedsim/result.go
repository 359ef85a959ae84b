package schedsim

import (
	"slices"
	"time"
)

// Result is what a run measured.
type Result struct {
	Policy      string        `json:"policy"`
	Requests    int           `json:"requests"`
	Done        int           `json:"done"`
	P50, P90    time.Duration `json:"-"`
	P99, Max    time.Duration `json:"-"`
	TTFT50      float64       `json:"ttft_p50_s"`
	TTFT90      float64       `json:"ttft_p90_s"`
	TTFT99      float64       `json:"ttft_p99_s"`
	TTFTMax     float64       `json:"ttft_max_s"`
	TTFTMean    float64       `json:"ttft_mean_s"`
	Hit         float64       `json:"hit_percent"`
	Loads       int           `json:"loads"`
	Swaps       int           `json:"swaps"` // loads that stopped another worker
	SwapsHour   float64       `json:"swaps_per_hour"`
	Cold        int           `json:"cold_first_tokens"` // requests that waited for a load
	ColdP50     float64       `json:"cold_ttft_p50_s"`
	Rejected    int           `json:"rejected"`
	OverSlots   int           `json:"over_slots"`
	OverMemory  int           `json:"over_memory"`
	End         time.Duration `json:"-"`
	ttft, cold  []time.Duration
	cached, all float64
}

func (r *Result) first(t *task, now time.Duration) {
	d := now - t.req.At
	r.ttft = append(r.ttft, d)
	if t.cold {
		r.cold = append(r.cold, d)
	}
	r.cached += float64(t.cached)
	r.all += float64(t.req.In)
	r.End = max(r.End, now)
}

func (r *Result) maxSlots(s *server) {
	if s.inflight > s.slots {
		r.OverSlots++
	}
}

func (r *Result) finish() *Result {
	slices.Sort(r.ttft)
	slices.Sort(r.cold)
	r.Done = len(r.ttft)
	if r.Done == 0 {
		return r
	}
	at := func(q float64) time.Duration { return r.ttft[min(int(q*float64(r.Done)), r.Done-1)] }
	r.P50, r.P90, r.P99, r.Max = at(.5), at(.9), at(.99), r.ttft[r.Done-1]
	r.TTFT50, r.TTFT90, r.TTFT99, r.TTFTMax = r.P50.Seconds(), r.P90.Seconds(), r.P99.Seconds(), r.Max.Seconds()
	for _, d := range r.ttft {
		r.TTFTMean += d.Seconds() / float64(r.Done)
	}
	if r.all > 0 {
		r.Hit = 100 * r.cached / r.all
	}
	r.Cold = len(r.cold)
	if r.Cold > 0 {
		r.ColdP50 = r.cold[r.Cold/2].Seconds()
	}
	if h := r.End.Hours(); h > 0 {
		r.SwapsHour = float64(r.Swaps) / h
	}
	return r
}
