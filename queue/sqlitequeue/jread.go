package sqlitequeue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// row reads what SQLite has of a stream.
func (j *Journal) row(ctx context.Context, job string, epoch uint64) (*stream, error) {
	s := &stream{job: job}
	if done, err := j.wholeRow(ctx, s, epoch); done || err != nil {
		return s, err
	}
	err := j.db.r.QueryRowContext(ctx, `SELECT id, last, meta, epoch, recovered, recovered_in FROM streams
		WHERE job = ?`, job).Scan(&s.id, &s.last, &s.meta, &s.epoch, &s.recovered, &s.before)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return nil, err
	default:
		s.known = true
	}
	s.found(epoch)
	return s, nil
}

// found completes a stream that was read in a later epoch.
func (s *stream) found(epoch uint64) {
	if s.known && s.epoch < epoch {
		s.recovered, s.before = s.last, s.epoch
	}
	s.queued, s.first = s.last, s.last+1
}

// wholeRow reads what the tables of short streams have of one.
func (j *Journal) wholeRow(ctx context.Context, s *stream, epoch uint64) (bool, error) {
	key, ok := queue.ParseID(s.job)
	if !ok {
		return false, nil
	}
	err := j.db.r.QueryRowContext(ctx, `SELECT last, meta, epoch FROM whole WHERE key = ? AND job = ?`, key, s.job).Scan(&s.last, &s.meta, &s.epoch)
	if errors.Is(err, sql.ErrNoRows) {
		b, _, ok, err := j.bundleOf(ctx, j.db.r, key, s.job)
		if err != nil || !ok {
			return false, err
		}
		s.last, s.meta, s.epoch = b.last, b.meta, b.epoch
	} else if err != nil {
		return false, err
	}
	s.known, s.whole = true, true
	s.found(epoch)
	return true, nil
}

// view is what memory has of a stream at one moment.
type view struct {
	id      int64
	known   bool
	last    uint64
	settled uint64  // up to here SQLite has everything
	chunks  []chunk // the newest first
	more    chan struct{}
	s       *stream
}

// look copies what memory has of a stream after a position. With wait the view gets a channel that the next frame
// closes, and the stream stays in memory until leave.
func (j *Journal) look(ctx context.Context, job string, after uint64, wait bool) (view, error) {
	s, err := j.stream(ctx, job, wait)
	if err != nil {
		return view{}, err
	}
	defer j.mu.Unlock()
	if s == nil {
		if after > 0 {
			return view{}, queue.BeyondEnd(job, after, 0)
		}
		return view{}, nil
	}
	if after > s.last {
		return view{}, queue.BeyondEnd(job, after, s.last)
	}
	v := view{id: s.id, known: s.known, last: s.last, settled: s.first - 1, s: s}
	v.copy(&s.coded, s.last, after)
	if p := s.settling; p != nil {
		v.settled = p.first - 1
		v.copy(&p.coded, p.last, after)
	}
	if wait {
		if s.more == nil {
			s.more = make(chan struct{})
		}
		v.more = s.more
		s.tailers++
	}
	return v, nil
}

// copy takes in the chunks that have frames after a position, the last one's number being last.
func (v *view) copy(c *coded, last, after uint64) {
	for ; c != nil && c.n > 0 && last > after; last, c = last-uint64(c.n), c.older {
		v.chunks = append(v.chunks, c.after(after, last))
	}
}

func (j *Journal) leave(s *stream) {
	j.mu.Lock()
	s.tailers--
	j.mu.Unlock()
}

