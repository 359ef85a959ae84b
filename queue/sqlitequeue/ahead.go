package sqlitequeue

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/queen-rbee/queen-rbee/queue"
)

// The job store's tail file holds the groups of changes that SQLite does not have yet. A group is a length, a checksum, a
// number one above that of the group before, and its changes; a change is a kind, a job in JSON, and its payload. The
// checksum begins with a word that the database's file was given when it was made, so that the tail of another one says
// nothing. Once SQLite has everything the file is written from its beginning again and keeps its size, so that syncing it
// needs no change of the file system's own records; what then follows the newest group is older, which its number tells.
const (
	groupHeader = 4 + 4
	maxGroup    = 8 << 20
	aheadRoom   = 2 << 20
)

// openAhead opens the file and gives it the size that it will have, so that the file system's own records change no more: a
// sync would have to wait for them, and whoever else makes a file longer would have to wait for the sync. A disk without room
// for it does without.
func openAhead(path string, word uint32, sync func(*os.File) error) (*ahead, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if size := st.Size(); size < aheadRoom && sync != nil {
		if _, err := f.WriteAt(make([]byte, aheadRoom-size), size); err != nil || sync(f) != nil {
			_ = f.Truncate(size)
		}
	}
	return &ahead{f: f, word: word, sync: sync}, nil
}

// ahead is the job store's tail file.
type ahead struct {
	f    *os.File
	word uint32
	seq  uint64 // of the last group
	size int64
	buf  []byte
	sync func(*os.File) error // nil: a group need not survive a power cut
}

// change is one job's new state on its way to SQLite.
type change struct {
	kind  queue.OpKind
	scrub bool
	rec   *queue.Record
}

const scrubbed = 0x80

// add writes a group at the end. When it fails nothing was added.
func (a *ahead) add(group []change) error {
	b := append(a.buf[:0], make([]byte, groupHeader)...)
	b = binary.AppendUvarint(b, a.seq+1)
	b = appendGroup(b, group)
	a.buf = b
	if cap(a.buf) > 1<<20 {
		a.buf = nil
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-groupHeader))
	binary.LittleEndian.PutUint32(b[4:], crc32.Update(a.word, castagnoli(), b[groupHeader:]))
	_, err := a.f.WriteAt(b, a.size)
	if err == nil && a.sync != nil {
		err = a.sync(a.f)
	}
	if err != nil {
		_, _ = a.f.WriteAt(make([]byte, groupHeader), a.size) // so that it is not found; fails where the file can't be written at all
		return err
	}
	a.size += int64(len(b))
	a.seq++
	return nil
}

// appendGroup adds changes as the file has them.
func appendGroup(b []byte, group []change) []byte {
	for _, c := range group {
		kind := byte(c.kind)
		if c.scrub {
			kind |= scrubbed
		}
		b = append(b, kind)
		b = appendSized(b, func(b []byte) []byte { return appendJob(b, c.rec) })
		payload := c.rec.Payload
		if c.kind != queue.OpInsert {
			payload = nil // it came with the insert, in this file or in SQLite
		}
		b = binary.AppendUvarint(b, uint64(len(payload)))
		b = append(b, payload...)
	}
	return b
}

// appendSized adds what fn appends, behind its length.
func appendSized(b []byte, fn func([]byte) []byte) []byte {
	at := len(b)
	b = fn(append(b, 0, 0, 0, 0))
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// rewind has the next group written at the beginning: SQLite has all of them. Nothing of them stays: a payload is gone from the
// tail soon after it is gone from SQLite.
func (a *ahead) rewind() {
	zeros := make([]byte, min(a.size, 64<<10))
	for at := int64(0); at < a.size; at += int64(len(zeros)) {
		if _, err := a.f.WriteAt(zeros[:min(int64(len(zeros)), a.size-at)], at); err != nil {
			return
		}
	}
	a.size = 0
}

// replay calls fn for each change of the groups after the given one, in order, and goes on behind the last whole group.
func (a *ahead) replay(after uint64, fn func(change)) error {
	r := bufio.NewReaderSize(io.NewSectionReader(a.f, 0, 1<<62), 1<<16)
	a.seq = after
	prev := uint64(0)
	defer func() {
		if prev != a.seq {
			a.size = 0 // all of it is old: the next group would not follow its last
		}
	}()
	for {
		n, body, err := readGroup(r, a.word)
		if err != nil {
			return err
		}
		seq, k := binary.Uvarint(body)
		if n == 0 || k <= 0 || prev != 0 && seq != prev+1 {
			return nil
		}
		group, err := parseGroup(body[k:])
		if err != nil {
			return nil // its checksum is right by chance
		}
		if prev = seq; seq > after {
			for _, c := range group {
				fn(c)
			}
			a.seq = seq
		}
		a.size += int64(n)
	}
}

// readGroup returns the size of the next whole group in the file, 0 for none, and its body.
func readGroup(r io.Reader, word uint32) (int, []byte, error) {
	head := make([]byte, groupHeader)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, ignoreEOF(err)
	}
	size := binary.LittleEndian.Uint32(head)
	if size == 0 || size > maxGroup {
		return 0, nil, nil
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, ignoreEOF(err)
	}
	if crc32.Update(word, castagnoli(), body) != binary.LittleEndian.Uint32(head[4:]) {
		return 0, nil, nil
	}
	return groupHeader + int(size), body, nil
}

var errGroup = errors.New("torn group")

// parseGroup reads the changes of a group.
func parseGroup(b []byte) ([]change, error) {
	var out []change
	for len(b) > 0 {
		c := change{kind: queue.OpKind(b[0] &^ scrubbed), scrub: b[0]&scrubbed != 0}
		if b = b[1:]; len(b) < 4 {
			return nil, errGroup
		}
		n := uint64(binary.LittleEndian.Uint32(b))
		if b = b[4:]; n > uint64(len(b)) {
			return nil, errGroup
		}
		rec, err := parseJob(b[:n])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errGroup, err)
		}
		b = b[n:]
		size, k := binary.Uvarint(b)
		if k <= 0 || size > uint64(len(b)-k) {
			return nil, errGroup
		}
		if size > 0 {
			rec.Payload = append([]byte(nil), b[k:k+int(size)]...)
		}
		b = b[k+int(size):]
		c.rec = &rec
		out = append(out, c)
	}
	return out, nil
}
