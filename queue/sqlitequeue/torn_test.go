package sqlitequeue_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// mutate damages the end of a file as a torn write, a lost page or a bad sector would.
func mutate(rnd *rand.Rand, b []byte) []byte {
	b = append([]byte(nil), b...)
	at := rnd.IntN(len(b))
	switch rnd.IntN(4) {
	case 0:
		return b[:at]
	case 1:
		b[at] ^= 1 << rnd.IntN(8)
	case 2:
		end := min(len(b), at+1+rnd.IntN(5000))
		clear(b[at:end])
	default:
		for i := at; i < min(len(b), at+1+rnd.IntN(500)); i++ {
			b[i] = byte(rnd.Uint32())
		}
	}
	return b
}

// TestFault28TornLog damages the job store's tail in many ways: what is left is always the first so many commits,
// whole, never a panic.
func TestFault28TornLog(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "queue.db")
	s := open(t, path)
	q := queue.New(s, queue.Options{})
	defer q.Close()
	var order []string
	for i := range 60 {
		j, err := q.Enqueue(ctx, queue.Job{Tenant: fmt.Sprint(i), Payload: make([]byte, 700)})
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, j.ID)
	}
	files := map[string][]byte{}
	for _, suffix := range []string{"", "-wal", ".tail"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		files[suffix] = b
	}
	n, lengths := rounds(40, 500), map[int]bool{}
	rnd := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	for i := range n {
		torn := filepath.Join(dir, fmt.Sprint(i, ".db"))
		for suffix, b := range files {
			if suffix == ".tail" {
				b = mutate(rnd, bytes.TrimRight(b, "\x00"))
			}
			write(t, torn+suffix, b)
		}
		s, err := sqlitequeue.Open(ctx, torn, sqlitequeue.Options{})
		if err != nil {
			t.Fatalf("mutation %d: %v", i, err)
		}
		var got []string
		if _, err := s.Load(ctx, func(r queue.Record) error {
			got = append(got, r.ID)
			if len(r.Payload) != 700 {
				t.Errorf("mutation %d: %s has %d bytes", i, r.ID, len(r.Payload))
			}
			return nil
		}); err != nil {
			t.Fatalf("mutation %d: %v", i, err)
		}
		if len(got) > len(order) || fmt.Sprint(got) != fmt.Sprint(order[:len(got)]) {
			t.Fatalf("mutation %d: not a prefix of the commits: %v", i, got)
		}
		lengths[len(got)] = true
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(lengths) < 5 {
		t.Errorf("the mutations cut at %d places only", len(lengths))
	}
	t.Logf("row 28 torn log: rounds %d, survived %d, lost 0 (%d different ends)", n, n, len(lengths))
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFault28TornTail does the same to the journal's tail file.
func TestFault28TornTail(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "q.frames")
	j := openJournal(t, path, sqlitequeue.Options{Settle: time.Hour, Linger: time.Hour, Sync: time.Hour})
	var order []string // stream:seq in the order of their appending
	const streams, frames = 5, 40
	for seq := range frames {
		for s := range streams {
			if err := j.Append(ctx, fmt.Sprint("s", s), uint64(seq+1), 7, []byte(fmt.Sprint(s, ":", seq+1, ";"))); err != nil {
				t.Fatal(err)
			}
			order = append(order, fmt.Sprint(s, ":", seq+1, ";"))
		}
	}
	files := map[string][]byte{}
	for _, suffix := range []string{"", "-wal", ".tail0", ".tail1"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		files[suffix] = b
	}
	n, lengths := rounds(40, 500), map[int]bool{}
	rnd := rand.New(rand.NewPCG(3, 4))
	dir := t.TempDir()
	for i := range n {
		torn := filepath.Join(dir, fmt.Sprint(i, ".frames"))
		for suffix, b := range files {
			if suffix == ".tail0" {
				b = mutate(rnd, b)
			}
			write(t, torn+suffix, b)
		}
		j, err := sqlitequeue.OpenJournal(ctx, torn, sqlitequeue.Options{})
		if err != nil {
			t.Fatalf("mutation %d: %v", i, err)
		}
		have := map[string]bool{}
		for s := range streams {
			last := uint64(0)
			if err := j.Read(ctx, fmt.Sprint("s", s), 0, func(seq uint64, meta uint32, data []byte) error {
				if string(data) != fmt.Sprint(s, ":", seq, ";") || seq != last+1 || meta != 7 {
					return fmt.Errorf("frame %d of %d is %q", seq, s, data)
				}
				last = seq
				have[string(data)] = true
				return nil
			}); err != nil {
				t.Fatalf("mutation %d: %v", i, err)
			}
			if err := j.Append(ctx, fmt.Sprint("s", s), last+1, 7, []byte("new")); err != nil {
				t.Fatalf("mutation %d: it does not go on: %v", i, err)
			}
		}
		for k, id := range order {
			if have[id] != (k < len(have)) {
				t.Fatalf("mutation %d: not a prefix: frame %d of %d is there: %v", i, k, len(have), have[id])
			}
		}
		lengths[len(have)] = true
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(lengths) < 5 {
		t.Errorf("the mutations cut at %d places only", len(lengths))
	}
	t.Logf("row 28 torn tail: rounds %d, survived %d, lost 0 (%d different ends)", n, n, len(lengths))
}

// TestFault13Corrupt: a damaged file is refused by name, and stays as it is.
func TestFault13Corrupt(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "queue.db")
	s := open(t, path)
	q := queue.New(s, queue.Options{Max: -1})
	for range 500 {
		if _, err := q.Submit(queue.Job{Tenant: "t", Payload: make([]byte, 400)}); err != nil {
			t.Fatal(err)
		}
	}
	q.Close()
	s.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func([]byte) []byte{
		"no database":   func(b []byte) []byte { return []byte("this is not a database, it is a text of some length") },
		"short":         func(b []byte) []byte { return b[:7] },
		"header":        func(b []byte) []byte { b[3] = 0; return b },
		"pages zeroed":  func(b []byte) []byte { clear(b[4096*3 : 4096*9]); return b },
		"pages garbage": func(b []byte) []byte { copy(b[4096*2:], b[5000:4096*6]); return b },
		"cut in half":   func(b []byte) []byte { return b[:len(b)/2+100] },
	} {
		t.Run(name, func(t *testing.T) {
			bad := damage(append([]byte(nil), good...))
			file := filepath.Join(t.TempDir(), "damaged.db")
			write(t, file, bad)
			for _, open := range []func() error{
				func() error { _, err := sqlitequeue.Open(ctx, file, sqlitequeue.Options{}); return err },
				func() error { _, err := sqlitequeue.OpenJournal(ctx, file, sqlitequeue.Options{}); return err },
			} {
				err := open()
				if !errors.Is(err, queue.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), file) {
					t.Errorf("got %v", err)
				}
			}
			if now, err := os.ReadFile(file); err != nil || string(now) != string(bad) {
				t.Errorf("the damaged file was changed (%v)", err)
			}
		})
	}
	t.Run("lost beside its log", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "lost.db")
		write(t, file+"-wal", good)
		if _, err := sqlitequeue.Open(ctx, file, sqlitequeue.Options{}); !errors.Is(err, queue.ErrCorrupt) {
			t.Errorf("got %v", err)
		}
	})
	t.Log("row 13 corrupt file: rounds 7, survived 7, lost 0")
}

