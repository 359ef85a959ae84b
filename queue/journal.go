package queue

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Journal keeps the frames of event streams, each stream being one job's. Frames of a stream have consecutive
// sequence numbers, from 1; a frame that does not follow the last one is refused with ErrDiverged. The journal looks
// into neither meta nor data, and keeps copies of its own.
type Journal interface {
	// Append adds a frame and returns when a crash of the process can't lose it.
	Append(ctx context.Context, job string, seq uint64, meta uint32, data []byte) error
	// Buffer adds a frame that a crash of the process may lose for at most 100 ms. Readers see it at once.
	Buffer(job string, seq uint64, meta uint32, data []byte) error
	// Flush ends the time in which a crash may lose what was buffered before.
	Flush() error
	// Read calls fn for every frame after the given sequence number that exists now. data is valid during the call
	// and not to be changed. An error of fn ends the reading and is returned. A position beyond the end is ErrDiverged.
	Read(ctx context.Context, job string, after uint64, fn func(seq uint64, meta uint32, data []byte) error) error
	// Tail is Read that goes on with frames as they come, until ctx ends or fn fails.
	Tail(ctx context.Context, job string, after uint64, fn func(seq uint64, meta uint32, data []byte) error) error
	// End returns the last frame's number and meta, and the epoch in which the stream was last written; zeros when
	// there is none.
	End(ctx context.Context, job string) (last uint64, meta uint32, epoch uint64, err error)
	// Epoch is raised every time the journal is opened.
	Epoch() uint64
	// Recovered returns the last frame that was there when the current epoch began, and the epoch it is from: ids
	// beyond it that a reader saw in an earlier epoch are not what the journal holds now. Zeros: nothing was there.
	Recovered(ctx context.Context, job string) (last uint64, epoch uint64, err error)
	// Expire drops the streams that were last written before the given time and counts them.
	Expire(ctx context.Context, before time.Time) (int, error)
	// Drop forgets a stream.
	Drop(ctx context.Context, job string) error
	// Close makes everything durable and releases the journal.
	Close() error
}

// MemoryJournal is a Journal that lives as long as its process.
type MemoryJournal struct {
	mu      sync.Mutex
	streams map[string]*memStream
	clock   func() time.Time
	epoch   uint64
	closed  bool
}

type memFrame struct {
	meta uint32
	data []byte
}

type memStream struct {
	frames    []memFrame
	last      time.Time
	epoch     uint64
	recovered uint64 // last frame when the current epoch began
	before    uint64 // the epoch of that frame
	more      chan struct{}
}

var _ Journal = (*MemoryJournal)(nil)

// NewMemoryJournal returns an empty journal. clock may be nil; a clock given here must not step.
func NewMemoryJournal(clock func() time.Time) *MemoryJournal {
	if clock == nil {
		clock = SystemClock()
	}
	return &MemoryJournal{streams: map[string]*memStream{}, clock: clock, epoch: 1}
}

// Reopen begins a new epoch, as if the process had been restarted; for tests.
func (m *MemoryJournal) Reopen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch++
	m.closed = false
	for _, s := range m.streams {
		s.recovered, s.before = uint64(len(s.frames)), s.epoch
	}
}

// Cutoff brings a moment that a caller computed from time.Now onto a steady clock that now reads now, so that a step
// of the system clock between the two makes nothing look old. A time of another clock is returned as it is.
func Cutoff(before, now time.Time) time.Time {
	if before == before.Round(0) { // no monotonic reading
		return before
	}
	return now.Add(-time.Since(before))
}

// Append implements Journal.
func (m *MemoryJournal) Append(ctx context.Context, job string, seq uint64, meta uint32, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return m.Buffer(job, seq, meta, data)
}

