package scheduler

import (
	"context"
	"time"
)

// Policy takes the native policy's place. Choose is called under the scheduler's lock: it must not
// block, and must not keep the View. What it chooses is checked (a free slot, the memory, the job's
// constraints); a choice that doesn't hold, or an error, is counted and the native policy decides.
type Policy interface {
	Info() PolicyInfo
	Choose(ctx context.Context, v *View, job *Job) (Choice, error)
}

// PolicyInfo names a policy.
type PolicyInfo struct {
	Name     string // "default" for the native one
	Hash     string // of its source
	Fails    uint64 // times that the native policy had to step in
	Language string // native, go, starlark, yaml
}

// Choice is what a policy answers. The zero value queues; Native leaves the decision to the native policy.
type Choice struct {
	Native       bool
	Action       Action
	Worker       string   // Route
	Node, Device string   // Provision; Device "" = the best fit on Node
	Evict        []string // Provision
	Code, Reason string   // Reject
}

// WorkerView is a worker as it stands now, ledger included, seen from one job.
type WorkerView struct {
	Worker
	InFlight      int           // our reservations
	FreeSlots     int           // for one more job, after the ledger
	PendingTokens int           // prompt tokens not yet prefilled, as far as we know
	Cached        int           // prompt tokens of this job that it should still have
	Busy          time.Duration // until its prefill is free
	TTFT          time.Duration // expected time to this job's first token there
	Cost          time.Duration // what the native policy minimises
	Kept          bool          // may take the job now
	Why           string        // why not
	Prefill       float64       // tokens/s, learnt or given
	Decode        float64       // tokens/s of a slot
}

// DeviceView is a device as it stands now, ledger included.
type DeviceView struct {
	Device
	Available int64 // after reservations of loads under way
	Evictable int64 // held by idle, unpinned workers
	Workers   int
}

// HiveView is a hive as it stands now, seen from one job.
type HiveView struct {
	Hive
	Views []DeviceView
	Kept  bool   // may load the job's model
	Why   string // why not
	Fits  string // the device that fits best without an eviction; "" = none
}

// View is what a policy sees: lazily made, valid during Choose only.
type View struct {
	s   *Scheduler
	job *Job
	now int64
	ws  []WorkerView
	hs  []HiveView
}

// Now is the scheduler's clock.
func (v *View) Now() time.Time { return v.s.at(v.now) }

// Snapshot is the fleet that is decided on.
func (v *View) Snapshot() *Snapshot { return v.s.snap }

// Native is what the default policy would do.
func (v *View) Native() Decision { return v.s.native(v.job, v.now) }

// Need is what loading a model takes.
func (v *View) Need(model string) (Need, bool) {
	n, ok := v.s.snap.Needs[model]
	return n, ok
}

// Waiting is the number of jobs of a model in the line, as of the last Pick; "" = all.
func (v *View) Waiting(model string) int {
	if model == "" {
		return v.s.lineLen
	}
	if m := v.s.models[model]; m != nil {
		return m.waiting
	}
	return 0
}

// Running counts our reservations by tenant and model; "" = any.
func (v *View) Running(tenant, model string) int {
	n := 0
	for i := range v.s.res {
		r := &v.s.res[i]
		if r.live && r.action == Route && (model == "" || r.model.name == model) && (tenant == "" || r.tenant == tenant) {
			n++
		}
	}
	return n
}

// Loaded counts the ready workers of a model.
func (v *View) Loaded(model string) int {
	if m := v.s.models[model]; m != nil {
		return v.s.usable(m)
	}
	return 0
}

// Workers are those of the job's model, each with what it would cost. They may be sorted, not changed.
func (v *View) Workers() []WorkerView {
	if v.ws == nil {
		v.ws = v.s.viewed(v.job, v.now)
	}
	return v.ws
}

// Hives are all hives with what they could load.
func (v *View) Hives() []HiveView {
	if v.hs == nil {
		v.hs = v.s.hiveViews(v.job, v.now)
	}
	return v.hs
}

// Basic is the pair of plain policies of the first plan: among idle workers with the model the least
// loaded one, else the hive with the most free memory.
type Basic struct{}

// Info names it.
func (Basic) Info() PolicyInfo { return PolicyInfo{Name: "basic", Hash: "builtin", Language: "go"} }

// Choose is LeastLoaded, then MostFreeMemory.
func (Basic) Choose(_ context.Context, v *View, _ *Job) (Choice, error) {
	if c, ok := LeastLoaded(v); ok {
		return c, nil
	}
	for _, w := range v.Workers() {
		if w.State == WorkerLoading || w.State == WorkerReady {
			return Choice{}, nil
		}
	}
	if c, ok := MostFreeMemory(v); ok {
		return c, nil
	}
	return Choice{Native: true}, nil
}

// LeastLoaded chooses the worker with the fewest requests among those that may take the job now.
func LeastLoaded(v *View) (Choice, bool) {
	best := -1
	ws := v.Workers()
	for i := range ws {
		if ws[i].Kept && (best < 0 || ws[i].InFlight < ws[best].InFlight) {
			best = i
		}
	}
	if best < 0 {
		return Choice{}, false
	}
	return Choice{Action: Route, Worker: ws[best].ID}, true
}

// MostFreeMemory chooses the hive with the most memory available for the job's model.
func MostFreeMemory(v *View) (Choice, bool) {
	var best *DeviceView
	node := ""
	hs := v.Hives()
	for i := range hs {
		for j := range hs[i].Views {
			d := &hs[i].Views[j]
			if hs[i].Kept && hs[i].Fits != "" && (best == nil || d.Available > best.Available) {
				best, node = d, hs[i].Name
			}
		}
	}
	if best == nil {
		return Choice{}, false
	}
	return Choice{Action: Provision, Node: node, Device: best.ID}, true
}