// TestFault13Busy lets 64 writers work through the queue while others write to the same file with connections of
// their own: nobody hears of BUSY.
func TestFault13Busy(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "queue.db")
	s := open(t, path)
	q := queue.New(s, queue.Options{Max: -1})
	defer q.Close()
	db, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=10000&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "CREATE TABLE other (n INTEGER)"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var others, wg sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					continue // the stranger's own trouble
				}
				_, _ = tx.ExecContext(ctx, "INSERT INTO other VALUES (1)")
				_ = tx.Commit()
			}
		})
	}
	each := rounds(5, 100)
	for w := range 64 {
		wg.Go(func() {
			for range each {
				j, err := q.Enqueue(ctx, queue.Job{Tenant: fmt.Sprint(w), State: queue.Running})
				if err == nil {
					err = q.Finish(ctx, j.Lease, queue.Result{})
				}
				if err == nil {
					_, err = q.Get(ctx, j.ID)
				}
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	others.Wait()
	counts, err := q.Counts(ctx)
	var n int64
	for _, c := range counts {
		n += c.N
	}
	if err != nil || n != int64(64*each) {
		t.Errorf("%d jobs, %v", n, err)
	}
	t.Logf("row 13 busy: rounds %d, survived %d, lost 0", 64*each, n)
}

// TestTornGroup: frames that were journalled together come back together, or not at all, wherever the tail was cut.
func TestTornGroup(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, filepath.Join(dir, "whole"), sqlitequeue.Options{Settle: 1 << 40})
	data := []byte(`{"a":"one"}{"a":"two"}{"a":"four"}`)
	metas, ends := []uint32{1, 2, 2}, []int{11, 22, len(data)}
	for _, first := range []uint64{1, 4} {
		if err := errors.Join(j.BufferAll("job", first, metas, ends, data), j.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	tail, err := os.ReadFile(filepath.Join(dir, "whole.tail0"))
	if err != nil {
		t.Fatal(err)
	}
	want := frames(t, j, "job")
	seen := map[int]bool{}
	for cut := len(tail); cut >= 0; cut -= 3 {
		path := filepath.Join(dir, fmt.Sprint("cut", cut))
		write(t, path+".tail0", tail[:cut])
		got := frames(t, openJournal(t, path, sqlitequeue.Options{}), "job")
		if n := len(got); n%3 != 0 || !slices.Equal(got, want[:n]) {
			t.Errorf("cut at %d of %d: %q", cut, len(tail), got)
		}
		seen[len(got)] = true
	}
	if len(seen) != 3 {
		t.Errorf("found %v frames, want 0, 3 and 6 among them", seen)
	}
}
