package sqlitequeue

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/queen-rbee/queen-rbee/queue"
)

// idleTicks is after how many settlings without a new frame a stream leaves memory.
const idleTicks = 5

// settle moves what the streams gathered into SQLite, one row a stream.
func (j *Journal) settle() error {
	j.settleMu.Lock()
	defer j.settleMu.Unlock()
	for first := true; ; first = false {
		j.mu.Lock()
		if len(j.packs) == 0 && first {
			j.packs = j.collect()
		}
		packs := j.packs
		j.mu.Unlock()
		if len(packs) == 0 {
			return nil
		}
		if err := j.store(context.Background(), packs); err != nil {
			return typed(j.db.path, err)
		}
		j.mu.Lock()
		for _, p := range packs {
			p.s.known, p.s.settling = true, nil
			j.unsettled -= p.coded.weight()
			j.giveBack(p)
		}
		j.packs = nil
		j.reuseSlabs()
		j.mu.Unlock()
	}
}

// collect takes the frames out of the streams and forgets the streams that are quiet. j.mu is held.
func (j *Journal) collect() []*pack {
	var packs []*pack
	for job, s := range j.streams {
		if s.coded.n == 0 {
			most := int32(idleTicks)
			if s.whole {
				most = 0 // nothing follows
			}
			if s.idle++; s.idle > most && s.tailers == 0 && s.queued == s.last {
				delete(j.streams, job)
				s.gone, j.floor = true, max(j.floor, job)
			}
			continue
		}
		p := s.pack()
		s.settling, s.room = p, len(p.coded.mem)+len(p.coded.mem)/8
		s.whole = s.queued == s.last && j.isWhole(p)
		packs = append(packs, p)
	}
	j.closeSlabs()
	return packs
}

// pack takes the frames out of a stream.
func (s *stream) pack() *pack {
	p := &pack{s: s, coded: s.coded, first: s.first, last: s.last, epoch: s.epoch, recovered: s.recovered, before: s.before}
	s.first, s.coded = s.last+1, coded{}
	return p
}

// wholeSize is the most raw bytes of a stream that becomes one row.
const wholeSize = 64 << 10

// isWhole reports whether a pack is all there will ever be of a short stream.
func (j *Journal) isWhole(p *pack) bool {
	if p.s.known || p.first != 1 || p.coded.older != nil || p.coded.size > wholeSize || p.recovered != 0 || p.before != 0 ||
		!j.o.Ended(p.coded.meta) {
		return false
	}
	_, ok := queue.ParseID(p.s.job)
	return ok
}

// store writes packs in one transaction.
func (j *Journal) store(ctx context.Context, packs []*pack) (err error) {
	tx, err := j.db.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreDone(tx.Rollback()))
		}
	}()
	stream, err := tx.PrepareContext(ctx, `INSERT INTO streams (id, job, last, meta, epoch, recovered, recovered_in, written_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET last = excluded.last, meta = excluded.meta,
		epoch = excluded.epoch, recovered = excluded.recovered, recovered_in = excluded.recovered_in,
		written_at = excluded.written_at`)
	if err != nil {
		return err
	}
	chunk, err := tx.PrepareContext(ctx, `INSERT INTO chunks (stream, first, last, data) VALUES (?, ?, ?, ?)`)
	if err != nil {
		return err
	}
	now := j.o.Clock().UnixMicro()
	var short []*pack
	for _, p := range packs {
		if p.s.gone {
			continue
		}
		if p.s.whole {
			short = append(short, p)
			continue
		}
		if _, err = stream.ExecContext(ctx, p.s.id, p.s.job, p.last, p.coded.meta, p.epoch, p.recovered, p.before, now); err != nil {
			return err
		}
		for c, last := &p.coded, p.last; c != nil; last, c = last-uint64(c.n), c.older {
			if _, err = chunk.ExecContext(ctx, p.s.id, last-uint64(c.n)+1, last, c.chunk()); err != nil {
				return err
			}
		}
	}
	if err = j.storeWhole(ctx, tx, short, now); err != nil {
		return err
	}
	return tx.Commit()
}

// tailed is how much the active tail holds.
func (j *Journal) tailed() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.written
}

// sync makes the active tail survive a power cut.
func (j *Journal) sync() {
	j.mu.Lock()
	t, dirty := j.tails[j.active], j.unsynced
	j.unsynced = false
	j.mu.Unlock()
	if !dirty {
		return
	}
	if err := j.o.fsync(t.f); err != nil {
		j.o.Logger.Error("sqlitequeue: journal sync", "err", err)
	}
}

