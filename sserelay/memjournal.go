package sserelay

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// MemoryOptions bound a MemoryJournal. The zero value is usable.
type MemoryOptions struct {
	MaxJobs int // finished jobs that are kept, oldest dropped first; 0 = 1,000
}

// MemoryJournal keeps frames in memory, for embedding without a database and for tests. Frames of a finished job stay
// until MaxJobs newer ones have finished, or Expire or Drop takes them.
type MemoryJournal struct {
	mu       sync.Mutex
	max      int
	jobs     map[string]*memJob
	finished []string
}

type memJob struct {
	frames []memFrame
	bytes  []byte
	at     time.Time
	ended  bool
}

type memFrame struct {
	off, size int
	meta      uint32
}

var (
	_ Journal = (*MemoryJournal)(nil)
	_ Bulk    = (*MemoryJournal)(nil)
)

// NewMemoryJournal returns an empty journal.
func NewMemoryJournal(o MemoryOptions) *MemoryJournal {
	if o.MaxJobs <= 0 {
		o.MaxJobs = 1000
	}
	return &MemoryJournal{max: o.MaxJobs, jobs: make(map[string]*memJob)}
}

// Append stores a frame.
func (j *MemoryJournal) Append(_ context.Context, job string, seq uint64, meta uint32, data []byte) error {
	return j.Buffer(job, seq, meta, data)
}

// Buffer stores a frame.
func (j *MemoryJournal) Buffer(job string, seq uint64, meta uint32, data []byte) error {
	return j.BufferAll(job, seq, []uint32{meta}, []int{len(data)}, data)
}

// BufferAll stores several frames of a job, one after the other in data.
func (j *MemoryJournal) BufferAll(job string, first uint64, metas []uint32, ends []int, data []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.jobs[job]
	if e == nil {
		e = &memJob{}
		j.jobs[job] = e
	}
	if want := uint64(len(e.frames)) + 1; first != want {
		return fmt.Errorf("frame %d of job %s does not follow frame %d", first, job, want-1)
	}
	off, at, over := len(e.bytes), 0, false
	e.bytes = append(e.bytes, data...)
	for i, end := range ends {
		e.frames = append(e.frames, memFrame{off: off + at, size: end - at, meta: metas[i]})
		at, over = end, over || Meta(metas[i]).Terminal()
	}
	e.at = time.Now()
	if over && !e.ended {
		e.ended = true
		j.finished = append(j.finished, job)
		j.evict()
	}
	return nil
}

// evict drops the oldest finished jobs; mu is held.
func (j *MemoryJournal) evict() {
	for len(j.finished) > j.max {
		delete(j.jobs, j.finished[0])
		j.finished = j.finished[1:]
	}
}

// Read passes the frames after a number.
func (j *MemoryJournal) Read(ctx context.Context, job string, after uint64, fn func(uint64, uint32, []byte) error) error {
	for seq := after + 1; ; seq++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		meta, data, ok := j.frame(job, seq)
		if !ok {
			return nil
		}
		if err := fn(seq, meta, data); err != nil {
			return err
		}
	}
}

// frame returns one frame; its bytes are never written again.
func (j *MemoryJournal) frame(job string, seq uint64) (uint32, []byte, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.jobs[job]
	if e == nil || seq == 0 || seq > uint64(len(e.frames)) {
		return 0, nil, false
	}
	f := e.frames[seq-1]
	return f.meta, e.bytes[f.off : f.off+f.size : f.off+f.size], true
}

// Expire drops the finished jobs whose last frame is older than before.
func (j *MemoryJournal) Expire(_ context.Context, before time.Time) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n, keep := 0, j.finished[:0]
	for _, job := range j.finished {
		if e := j.jobs[job]; e != nil && e.at.Before(before) {
			delete(j.jobs, job)
			n++
			continue
		}
		keep = append(keep, job)
	}
	j.finished = keep
	return n, nil
}

// Drop forgets a job.
func (j *MemoryJournal) Drop(_ context.Context, job string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.jobs, job)
	return nil
}
