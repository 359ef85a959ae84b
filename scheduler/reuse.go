package scheduler

import "math/bits"

// reuse learns how likely a cached block is to be wanted again, by how long it has lain unused. It follows one
// block of eight, chosen by hash, whether a worker still holds it or not.
type reuse struct {
	last    map[uint64]int64 // when a block was last used
	ring    []uint64         // its keys, oldest entry next
	next    int
	uses    float64
	gaps    [ages]float64 // uses that came after a gap of that age
	odds    [ages]float64 // that a block unused for that long is used again
	pending int
}

const (
	ages         = 44 // powers of two from a millisecond up
	reuseMask    = 7
	reuseEntries = 16384
	reuseEvery   = 64
	reuseDecay   = 1 << 14
)

func ageOf(ns int64) int { return min(bits.Len64(uint64(max(ns, 0))>>20), ages-1) }

// use notes that these blocks are used now.
func (r *reuse) use(blocks []uint64, now int64) {
	for _, h := range blocks {
		if mix(h, 0xd6e8feb86659fd93)&reuseMask != 0 {
			continue
		}
		r.uses++
		r.pending++
		at, ok := r.last[h]
		switch {
		case ok:
			r.gaps[ageOf(now-at)]++
		case r.last == nil:
			r.last = make(map[uint64]int64)
			fallthrough
		case len(r.ring) < reuseEntries:
			r.ring = append(r.ring, h)
		default:
			delete(r.last, r.ring[r.next])
			r.ring[r.next] = h
			r.next = (r.next + 1) % reuseEntries
		}
		r.last[h] = now
	}
	if r.pending >= reuseEvery {
		r.settle()
	}
}

// settle works the odds out: of the uses that nothing followed within an age, those that something followed later.
func (r *reuse) settle() {
	r.pending = 0
	later, left := 0.0, r.uses
	for _, n := range r.gaps {
		later += n
	}
	for i, n := range r.gaps {
		r.odds[i] = later / max(left, 1)
		later, left = later-n, left-n
	}
	if r.uses > reuseDecay {
		r.uses /= 2
		for i := range r.gaps {
			r.gaps[i] /= 2
		}
	}
}
