package sqlitequeue

import (
	"encoding/binary"
	"errors"

	"github.com/queen-rbee/queen-rbee/queue"
)

// A chunk holds consecutive frames of one stream. Frames of a stream resemble each other, so each is kept as what
// it shares with the one before at its beginning and at its end, and the middle:
// meta (xor the one before), prefix, suffix, middle length, all varints, then the middle.

// frameRef says where a frame lies in a buffer of raw frames.
type frameRef struct {
	meta uint32
	off  int
	n    int
}

// encodeChunk appends the chunk of the given frames to dst.
func encodeChunk(dst, raw []byte, refs []frameRef) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(refs)))
	var prev []byte
	var meta uint32
	for _, r := range refs {
		data := raw[r.off : r.off+r.n]
		p := commonPrefix(prev, data)
		s := commonSuffix(prev[p:], data[p:])
		dst = binary.AppendUvarint(dst, uint64(r.meta^meta))
		dst = binary.AppendUvarint(dst, uint64(p))
		dst = binary.AppendUvarint(dst, uint64(s))
		dst = binary.AppendUvarint(dst, uint64(r.n-p-s))
		dst = append(dst, data[p:r.n-s]...)
		prev, meta = data, r.meta
	}
	return dst
}

func commonPrefix(a, b []byte) int {
	n, i := min(len(a), len(b)), 0
	for ; i+8 <= n && binary.LittleEndian.Uint64(a[i:]) == binary.LittleEndian.Uint64(b[i:]); i += 8 {
	}
	for ; i < n && a[i] == b[i]; i++ {
	}
	return i
}

func commonSuffix(a, b []byte) int {
	n, i := min(len(a), len(b)), 0
	for ; i+8 <= n && binary.LittleEndian.Uint64(a[len(a)-i-8:]) == binary.LittleEndian.Uint64(b[len(b)-i-8:]); i += 8 {
	}
	for ; i < n && a[len(a)-1-i] == b[len(b)-1-i]; i++ {
	}
	return i
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
