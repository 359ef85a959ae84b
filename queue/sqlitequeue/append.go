package sqlitequeue

import (
	"context"

	"github.com/queen-rbee/queen-rbee/queue"
)

// Append implements queue.Journal: the frame is in the tail file when it returns.
func (j *Journal) Append(ctx context.Context, job string, seq uint64, meta uint32, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := j.add(ctx, job, seq, meta, data, false)
	if err != nil {
		return err
	}
	if !j.writing {
		j.writing = true
		return j.lead()
	}
	done := b.wait()
	j.mu.Unlock()
	<-done
	return b.err
}

// Buffer implements queue.Journal: readers see the frame at once, and it is in the tail file within Options.Linger.
func (j *Journal) Buffer(job string, seq uint64, meta uint32, data []byte) error {
	b, err := j.add(context.Background(), job, seq, meta, data, true)
	if err != nil {
		return err
	}
	if len(b.buf) < writeEarly || j.writing {
		j.mu.Unlock()
		return nil
	}
	j.writing = true
	_ = j.lead()
	return nil // the frame itself is kept in any case
}

// BufferAll is Buffer for several frames of a job at once, all or none: the frame of metas[i] ends at ends[i] in data,
// where the next one begins.
func (j *Journal) BufferAll(job string, first uint64, metas []uint32, ends []int, data []byte) error {
	if len(data) > maxFrame {
		return tooLarge(len(data))
	}
	s, err := j.stream(context.Background(), job, true)
	if err != nil {
		return err
	}
	switch {
	case first != s.queued+1 || s.whole:
		defer j.mu.Unlock()
		return queue.OutOfOrder(job, first, s.queued)
	case j.unsettled > maxUnsettled || len(j.batch.buf) > maxParked:
		j.wakeSettle()
		j.mu.Unlock()
		return queue.ErrStorageFull
	}
	if j.putAll(s, first, frames{metas, ends, data}); len(j.batch.buf) < writeEarly || j.writing {
		j.mu.Unlock()
		return nil
	}
	j.writing = true
	_ = j.lead()
	return nil
}

// writeEarly is how much is buffered at most before it is written.
const writeEarly = 64 << 10

// putAll puts frames that follow a stream's last one into the forming batch, for readers to see. j.mu is held.
func (j *Journal) putAll(s *stream, first uint64, f frames) {
	n := len(f.metas)
	if n < 2 || n > groupMost || len(f.data) > chunkSize || s.queued != s.last { // the last: something before them is not visible yet
		at := 0
		for i, end := range f.ends {
			j.put(s, first+uint64(i), f.metas[i], f.data[at:end], true)
			at = end
		}
		return
	}
	b, last := j.batch, first+uint64(n)-1
	r := batchRec{s: s, seq: last, meta: f.metas[n-1], start: len(b.buf), applied: true}
	var begin, second int
	b.buf, begin, second = appendGroupRecord(b.buf, s.job, first, f)
	r.off, r.end = len(b.buf), len(b.buf) // readers see it already
	b.recs = append(b.recs, r)
	s.queued = last
	all, over := b.buf[begin:], j.o.Ended(r.meta)
	if s.coded.mem == nil {
		j.room(s, len(all), len(f.last()), first == 1 && over && len(f.data) <= wholeSize)
	}
	j.shown(s, last, r.meta, s.coded.addAll(f, all, b.buf[second:], over))
}

// add puts a frame into the forming batch and returns with j.mu held, unless it fails.
func (j *Journal) add(ctx context.Context, job string, seq uint64, meta uint32, data []byte, visible bool) (*batch, error) {
	if len(data) > maxFrame {
		return nil, tooLarge(len(data))
	}
	s, err := j.stream(ctx, job, true)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*batch, error) {
		j.mu.Unlock()
		return nil, err
	}
	switch {
	case seq != s.queued+1 || s.whole:
		return fail(queue.OutOfOrder(job, seq, s.queued))
	case j.unsettled > maxUnsettled || len(j.batch.buf) > maxParked && visible:
		j.wakeSettle()
		return fail(queue.ErrStorageFull)
	}
	j.put(s, seq, meta, data, visible)
	return j.batch, nil
}