// Buffer implements Journal.
func (m *MemoryJournal) Buffer(job string, seq uint64, meta uint32, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	s := m.streams[job]
	have := uint64(0)
	if s != nil {
		have = uint64(len(s.frames))
	}
	if seq != have+1 {
		return OutOfOrder(job, seq, have)
	}
	if s == nil {
		s = &memStream{}
		m.streams[job] = s
	}
	s.frames = append(s.frames, memFrame{meta, append([]byte(nil), data...)})
	s.last, s.epoch = m.clock(), m.epoch
	if s.more != nil {
		close(s.more)
		s.more = nil
	}
	return nil
}

// Flush implements Journal.
func (m *MemoryJournal) Flush() error { return nil }

// OutOfOrder is the ErrDiverged of a frame that does not follow the last one.
func OutOfOrder(job string, seq, last uint64) error {
	return fmt.Errorf("%w (frame %d of %s does not follow %d)", ErrDiverged, seq, job, last)
}

// BeyondEnd is the ErrDiverged of a position after the last frame.
func BeyondEnd(job string, after, last uint64) error {
	return fmt.Errorf("%w (%s ends at frame %d, before %d)", ErrDiverged, job, last, after)
}

// slice returns the frames after a position.
func (m *MemoryJournal) slice(job string, after uint64, wait bool) ([]memFrame, chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, nil, ErrClosed
	}
	s := m.streams[job]
	if s == nil {
		if after > 0 {
			return nil, nil, BeyondEnd(job, after, 0)
		}
		if !wait {
			return nil, nil, nil
		}
		s = &memStream{}
		m.streams[job] = s
	}
	if after > uint64(len(s.frames)) {
		return nil, nil, BeyondEnd(job, after, uint64(len(s.frames)))
	}
	if wait && s.more == nil {
		s.more = make(chan struct{})
	}
	return s.frames[after:], s.more, nil
}

// Read implements Journal.
func (m *MemoryJournal) Read(ctx context.Context, job string, after uint64, fn func(uint64, uint32, []byte) error) error {
	frames, _, err := m.slice(job, after, false)
	if err != nil {
		return err
	}
	return each(ctx, frames, after, fn)
}

func each(ctx context.Context, frames []memFrame, after uint64, fn func(uint64, uint32, []byte) error) error {
	for i, f := range frames {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(after+uint64(i)+1, f.meta, f.data); err != nil {
			return err
		}
	}
	return nil
}

// Tail implements Journal.
func (m *MemoryJournal) Tail(ctx context.Context, job string, after uint64, fn func(uint64, uint32, []byte) error) error {
	for {
		frames, more, err := m.slice(job, after, true)
		if err != nil {
			return err
		}
		if err := each(ctx, frames, after, fn); err != nil {
			return err
		}
		after += uint64(len(frames))
		if len(frames) > 0 {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// End implements Journal.
func (m *MemoryJournal) End(_ context.Context, job string) (last uint64, meta uint32, epoch uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[job]
	if s == nil || len(s.frames) == 0 {
		return 0, 0, 0, nil
	}
	n := len(s.frames)
	return uint64(n), s.frames[n-1].meta, s.epoch, nil
}

// Epoch implements Journal.
func (m *MemoryJournal) Epoch() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch
}

// Recovered implements Journal.
func (m *MemoryJournal) Recovered(_ context.Context, job string) (last uint64, epoch uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.streams[job]; s != nil {
		return s.recovered, s.before, nil
	}
	return 0, 0, nil
}

// Expire implements Journal.
func (m *MemoryJournal) Expire(ctx context.Context, before time.Time) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	before = Cutoff(before, m.clock())
	for job, s := range m.streams {
		if len(s.frames) > 0 && s.last.Before(before) {
			m.drop(job)
			n++
		}
	}
	return n, ctx.Err()
}

// Drop implements Journal.
func (m *MemoryJournal) Drop(ctx context.Context, job string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(job)
	return ctx.Err()
}

func (m *MemoryJournal) drop(job string) {
	if s := m.streams[job]; s != nil {
		if s.more != nil {
			close(s.more)
		}
		delete(m.streams, job)
	}
}

// Close implements Journal.
func (m *MemoryJournal) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, s := range m.streams {
		if s.more != nil {
			close(s.more)
			s.more = nil
		}
	}
	return nil
}
