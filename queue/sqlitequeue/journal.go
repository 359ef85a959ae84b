package sqlitequeue

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// maxUnsettled bounds what waits in memory for SQLite, coded; maxParked what waits for the tail file.
const (
	maxUnsettled = 256 << 20
	maxParked    = 8 << 20
	settleEarly  = 2 << 20 // as much as SQLite's page cache holds: in a larger transaction a row costs more
	// rotateAfter empties a tail that has anything in it, so that nothing expired comes back after a crash.
	rotateAfter = 30 * time.Second
)

// Journal is a queue.Journal in a SQLite file with a tail file beside it.
type Journal struct {
	db    *database
	o     Options
	epoch uint64

	mu                     sync.Mutex
	cond                   *sync.Cond // writing ended
	streams                map[string]*stream
	nextID                 int64
	floor                  string // a stream that is not in memory and whose name is above this never had a frame
	batch                  *batch
	spare                  *batch   // empty, to be used again
	peak                   int      // of the batches since shrink
	free                   [][]byte // likewise, for what a stream gathers between two settlings
	freeBytes              int      // in free
	freeUsed               int      // taken out of it since shrink
	slab                   []byte   // of short streams that were over when they came
	slabs                  [][]byte // earlier ones that SQLite does not have
	goingSlabs, spareSlabs [][]byte
	leastSlabs             int // how many were spare at least since shrink
	writing                bool
	tails                  [2]*tail
	active                 int
	gen                    uint64
	flying                 *batch // being written
	written                int64  // bytes in the active tail
	swapped                bool   // a rotation is under way
	unsynced               bool   // since the last sync of the active tail
	unsettled              int    // bytes of coded frames
	closed                 bool

	settleMu  sync.Mutex // one settling at a time
	bundleBuf []byte     // settleMu is held
	packs     []*pack    // taken out of the streams, not yet in SQLite
	hurry     chan struct{}
	once      sync.Once
	quit      chan struct{}
	done      chan struct{}
}

var _ queue.Journal = (*Journal)(nil)

// stream is one job's frames as far as memory knows them. Journal.mu guards it.
type stream struct {
	job       string
	id        int64
	meta      uint32 // of the last frame
	known     bool   // SQLite has its row
	whole     bool   // it is over, and has or gets its one row in the table whole
	gone      bool
	last      uint64 // last frame that readers see
	queued    uint64 // last frame that was accepted
	epoch     uint64 // of the last frame
	recovered uint64
	before    uint64
	first     uint64 // number of the first frame in coded
	coded     coded  // what SQLite is to get
	room      int    // what that held last time
	settling  *pack
	more      chan struct{}
	tailers   int32
	idle      int32
}

// pack is what is being moved from a stream into SQLite.
type pack struct {
	s     *stream
	first uint64
	last  uint64
	coded coded

	epoch, recovered, before uint64
}

// batch collects records for one write to the tail.
type batch struct {
	buf  []byte
	recs []batchRec
	done chan struct{} // closed when it is written; nil while nobody waits
	err  error
}

type batchRec struct {
	s       *stream
	seq     uint64
	meta    uint32
	start   int // of the record in buf
	off     int // of the data in buf
	end     int
	applied bool // readers see it already (buffered)
	drop    bool
}

// wait returns what is closed when the batch is written. j.mu is held.
func (b *batch) wait() chan struct{} {
	if b.done == nil {
		b.done = make(chan struct{})
	}
	return b.done
}

// finish tells those who wait. j.mu is held.
func (b *batch) finish() {
	if b.done != nil {
		close(b.done)
	}
}

// Bounds of the memory that is kept for what streams gather between two settlings, and the least that one gets.
const (
	freeMost   = 16 << 20 // all of it
	freeLeast  = 1 << 20  // likewise, in quiet times
	freeSize   = 512 << 10
	freePieces = 1024
	leastRoom  = 256
)

// room gives a stream memory for its next frames, n bytes at first and more for the last as it is; over says that there are no others
// in a short stream. j.mu is held.
func (j *Journal) room(s *stream, n, more int, over bool) {
	n += chunkHead
	if over {
		s.coded.mem, s.coded.shared = j.slice(n), true
		return
	}
	if last := len(j.free) - 1; last >= 0 {
		s.coded.mem = j.free[last]
		j.freeBytes -= cap(s.coded.mem)
		j.freeUsed++
		j.free[last] = nil
		j.free = j.free[:last]
		return
	}
	s.coded.mem = make([]byte, 0, max(s.room, n+more, leastRoom))
}