// put appends a frame that follows the stream's last one to the forming batch. j.mu is held.
func (j *Journal) put(s *stream, seq uint64, meta uint32, data []byte, visible bool) {
	b := j.batch
	r := batchRec{s: s, seq: seq, meta: meta, start: len(b.buf)}
	b.buf = appendRecord(b.buf, recFrame, s.job, seq, meta, data)
	r.end = len(b.buf)
	r.off = r.end - len(data)
	if visible && s.queued == s.last {
		j.show(s, seq, meta, data)
		r.applied = true
	}
	s.queued = seq
	b.recs = append(b.recs, r)
}

// show makes a frame visible to readers. j.mu is held.
func (j *Journal) show(s *stream, seq uint64, meta uint32, data []byte) {
	if s.coded.mem == nil {
		j.room(s, frameHead+len(data), 0, false)
	}
	j.shown(s, seq, meta, s.coded.add(meta, data))
}

// shown notes up to where readers see a stream, which weighs n more now. j.mu is held.
func (j *Journal) shown(s *stream, last uint64, meta uint32, n int) {
	s.last, s.meta, s.epoch, s.idle = last, meta, j.epoch, 0
	j.unsettled += n
	if j.unsettled > settleEarly {
		j.wakeSettle()
	}
	if s.more != nil {
		close(s.more)
		s.more = nil
	}
}

// lead writes batches to the tail: the forming one in this goroutine, what came meanwhile in another. It is called
// with j.mu held and writing set, and returns without the lock.
func (j *Journal) lead() error {
	err := j.writeBatch()
	if err == nil && len(j.batch.recs) > 0 {
		j.mu.Unlock()
		go func() {
			j.mu.Lock()
			for j.writeBatch() == nil && len(j.batch.recs) > 0 {
				continue
			}
			j.writing = false
			j.cond.Broadcast()
			j.mu.Unlock()
		}()
		return nil
	}
	j.writing = false
	j.cond.Broadcast()
	j.mu.Unlock()
	return err
}

// writeBatch writes the forming batch. j.mu is held, and released during the write.
func (j *Journal) writeBatch() error {
	b := j.batch
	j.batch = j.newBatch()
	j.flying = b
	t := j.tails[j.active]
	j.mu.Unlock()
	err := t.write(b.buf)
	j.mu.Lock()
	j.flying = nil
	if err != nil {
		return j.failBatch(b, err)
	}
	j.written += int64(len(b.buf))
	j.unsynced = true
	for _, r := range b.recs {
		if !r.applied && !r.drop && !r.s.gone {
			j.show(r.s, r.seq, r.meta, b.buf[r.off:r.end])
		}
	}
	b.finish()
	j.reuse(b)
	return nil
}

// failBatch refuses what was appended and keeps what was buffered, for the next write. What came meanwhile builds
// on what failed, so it fails too. j.mu is held.
func (j *Journal) failBatch(b *batch, err error) error {
	err = typed(j.db.path, err)
	j.o.Logger.Error("sqlitequeue: journal tail", "err", err)
	later := j.batch
	kept := &batch{}
	for _, old := range []*batch{b, later} {
		for _, r := range old.recs {
			if !r.applied && !r.drop {
				r.s.queued = r.s.last
				continue
			}
			start := len(kept.buf)
			kept.buf = append(kept.buf, old.buf[r.start:r.end]...)
			r.off, r.end, r.start = r.off-r.start+start, r.end-r.start+start, start
			kept.recs = append(kept.recs, r)
		}
		old.err = err
		old.finish()
	}
	j.batch = kept
	return err
}

// Flush implements queue.Journal: what was buffered is in the tail file when it returns, or is about to be written by
// whoever writes there now.
func (j *Journal) Flush() error {
	j.mu.Lock()
	if j.writing || len(j.batch.recs) == 0 {
		j.mu.Unlock()
		return nil
	}
	j.writing = true
	return j.lead()
}
