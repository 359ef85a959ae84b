package sserelay

import (
	"slices"
	"sync"
)

// window holds the newest frames of a stream in memory, at most a fixed number of bytes; older ones are in the journal.
type window struct {
	data []byte
	refs []ref
	head int        // first live ref
	base uint64     // sequence number of refs[head]
	lean int        // compactions in a row that found little alive
	pool *sync.Pool // of *lent
	lent *lent      // where data and refs came from, if from there
}

// lent is memory for a burst, which streams use by turns.
type lent struct {
	data []byte
	refs []ref
}

const lentWindow = 64 << 10

// borrow moves the window into memory of the pool.
func (w *window) borrow() {
	l, _ := w.pool.Get().(*lent)
	if l == nil {
		l = &lent{make([]byte, 0, lentWindow), make([]ref, 0, lentWindow/64)}
	}
	w.data, w.refs = append(l.data, w.data...), append(l.refs, w.refs...)
	w.lent = l
}

// outgrow moves the window into memory of its own.
func (w *window) outgrow(size int) {
	w.data = append(make([]byte, 0, size), w.data...)
	if w.lent != nil {
		w.refs = append([]ref(nil), w.refs...)
		w.giveBack()
	}
}

// giveBack lets the next one have it; what was in the window is not looked at any more.
func (w *window) giveBack() {
	if w.lent != nil {
		w.pool.Put(w.lent)
		w.lent = nil
	}
}

type ref struct {
	off, size uint32
	meta      Meta
}

const (
	refSize = 12
	keepCap = 16 << 10 // memory that a window always keeps
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
func (w *window) push(m Meta, data []byte, limit int) {
	if w.head > 0 {
		dead := len(w.data)
		if w.head < len(w.refs) {
			dead = int(w.refs[w.head].off)
		}
		if dead*2 > len(w.data) || w.head == len(w.refs) || len(w.data)+len(data) > limit {
			w.compact()
		}
	}
	if need := len(w.data) + len(data); need > cap(w.data) {
		switch {
		case need >= keepCap/2 && need <= min(lentWindow, limit) && w.lent == nil && w.pool != nil:
			w.borrow()
		case 2*cap(w.data) > limit:
			w.outgrow(max(need, limit))
		case w.lent != nil:
			w.outgrow(2 * need)
		}
	}
	if w.data == nil { // one piece of memory for what a short answer has
		w.data, w.refs = make([]byte, 0, max(1<<10, len(data))), make([]ref, 0, 4)
	}
	w.refs = append(w.refs, ref{off: uint32(len(w.data)), size: uint32(len(data)), meta: m})
	w.data = append(w.data, data...)
}

// pushAll is push for each frame of a burst where there is room for it; else it does nothing, and returns false.
func (w *window) pushAll(b *burst) bool {
	if cap(w.data)-len(w.data) < len(b.data) || cap(w.refs)-len(w.refs) < len(b.ends) {
		return false
	}
	off, at := uint32(len(w.data)), 0
	w.data = append(w.data, b.data...)
	for i, end := range b.ends {
		w.refs = append(w.refs, ref{off: off + uint32(at), size: uint32(end - at), meta: Meta(b.metas[i])})
		at = end
	}
	return true
}

// grow makes room for n bytes in several frames that are about to be pushed.
func (w *window) grow(n, frames, limit int) {
	if w.head > 0 && (w.head == len(w.refs) || cap(w.data)-len(w.data) < n) {
		w.compact()
	}
	if n = min(n, limit/2-len(w.data)); n > 0 && cap(w.data)-len(w.data) < n {
		need := len(w.data) + n
		switch {
		case need >= keepCap/2 && need <= min(lentWindow, limit) && w.lent == nil && w.pool != nil:
			w.borrow()
		case w.lent != nil:
			w.outgrow(2 * need)
		case w.data != nil:
			w.data = slices.Grow(w.data, n)
		}
	}
	if w.refs != nil {
		w.refs = slices.Grow(w.refs, frames)
	}
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
	w.giveBack()
	*w = window{base: next, pool: w.pool}
}

// compact moves the live frames to the front. Memory of a burst is given back once it was unused for a while.
func (w *window) compact() {
	var live []byte
	var off uint32
	if w.head < len(w.refs) {
		off = w.refs[w.head].off
		live = w.data[off:]
	}
	refs := w.refs[w.head:]
	if cap(w.data) > keepCap && len(live)*8 < cap(w.data) {
		w.lean++
	} else {
		w.lean = 0
	}
	if w.lean >= 8 {
		w.lean = 0
		w.data = append(make([]byte, 0, 2*len(live)), live...)
		w.refs = append(make([]ref, 0, 2*len(refs)), refs...)
		w.giveBack()
	} else {
		w.data = w.data[:copy(w.data, live)]
		w.refs = w.refs[:copy(w.refs, refs)]
	}
	w.head = 0
	for i := range w.refs {
		w.refs[i].off -= off
	}
}
