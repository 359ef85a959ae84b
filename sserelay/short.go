package sserelay

import (
	"context"
	"time"
)

// A short answer that its only reader waits for as a whole, on the goroutine that carries the job, is taken in as one group of
// frames when it is over: one lock of the stream, one of the journal, no window, no waking. Until then its frames are held, for a
// moment at most, and let go as soon as anybody else wants to see them.

const (
	// holdFor is how long frames are held at most; with the time that a journal may buffer a frame it is below a tenth of a second. A
	// reader's going is noticed after that time, and then at once.
	holdFor = 25 * time.Millisecond
	// holdBytes is how large an answer may be that is held.
	holdBytes = 32 << 10
)

// keep appends a frame that build appends to the group, unless it is one for emit. wmu is held.
func (s *Stream) keep(m Meta, size int, build func([]byte) []byte) bool {
	b := s.held
	switch {
	case s.ended || s.replay:
		return false
	case b != nil && len(b.data)+size > holdBytes:
		return false
	case b == nil && (m.Kind() != KindStarted || s.o.Detached || s.hub.bulk == nil || s.state.lost || s.next > 1):
		return false
	}
	s.mu.Lock()
	first := b == nil
	if first && (s.carried == nil || len(s.readers) > 1 || len(s.readers) == 1 && !s.readers[0].whole) {
		s.mu.Unlock()
		return false
	}
	s.kept++
	s.mu.Unlock()
	if first {
		b = s.hub.burst()
		s.held = b
	}
	b.data = build(b.data)
	b.metas = append(b.metas, uint32(m))
	b.ends = append(b.ends, len(b.data))
	return true
}

// letGo shows the frames that are held to the journal and to readers. wmu is held.
func (s *Stream) letGo() {
	b := s.held
	if b == nil {
		return
	}
	s.held = nil
	s.bufferAll(b)
	s.mu.Lock()
	s.kept = 0
	s.push(b)
	s.wake(false)
	s.mu.Unlock()
	s.hub.putBurst(b)
}

// uncover has a reader see what is held.
func (s *Stream) uncover() {
	s.mu.Lock()
	kept := s.kept
	s.mu.Unlock()
	if kept > 0 {
		s.wmu.Lock()
		defer s.wmu.Unlock()
		s.letGo()
	}
}

// endGroup ends a stream whose frames are held; the last of them is terminal and says r, or failure. wmu is held.
func (s *Stream) endGroup(r Result, failure *Error) {
	b := s.held
	s.held = nil
	s.bufferAll(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = 0
	if s.state.lost {
		s.push(b)
	} else {
		s.next += uint64(len(b.metas))
		s.win.clear(s.next)
	}
	s.result, s.failure = r, failure
	s.finish()
	if s.carried != nil {
		s.group = b
	} else {
		s.hub.putBurst(b)
	}
	s.wake(true)
}

// carrying is a stream that its reader's goroutine writes. Only one that takes longer than a moment is worth watching: its frames
// are let go, and its reader leaves when the context that it waits with ends.
type carrying struct {
	s     *Stream
	r     *reader
	ctx   context.Context
	begun time.Time
	stop  func() bool // of the watch over ctx; guarded by the stream's mu
}

// carry has the stream written on this goroutine, whose caller is its reader. It returns the answer's frames if that was all.
func (s *Stream) carry(ctx context.Context, r *reader, fn func()) *burst {
	c := &carrying{s: s, r: r, ctx: ctx, begun: time.Now()}
	s.mu.Lock()
	s.carried = c
	s.mu.Unlock()
	s.hub.watch(c)
	defer func() { // fn may panic
		s.mu.Lock()
		s.carried = nil
		s.mu.Unlock()
		if c.stop != nil {
			c.stop()
		}
	}()
	fn()
	s.mu.Lock()
	b := s.group
	s.group = nil
	s.mu.Unlock()
	if b == nil {
		s.uncover()
	}
	return b
}

// answerOf puts the answer together from all frames of a stream, which are given back.
func (s *Stream) answerOf(b *burst, v View) (*Answer, error) {
	defer s.hub.putBurst(b)
	g := s.newGatherer(v)
	if a := g.plain(b); a != nil {
		return a, nil
	}
	at := 0
	for i, end := range b.ends {
		g.take(0, Meta(b.metas[i]), b.data[at:end])
		at = end
	}
	switch {
	case g.failed != nil && g.refusal != nil:
		return g.refusal, nil
	case g.failed != nil:
		return nil, g.failed
	}
	return g.answer(), nil
}

// plain returns the answer where a worker's body is all that it takes.
func (g *gatherer) plain(b *burst) *Answer {
	if len(b.metas) != 3 || b.body == nil {
		return nil
	}
	m := Meta(b.metas[1])
	if m.has(flagRefusal) || Meta(b.metas[2]).Kind() != KindEnd || !g.wants(m.Protocol()) && m.Protocol() != Raw && m.Protocol() != Bytes {
		return nil
	}
	return wholeAnswer(b.header, b.body)
}

// wholeAnswer is a worker's own body.
func wholeAnswer(h bodyHeader, body []byte) *Answer {
	if h.ContentType == "" {
		h.ContentType = "application/json"
	}
	return &Answer{Status: h.Status, ContentType: h.ContentType, Body: body}
}

// watch has a stream that is being carried looked at when it has taken long enough.
func (h *Hub) watch(c *carrying) {
	h.holds.Lock()
	defer h.holds.Unlock()
	h.holding = append(h.holding, c)
	if len(h.holding) == 1 {
		time.AfterFunc(holdFor, h.look)
	}
}

// look does so for all whose time has come; one timer serves them all, and not more often than it must.
func (h *Hub) look() {
	now := time.Now()
	h.holds.Lock()
	n := 0
	for n < len(h.holding) && now.Sub(h.holding[n].begun) >= holdFor {
		n++
	}
	due := append(h.letting[:0], h.holding[:n]...)
	left := copy(h.holding, h.holding[n:])
	clear(h.holding[left:])
	h.holding, h.letting = h.holding[:left], nil
	if left > 0 {
		time.AfterFunc(max(holdFor-now.Sub(h.holding[0].begun), holdFor/5), h.look)
	}
	h.holds.Unlock()
	for _, c := range due {
		c.late()
	}
	clear(due)
	h.holds.Lock()
	h.letting = due
	h.holds.Unlock()
}

// late has the frames shown and the reader's context watched, if the stream is still being carried.
func (c *carrying) late() {
	s := c.s
	s.mu.Lock()
	still := s.carried == c
	if still {
		c.stop = context.AfterFunc(c.ctx, func() { s.leave(c.r) })
	}
	s.mu.Unlock()
	if still {
		s.uncover()
	}
}
