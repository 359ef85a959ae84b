package router

import (
	"context"
	"fmt"
	"time"
)

// Handle is a job that the router holds.
type Handle struct{ t *task }

// ID is the job's id.
func (h *Handle) ID() string { return h.t.job.ID }

// Job is the job itself; read only.
func (h *Handle) Job() *Job { return h.t.job }

// Carry runs an Inline job on the caller's goroutine, to its end or until it has to wait for another slot. It returns at
// once, with false, for a job that is carried already. A job's submitter calls it, once.
func (h *Handle) Carry() bool {
	res := h.t.own
	if res == nil {
		return false
	}
	h.t.own = nil
	h.t.carry(res)
	return true
}

// Stream is the job's event stream.
func (h *Handle) Stream() (Stream, error) { return h.t.open() }

// Committed returns once the job is stored, so that it may be acknowledged.
func (h *Handle) Committed(ctx context.Context) error {
	if h.t.pending == nil {
		return nil
	}
	return h.t.pending.Wait(ctx)
}

// Position is the place in the line, from 1; 0 when the job does not wait.
func (h *Handle) Position() int {
	r := h.t.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.t.state != lined {
		return 0
	}
	return h.t.pos
}

// Worker is where the job runs or ran last.
func (h *Handle) Worker() (id, node string) {
	h.t.mu.Lock()
	defer h.t.mu.Unlock()
	return h.t.worker.ID, h.t.worker.Node
}

// QueueTime is how long the job waited before it was first posted; so far, when it still does.
func (h *Handle) QueueTime() time.Duration {
	h.t.mu.Lock()
	defer h.t.mu.Unlock()
	if h.t.started.IsZero() {
		return time.Since(h.t.job.Submitted)
	}
	return h.t.started.Sub(h.t.job.Submitted)
}

// Loading tells about the load that the job waits for.
func (h *Handle) Loading() (Loading, bool) {
	r := h.t.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.t.state != lined || h.t.load == nil {
		return Loading{}, false
	}
	return h.t.load.state(), true
}

// LoadingError is the answer for a caller that can't be kept waiting: MODEL_LOADING with its details, or nil when the job
// does not wait for a load.
func (h *Handle) LoadingError() error {
	l, ok := h.Loading()
	if !ok {
		return nil
	}
	after := min(max(l.ETA, time.Second), time.Minute)
	e := refuse(CodeLoading, after, nil, "%s", fmt.Sprintf("model %s is being loaded on %s; retry in %s, or stream to be kept waiting",
		l.Model, orText(l.Node, "a hive"), after.Round(time.Second)))
	e.details = map[string]any{"loading": map[string]any{"model": l.Model, "node": l.Node, "state": orText(l.State, "loading"), "progress": l.Fraction,
		"bytes_done": l.BytesDone, "bytes_total": l.BytesTotal, "eta_seconds": l.ETA.Seconds()}}
	return e
}

// Done is closed once the job has ended and is settled.
func (h *Handle) Done() <-chan struct{} { return h.t.ended() }

// Result is how the job ended; valid after Done. Its State is empty for a detached job that was left to the next queen.
func (h *Handle) Result() Result { return h.t.final }
