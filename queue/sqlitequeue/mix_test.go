package sqlitequeue_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// mix compares a journal with plain slices.
type mix struct {
	t      *testing.T
	rnd    *rand.Rand
	dir    string
	copies int
	j      *sqlitequeue.Journal
	jobs   []string
	model  map[string][]string // meta and bytes of each frame
	before map[string]int      // how many of them an earlier epoch had
}

// open opens a journal that does nothing by itself but write to its tail.
func (m *mix) open(path string) {
	m.t.Helper()
	j, err := sqlitequeue.OpenJournal(m.t.Context(), path, sqlitequeue.Options{Settle: time.Hour, Sync: time.Hour, TailSize: 1 << 40,
		Linger: []time.Duration{time.Millisecond, time.Hour}[m.rnd.IntN(2)], Ended: func(meta uint32) bool { return meta == metaEnd }})
	m.must(err)
	m.t.Cleanup(func() { j.Close() })
	m.j = j
}

func (m *mix) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// frames makes frames that mostly resemble each other.
func (m *mix) frames(job string, n int) (metas []uint32, ends []int, data []byte) {
	for i := range n {
		switch k := m.rnd.IntN(100); {
		case k < 5: // empty
		case k < 10:
			data = fmt.Appendf(data, "%d", m.rnd.Uint64())
		case k < 11:
			data = append(data, bytes.Repeat([]byte{byte(m.rnd.Uint32())}, m.rnd.IntN(300<<10))...)
		default:
			data = fmt.Appendf(data, `data: {"job":%q,"n":%d,"text":"%0*d"}`+"\n", job, len(m.model[job])+i, m.rnd.IntN(300), m.rnd.IntN(9))
		}
		metas, ends = append(metas, m.rnd.Uint32()>>m.rnd.IntN(32)), append(ends, len(data))
		if metas[i] == metaEnd {
			metas[i]++
		}
	}
	if m.rnd.IntN(4) == 0 {
		metas[n-1] = metaEnd
	}
	return metas, ends, data
}

// put adds frames, one at a time or several.
func (m *mix) put(job string) {
	n := 1
	if m.rnd.IntN(2) == 0 {
		n = []int{2 + m.rnd.IntN(20), 1 + m.rnd.IntN(300)}[m.rnd.IntN(2)]
	}
	metas, ends, data := m.frames(job, n)
	seq := uint64(len(m.model[job]) + 1)
	var err error
	switch {
	case n > 1:
		err = m.j.BufferAll(job, seq, metas, ends, data)
	case m.rnd.IntN(2) == 0:
		err = m.j.Append(m.t.Context(), job, seq, metas[0], data)
	default:
		err = m.j.Buffer(job, seq, metas[0], data)
	}
	if had := m.model[job]; errors.Is(err, queue.ErrDiverged) && len(had) > 0 && bytes.HasPrefix([]byte(had[len(had)-1]), fmt.Appendf(nil, "%d/", metaEnd)) {
		return // it was over, and SQLite has it
	}
	m.must(err)
	at := 0
	for i, end := range ends {
		m.model[job] = append(m.model[job], fmt.Sprintf("%d/%s", metas[i], data[at:end]))
		at = end
	}
	clear(data) // the caller's bytes are its own again
}

// read returns a stream's frames after a position, read in one of two ways.
func (m *mix) read(job string, after int) (got []string) {
	m.t.Helper()
	last, stop := uint64(len(m.model[job])), errors.New("enough")
	take := func(seq uint64, meta uint32, data []byte) error {
		if got = append(got, fmt.Sprintf("%d/%s", meta, data)); seq != uint64(after+len(got)) {
			return fmt.Errorf("frame %d comes as number %d", after+len(got), seq)
		}
		if seq == last {
			return stop
		}
		return nil
	}
	var err error
	if m.rnd.IntN(2) == 0 || uint64(after) == last {
		err = m.j.Read(m.t.Context(), job, uint64(after), take)
	} else {
		err = m.j.Tail(m.t.Context(), job, uint64(after), take)
	}
	if err != nil && !errors.Is(err, stop) {
		m.t.Fatalf("reading %s after %d: %v", job, after, err)
	}
	return got
}

