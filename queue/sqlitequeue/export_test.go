package sqlitequeue

import (
	"bytes"
	"os"
	"slices"

	"github.com/queen-rbee/queen-rbee/queue"
)

// WithSync replaces how the journal syncs files.
func (o Options) WithSync(fsync func(*os.File) error) Options {
	o.fsync, o.datasync = fsync, fsync
	return o
}

// MigrateTo makes a job store of an earlier version.
func Migrations() []string { return migrations() }

// JournalMigrations are those of the journal.
func JournalMigrations() []string { return journalMigrations() }

// Codec of the chunks.
func EncodeFrames(data [][]byte, metas []uint32) []byte {
	chunk, _, _ := encodeChunk(nil, joined(data, metas))
	return chunk
}

// joined puts frames one after the other.
func joined(data [][]byte, metas []uint32) frames {
	f := frames{metas: metas}
	for _, d := range data {
		f.data = append(f.data, d...)
		f.ends = append(f.ends, len(f.data))
	}
	return f
}

// CodeFrames encodes frames as they come, sizes[i] of them at once, and returns the chunks that SQLite gets of them, how many frames each
// has, and what a reader is given of the last chunk who has all but the last frame.
func CodeFrames(data [][]byte, metas []uint32, sizes []int) (chunks [][]byte, counts []int, newest []byte) {
	var c coded
	grown := 0
	for i, n := range sizes {
		if f := joined(data[:n], metas[:n]); n == 1 {
			grown += c.add(metas[0], data[0])
		} else {
			all, begin, second := encodeChunk(nil, f)
			grown += c.addAll(f, all[begin:], all[second:], i == len(sizes)-1)
		}
		data, metas = data[n:], metas[n:]
	}
	newest = c.after(uint64(c.n)-1, uint64(c.n)).data
	if grown != c.weight() {
		panic("a chunk does not weigh what was added")
	}
	for at := &c; at != nil; at = at.older {
		chunks, counts = append(chunks, at.chunk()), append(counts, at.n)
	}
	slices.Reverse(chunks)
	slices.Reverse(counts)
	return chunks, counts, newest
}

// Common is how much two frames share at the beginning and at the end.
func Common(a, b []byte) (prefix, suffix int) { return commonPrefix(a, b), commonSuffix(a, b) }

// ChunkSize is the most bytes of frames in a chunk of more than one.
const ChunkSize = chunkSize

// DecodeFrames is the reverse.
func DecodeFrames(chunk []byte, fn func(meta uint32, data []byte) error) error {
	return decodeChunk(chunk, fn)
}

// TailJobs writes a group of inserted jobs as the tail file has it, and reads it back.
func TailJobs(b []byte) (again []byte, ok bool) {
	group, err := parseGroup(b)
	if err != nil {
		return nil, false
	}
	return appendGroup(nil, group), true
}

// TailGroup is how the tail file has inserted jobs.
func TailGroup(recs ...queue.Record) []byte {
	var group []change
	for i := range recs {
		group = append(group, change{kind: queue.OpInsert, rec: &recs[i]})
	}
	return appendGroup(nil, group)
}

// ParseTailGroup is the reverse.
func ParseTailGroup(b []byte) (out []queue.Record, err error) {
	group, err := parseGroup(b)
	for _, c := range group {
		out = append(out, *c.rec)
	}
	return out, err
}

// Rebundle reads a bundle and writes it.
func Rebundle(b []byte) (again []byte, ok bool) {
	err := parseBundle(0, b, func(s bundled) error {
		again = appendBundled(again, 0, s)
		return nil
	})
	return again, err == nil
}

// Aside is how a store syncs its tail file.
type Aside struct{ a aside }

// NewAside makes one.
func NewAside() *Aside { return &Aside{} }

// Sync makes a file's bytes survive a power cut.
func (a *Aside) Sync(f *os.File) error { return a.a.sync(f) }

// Close ends it.
func (a *Aside) Close() { a.a.close() }

// SettleNow moves into SQLite what there is.
func (j *Journal) SettleNow() error { return j.settle() }

// RotateNow turns to the other tail file. The ticker must have no reason to do the same.
func (j *Journal) RotateNow() error { return j.rotate() }

// TailFrames writes frames as one record of the tail file and reads them back.
func TailFrames(data [][]byte, metas []uint32, fn func(seq uint64, meta uint32, data []byte)) (torn bool, err error) {
	b, _, _ := appendGroupRecord(nil, "job", 7, joined(data, metas))
	return readTail(bytes.NewReader(b), func(r record) error {
		fn(r.seq, r.meta, r.data)
		return nil
	})
}
