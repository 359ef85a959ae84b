package sqlitequeue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/queen-rbee/queen-rbee/queue"
)

// The tail file holds the frames that SQLite does not have yet. Its header is a magic word, a generation, the epoch
// of its frames and a checksum; a record is a length, a checksum, a kind, the job's id, the frame's number, its meta
// and its bytes. One write(2) adds the records of all callers that came while the last one was under way: it is in
// the page cache then, which outlives the process. There are two files, used in turn: one takes records while the
// other's are being made safe in SQLite.
const (
	tailMagic  = "rbeetail"
	tailHeader = 8 + 8 + 8 + 4
	recHeader  = 4 + 4
	recFrame   = 1
	recDrop    = 2
	recGroup   = 3 // several frames, as a chunk has them
	groupMost  = 256
	maxFrame   = 64 << 20
)

// tail is one of the two files.
type tail struct {
	f    *os.File
	gen  uint64
	size int64 // only the one who writes looks at it
	torn bool  // a failed write may have left bytes behind size
	now  quickWriter
}

func openTail(path string) (*tail, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &tail{f: f}, nil
}

// begin empties the file and writes a new header.
func (t *tail) begin(gen, epoch uint64) error {
	if err := t.f.Truncate(0); err != nil {
		return err
	}
	h := make([]byte, 0, tailHeader)
	h = append(h, tailMagic...)
	h = binary.LittleEndian.AppendUint64(h, gen)
	h = binary.LittleEndian.AppendUint64(h, epoch)
	h = binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, castagnoli()))
	t.gen, t.size, t.torn = gen, 0, true
	return t.write(h)
}

// write adds bytes at the end; when it fails nothing was added.
func (t *tail) write(b []byte) error {
	if t.torn {
		if err := t.f.Truncate(t.size); err != nil {
			return err
		}
		t.torn = false
	}
	if err := t.put(b); err != nil {
		t.torn = true
		return err
	}
	t.size += int64(len(b))
	return nil
}

// quick bounds what is written without telling the scheduler: a copy to the page cache, which takes as long as a page
// fault in the same place would.
const quick = 32 << 10

// put writes bytes at the end. A token that many streams are waiting for is a few hundred bytes: telling the scheduler that
// a system call is under way, and having it watch over that, costs several times the call.
func (t *tail) put(b []byte) error {
	if len(b) <= quick {
		if done, err := t.now.writeAt(t.f, b, t.size); done {
			return err
		}
	}
	_, err := t.f.WriteAt(b, t.size)
	return err
}

// empty drops everything, once SQLite has it.
func (t *tail) empty() error {
	if err := t.f.Truncate(0); err != nil {
		return err
	}
	t.size, t.torn = 0, false
	return nil
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// appendRecord adds a record to a batch.
func appendRecord(b []byte, kind byte, job string, seq uint64, meta uint32, data []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, kind)
	b = binary.AppendUvarint(b, uint64(len(job)))
	b = append(b, job...)
	b = binary.AppendUvarint(b, seq)
	b = binary.AppendUvarint(b, uint64(meta))
	return sealRecord(append(b, data...), start)
}

// appendGroupRecord adds several frames as one record: what they have in common is there once. It says where they begin, and those
// after the first.
func appendGroupRecord(b []byte, job string, seq uint64, f frames) (out []byte, first, second int) {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, recGroup)
	b = binary.AppendUvarint(b, uint64(len(job)))
	b = append(b, job...)
	b = binary.AppendUvarint(b, seq)
	b, first, second = encodeChunk(append(b, 0), f) // each frame has its own meta
	return sealRecord(b, start), first, second
}

// sealRecord writes the length and the checksum of the record that begins at start.
func sealRecord(b []byte, start int) []byte {
	body := b[start+recHeader:]
	binary.LittleEndian.PutUint32(b[start:], uint32(len(body)))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(body, castagnoli()))
	return b
}

// record is one that was read back.
type record struct {
	kind byte
	job  string
	seq  uint64
	meta uint32
	data []byte
}

var errTorn = errors.New("torn record")

func parseRecord(body []byte) (record, error) {
	var r record
	if len(body) < 1 {
		return r, errTorn
	}
	r.kind, body = body[0], body[1:]
	n, k := binary.Uvarint(body)
	if k <= 0 || n > uint64(len(body)-k) {
		return r, errTorn
	}
	r.job, body = string(body[k:k+int(n)]), body[k+int(n):]
	if r.seq, k = binary.Uvarint(body); k <= 0 {
		return r, errTorn
	}
	body = body[k:]
	m, k := binary.Uvarint(body)
	if k <= 0 || m > 1<<32-1 {
		return r, errTorn
	}
	r.meta, r.data = uint32(m), body[k:]
	return r, nil
}

// readTail calls fn for every whole record of a tail file, and says whether the file ended in a torn one.
// A file without a whole header holds nothing.
func readTail(r io.Reader, fn func(record) error) (torn bool, err error) {
	head := make([]byte, recHeader)
	var body []byte
	for {
		n, err := io.ReadFull(r, head)
		if errors.Is(err, io.EOF) && n == 0 {
			return false, nil
		}
		if err != nil {
			return true, ignoreEOF(err)
		}
		size := binary.LittleEndian.Uint32(head)
		if size > maxFrame+8192 {
			return true, nil
		}
		if uint32(cap(body)) < size {
			body = make([]byte, size)
		}
		body = body[:size]
		if _, err := io.ReadFull(r, body); err != nil {
			return true, ignoreEOF(err)
		}
		if crc32.Checksum(body, castagnoli()) != binary.LittleEndian.Uint32(head[4:]) {
			return true, nil
		}
		rec, err := parseRecord(body)
		if err != nil {
			return true, nil
		}
		if err := rec.each(fn); err != nil {
			return errors.Is(err, errTorn), ignoreTorn(err)
		}
	}
}

// each calls fn for the frames of a group, or for what the record is otherwise.
func (r record) each(fn func(record) error) error {
	if r.kind != recGroup {
		return fn(r)
	}
	err := decodeChunk(r.data, func(meta uint32, data []byte) error {
		seq := r.seq
		r.seq++
		return fn(record{recFrame, r.job, seq, meta, data})
	})
	if errors.Is(err, errChunk) {
		return errTorn
	}
	return err
}

func ignoreTorn(err error) error {
	if errors.Is(err, errTorn) {
		return nil
	}
	return err
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// readHeader returns a tail's generation and epoch; ok is false when it has no whole header.
func readHeader(r io.Reader) (gen, epoch uint64, ok bool, err error) {
	h := make([]byte, tailHeader)
	if _, err := io.ReadFull(r, h); err != nil {
		return 0, 0, false, ignoreEOF(err)
	}
	if string(h[:8]) != tailMagic || crc32.Checksum(h[:24], castagnoli()) != binary.LittleEndian.Uint32(h[24:]) {
		return 0, 0, false, nil
	}
	return binary.LittleEndian.Uint64(h[8:]), binary.LittleEndian.Uint64(h[16:]), true, nil
}

// tooLarge refuses a frame beyond the bound.
func tooLarge(n int) error {
	return fmt.Errorf("%w: a frame of %d bytes; the journal takes %d", queue.ErrInvalid, n, maxFrame)
}
