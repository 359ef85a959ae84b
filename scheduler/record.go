package scheduler

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Event is one entry of a recording: a snapshot, a job that arrived, a decision, or what an attempt took.
type Event struct {
	At          time.Time    `json:"at"`
	Snapshot    *Snapshot    `json:"snapshot,omitempty"`
	Job         *Job         `json:"job,omitempty"` // with Arrived: the whole job; else its id and model
	Arrived     bool         `json:"arrived,omitempty"`
	Decision    *Decision    `json:"decision,omitempty"`
	Observation *Observation `json:"observation,omitempty"`
}

// Recorder receives every event, under the scheduler's lock: it must not block. See Ring.
type Recorder interface{ Record(Event) }

func (s *Scheduler) record(job *Job, d *Decision, now int64, arrived bool) {
	if s.opts.Recorder == nil {
		return
	}
	e := Event{At: s.at(now), Decision: new(Decision), Arrived: arrived}
	*e.Decision = *d
	if arrived {
		e.Job = job
	} else {
		e.Job = &Job{ID: job.ID, Model: job.Model}
	}
	s.opts.Recorder.Record(e)
}

// recordSnapshot notes a change of the fleet.
func (s *Scheduler) recordSnapshot() {
	if s.opts.Recorder != nil {
		s.opts.Recorder.Record(Event{At: s.at(s.now()), Snapshot: s.snap})
	}
}

// Ring is a Recorder that keeps the latest events in memory, bounded in number and in prefix hashes. It
// holds no prompts: a job's record has sizes, labels and hashes.
type Ring struct {
	mu     sync.Mutex
	events []Event // a ring once it is full: the oldest is at start
	start  int
	n      int
	blocks int
	max    int
	base   *Event // the snapshot that was in force before the first event kept
}

// ringBlocks bounds the prefix hashes that a Ring keeps in all (8 MiB).
const ringBlocks = 1 << 20

// NewRing keeps up to max events; 0 = 10,000.
func NewRing(max int) *Ring {
	if max <= 0 {
		max = 10_000
	}
	return &Ring{max: max}
}

// Record implements Recorder.
func (r *Ring) Record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.n > 0 && (r.n >= r.max || r.blocks+e.blocks() > ringBlocks) {
		r.drop()
	}
	if r.n < len(r.events) {
		r.events[(r.start+r.n)%len(r.events)] = e
	} else { // it still grows
		if r.start > 0 {
			r.events, r.start = slices.Concat(r.events[r.start:], r.events[:r.start]), 0
		}
		r.events = append(r.events, e)
	}
	r.n++
	r.blocks += e.blocks()
}

// drop forgets the oldest event.
func (r *Ring) drop() {
	old := &r.events[r.start]
	r.blocks -= old.blocks()
	if old.Snapshot != nil {
		kept := *old
		r.base = &kept
	}
	*old = Event{}
	r.start = (r.start + 1) % len(r.events)
	r.n--
	if r.n == 0 {
		r.events, r.start = r.events[:0], 0
	}
}

func (e *Event) blocks() int {
	if e.Arrived && e.Job != nil {
		return len(e.Job.Blocks)
	}
	return 0
}

// Events are those kept, oldest first, beginning with the snapshot in force.
func (r *Ring) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Event
	if r.base != nil {
		out = append(out, *r.base)
	}
	for i := range r.n {
		out = append(out, r.events[(r.start+i)%len(r.events)])
	}
	return out
}

// Of are the decisions about one job that are still kept.
func (r *Ring) Of(jobID string) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Event
	for i := range r.n {
		if e := &r.events[(r.start+i)%len(r.events)]; e.Decision != nil && e.Job != nil && e.Job.ID == jobID {
			out = append(out, *e)
		}
	}
	return out
}

// WriteEvents writes a recording, one JSON object a line.
func WriteEvents(w io.Writer, events []Event) error {
	enc := json.NewEncoder(w)
	for i := range events {
		e := events[i]
		if o := e.Observation; o != nil && o.Job != nil {
			c := *o
			c.Job = &Job{ID: o.Job.ID, Model: o.Job.Model}
			e.Observation = &c
		}
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("scheduler: write the recording: %w", err)
		}
	}
	return nil
}

// ReadEvents reads a recording; lines of more than 16 MiB and more than a million of them are refused.
func ReadEvents(r io.Reader) ([]Event, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	var out []Event
	for n := 1; sc.Scan(); n++ {
		if len(sc.Bytes()) == 0 {
			continue
		}
		var e Event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("scheduler: recording, line %d: %w", n, err)
		}
		if out = append(out, e); len(out) > 1_000_000 {
			return nil, fmt.Errorf("scheduler: recording: more than %d events", 1_000_000)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("scheduler: recording: %w", err)
	}
	return out, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
