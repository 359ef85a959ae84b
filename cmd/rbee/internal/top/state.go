// Package top draws the fleet on a terminal: hives with their memory, workers with their slots, the line and the jobs.
package top

import (
	"sort"
	"time"
)

// Device is a device of a hive, in bytes.
type Device struct {
	ID    string `json:"id"`
	Total int64  `json:"memory_total"`
	Free  int64  `json:"memory_free"`
}

// Hive is a machine.
type Hive struct {
	Name    string   `json:"node_name"`
	Status  string   `json:"status"`
	Devices []Device `json:"devices"`
	Message string   `json:"message"`
}

// Worker is an engine process.
type Worker struct {
	ID         string `json:"worker_id"`
	Model      string `json:"model"`
	Node       string `json:"node"`
	State      string `json:"state"`
	SlotsTotal int    `json:"slots_total"`
	SlotsFree  int    `json:"slots_free"`
	Memory     int64  `json:"memory_bytes"`
}

// Job is a job.
type Job struct {
	ID        string     `json:"job_id"`
	Model     string     `json:"model"`
	State     string     `json:"state"`
	Tenant    string     `json:"tenant_id"`
	Worker    string     `json:"worker_id"`
	Tokens    int        `json:"tokens_out"`
	Submitted *time.Time `json:"submitted_at"`
	First     *time.Time `json:"first_token_at"`
	Completed *time.Time `json:"completed_at"`
}

// Fleet is what is drawn.
type Fleet struct {
	Queen   string
	Version string
	Hives   []Hive
	Workers []Worker
	Jobs    []Job // queued, running, and the last that ended; newest first
	More    bool  // there are more queued jobs than were fetched
	Problem string
}

// window is the time over which tokens per second are counted.
const window = time.Minute

// Rate is the tokens that jobs delivered in the last minute, per second, over all workers or of one ("" = all). A job's
// tokens count from its first one to its end, so that a long answer does not appear at once.
func (f Fleet) Rate(worker string, now time.Time) (rate float64) {
	since := now.Add(-window)
	for _, j := range f.Jobs {
		if worker != "" && j.Worker != worker || j.First == nil || j.Completed == nil || j.Tokens == 0 || j.Completed.Before(since) {
			continue
		}
		took := j.Completed.Sub(*j.First)
		share := 1.0
		if took > 0 && j.First.Before(since) {
			share = float64(j.Completed.Sub(since)) / float64(took)
		}
		rate += float64(j.Tokens) * share / window.Seconds()
	}
	return rate
}

// Count is how many jobs are in a state.
func (f Fleet) Count(state string) (n int) {
	for _, j := range f.Jobs {
		if j.State == state {
			n++
		}
	}
	return n
}

// ordered sorts what is drawn: hives and workers by name, running jobs before queued and ended ones.
func (f *Fleet) ordered() {
	sort.SliceStable(f.Hives, func(i, k int) bool { return f.Hives[i].Name < f.Hives[k].Name })
	sort.SliceStable(f.Workers, func(i, k int) bool {
		a, b := f.Workers[i], f.Workers[k]
		return a.Node < b.Node || a.Node == b.Node && (a.Model < b.Model || a.Model == b.Model && a.ID < b.ID)
	})
	rank := map[string]int{"running": 0, "queued": 1}
	order := func(j Job) int {
		if r, ok := rank[j.State]; ok {
			return r
		}
		return 2
	}
	sort.SliceStable(f.Jobs, func(i, k int) bool { return order(f.Jobs[i]) < order(f.Jobs[k]) })
}
