package scheduler

import (
	"slices"
	"time"
)

// Record is one decision with what it was decided on, compact enough to keep many.
type Record struct {
	At       time.Time `json:"at"`
	Job      *Job      `json:"job"`
	Decision Decision  `json:"decision"`
}

func (s *Scheduler) record(job *Job, d *Decision, now int64) {
	if s.opts.Recorder != nil && d.Action != Queue {
		s.opts.Recorder.Decision(Record{At: s.at(now), Job: job, Decision: *d})
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