// Short streams that are over when they come share their memory.
const (
	slabSize  = 256 << 10
	freeSlabs = 64
)

// slice returns a part of the slab. j.mu is held.
func (j *Journal) slice(n int) []byte {
	if cap(j.slab)-len(j.slab) < n {
		if j.slab != nil {
			j.slabs = append(j.slabs, j.slab)
		}
		j.slab = j.newSlab()
	}
	at := len(j.slab)
	j.slab = j.slab[:at+n]
	return j.slab[at : at : at+n]
}

func (j *Journal) newSlab() []byte {
	if last := len(j.spareSlabs) - 1; last >= 0 {
		b := j.spareSlabs[last]
		j.spareSlabs = j.spareSlabs[:last]
		j.leastSlabs = min(j.leastSlabs, last)
		return b
	}
	return make([]byte, 0, slabSize)
}

// closeSlabs keeps the slabs that were used until SQLite has all that is in them. j.mu is held.
func (j *Journal) closeSlabs() {
	j.goingSlabs = append(j.goingSlabs, j.slabs...)
	if len(j.slab) > 0 {
		j.goingSlabs = append(j.goingSlabs, j.slab)
		j.slab = nil
	}
	clear(j.slabs)
	j.slabs = j.slabs[:0]
}

// reuseSlabs keeps their memory. j.mu is held.
func (j *Journal) reuseSlabs() {
	for _, b := range j.goingSlabs {
		if len(j.spareSlabs) < freeSlabs {
			j.spareSlabs = append(j.spareSlabs, b[:0])
		}
	}
	clear(j.goingSlabs)
	j.goingSlabs = j.goingSlabs[:0]
}

// giveBack keeps the memory of what SQLite has now. j.mu is held.
func (j *Journal) giveBack(p *pack) {
	for c := &p.coded; c != nil; c = c.older {
		if !c.shared && len(j.free) < freePieces && cap(c.mem) > 0 && cap(c.mem) <= freeSize && j.freeBytes+cap(c.mem) <= freeMost {
			j.freeBytes += cap(c.mem)
			j.free = append(j.free, c.mem[:0])
		}
	}
	p.coded = coded{}
}

// spareBatch is the most that a batch may hold to be used again; smallBatch what is kept of that in quiet times.
const (
	spareBatch = 8 << 20
	smallBatch = 256 << 10
)

// newBatch returns an empty batch. j.mu is held.
func (j *Journal) newBatch() *batch {
	if b := j.spare; b != nil {
		j.spare = nil
		return b
	}
	return &batch{}
}

// reuse keeps a written batch for the next one, when nobody looks at it any more. j.mu is held.
func (j *Journal) reuse(b *batch) {
	if b.done != nil || cap(b.buf) > spareBatch {
		return
	}
	j.peak = max(j.peak, len(b.buf))
	clear(b.recs)
	b.buf, b.recs = b.buf[:0], b.recs[:0]
	j.spare = b
}

// shrink gives back memory that nobody used since the last time.
func (j *Journal) shrink() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for n := len(j.free) / 2; j.freeUsed < n/2 && j.freeBytes > freeLeast && len(j.free) > n; {
		last := len(j.free) - 1
		j.freeBytes -= cap(j.free[last])
		j.free[last] = nil
		j.free = j.free[:last]
	}
	j.freeUsed = 0
	if n := len(j.spareSlabs) - (j.leastSlabs+1)/2; n < len(j.spareSlabs) {
		clear(j.spareSlabs[n:])
		j.spareSlabs = j.spareSlabs[:n]
	}
	j.leastSlabs = len(j.spareSlabs)
	if j.spare != nil && cap(j.spare.buf) > smallBatch && j.peak < cap(j.spare.buf)/4 {
		j.spare = nil
	}
	j.peak = 0
}

