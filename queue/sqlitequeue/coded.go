package sqlitequeue

import "encoding/binary"

// coded is what memory has of a stream between two settlings: the chunk that SQLite gets. A frame is encoded once, when it comes.
type coded struct {
	mem    []byte // room for the count, the frames, and the last one as it is, unless it is the end of the chunk as it is
	end    int    // of the chunk in mem
	from   int    // where in mem the last frame begins, with which the next one is compared; len(mem): with nothing
	n      int    // frames
	size   int    // their bytes
	meta   uint32 // of the last
	shared bool   // mem is a part of a slab
	older  *coded // a full chunk
}

const (
	chunkSize = 256 << 10 // the most raw bytes in a chunk of more than one frame
	chunkHead = 5         // bytes for the count of a chunk's frames
	frameHead = 20        // bytes before a frame in a chunk, at most
)

// add appends a frame, and returns by how much the chunk grew.
func (c *coded) add(meta uint32, data []byte) int {
	c.begin(len(data))
	was, alone := c.end, false
	c.mem, alone = appendFrame(c.mem[:c.end], meta^c.meta, c.mem[c.from:], data)
	c.end = len(c.mem)
	if c.from = c.end; alone {
		c.from -= len(data)
	} else {
		c.mem = append(c.mem, data...)
	}
	c.meta, c.n, c.size = meta, c.n+1, c.size+len(data)
	return c.end - was
}

// addAll appends at least two frames, together no larger than a chunk, that were encoded: all of them by themselves, and those after
// the first. Over says that none is expected after them. It returns by how much the chunk grew.
func (c *coded) addAll(f frames, all, rest []byte, over bool) int {
	c.begin(len(f.data))
	was := c.end
	if c.n == 0 {
		c.mem = append(c.mem, all...)
	} else {
		c.mem, _ = appendFrame(c.mem[:c.end], f.metas[0]^c.meta, c.mem[c.from:], f.first())
		c.mem = append(c.mem, rest...)
	}
	c.end, c.from = len(c.mem), len(c.mem)
	if !over {
		c.mem = append(c.mem, f.last()...)
	}
	c.meta, c.n, c.size = f.metas[len(f.metas)-1], c.n+len(f.metas), c.size+len(f.data)
	return c.end - was
}

// begin makes a chunk ready for so many bytes more, a new one when they would be too many.
func (c *coded) begin(size int) {
	if c.n > 0 && c.size+size > chunkSize {
		full := *c
		*c = coded{mem: make([]byte, 0, leastRoom), older: &full}
	}
	if c.n == 0 {
		c.mem = append(c.mem[:0], make([]byte, chunkHead)...)
		c.end, c.from = chunkHead, chunkHead
	}
}

// body is the frames without their count.
func (c *coded) body() []byte { return c.mem[chunkHead:c.end] }

// chunk is what goes into SQLite, in c's own memory; nothing may be added any more.
func (c *coded) chunk() []byte {
	var count [binary.MaxVarintLen64]byte
	at := chunkHead - binary.PutUvarint(count[:], uint64(c.n))
	copy(c.mem[at:chunkHead], count[:])
	return c.mem[at:c.end:c.end]
}

// after returns a chunk that has the frames after a position, the last one being number last, and the first of its own.
func (c *coded) after(pos, last uint64) chunk {
	if pos+1 == last && c.from < len(c.mem) {
		one, _ := appendFrame([]byte{1}, c.meta, nil, c.mem[c.from:])
		return chunk{first: last, data: one}
	}
	out := make([]byte, 0, chunkHead+c.end)
	out = binary.AppendUvarint(out, uint64(c.n))
	return chunk{first: last - uint64(c.n) + 1, data: append(out, c.body()...)}
}

// weight is what all of it counts for in Journal.unsettled.
func (c *coded) weight() (n int) {
	for ; c != nil && c.n > 0; c = c.older {
		n += c.end - chunkHead
	}
	return n
}
