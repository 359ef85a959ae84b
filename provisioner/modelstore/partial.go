package modelstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// partialID names a file on its way: by its content where that is known, so that two references to one
// content share it.
func partialID(ref string, w want) string {
	if w.SHA256 != "" {
		return "sha256-" + w.SHA256
	}
	sum := sha256.Sum256([]byte(ref + "\x00" + w.Path))
	return "ref-" + hex.EncodeToString(sum[:16])
}

// partial is a file on its way. Its log says which chunks are there, one line each with a checksum, so
// that a kill at any moment loses the chunks under way and nothing else, and a resume believes nothing.
type partial struct {
	s    *Store
	id   string
	data *os.File
	log  *os.File
	head partialHead
	n    int

	mu    sync.Mutex
	done  []bool
	moved chan struct{} // a chunk was finished
}

type partialHead struct {
	Size   int64  `json:"size"`
	Chunk  int64  `json:"chunk"`
	SHA256 string `json:"sha256,omitempty"`
	ETag   string `json:"etag,omitempty"`
}

func (h partialHead) chunks() int { return int((h.Size + h.Chunk - 1) / h.Chunk) }

func dataName(id string) string { return dirPartial + "/" + id + ".data" }
func logName(id string) string  { return dirPartial + "/" + id + ".log" }

// openPartial opens or creates the files of w. What an earlier life left is kept when it is about the
// same content, chunk by chunk as far as the checksums agree; the count of bytes kept goes to fetched.
func (s *Store) openPartial(ctx context.Context, id string, w want, etag string, fetched *atomic.Int64) (*partial, error) {
	p := &partial{s: s, id: id, moved: make(chan struct{}, 1), head: partialHead{Size: w.Size, Chunk: s.o.Chunk, SHA256: w.SHA256, ETag: etag}}
	for _, name := range []string{dataName(id), logName(id)} {
		if info, err := s.root.Lstat(name); err == nil && !info.Mode().IsRegular() {
			if err := s.root.RemoveAll(name); err != nil { // a link that somebody planted
				return nil, err
			}
		}
	}
	head, marks := s.readLog(id)
	same := head.SHA256 == w.SHA256 && head.ETag == etag && (w.SHA256 != "" || etag != "")
	if keep := head.Size == w.Size && head.Chunk >= 64<<10 && same; keep {
		p.head = head
	} else {
		marks = nil
	}
	var err error
	if p.data, err = s.root.OpenFile(dataName(id), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	p.n = p.head.chunks()
	p.done = make([]bool, p.n)
	if err := p.verify(ctx, marks, fetched); err != nil {
		return nil, errors.Join(err, p.data.Close())
	}
	if err := p.startLog(marks); err != nil {
		return nil, errors.Join(err, p.data.Close())
	}
	return p, nil
}

// readLog reads what is said to be there; a torn last line says nothing.
func (s *Store) readLog(id string) (head partialHead, marks map[int]uint32) {
	raw, err := s.root.ReadFile(logName(id))
	if err != nil {
		return head, nil
	}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &head) != nil || head.Size < 0 || head.Chunk <= 0 {
		return partialHead{}, nil
	}
	marks = map[int]uint32{}
	for lines.Scan() {
		var i int
		var sum uint32
		if n, err := fmt.Sscanf(lines.Text(), "%d %08x.", &i, &sum); n == 2 && err == nil && i >= 0 && i < head.chunks() {
			marks[i] = sum
		}
	}
	return head, marks
}

// partialDone is how many bytes of a file are said to be there.
func (s *Store) partialDone(id string) int64 {
	head, marks := s.readLog(id)
	return min(head.Size, int64(len(marks))*head.Chunk)
}

func castagnoli() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

// verify reads the chunks that are said to be there and forgets those that are not as they were written.
func (p *partial) verify(ctx context.Context, marks map[int]uint32, fetched *atomic.Int64) error {
	buf := make([]byte, 256<<10)
	for i, sum := range marks {
		if err := ctx.Err(); err != nil {
			return err
		}
		off, n := p.span(i)
		h := castagnoli()
		got, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(p.data, off, n), buf)
		if err != nil || got != n || h.Sum32() != sum {
			delete(marks, i)
			continue
		}
		p.done[i] = true
		fetched.Add(n)
	}
	return nil
}

