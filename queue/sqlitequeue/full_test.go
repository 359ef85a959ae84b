package sqlitequeue_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// smallDisk mounts a file system of 8 MB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m")
	if err != nil {
		if os.Getenv("RBEE_CI") == "1" {
			t.Fatalf("needs root to mount a small disk: %v", err)
		}
		t.Skipf("needs root to mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// ballast fills a disk to its last byte and returns how to free it.
func ballast(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1 << 20, 4096, 1} {
		for b := make([]byte, size); err == nil || size > 1; {
			if _, err = f.Write(b); err != nil {
				break
			}
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk does not fill: %v", err)
	}
	return func() {
		f.Close()
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// recovers waits until fn works again.
func recovers(t *testing.T, fn func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	for {
		err := fn()
		took := time.Since(begin)
		switch {
		case err == nil:
			return took
		case took > 5*time.Second:
			t.Fatalf("it does not recover: %v", err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestFault12DiskFullJobs(t *testing.T) {
	ctx := t.Context()
	dir := smallDisk(t)
	path := filepath.Join(dir, "queue.db")
	s := open(t, path)
	q := queue.New(s, queue.Options{Max: -1})
	stored := map[string]queue.State{}
	enqueue := func() error {
		j, err := q.Enqueue(ctx, queue.Job{Payload: make([]byte, 1000)})
		if err == nil {
			stored[j.ID] = queue.Queued
		}
		return err
	}
	n := rounds(2, 10)
	for round := range n {
		for range 20 {
			if err := enqueue(); err != nil {
				t.Fatal(err)
			}
		}
		run, err := q.Next(ctx, queue.ClaimOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stored[run.ID] = queue.Running
		lazy, err := q.Next(ctx, queue.ClaimOptions{})
		if err != nil {
			t.Fatal(err)
		}
		free := ballast(t, dir)
		for err = nil; err == nil; {
			err = enqueue()
		}
		var coded interface{ RetryAfter() time.Duration }
		if !errors.Is(err, queue.ErrStorageFull) || !errors.As(err, &coded) || coded.RetryAfter() <= 0 {
			t.Fatalf("on a full disk: %v", err)
		}
		if err := q.FinishLazy(lazy.Lease, queue.Result{}); err != nil {
			t.Fatal(err)
		}
		err = q.Finish(ctx, run.Lease, queue.Result{})
		if err != nil && !errors.Is(err, queue.ErrStorageFull) {
			t.Fatalf("finish on a full disk: %v", err)
		}
		for id, state := range stored { // reads go on
			if j, err := q.Get(ctx, id); err != nil || j.State != state && id != run.ID && id != lazy.ID {
				t.Fatalf("get on a full disk: %s is %s, %v", id, j.State, err)
			}
		}
		if page, err := q.List(ctx, queue.Filter{Limit: 1000}); err != nil || len(page.Jobs) == 0 {
			t.Fatalf("list on a full disk: %v", err)
		}
		free()
		took := recovers(t, enqueue)
		if err != nil {
			if err := q.Finish(ctx, run.Lease, queue.Result{}); err != nil {
				t.Fatalf("finish after the disk was freed: %v", err)
			}
		}
		stored[run.ID], stored[lazy.ID] = queue.Complete, queue.Complete
		recovers(t, func() error { // the lazy finish is tried again by itself
			key, _ := queue.ParseID(lazy.ID)
			rec, err := s.Get(ctx, key)
			if err == nil && rec.State != queue.Complete {
				err = fmt.Errorf("the lazy finish is still to be stored: %s", rec.State)
			}
			return err
		})
		t.Logf("round %d: recovered after %v", round, took.Round(time.Millisecond))
	}
	q.Close()
	s.Close()
	s = open(t, path)
	rows := 0
	for id, state := range stored {
		key, _ := queue.ParseID(id)
		if rec, err := s.Get(ctx, key); err != nil || rec.State != state {
			t.Errorf("%s was acknowledged as %s and is %s: %v", id, state, rec.State, err)
		}
	}
	for before := int64(0); ; {
		page, err := s.List(ctx, queue.Filter{Limit: 500}, before)
		if err != nil {
			t.Fatal(err)
		}
		if rows += len(page); len(page) < 500 {
			break
		}
		before = page[len(page)-1].Key
	}
	if rows != len(stored) {
		t.Errorf("%d rows, %d were acknowledged", rows, len(stored))
	}
	t.Logf("row 12 disk full, jobs: rounds %d, survived %d, lost 0", n, n)
}

func TestFault12DiskFullJournal(t *testing.T) {
	ctx := t.Context()
	dir := smallDisk(t)
	path := filepath.Join(dir, "queue.frames")
	o := sqlitequeue.Options{Settle: 5 * time.Millisecond, Linger: time.Millisecond, TailSize: 1 << 20}
	j := openJournal(t, path, o)
	appended := map[string]uint64{}
	n := rounds(2, 10)
	for round := range n {
		a, b := fmt.Sprint("append", round), fmt.Sprint("buffer", round)
		put := func(job string, fn func(seq uint64) error) error {
			err := fn(appended[job] + 1)
			if err == nil {
				appended[job]++
			}
			return err
		}
		add := func() error {
			return put(a, func(seq uint64) error { return j.Append(ctx, a, seq, 1, []byte(frameOf("r", a, seq))) })
		}
		buffer := func() error {
			return put(b, func(seq uint64) error { return j.Buffer(b, seq, 1, []byte(frameOf("r", b, seq))) })
		}
		for range 200 {
			if err := errors.Join(add(), buffer()); err != nil {
				t.Fatal(err)
			}
		}
		free := ballast(t, dir)
		var err error
		for err == nil {
			if err = buffer(); err == nil {
				err = add()
			}
		}
		if !errors.Is(err, queue.ErrStorageFull) {
			t.Fatalf("on a full disk: %v", err)
		}
		if got := len(readAll(t, j, a, 0)); uint64(got) != appended[a] {
			t.Fatalf("reading on a full disk: %d frames of %d", got, appended[a])
		}
		free()
		t.Logf("round %d: recovered after %v", round, recovers(t, add).Round(time.Millisecond))
		if err := buffer(); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = openJournal(t, path, o)
	for job, want := range appended {
		got := readAll(t, j, job, 0)
		for i, g := range got {
			if g != frameOf("r", job, uint64(i+1)) {
				t.Fatalf("frame %d of %s is %q", i+1, job, g)
			}
		}
		if uint64(len(got)) != want {
			t.Errorf("%s: %d frames, %d were acknowledged", job, len(got), want)
		}
	}
	t.Logf("row 12 disk full, journal: rounds %d, survived %d, lost 0", n, n)
}
