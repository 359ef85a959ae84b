package sserelay

import (
	"context"
	"time"
)

// A short answer that its only reader waits for as a whole, on the goroutine that carries the job, is taken in as one group of
// frames when it is over: one lock of the stream, one of the journal, no window, no waking. Until then its frames are held, for a
// moment at most, and let go as soon as anybody else wants to see them.

const (
	// holdFor is how long frames are held at most; with the time that a journal may buffer a frame it is below a tenth of a second.
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
	if first && (!s.carried || s.unwatch != nil || len(s.readers) > 1 || len(s.readers) == 1 && !s.readers[0].whole) {
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
	if s.carried {
		s.group = b
	} else {
		s.hub.putBurst(b)
	}
	s.wake(true)
}

// carry has the stream written on this goroutine, whose caller is its reader r, until ctx ends. It returns the answer's frames if
// that was all.
func (s *Stream) carry(ctx context.Context, r *reader, fn func()) *burst {
	s.mu.Lock()
	s.carried = true
	s.mu.Unlock()
	s.hub.watchLater(carrier{s, r, ctx, time.Now().Add(holdFor)})
	defer func() { // fn may panic
		s.mu.Lock()
		s.carried = false
		stop := s.unwatch
		s.unwatch = nil
		s.mu.Unlock()
		if stop != nil {
			stop()
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

// carrier is a stream that its only reader carries, and when it does so for long.
type carrier struct {
	s   *Stream
	r   *reader
	ctx context.Context
	at  time.Time
}

// watchLater has an eye on a carrier once it turns out that it takes longer: short answers are not worth it.
func (h *Hub) watchLater(c carrier) {
	h.holds.Lock()
	defer h.holds.Unlock()
	h.carriers = append(h.carriers, c)
	if len(h.carriers) == 1 {
		time.AfterFunc(holdFor, h.watchDue)
	}
}

// watchDue does so; one timer serves all.
func (h *Hub) watchDue() {
	now := time.Now()
	h.holds.Lock()
	n := 0
	for n < len(h.carriers) && !now.Before(h.carriers[n].at) {
		n++
	}
	due := append(h.watched[:0], h.carriers[:n]...)
	left := copy(h.carriers, h.carriers[n:])
	clear(h.carriers[left:])
	h.carriers, h.watched = h.carriers[:left], nil
	if left > 0 { // soon enough for the next, and for those behind it together
		time.AfterFunc(max(h.carriers[0].at.Sub(now), holdFor/5), h.watchDue)
	}
	h.holds.Unlock()
	for _, c := range due {
		c.watch()
	}
	clear(due)
	h.holds.Lock()
	h.watched = due
	h.holds.Unlock()
}

// watch lets go of what the stream holds. From here on its reader does not count any more when its context ends.
func (c *carrier) watch() {
	c.s.mu.Lock()
	if c.s.carried && c.s.unwatch == nil {
		c.s.unwatch = context.AfterFunc(c.ctx, func() { c.s.leave(c.r) })
	}
	c.s.mu.Unlock()
	c.s.uncover()
}
