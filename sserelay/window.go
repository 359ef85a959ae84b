package sserelay

// window holds the newest frames of a stream in memory, at most a fixed number of bytes; older ones are in the journal.
type window struct {
	data []byte
	refs []ref
	head int    // first live ref
	base uint64 // sequence number of refs[head]
}

type ref struct {
	off, size uint32
	meta      Meta
}

const (
	refSize = 12
	keepCap = 64 << 10 // memory that a window keeps after a burst
)

// size returns the bytes of the live frames with their bookkeeping.
func (w *window) size() int {
	if w.head == len(w.refs) {
		return 0
	}
	return len(w.data) - int(w.refs[w.head].off) + refSize*(len(w.refs)-w.head)
}

func (w *window) len() int { return len(w.refs) - w.head }

// push appends the frame numbered base+len.
func (w *window) push(m Meta, data []byte) {
	if w.head > 0 && (w.head == len(w.refs) || int(w.refs[w.head].off)*2 > len(w.data)) {
		w.compact()
	}
	w.refs = append(w.refs, ref{off: uint32(len(w.data)), size: uint32(len(data)), meta: m})
	w.data = append(w.data, data...)
}

// at returns a live frame.
func (w *window) at(seq uint64) (Meta, []byte) {
	r := w.refs[w.head+int(seq-w.base)]
	return r.meta, w.data[r.off : r.off+r.size]
}

// dropTo forgets the frames before seq.
func (w *window) dropTo(seq uint64) {
	if seq <= w.base {
		return
	}
	n := min(int(seq-w.base), w.len())
	w.head += n
	w.base += uint64(n)
}

// clear forgets everything; next is the number of the frame that will be pushed first.
func (w *window) clear(next uint64) {
	*w = window{base: next}
}

// compact moves the live frames to the front, giving memory back when most of it is unused.
func (w *window) compact() {
	if w.head == len(w.refs) {
		w.data, w.refs, w.head = w.data[:0], w.refs[:0], 0
		if cap(w.data) > keepCap {
			w.data, w.refs = nil, nil
		}
		return
	}
	off := w.refs[w.head].off
	live := w.data[off:]
	if cap(w.data) > keepCap && len(live)*8 < cap(w.data) {
		w.data = append(make([]byte, 0, 2*len(live)), live...)
		w.refs = append(make([]ref, 0, 2*w.len()), w.refs[w.head:]...)
	} else {
		w.data = w.data[:copy(w.data, live)]
		w.refs = w.refs[:copy(w.refs, w.refs[w.head:])]
	}
	w.head = 0
	for i := range w.refs {
		w.refs[i].off -= off
	}
}