// check compares a stream.
func (m *mix) check(job string, after int) {
	m.t.Helper()
	want := m.model[job]
	if got := m.read(job, after); !slices.Equal(got, want[after:]) {
		m.t.Fatalf("%s after %d: %d frames, want %d, or others", job, after, len(got), len(want)-after)
	}
	if last, _, err := m.j.Recovered(m.t.Context(), job); last != uint64(m.before[job]) || err != nil {
		m.t.Fatalf("%s: recovered %d, want %d, %v", job, last, m.before[job], err)
	}
}

// reopen goes on in another epoch: after Close, or after a crash, in a copy of the files.
func (m *mix) reopen(path string, crash bool) string {
	m.t.Helper()
	if crash {
		flushed := m.rnd.IntN(2) == 0
		if flushed {
			m.must(m.j.Flush())
		}
		m.copies++
		from := path
		path = filepath.Join(m.dir, fmt.Sprint("copy", m.copies))
		for _, suffix := range []string{"", "-wal", ".tail0", ".tail1"} {
			b, err := os.ReadFile(from + suffix)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				m.t.Fatal(err)
			}
			write(m.t, path+suffix, b)
		}
		m.must(m.j.Close())
		m.open(path)
		for _, job := range m.jobs {
			last, _, _, err := m.j.End(m.t.Context(), job)
			if m.must(err); last > uint64(len(m.model[job])) || flushed && last != uint64(len(m.model[job])) {
				m.t.Fatalf("%s has %d frames after a crash, %d before", job, last, len(m.model[job]))
			}
			m.model[job] = m.model[job][:last]
		}
	} else {
		m.must(m.j.Close())
		m.open(path)
	}
	for job, frames := range m.model {
		m.before[job] = len(frames)
	}
	return path
}

// chunks checks that SQLite has no chunk of several frames that is too large.
func (m *mix) chunks(path string) {
	m.t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro")
	m.must(err)
	defer db.Close()
	rows, err := db.QueryContext(m.t.Context(), `SELECT first, last, data FROM chunks`)
	m.must(err)
	defer rows.Close()
	for rows.Next() {
		var first, last, n, size int
		var data []byte
		m.must(rows.Scan(&first, &last, &data))
		m.must(sqlitequeue.DecodeFrames(data, func(_ uint32, data []byte) error {
			n, size = n+1, size+len(data)
			return nil
		}))
		if n != last-first+1 || n > 1 && size > sqlitequeue.ChunkSize {
			m.t.Errorf("the chunk of frames %d to %d has %d of %d bytes", first, last, n, size)
		}
	}
	m.must(rows.Err())
}

// TestJournalMix goes through random histories: frames that come alone, in bursts, as one with the last of their stream, with
// settlings, rotations, crashes and readers between any two.
func TestJournalMix(t *testing.T) {
	q := queue.New(queue.NewMemory(), queue.Options{})
	defer q.Close()
	n := rounds(15, 400)
	for seed := range n {
		m := &mix{t: t, rnd: rand.New(rand.NewPCG(uint64(seed), 23)), dir: t.TempDir(), model: map[string][]string{}, before: map[string]int{},
			jobs: []string{"a", "b", q.NewID(), q.NewID(), q.NewID()}}
		path := filepath.Join(m.dir, "frames")
		m.open(path)
		for range 120 {
			job := m.jobs[m.rnd.IntN(len(m.jobs))]
			switch k := m.rnd.IntN(30); {
			case k < 15:
				m.put(job)
			case k < 18:
				m.check(job, m.rnd.IntN(len(m.model[job])+1))
			case k < 20:
				m.check(job, max(0, len(m.model[job])-1-m.rnd.IntN(3)))
			case k < 21:
				m.must(m.j.Flush())
			case k < 24:
				m.must(m.j.SettleNow())
			case k < 26:
				m.must(m.j.RotateNow())
			case k < 27:
				m.must(m.j.Drop(t.Context(), job))
				m.must(m.j.Flush())
				delete(m.model, job)
				delete(m.before, job)
			default:
				path = m.reopen(path, k < 29)
			}
		}
		for _, job := range slices.Sorted(maps.Keys(m.model)) {
			m.check(job, 0)
		}
		m.must(m.j.Close())
		m.chunks(path)
	}
	t.Logf("row journal mix: rounds %d, survived %d, lost 0", n, n)
}
