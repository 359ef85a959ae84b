package modelstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"sync/atomic"
)

// file brings one file into the store and gives its checksum.
func (s *Store) file(ctx context.Context, j *Job, ref string, w want, sources []source) (string, error) {
	id := partialID(ref, w)
	unlock, err := s.lockPartial(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	if ok, err := s.have(ctx, j, w); ok || err != nil {
		return w.SHA256, err
	}
	if len(sources) == 0 {
		return "", &Error{Kind: ErrSource, Ref: ref, Message: w.Path + ": no source has it"}
	}
	for {
		f := &feed{sources: sources, size: w.Size, stall: s.o.Stall, final: map[int]string{}}
		before := j.fetched.Load()
		sum, err := s.fetch(ctx, j, id, w, f)
		switch {
		case err == nil:
			return sum, nil
		case full(err):
			s.dropPartial(id) // a full disk helps nobody, least of all the machine that serves
			return "", s.diskError(ref, w.Path, err)
		case errors.Is(err, ErrCorrupt):
			s.dropPartial(id)
			j.fetched.Store(before)
			if f.peers { // then once more, from the origin alone
				sources = originOnly(sources)
				if len(sources) > 0 {
					s.log.Warn("content of another machine does not match, fetching from the origin", "ref", ref, "file", w.Path)
					continue
				}
			}
			return "", &Error{Kind: ErrCorrupt, Ref: ref, Message: w.Path + ": " + strings.TrimPrefix(err.Error(), ErrCorrupt.Error()+": ")}
		case errors.Is(err, errChanged), errors.Is(err, errSize):
			s.dropPartial(id)
		}
		return "", s.sourceError(ref, w.Path, err)
	}
}

func originOnly(sources []source) []source {
	var out []source
	for _, src := range sources {
		if !src.peer {
			out = append(out, src)
		}
	}
	return out
}

// have says that the content is there. Content that no ready model uses is hashed before it is believed.
func (s *Store) have(ctx context.Context, j *Job, w want) (bool, error) {
	if w.SHA256 == "" {
		return false, nil
	}
	info, err := s.root.Lstat(blobName(w.SHA256))
	if err != nil || !info.Mode().IsRegular() || info.Size() != w.Size {
		if err == nil {
			return false, s.root.RemoveAll(blobName(w.SHA256))
		}
		return false, nil
	}
	s.mu.Lock()
	trusted := false
	for ref, m := range s.models {
		for _, f := range m.Files {
			trusted = trusted || f.SHA256 == w.SHA256 && !s.unsynced[ref]
		}
	}
	s.mu.Unlock()
	if trusted {
		j.fetched.Add(w.Size)
		return true, nil
	}
	j.state(Verifying, w.Path, "checking what was there before")
	var n atomic.Int64
	sum, err := sumFile(ctx, s.dir+"/"+blobName(w.SHA256), &n)
	if err != nil {
		return false, err
	}
	if sum != w.SHA256 {
		return false, s.root.Remove(blobName(w.SHA256))
	}
	j.fetched.Add(w.Size)
	return true, nil
}

// fetch downloads what is missing of a file, hashes the whole, and turns it into content.
func (s *Store) fetch(ctx context.Context, j *Job, id string, w want, f *feed) (string, error) {
	j.state(Verifying, w.Path, "")
	p, err := s.openPartial(ctx, id, w, w.ETag, &j.fetched)
	if err != nil {
		return "", err
	}
	j.state(Downloading, w.Path, "")
	sum, oid, err := s.pull(ctx, j, p, w, f)
	if err == nil {
		err = checkContent(p, w, sum, oid)
	}
	if cerr := p.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", err
	}
	return sum, s.promote(id, sum)
}

