package sserelay

import (
	"context"
	"time"
)

// A worker at full speed can be faster than a reader's goroutine is scheduled. Reading such a reader's frames back
// from the journal would cost more than letting the worker wait a moment, so it waits: for readers that keep moving,
// and no longer than their patience, which they get back when they have caught up. A slow reader uses its patience
// up once and holds nobody any more.

const (
	patience  = 100 * time.Millisecond
	oneWait   = 10 * time.Millisecond
	fullShare = 4 // waits begin when less than a quarter of the window is free
)

// crowded reports whether the window is nearly full.
func (s *Stream) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.win.size() > s.hub.o.Window-s.hub.o.Window/fullShare
}

// waitForReaders holds the writer while a reader that keeps moving has most of the window before it.
func (s *Stream) waitForReaders(ctx context.Context) {
	var timer *time.Timer
	for {
		s.mu.Lock()
		if s.holding(0) == 0 {
			s.mu.Unlock()
			return
		}
		if s.room == nil {
			s.room = make(chan struct{}, 1)
		}
		s.waiting = true
		s.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(oneWait)
			defer timer.Stop()
		} else {
			timer.Reset(oneWait)
		}
		begin := time.Now()
		select {
		case <-s.room:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		s.waiting = false
		s.holding(time.Since(begin))
		s.mu.Unlock()
	}
}

// holding counts the readers that the writer should wait for, and charges them all for the time that it waited; mu is held.
func (s *Stream) holding(waited time.Duration) (n int) {
	if s.win.len() == 0 || s.win.size() <= s.hub.o.Window/2 {
		return 0
	}
	middle := s.win.base + uint64(s.win.len())/2
	for _, r := range s.readers {
		if r.patience > 0 && r.pos >= s.win.base && r.pos < middle {
			r.patience -= waited
			n++
		}
	}
	return n
}

// moved notes a reader's progress; mu is held.
func (s *Stream) moved(r *reader) {
	if r.pos >= s.next {
		r.patience = patience
	}
	if s.waiting {
		select {
		case s.room <- struct{}{}:
		default:
		}
	}
}
