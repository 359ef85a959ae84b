package sserelay

import (
	"context"
	"errors"
	"slices"
	"time"
)

// reader is one follower of a stream.
type reader struct {
	pos      uint64        // next frame it wants; guarded by the stream's mu
	wake     chan struct{} // nil before it waits
	whole    bool          // it wants the whole answer, and has shown nobody any of it
	native   bool          // it shows the frames that say who works; guarded by mu
	sv       *server       // its server while the writer may use it; guarded by mu
	patience time.Duration // how long the writer still waits for it; guarded by mu
}

// progress says where a reader stands after a scan.
type progress struct {
	more  bool // there are frames that it has not seen
	ended bool // it has seen all of an ended stream
}

// join adds a reader at the first frame.
func (s *Stream) join(whole bool) *reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.own
	if s.owned {
		r = new(reader)
	}
	s.owned = true
	*r = reader{pos: 1, whole: whole, patience: patience}
	if s.readers == nil {
		s.readers = s.first[:0]
	}
	s.readers = append(s.readers, r)
	if s.idleShut {
		s.idle, s.idleShut = nil, false
	}
	return r
}

// listen gives a reader what wakes it: it will wait. It sees all that came before.
func (s *Stream) listen(r *reader, native bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.wake, r.native = make(chan struct{}, 1), native
}

// leave removes a reader; the last one shuts the idle channel.
func (s *Stream) leave(r *reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.readers, r); i >= 0 {
		s.readers = slices.Delete(s.readers, i, i+1)
	}
	if len(s.readers) == 0 && s.ended && !s.gap {
		s.win.clear(s.next) // who comes now finds it in the journal
	}
	if len(s.readers) == 0 && !s.idleShut {
		if s.idle != nil {
			close(s.idle)
		}
		s.idleShut = true
		if fn := s.onIdle; fn != nil {
			s.onIdle = nil
			go fn() // it may call back, and the lock is held
		}
	}
}

// OnIdle calls fn once, on a goroutine of its own, when the last reader has gone; at once if it has gone already. A
// later call replaces a func that was not called yet; nil takes it back.
func (s *Stream) OnIdle(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idleShut && fn != nil {
		go fn()
		return
	}
	s.onIdle = fn
}

// Readers returns how many readers follow the stream now.
func (s *Stream) Readers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.readers)
}

// Idle returns a channel that is closed when the last reader has gone. A reader that comes back makes a new channel:
// call Idle again, and check Readers, after it was closed. A stream that never had a reader is not idle.
func (s *Stream) Idle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle == nil {
		s.idle = make(chan struct{})
		if s.idleShut {
			close(s.idle)
		}
	}
	return s.idle
}

// scan passes a reader the frames that it has not seen, from memory or from the journal, until fn returns false.
// Frames in memory are passed under the stream's lock: fn must not block.
func (s *Stream) scan(ctx context.Context, r *reader, fn func(seq uint64, m Meta, data []byte) bool) (progress, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r.pos < s.next && r.pos < s.win.base {
		if stop, err := s.scanJournal(ctx, r, fn); err != nil || stop {
			return progress{more: r.pos < s.next}, err
		}
	}
	for r.pos < s.next {
		m, data := s.win.at(r.pos)
		r.pos++
		if !fn(r.pos-1, m, data) {
			break
		}
	}
	s.moved(r)
	more := r.pos < s.next
	return progress{more: more, ended: s.ended && !more}, nil
}

// scanJournal reads what has left memory; it gives the lock back while it reads.
func (s *Stream) scanJournal(ctx context.Context, r *reader, fn func(uint64, Meta, []byte) bool) (stop bool, err error) {
	pos, upTo := r.pos, min(s.next, s.win.base)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		r.pos = pos
	}()
	const tries = 50
	for try := 0; pos < upTo; try++ {
		from := pos
		err = s.hub.journal.Read(ctx, s.id, pos-1, func(seq uint64, meta uint32, data []byte) error {
			if seq != pos {
				return notFound(s.id)
			}
			if pos == upTo {
				return errStop
			}
			pos++
			if stop = !fn(seq, Meta(meta), data); stop {
				return errStop
			}
			return nil
		})
		if stop {
			return true, nil
		}
		if pos > from {
			try = 0
			continue
		}
		// An attached stream's frame is announced a moment before it reaches the journal: look again before giving up.
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case try >= tries && (err == nil || errors.Is(err, ErrNotFound)):
			return false, notFound(s.id)
		case try >= tries:
			return false, NewError("INTERNAL", "the job's events could not be read; try again", err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return false, err
		}
	}
	return false, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// scanner passes every frame there is now, without counting as a reader.
type scanner struct {
	s   *Stream
	pos uint64
}

func (sc *scanner) all(ctx context.Context, fn func(m Meta, data []byte)) error {
	r := &reader{pos: sc.pos}
	for {
		p, err := sc.s.scan(ctx, r, func(_ uint64, m Meta, data []byte) bool {
			fn(m, data)
			return true
		})
		if err != nil || !p.more {
			return err
		}
	}
}