// OpenJournal opens or creates the journal at path, with two tail files beside it, takes in what the tails hold and
// begins a new epoch. Errors are as those of Open.
func OpenJournal(ctx context.Context, path string, o Options) (*Journal, error) {
	o = o.withDefaults()
	db, err := openDatabase(ctx, path, o, "NORMAL", journalMigrations())
	if err != nil {
		return nil, err
	}
	j := &Journal{db: db, o: o, streams: map[string]*stream{}, batch: &batch{},
		hurry: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	j.cond = sync.NewCond(&j.mu)
	if err := j.open(ctx); err != nil {
		return nil, errors.Join(typed(path, err), j.closeFiles())
	}
	go j.run()
	return j, nil
}

func (j *Journal) open(ctx context.Context) error {
	for i := range j.tails {
		t, err := openTail(fmt.Sprintf("%s.tail%d", j.db.path, i))
		if err != nil {
			return err
		}
		j.tails[i] = t
	}
	if err := syncDir(filepath.Dir(j.db.path), j.o); err != nil {
		return err
	}
	if err := j.db.w.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) + 1 FROM streams").Scan(&j.nextID); err != nil {
		return err
	}
	if err := j.recover(ctx); err != nil {
		return err
	}
	if err := j.db.w.QueryRowContext(ctx, `SELECT max(coalesce((SELECT max(job) FROM streams), ''),
		coalesce((SELECT job FROM whole ORDER BY key DESC LIMIT 1), ''))`).Scan(&j.floor); err != nil {
		return err
	}
	if err := j.raiseFloor(ctx); err != nil {
		return err
	}
	res, err := j.db.w.ExecContext(ctx, "INSERT INTO epochs (opened_at) VALUES (?)", j.o.Clock().UnixMicro())
	if err != nil {
		return err
	}
	id, err := res.LastInsertId()
	if err != nil {
		return err
	}
	j.epoch = uint64(id)
	if err := j.syncWAL(); err != nil {
		return err
	}
	for _, t := range j.tails {
		if err := t.empty(); err != nil {
			return err
		}
	}
	j.gen++
	return j.tails[0].begin(j.gen, j.epoch)
}

// Epoch implements queue.Journal.
func (j *Journal) Epoch() uint64 { return j.epoch }

// stream returns a stream with j.mu held, reading its row when memory does not have it. Without create it returns
// nil for one that never had a frame. On an error j.mu is not held.
func (j *Journal) stream(ctx context.Context, job string, create bool) (*stream, error) {
	j.mu.Lock()
	for {
		if j.closed {
			j.mu.Unlock()
			return nil, queue.ErrClosed
		}
		if s := j.streams[job]; s != nil {
			return s, nil
		}
		s := &stream{job: job, first: 1}
		if job <= j.floor { // ids sort by time: a new job's stream is above, and needs no look
			j.mu.Unlock()
			var err error
			if s, err = j.row(ctx, job, j.epoch); err != nil {
				return nil, typed(j.db.path, err)
			}
			j.mu.Lock()
			if j.streams[job] != nil || j.closed {
				continue
			}
		}
		if !s.known && !create {
			return nil, nil
		}
		if !s.known {
			s.id = j.nextID
			j.nextID++
		}
		j.streams[job] = s
		return s, nil
	}
}

func (j *Journal) wakeSettle() {
	select {
	case j.hurry <- struct{}{}:
	default:
	}
}

// run is the ticker: it flushes, settles and syncs.
func (j *Journal) run() {
	defer close(j.done)
	tick := time.NewTicker(j.o.Linger)
	defer tick.Stop()
	settled, synced, rotated := time.Now(), time.Now(), time.Now()
	for {
		hurry := false
		select {
		case <-tick.C:
		case <-j.hurry:
			hurry = true
		case <-j.quit:
			return
		}
		_ = j.Flush() // logged; what was buffered is kept
		if hurry || time.Since(settled) >= j.o.Settle {
			j.shrink()
			if err := j.settle(); err != nil {
				j.o.Logger.Error("sqlitequeue: journal settle, tried again", "err", err)
			}
			settled = time.Now()
		}
		if time.Since(synced) >= j.o.Sync {
			j.sync()
			synced = time.Now()
		}
		if size := j.tailed(); size > j.o.TailSize || size > 0 && time.Since(rotated) >= rotateAfter {
			if err := j.rotate(); err != nil {
				j.o.Logger.Error("sqlitequeue: journal rotation, tried again", "err", err)
			}
			rotated = time.Now()
		}
	}
}

// Close implements queue.Journal.
func (j *Journal) Close() error {
	var err error
	j.once.Do(func() { err = j.close() })
	return err
}

func (j *Journal) close() error {
	close(j.quit)
	<-j.done
	errs := []error{j.Flush()}
	j.mu.Lock()
	j.closed = true
	for j.writing {
		j.cond.Wait()
	}
	for _, s := range j.streams {
		if s.more != nil {
			close(s.more)
			s.more = nil
		}
	}
	j.mu.Unlock()
	err := j.rotate()
	return errors.Join(append(errs, err, j.closeFiles())...)
}

func (j *Journal) closeFiles() error {
	var errs []error
	for _, t := range j.tails {
		if t != nil {
			errs = append(errs, t.f.Close())
		}
	}
	return errors.Join(append(errs, j.db.close())...)
}
