package modelstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Job is one model on its way, shared by all who asked for it.
type Job struct {
	id, ref string
	now     func() time.Time
	cancel  context.CancelCauseFunc
	total   atomic.Int64
	fetched atomic.Int64 // bytes that are there, earlier lives included
	hashed  atomic.Int64

	mu      sync.Mutex
	last    Progress
	changed chan struct{}
	done    chan struct{}
	model   Model
	err     error
	content map[string]bool // checksums that it is about
	mark    time.Time       // of the last rate
	marked  int64
}

func newJob(id, ref string, now func() time.Time, cancel context.CancelCauseFunc) *Job {
	return &Job{id: id, ref: ref, now: now, cancel: cancel, changed: make(chan struct{}), done: make(chan struct{}), content: map[string]bool{},
		last: Progress{ID: id, Ref: ref, State: Resolving, At: now()}}
}

// ID names the job.
func (j *Job) ID() string { return j.id }

// Ref is the reference that it is about.
func (j *Job) Ref() string { return j.ref }

// Wait returns when the model is ready or the job failed, or ctx ended. A waiter that leaves does not stop it.
func (j *Job) Wait(ctx context.Context) (Model, error) {
	select {
	case <-j.done:
		return j.model, j.err
	case <-ctx.Done():
		return Model{}, ctx.Err()
	}
}

// Cancel stops the job for all who wait. What was downloaded stays, for the next time.
func (j *Job) Cancel() { j.cancel(ErrCancelled) }

// Progress is its state now.
func (j *Job) Progress() Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.progressLocked()
}

func (j *Job) progressLocked() Progress {
	p := j.last
	if !p.State.Final() {
		p.BytesDone, p.BytesTotal = j.fetched.Load(), j.total.Load()
	}
	return p
}

// Events gives the state now and each later one up to the final one, then closes. A slow reader misses
// states in between, never the final one.
func (j *Job) Events(ctx context.Context) <-chan Progress {
	out := make(chan Progress)
	go func() {
		defer close(out)
		for {
			j.mu.Lock()
			p, changed := j.progressLocked(), j.changed
			j.mu.Unlock()
			select {
			case out <- p:
			case <-ctx.Done():
				return
			}
			if p.State.Final() {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (j *Job) set(change func(*Progress)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.last.State.Final() {
		return
	}
	change(&j.last)
	j.last.At = j.now()
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *Job) state(s State, file, message string) {
	j.set(func(p *Progress) { p.State, p.File, p.Message = s, file, message })
}

// tick tells how far the job is, with the rate of late.
func (j *Job) tick() {
	now, n := j.now(), j.fetched.Load()
	j.set(func(p *Progress) {
		if d := now.Sub(j.mark).Seconds(); !j.mark.IsZero() && d > 0 {
			rate := float64(n-j.marked) / d
			if p.Rate == 0 {
				p.Rate = rate
			}
			p.Rate += (rate - p.Rate) / 4
		}
		j.mark, j.marked = now, n
		p.ETA = 0
		if left := j.total.Load() - n; p.Rate > 0 && left > 0 {
			p.ETA = time.Duration(float64(left) / p.Rate * float64(time.Second))
		}
	})
}

// watch ticks until stop is closed.
func (j *Job) watch(stop <-chan struct{}) {
	t := time.NewTicker(250 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			j.tick()
		}
	}
}

func (j *Job) end(m Model, err error) {
	j.model, j.err = m, err
	j.set(func(p *Progress) {
		p.BytesDone, p.BytesTotal = j.fetched.Load(), j.total.Load()
		p.Rate, p.ETA, p.File, p.Err = 0, 0, "", err
		switch {
		case err == nil:
			p.State, p.Message = Ready, m.Choice
			p.BytesDone, p.BytesTotal = m.SizeBytes, m.SizeBytes
		case errors.Is(err, ErrCancelled):
			p.State, p.Message = Cancelled, err.Error()
		default:
			p.State, p.Message = Failed, err.Error()
		}
	})
	close(j.done)
}

// about says which content the job is about, so that it isn't removed under it.
func (j *Job) about(files []want) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range files {
		if f.SHA256 != "" {
			j.content[f.SHA256] = true
		}
	}
}

func (j *Job) needs(sum string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.content[sum]
}

func (j *Job) left() int64 { return max(0, j.total.Load()-j.fetched.Load()) }
