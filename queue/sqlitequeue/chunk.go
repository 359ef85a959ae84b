package sqlitequeue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/queen-rbee/queen-rbee/queue"
)

// A chunk holds consecutive frames of one stream. Frames of a stream resemble each other, so each is kept as what
// it shares with the one before at its beginning and at its end, and the middle:
// meta (xor the one before), prefix, suffix, middle length, all varints, then the middle.

// frames are several of one stream: that of metas[i] ends at ends[i] in data, where the next one begins.
type frames struct {
	metas []uint32
	ends  []int
	data  []byte
}

// first is the first of them.
func (f frames) first() []byte { return f.data[:f.ends[0]] }

// last is the last of at least two.
func (f frames) last() []byte { return f.data[f.ends[len(f.ends)-2]:f.ends[len(f.ends)-1]] }

// encodeChunk appends the chunk of the given frames to dst, and says where in it the frames begin, and those after the first.
func encodeChunk(dst []byte, f frames) (out []byte, first, second int) {
	dst = binary.AppendUvarint(dst, uint64(len(f.ends)))
	first, second = len(dst), len(dst)
	var prev []byte
	var meta uint32
	at := 0
	for i, end := range f.ends {
		dst, _ = appendFrame(dst, f.metas[i]^meta, prev, f.data[at:end])
		if i == 0 {
			second = len(dst)
		}
		prev, meta, at = f.data[at:end], f.metas[i], end
	}
	return dst, first, second
}

// appendFrame adds a frame to a chunk, and reports whether all of it is there because it has nothing in common with the one before.
// prev may lie in dst, behind its end.
func appendFrame(dst []byte, meta uint32, prev, data []byte) (out []byte, alone bool) {
	p := commonPrefix(prev, data)
	s := commonSuffix(prev[p:], data[p:])
	dst = binary.AppendUvarint(dst, uint64(meta))
	dst = binary.AppendUvarint(dst, uint64(p))
	dst = binary.AppendUvarint(dst, uint64(s))
	dst = binary.AppendUvarint(dst, uint64(len(data)-p-s))
	return append(dst, data[p:len(data)-s]...), p+s == 0
}

// stride is how many bytes are compared at once while they are the same.
const stride = 64

func commonPrefix(a, b []byte) int {
	n, i := min(len(a), len(b)), 0
	for ; i+stride <= n && bytes.Equal(a[i:i+stride], b[i:i+stride]); i += stride {
	}
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:i+8]) ^ binary.LittleEndian.Uint64(b[i:i+8]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for ; i < n && a[i] == b[i]; i++ {
	}
	return i
}

func commonSuffix(a, b []byte) int {
	n := min(len(a), len(b))
	a, b = a[len(a)-n:], b[len(b)-n:]
	i := n
	for ; i >= stride && bytes.Equal(a[i-stride:i], b[i-stride:i]); i -= stride {
	}
	for ; i >= 8; i -= 8 {
		if x := binary.LittleEndian.Uint64(a[i-8:i]) ^ binary.LittleEndian.Uint64(b[i-8:i]); x != 0 {
			return n - i + bits.LeadingZeros64(x)/8
		}
	}
	for ; i > 0 && a[i-1] == b[i-1]; i-- {
	}
	return n - i
}

var errChunk = errors.New("a chunk of frames is damaged")

// decodeChunk calls fn for each frame of a chunk; data is valid during the call.
func decodeChunk(chunk []byte, fn func(meta uint32, data []byte) error) error {
	number := func(limit uint64) (int, error) {
		v, n := binary.Uvarint(chunk)
		if n <= 0 || v > limit {
			return 0, errChunk
		}
		chunk = chunk[n:]
		return int(v), nil
	}
	count, err := number(uint64(len(chunk)))
	if err != nil {
		return err
	}
	var frame, next []byte
	var meta uint32
	for range count {
		m, err := number(1<<32 - 1)
		if err != nil {
			return err
		}
		p, err := number(uint64(len(frame)))
		if err != nil {
			return err
		}
		s, err := number(uint64(len(frame) - p))
		if err != nil {
			return err
		}
		mid, err := number(uint64(len(chunk)))
		if err != nil || mid > len(chunk) {
			return errChunk
		}
		meta ^= uint32(m)
		next = append(next[:0], frame[:p]...)
		next = append(next, chunk[:mid]...)
		next = append(next, frame[len(frame)-s:]...)
		chunk = chunk[mid:]
		frame, next = next, frame
		if len(frame) > maxFrame {
			return errChunk
		}
		if err := fn(meta, frame); err != nil {
			return err
		}
	}
	if len(chunk) > 0 {
		return errChunk
	}
	return nil
}

// damaged names a chunk that can't be decoded.
func damaged(path string, err error) error {
	if errors.Is(err, errChunk) {
		return errors.Join(queue.ErrCorrupt, typed(path, err))
	}
	return err
}
