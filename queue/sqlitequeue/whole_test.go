package sqlitequeue_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

const metaEnd = 9

func openWhole(t *testing.T, path string) *sqlitequeue.Journal {
	t.Helper()
	j, err := sqlitequeue.OpenJournal(t.Context(), path, sqlitequeue.Options{Settle: time.Millisecond,
		Ended: func(meta uint32) bool { return meta == metaEnd }})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func frames(t *testing.T, j queue.Journal, job string) (out []string) {
	t.Helper()
	err := j.Read(t.Context(), job, 0, func(seq uint64, meta uint32, data []byte) error {
		out = append(out, fmt.Sprintf("%d/%d/%s", seq, meta, data))
		return nil
	})
	if err != nil {
		t.Fatalf("read %s: %v", job, err)
	}
	return out
}

// A short stream that is over is one row: it must read like any other, before and after a restart, and end for good.
func TestWholeStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "frames.db")
	q := queue.New(queue.NewMemory(), queue.Options{})
	defer q.Close()
	j := openWhole(t, path)
	short, open, named := q.NewID(), q.NewID(), "not an id"
	want := []string{"1/1/started", "2/3/the body", "3/9/the end"}
	for _, job := range []string{short, open, named} {
		for i, f := range []struct {
			meta uint32
			data string
		}{{1, "started"}, {3, "the body"}, {metaEnd, "the end"}} {
			if job == open && f.meta == metaEnd {
				continue
			}
			if err := j.Buffer(job, uint64(i)+1, f.meta, []byte(f.data)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = openWhole(t, path)
	defer j.Close()
	for job, n := range map[string]int{short: 3, named: 3, open: 2} {
		if got := frames(t, j, job); !slices.Equal(got, want[:n]) {
			t.Errorf("%s: %q, want %q", job, got, want[:n])
		}
		if last, epoch, err := j.Recovered(t.Context(), job); last != uint64(n) || epoch != 1 || err != nil {
			t.Errorf("%s recovered = %d in %d, %v", job, last, epoch, err)
		}
	}
	if err := j.Buffer(short, 4, 1, nil); !errors.Is(err, queue.ErrDiverged) {
		t.Errorf("a frame after the end: %v", err)
	}
	if err := j.Read(t.Context(), short, 4, nil); !errors.Is(err, queue.ErrDiverged) {
		t.Errorf("a position beyond the end: %v", err)
	}
	if err := j.Append(t.Context(), open, 3, metaEnd, []byte("the end")); err != nil {
		t.Errorf("a stream that is not over: %v", err)
	}
	if err := j.Drop(t.Context(), short); err != nil {
		t.Fatal(err)
	}
	if got := frames(t, j, short); got != nil {
		t.Errorf("dropped, still there: %q", got)
	}
	if n, err := j.Expire(context.Background(), time.Now().Add(time.Hour)); err != nil || n < 1 {
		t.Errorf("expired %d, %v", n, err)
	}
}

// A stream goes on after what looked like its end as long as SQLite does not have that; its neighbours in memory stay as they are.
func TestFramesAfterTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "frames.db")
	o := sqlitequeue.Options{Settle: time.Hour, Ended: func(meta uint32) bool { return meta == metaEnd }}
	j := openJournal(t, path, o)
	want := map[string][]string{}
	for _, job := range []string{"a", "b", "c"} {
		if err := j.BufferAll(job, 1, []uint32{1, metaEnd}, []int{6, 11}, []byte("begin "+job+" end")); err != nil {
			t.Fatal(err)
		}
		want[job] = []string{"1/1/begin ", "2/9/" + job + " end"}
	}
	for _, job := range []string{"a", "b"} {
		if err := j.Buffer(job, 3, 2, []byte("more of "+job)); err != nil {
			t.Fatal(err)
		}
		if err := j.BufferAll(job, 4, []uint32{3, metaEnd}, []int{4, 9}, []byte("last again")[:9]); err != nil {
			t.Fatal(err)
		}
		want[job] = append(want[job], "3/2/more of "+job, "4/3/last", "5/9/ agai")
	}
	for range 2 {
		for job, want := range want {
			if got := frames(t, j, job); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", job, got, want)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = openJournal(t, path, o)
	}
}

func TestWholeStreamsExpire(t *testing.T) {
	path := filepath.Join(t.TempDir(), "frames.db")
	q := queue.New(queue.NewMemory(), queue.Options{})
	defer q.Close()
	j := openWhole(t, path)
	const n = 2500 // more than one round of deletes
	jobs := make([]string, n)
	for i := range jobs {
		jobs[i] = q.NewID()
		if err := j.Buffer(jobs[i], 1, metaEnd, []byte(fmt.Sprint("end", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if rows := number(t, path, `SELECT (SELECT count(*) FROM whole) + (SELECT count(*) FROM bundles) + (SELECT count(*) FROM streams)`); rows > n/4 {
		t.Errorf("%d rows for %d streams", rows, n)
	}
	j = openWhole(t, path)
	defer j.Close()
	for i, job := range jobs {
		if got := frames(t, j, job); len(got) != 1 || got[0] != fmt.Sprint("1/9/end", i) {
			t.Fatalf("stream %d: %q", i, got)
		}
		if err := j.Buffer(job, 2, 1, nil); i%100 == 0 && !errors.Is(err, queue.ErrDiverged) {
			t.Errorf("a frame after the end: %v", err)
		}
	}
	for i := 3; i < n; i += 500 {
		if err := j.Drop(t.Context(), jobs[i]); err != nil {
			t.Fatal(err)
		}
		if got := frames(t, j, jobs[i]); got != nil {
			t.Errorf("dropped, still there: %q", got)
		}
	}
	const left = n - 5
	if got, err := j.Expire(t.Context(), time.Now().Add(-time.Hour)); got != 0 || err != nil {
		t.Fatalf("young streams: expired %d, %v", got, err)
	}
	frames(t, j, jobs[7]) // in memory now
	if got, err := j.Expire(t.Context(), time.Now().Add(time.Hour)); got != left || err != nil {
		t.Fatalf("expired %d, %v, want %d", got, err, left)
	}
	for _, i := range []int{0, 7, n - 1} {
		if got := frames(t, j, jobs[i]); got != nil {
			t.Errorf("expired, still there: %q", got)
		}
	}
}