func checkContent(p *partial, w want, sum, oid string) error {
	switch {
	case w.SHA256 != "" && sum != w.SHA256:
		return fmt.Errorf("%w: it arrived with sha256 %s and not %s", ErrCorrupt, sum, w.SHA256)
	case w.GitOID != "" && oid != w.GitOID:
		return fmt.Errorf("%w: it arrived with git checksum %s and not %s", ErrCorrupt, oid, w.GitOID)
	case strings.EqualFold(path.Ext(w.Path), ".gguf"):
		if err := checkMagic(p.data); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return nil
}

// pull runs the connections and, beside them, the hashing that follows them.
func (s *Store) pull(ctx context.Context, j *Job, p *partial, w want, f *feed) (sum, oid string, err error) {
	sum, oid, err = s.parallel(ctx, j, p, w, f)
	if !errors.Is(err, errNoRanges) {
		return sum, oid, err
	}
	if err := p.reset(&j.fetched); err != nil {
		return "", "", err
	}
	j.state(Downloading, w.Path, "the source knows no ranges: one connection, from the beginning")
	return s.whole(ctx, j, p, w, f)
}

func (s *Store) parallel(ctx context.Context, j *Job, p *partial, w want, f *feed) (sum, oid string, err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	missing := p.missing()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(s.o.Connections, len(missing)) {
		wg.Go(func() {
			buf := make([]byte, 256<<10)
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(missing) {
					return
				}
				if err := s.chunk(ctx, j, p, f, missing[i], buf); err != nil {
					fail(err)
					return
				}
			}
		})
	}
	sum, oid, err = p.sums(ctx, w.GitOID != "", &j.hashed)
	if err != nil {
		fail(err)
	}
	wg.Wait()
	if err != nil {
		err = context.Cause(ctx) // the first fault, not its echo
	}
	return sum, oid, err
}

// chunk fetches chunk i. A repeated attempt goes on where the last one stopped; a peer that fails is left
// for the next source.
func (s *Store) chunk(ctx context.Context, j *Job, p *partial, f *feed, i int, buf []byte) error {
	off, n := p.span(i)
	sum, pos := castagnoli(), int64(0)
	for {
		at, src, ok := f.current()
		if !ok {
			return errors.New("no source is left")
		}
		err := s.retry(ctx, "range", func(ctx context.Context) error {
			if pos == n {
				return nil
			}
			body, done, err := f.body(ctx, at, src, off+pos, n-pos)
			if err != nil {
				return err
			}
			defer done()
			return copyChunk(ctx, body, n-pos, buf, func(b []byte) error {
				if _, err := p.data.WriteAt(b, off+pos); err != nil {
					return err
				}
				_, _ = sum.Write(b)
				pos += int64(len(b))
				j.fetched.Add(int64(len(b)))
				return nil
			})
		})
		switch {
		case err == nil:
			return p.finish(i, sum.Sum32())
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case full(err) || !src.peer || !f.giveUp(at):
			return err
		}
		s.log.Info("another machine failed as a source", "error", err)
	}
}

// copyChunk moves n bytes in large pieces.
func copyChunk(ctx context.Context, r io.Reader, n int64, buf []byte, write func([]byte) error) error {
	for n > 0 {
		piece := buf[:min(int64(len(buf)), n)]
		got, err := io.ReadFull(r, piece)
		if got > 0 {
			if werr := write(piece[:got]); werr != nil {
				return werr
			}
			n -= int64(got)
		}
		if err != nil && n > 0 {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return &softError{fmt.Errorf("the connection broke: %w", err)}
		}
	}
	return nil
}

// whole fetches a file from a source that knows no ranges: one connection, and from the start each time.
func (s *Store) whole(ctx context.Context, j *Job, p *partial, w want, f *feed) (sum, oid string, err error) {
	hashCtx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 256<<10)
		if err := s.retry(hashCtx, "stream", func(ctx context.Context) error { return s.stream(ctx, j, p, f, buf) }); err != nil {
			fail(err)
		}
	})
	sum, oid, err = p.sums(hashCtx, w.GitOID != "", &j.hashed)
	if err != nil {
		fail(err)
	}
	wg.Wait()
	if err != nil {
		err = context.Cause(hashCtx)
	}
	return sum, oid, err
}

// stream is one attempt at the whole file. Chunks that an earlier attempt finished are read over.
func (s *Store) stream(ctx context.Context, j *Job, p *partial, f *feed, buf []byte) error {
	at, src, ok := f.current()
	if !ok {
		return errors.New("no source is left")
	}
	body, done, err := f.body(ctx, at, src, 0, -1)
	if err != nil {
		return err
	}
	defer done()
	for i := range p.n {
		off, n := p.span(i)
		known, sum, pos := p.is(i), castagnoli(), int64(0)
		err := copyChunk(ctx, body, n, buf, func(b []byte) error {
			if known {
				return nil
			}
			_, _ = sum.Write(b)
			_, err := p.data.WriteAt(b, off+pos)
			pos += int64(len(b))
			j.fetched.Add(int64(len(b)))
			return err
		})
		if err != nil {
			if !known {
				j.fetched.Add(-pos)
			}
			return err
		}
		if known {
			continue
		}
		if err := p.finish(i, sum.Sum32()); err != nil {
			return err
		}
	}
	if n, _ := body.Read(buf[:1]); n > 0 {
		return errSize
	}
	return nil
}