// emit calls fn for the frames of a view after a position: first SQLite's, then memory's.
func (j *Journal) emit(ctx context.Context, v view, after uint64, fn func(uint64, uint32, []byte) error) error {
	at := after
	for at < v.settled {
		chunks, err := j.chunks(ctx, v.s, at)
		if err != nil {
			return err
		}
		if len(chunks) == 0 {
			return queue.BeyondEnd(v.s.job, v.settled, at) // dropped meanwhile
		}
		for _, c := range chunks {
			seq := c.first - 1
			if seq >= v.settled {
				break // settled since the view was taken, which has these frames itself
			}
			if seq > at {
				return fmt.Errorf("%w: %s: frames %d to %d of %s are missing", queue.ErrCorrupt, j.db.path, at+1, seq, v.s.job)
			}
			err := decodeChunk(c.data, func(meta uint32, data []byte) error {
				seq++
				if seq <= at || seq > v.settled {
					return nil
				}
				at = seq
				if err := ctx.Err(); err != nil {
					return err
				}
				return fn(seq, meta, data)
			})
			if err != nil {
				return damaged(j.db.path, err)
			}
		}
	}
	for _, c := range slices.Backward(v.chunks) {
		seq := c.first - 1
		err := decodeChunk(c.data, func(meta uint32, data []byte) error {
			if seq++; seq <= after {
				return nil
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			return fn(seq, meta, data)
		})
		if err != nil {
			return damaged(j.db.path, err)
		}
	}
	return nil
}

type chunk struct {
	first uint64
	data  []byte
}

// chunks reads a few rows at a time, so that no slow reader holds a transaction open and makes the log grow.
func (j *Journal) chunks(ctx context.Context, s *stream, after uint64) ([]chunk, error) {
	if key, ok := queue.ParseID(s.job); ok && s.whole {
		c := chunk{first: 1}
		err := j.db.r.QueryRowContext(ctx, `SELECT data FROM whole WHERE key = ? AND job = ?`, key, s.job).Scan(&c.data)
		if errors.Is(err, sql.ErrNoRows) {
			b, _, ok, err := j.bundleOf(ctx, j.db.r, key, s.job)
			if err != nil || !ok {
				return nil, typed(j.db.path, err)
			}
			return []chunk{{first: 1, data: b.chunk}}, nil
		}
		return []chunk{c}, typed(j.db.path, err)
	}
	rows, err := j.db.r.QueryContext(ctx, `SELECT first, data FROM chunks WHERE stream = ?1 AND first >=
		coalesce((SELECT max(first) FROM chunks WHERE stream = ?1 AND first <= ?2), 0) ORDER BY first LIMIT 16`, s.id, after+1)
	if err != nil {
		return nil, typed(j.db.path, err)
	}
	defer rows.Close()
	var out []chunk
	for rows.Next() {
		var c chunk
		if err := rows.Scan(&c.first, &c.data); err != nil {
			return nil, typed(j.db.path, err)
		}
		out = append(out, c)
	}
	return out, typed(j.db.path, rows.Err())
}

// Read implements queue.Journal.
func (j *Journal) Read(ctx context.Context, job string, after uint64, fn func(uint64, uint32, []byte) error) error {
	v, err := j.look(ctx, job, after, false)
	if err != nil || v.s == nil {
		return err
	}
	return j.emit(ctx, v, after, fn)
}

// Tail implements queue.Journal.
func (j *Journal) Tail(ctx context.Context, job string, after uint64, fn func(uint64, uint32, []byte) error) error {
	for {
		v, err := j.look(ctx, job, after, true)
		if err != nil {
			return err
		}
		if v.last == after {
			select {
			case <-v.more:
				err = nil
			case <-ctx.Done():
				err = ctx.Err()
			}
		} else if err = j.emit(ctx, v, after, fn); err == nil {
			after = v.last
		}
		j.leave(v.s)
		if err != nil {
			return err
		}
	}
}

// End implements queue.Journal.
func (j *Journal) End(ctx context.Context, job string) (last uint64, meta uint32, epoch uint64, err error) {
	s, err := j.stream(ctx, job, false)
	if err != nil {
		return 0, 0, 0, err
	}
	defer j.mu.Unlock()
	if s == nil {
		return 0, 0, 0, nil
	}
	return s.last, s.meta, s.epoch, nil
}

// Recovered implements queue.Journal.
func (j *Journal) Recovered(ctx context.Context, job string) (last uint64, epoch uint64, err error) {
	s, err := j.stream(ctx, job, false)
	if err != nil {
		return 0, 0, err
	}
	defer j.mu.Unlock()
	if s == nil {
		return 0, 0, nil
	}
	return s.recovered, s.before, nil
}

// Expire implements queue.Journal.
func (j *Journal) Expire(ctx context.Context, before time.Time) (int, error) {
	before = queue.Cutoff(before, j.o.Clock())
	total, err := j.forgetWhole(ctx, before)
	if err != nil {
		return total, typed(j.db.path, err)
	}
	for {
		ids, err := j.expired(ctx, before)
		if err != nil || len(ids) == 0 {
			return total, err
		}
		n, err := j.forget(ctx, ids)
		if total += n; err != nil || n == 0 {
			return total, err
		}
	}
}

// expired returns some of the streams that were last written before a moment.
func (j *Journal) expired(ctx context.Context, before time.Time) (map[string]int64, error) {
	ids := map[string]int64{}
	err := each(ctx, j.db.r, func(r scanner) error {
		var id int64
		var job string
		err := r.Scan(&id, &job)
		ids[job] = id
		return err
	}, `SELECT id, job FROM streams WHERE written_at < ? LIMIT 200`, before.UnixMicro())
	return ids, typed(j.db.path, err)
}

// forgetWhole deletes expired short streams.
func (j *Journal) forgetWhole(ctx context.Context, before time.Time) (total int, err error) {
	const most = 1000 // rows at once: the writer is not held up for longer
	for n := 1; n > 0; total += n {
		if n, err = j.forgetSome(ctx, before, most); err != nil {
			return total, err
		}
	}
	return total, nil
}

func (j *Journal) forgetSome(ctx context.Context, before time.Time, most int) (n int, err error) {
	j.settleMu.Lock()
	defer j.settleMu.Unlock()
	var gone []string
	err = each(ctx, j.db.w, func(r scanner) error {
		var job string
		err := r.Scan(&job)
		gone = append(gone, job)
		return err
	}, `DELETE FROM whole WHERE key IN (SELECT key FROM whole WHERE key < ? AND written_at < ? ORDER BY key LIMIT ?) RETURNING job`,
		queue.KeyBefore(before), before.UnixMicro(), most)
	if err == nil && len(gone) < most {
		var more []string
		more, err = j.forgetBundles(ctx, before, most/maxBundle)
		gone = append(gone, more...)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, job := range gone {
		if s := j.streams[job]; s != nil {
			j.remove(s)
		}
	}
	return len(gone), err
}

// forget deletes streams that have nothing new in memory.
func (j *Journal) forget(ctx context.Context, ids map[string]int64) (int, error) {
	j.settleMu.Lock()
	defer j.settleMu.Unlock()
	var gone []int64
	j.mu.Lock()
	for job, id := range ids {
		s := j.streams[job]
		if s != nil && (s.coded.n > 0 || s.settling != nil || s.queued != s.last) {
			continue // it is being written again
		}
		if s != nil {
			j.remove(s)
		}
		gone = append(gone, id)
	}
	j.mu.Unlock()
	return len(gone), typed(j.db.path, j.erase(ctx, gone...))
}

// remove takes a stream out of memory; its tailers find it gone. j.mu is held.
func (j *Journal) remove(s *stream) {
	s.gone = true
	j.unsettled -= s.coded.weight()
	s.coded = coded{}
	if s.more != nil {
		close(s.more)
		s.more = nil
	}
	delete(j.streams, s.job)
}

// Drop implements queue.Journal.
func (j *Journal) Drop(ctx context.Context, job string) error {
	j.settleMu.Lock()
	defer j.settleMu.Unlock()
	s, err := j.stream(ctx, job, false)
	if err != nil || s == nil {
		if err == nil {
			j.mu.Unlock()
		}
		return err
	}
	start := len(j.batch.buf)
	j.batch.buf = appendRecord(j.batch.buf, recDrop, job, 0, 0, nil)
	j.batch.recs = append(j.batch.recs, batchRec{s: s, start: start, off: len(j.batch.buf), end: len(j.batch.buf), drop: true})
	j.remove(s)
	j.mu.Unlock()
	return typed(j.db.path, errors.Join(j.erase(ctx, s.id), j.eraseWhole(ctx, s.job)))
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}