// rotate turns to the other tail file and empties this one once SQLite has all it holds. It is called by the
// ticker, and by Close after it.
func (j *Journal) rotate() error {
	j.mu.Lock()
	old, next := j.tails[j.active], j.tails[1-j.active]
	if !j.swapped {
		j.gen++
		if err := next.begin(j.gen, j.epoch); err != nil {
			j.mu.Unlock()
			return typed(j.db.path, err)
		}
		j.active = 1 - j.active
		j.written, j.unsynced, j.swapped = 0, true, true
	} else {
		old, next = next, old // an earlier rotation could not finish
	}
	var flying chan struct{}
	if j.flying != nil {
		flying = j.flying.wait()
	}
	j.mu.Unlock()
	if flying != nil {
		<-flying
	}
	if err := j.settle(); err != nil {
		return err
	}
	if err := j.settle(); err != nil { // what came while an earlier failure was made good
		return err
	}
	if err := j.syncWAL(); err != nil {
		return typed(j.db.path, err)
	}
	if err := old.empty(); err != nil {
		return typed(j.db.path, err)
	}
	j.mu.Lock()
	j.swapped = false
	j.mu.Unlock()
	return nil
}

// syncWAL makes every commit of the journal survive a power cut.
func (j *Journal) syncWAL() error {
	f, err := os.OpenFile(j.db.path+"-wal", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it was checkpointed, which syncs
	}
	if err != nil {
		return err
	}
	return errors.Join(j.o.fsync(f), f.Close())
}

// recover takes what the tails hold into SQLite: every whole record up to the first torn one.
func (j *Journal) recover(ctx context.Context) error {
	type old struct {
		t          *tail
		gen, epoch uint64
	}
	var found []old
	for _, t := range j.tails {
		gen, epoch, ok, err := readHeader(t.f)
		if err != nil {
			return err
		}
		if ok {
			found = append(found, old{t, gen, epoch})
			j.gen = max(j.gen, gen)
		}
	}
	if len(found) == 2 && found[0].gen > found[1].gen {
		found[0], found[1] = found[1], found[0]
	}
	for _, o := range found {
		im := &importer{j: j, epoch: o.epoch, streams: map[string]*stream{}}
		torn, err := readTail(io.NewSectionReader(o.t.f, tailHeader, 1<<62), func(r record) error { return im.take(ctx, r) })
		if err == nil {
			err = im.flush(ctx)
		}
		if err != nil {
			return err
		}
		if torn {
			j.o.Logger.Warn("sqlitequeue: the journal's tail ends in a torn record", "path", j.db.path)
			break
		}
	}
	return nil
}

// importer gathers the records of a tail.
type importer struct {
	j       *Journal
	epoch   uint64
	streams map[string]*stream
	size    int
}

func (im *importer) take(ctx context.Context, r record) error {
	s := im.streams[r.job]
	if s == nil {
		var err error
		if s, err = im.j.row(ctx, r.job, im.epoch); err != nil {
			return err
		}
		if !s.known {
			s.id = im.j.nextID
			im.j.nextID++
		}
		im.streams[r.job] = s
	}
	switch {
	case r.kind == recDrop:
		delete(im.streams, r.job)
		return errors.Join(im.j.erase(ctx, s.id), im.j.eraseWhole(ctx, s.job))
	case r.kind != recFrame || r.seq != s.last+1:
		return nil // SQLite has it already, or what lies between was lost
	}
	grown := s.coded.add(r.meta, r.data)
	s.last, s.meta, s.epoch = r.seq, r.meta, im.epoch
	if im.size += grown; im.size > settleEarly {
		return im.flush(ctx)
	}
	return nil
}

func (im *importer) flush(ctx context.Context) error {
	var packs []*pack
	for _, s := range im.streams {
		if s.coded.n > 0 {
			p := s.pack()
			s.whole = im.j.isWhole(p)
			packs = append(packs, p)
		}
	}
	im.size = 0
	if len(packs) == 0 {
		return nil
	}
	return im.j.store(ctx, packs)
}

// eraseWhole deletes a stream that is one row, or in one.
func (j *Journal) eraseWhole(ctx context.Context, job string) error {
	key, ok := queue.ParseID(job)
	if !ok {
		return nil
	}
	_, err := j.db.w.ExecContext(ctx, "DELETE FROM whole WHERE key = ? AND job = ?", key, job)
	return errors.Join(err, j.eraseBundled(ctx, key, job))
}

// erase deletes a stream from SQLite.
func (j *Journal) erase(ctx context.Context, ids ...int64) error {
	tx, err := j.db.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for _, id := range ids {
		for _, q := range []string{"DELETE FROM chunks WHERE stream = ?", "DELETE FROM streams WHERE id = ?"} {
			if _, err := tx.ExecContext(ctx, q, id); err != nil {
				return errors.Join(err, ignoreDone(tx.Rollback()))
			}
		}
	}
	return tx.Commit()
}
