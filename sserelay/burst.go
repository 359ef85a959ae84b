package sserelay

// burst is what one read of a worker's stream brought, taken in together: one lock of the stream and one of the journal
// for all of it.
type burst struct {
	data  []byte
	metas []uint32
	ends  []int // of each frame in data

	header bodyHeader // of the last body frame in a group that is held
	body   []byte     // its bytes, as the worker's connection gave them
}

const (
	burstFrames = 256
	burstBytes  = 32 << 10
)

func (b *burst) add(m Meta, data []byte) {
	b.data = append(b.data, data...)
	b.metas = append(b.metas, uint32(m))
	b.ends = append(b.ends, len(b.data))
}

func (b *burst) full() bool { return len(b.metas) >= burstFrames || len(b.data) >= burstBytes }

// reset empties the burst.
func (b *burst) reset() { *b = burst{data: b.data[:0], metas: b.metas[:0], ends: b.ends[:0]} }

// burst returns memory for the frames of one read: a stream that waits for its worker holds none.
func (h *Hub) burst() *burst {
	if b, ok := h.bursts.Get().(*burst); ok {
		return b
	}
	return &burst{}
}

// putBurst takes it back.
func (h *Hub) putBurst(b *burst) {
	b.reset()
	h.bursts.Put(b)
}

// Bulk is a Journal that takes several frames at once: metas and ends have one element a frame, the frames stand one after
// the other in data. It is all or nothing, and otherwise as Buffer for each of them.
type Bulk interface {
	BufferAll(job string, first uint64, metas []uint32, ends []int, data []byte) error
}

// emitBurst takes in the frames of an attached stream; none of them is terminal.
func (s *Stream) emitBurst(b *burst) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.ended || s.replay {
		return ErrEnded
	}
	s.letGo()
	at := 0
	for i, end := range b.ends {
		s.state.note(Meta(b.metas[i]), b.data[at:end])
		at = end
	}
	s.bufferAll(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.push(b)
	return nil
}

// push puts a burst in front of the readers; mu is held.
func (s *Stream) push(b *burst) {
	if len(b.ends) > 1 {
		s.win.grow(len(b.data), len(b.ends), s.hub.o.Window)
	}
	if weight := len(b.data) + refSize*(len(b.ends)-1); weight < s.hub.o.Window/2 {
		if s.trim(weight); s.win.pushAll(b) {
			s.next += uint64(len(b.ends))
			return
		}
	}
	at := 0
	for i, end := range b.ends {
		s.trim(end - at)
		s.win.push(Meta(b.metas[i]), b.data[at:end], s.hub.o.Window)
		s.next++
		at = end
	}
}

// bufferAll journals a burst, whose readers get it whatever happens to the journal.
func (s *Stream) bufferAll(b *burst) {
	if s.state.lost {
		return
	}
	bulk := s.hub.bulk
	if bulk == nil || len(b.metas) == 1 {
		at := 0
		for i, end := range b.ends {
			s.buffer(s.next+uint64(i), Meta(b.metas[i]), b.data[at:end], false)
			at = end
		}
		return
	}
	if err := bulk.BufferAll(s.id, s.next, b.metas, b.ends, b.data); err != nil {
		s.notJournalled(err)
	}
}