// startLog writes the log anew with what was found true, and leaves it open for more.
func (p *partial) startLog(marks map[int]uint32) error {
	head, err := json.Marshal(p.head)
	if err != nil {
		return err
	}
	b := append(head, '\n')
	for i, sum := range marks {
		b = fmt.Appendf(b, "%d %08x.\n", i, sum)
	}
	if err := p.s.writeAtomic(logName(p.id), b, false); err != nil {
		return err
	}
	p.log, err = p.s.root.OpenFile(logName(p.id), os.O_WRONLY|os.O_APPEND, 0o600)
	return err
}

// span is where chunk i lies.
func (p *partial) span(i int) (off, n int64) {
	off = int64(i) * p.head.Chunk
	return off, min(p.head.Chunk, p.head.Size-off)
}

// finish notes that chunk i is written.
func (p *partial) finish(i int, sum uint32) error {
	if _, err := p.log.Write(fmt.Appendf(nil, "%d %08x.\n", i, sum)); err != nil {
		return err
	}
	p.mu.Lock()
	p.done[i] = true
	p.mu.Unlock()
	select {
	case p.moved <- struct{}{}:
	default:
	}
	return nil
}

func (p *partial) missing() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []int
	for i, d := range p.done {
		if !d {
			out = append(out, i)
		}
	}
	return out
}

// reset forgets every chunk, for a source that knows no ranges.
func (p *partial) reset(fetched *atomic.Int64) error {
	p.mu.Lock()
	for i, d := range p.done {
		if _, n := p.span(i); d {
			fetched.Add(-n)
		}
		p.done[i] = false
	}
	p.mu.Unlock()
	return errors.Join(p.log.Close(), p.startLog(nil))
}

// sums follows the chunks from the first to the last as they arrive and gives the checksums of the whole:
// sha256, and git's own where a hub gave that.
func (p *partial) sums(ctx context.Context, git bool, hashed *atomic.Int64) (sum, oid string, err error) {
	h := sha256.New()
	var w io.Writer = h
	g := sha1.New() // not for safety: it is the only checksum that a hub has of small files
	if git {
		fmt.Fprintf(g, "blob %d\x00", p.head.Size)
		w = io.MultiWriter(h, g)
	}
	buf := make([]byte, 512<<10)
	for i := range p.n {
		for !p.is(i) {
			select {
			case <-p.moved:
			case <-ctx.Done():
				return "", "", context.Cause(ctx)
			}
		}
		off, n := p.span(i)
		got, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.NewSectionReader(p.data, off, n)}, buf)
		if err != nil {
			return "", "", err
		}
		if got != n {
			return "", "", io.ErrUnexpectedEOF
		}
		hashed.Add(n)
	}
	return hex.EncodeToString(h.Sum(nil)), hex.EncodeToString(g.Sum(nil)), nil
}

func (p *partial) is(i int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done[i]
}

func (p *partial) close() error { return errors.Join(p.data.Close(), p.log.Close()) }

// drop removes the files.
func (s *Store) dropPartial(id string) {
	for _, name := range []string{dataName(id), logName(id)} {
		if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("partial file not removed", "file", name, "error", err)
		}
	}
}

// promote turns a complete, verified file into content.
func (s *Store) promote(id, sum string) error {
	if err := s.root.Rename(dataName(id), blobName(sum)); err != nil {
		return err
	}
	s.dropPartial(id)
	return nil
}

// lockPartial makes sure that one job at a time works on a file.
func (s *Store) lockPartial(ctx context.Context, id string) (unlock func(), err error) {
	for {
		s.mu.Lock()
		held, ok := s.partials[id]
		if !ok {
			mine := make(chan struct{})
			s.partials[id] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.partials, id)
				s.mu.Unlock()
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// sumFile is the sha256 of a file.
func sumFile(ctx context.Context, name string, done *atomic.Int64) (string, error) {
	f, err := os.Open(filepath.Clean(name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	h, buf := sha256.New(), make([]byte, 512<<10)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		done.Add(int64(n))
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}
