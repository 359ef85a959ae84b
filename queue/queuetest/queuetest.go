// Package queuetest holds what every store and journal of package queue must pass: Run checks a queue.Store row by
// row and under a model checker with crashes, RunJournal checks a queue.Journal. An implementation calls them from
// its own tests.
package queuetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// Harness makes an empty store for a test and returns a function that opens it. The suite opens it again after it
// closed what it got before, and expects to find the same data.
type Harness func(t testing.TB) (open func() (queue.Store, error))

// Run checks a store.
func Run(t *testing.T, h Harness) {
	t.Run("Rows", func(t *testing.T) { testRows(t, h) })
	t.Run("Guards", func(t *testing.T) { testGuards(t, h) })
	t.Run("GroupIsInOrder", func(t *testing.T) { testGroup(t, h) })
	t.Run("Idempotency", func(t *testing.T) { testIdempotency(t, h) })
	t.Run("Scrub", func(t *testing.T) { testScrub(t, h) })
	t.Run("List", func(t *testing.T) { testList(t, h) })
	t.Run("Load", func(t *testing.T) { testLoad(t, h) })
	t.Run("Purge", func(t *testing.T) { testPurge(t, h) })
	t.Run("Pauses", func(t *testing.T) { testPauses(t, h) })
	t.Run("Workers", func(t *testing.T) { testWorkers(t, h) })
	t.Run("Model", func(t *testing.T) { Model(t, h, seeds) })
}

// seeds is how many histories the model checker tries in Run.
const seeds = 50

// Seeds is how many histories a test of Model alone should try: 1,000 in the long form (RBEE_LONG=1), else a few.
func Seeds() int {
	if os.Getenv("RBEE_LONG") == "1" {
		return 1000
	}
	return 5
}

// start is when the tests' clocks begin.
func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// opened opens a store and closes it at the end of the test.
func opened(t testing.TB, open func() (queue.Store, error)) queue.Store {
	t.Helper()
	s, err := open()
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() }) // the test may have closed it
	return s
}

// maker makes records with proper ids.
type maker struct{ q *queue.Queue }

func newMaker() *maker {
	return &maker{q: queue.New(queue.NewMemory(), queue.Options{Clock: start})}
}

func (m *maker) record(t testing.TB, j queue.Job) queue.Record {
	t.Helper()
	state := j.State
	j.State = ""
	rec, err := m.q.Prepare(j)
	if err != nil {
		t.Fatal(err)
	}
	if state != "" {
		rec.State = state
	}
	return rec
}

func insert(rec queue.Record) *queue.Op {
	return &queue.Op{Kind: queue.OpInsert, Record: rec, Since: rec.Submitted.Add(-24 * time.Hour)}
}

// apply runs a group that must be stored as a whole, and returns each operation's own error.
func apply(t testing.TB, s queue.Store, ops ...*queue.Op) []error {
	t.Helper()
	if err := s.Apply(context.Background(), ops); err != nil {
		t.Fatalf("apply: %v", err)
	}
	errs := make([]error, len(ops))
	for i, op := range ops {
		errs[i] = op.Err
	}
	return errs
}

func must(t testing.TB, s queue.Store, ops ...*queue.Op) {
	t.Helper()
	for i, err := range apply(t, s, ops...) {
		if err != nil {
			t.Fatalf("operation %d: %v", i, err)
		}
	}
}

// ended is the record of a job that was run and is over.
func ended(rec queue.Record, state queue.State, at time.Time) queue.Record {
	rec.State, rec.Completed, rec.TokensOut = state, at, 7
	rec.Lease = queue.Lease{Fence: rec.Lease.Fence + 1}
	return rec
}

func testRows(t *testing.T, h Harness) {
	open := h(t)
	s := opened(t, open)
	at := start()
	rec := newMaker().record(t, queue.Job{Tenant: "t\x00ü", Model: "m", ModelRef: "sim:m", Priority: queue.Batch,
		NotBefore: at.Add(time.Minute), Deadline: at.Add(time.Hour), IdempotencyKey: "k", Detached: true, Payload: []byte{0, 255, 1}})
	rec.Rank = 1 << 40
	must(t, s, insert(rec))
	same(t, s, rec)

	run := rec
	run.State, run.Worker, run.Node, run.Attempt, run.Started = queue.Running, "w", "n", 2, at.Add(time.Second)
	run.Lease = queue.Lease{Job: rec.ID, Holder: "h", Fence: 1, Until: at.Add(30 * time.Second)}
	must(t, s, &queue.Op{Kind: queue.OpUpdate, Record: run, IfState: queue.Queued})
	same(t, s, run)

	back := run
	back.State, back.Worker, back.Node, back.Started, back.ErrorMessage = queue.Queued, "", "", time.Time{}, "lost"
	back.NotBefore, back.Lease = at.Add(2*time.Minute), queue.Lease{Fence: 2}
	must(t, s, &queue.Op{Kind: queue.OpUpdate, Record: back, IfState: queue.Running, IfFence: 1})
	same(t, s, back)

	run.Lease.Fence, run.ErrorMessage, run.NotBefore = 3, "again", at.Add(3*time.Minute) // as two changes in one
	must(t, s, &queue.Op{Kind: queue.OpUpdate, Record: run, IfState: queue.Queued, IfFence: 2})
	same(t, s, run)
	end := ended(run, queue.Failed, at.Add(time.Minute))
	end.FirstToken, end.PromptTokens, end.CachedTokens = at.Add(2*time.Second), 5, 3
	end.ErrorCode, end.ErrorMessage, end.NotBefore = "WORKER_FAILED", "why", time.Time{}
	must(t, s, &queue.Op{Kind: queue.OpUpdate, Record: end, IfState: queue.Running, IfFence: 3})
	same(t, s, end)

	whole := ended(newMaker().record(t, queue.Job{Tenant: "t", Model: "m", Payload: []byte("p")}), queue.Complete, at)
	must(t, s, insert(whole)) // a job that was over before its first write
	same(t, s, whole)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = opened(t, open)
	same(t, s, end)
	same(t, s, whole)
	if _, err := s.Get(context.Background(), whole.Key+1); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("an unknown key: %v", err)
	}
}

// same checks that a store has exactly this record.
func same(t testing.TB, s queue.Store, want queue.Record) {
	t.Helper()
	got, err := s.Get(context.Background(), want.Key)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Fatalf("the record differs\n got %s\nwant %s", g, w)
	}
}

func testGuards(t *testing.T, h Harness) {
	s := opened(t, h(t))
	m := newMaker()
	rec := m.record(t, queue.Job{})
	must(t, s, insert(rec))
	run := rec
	run.State, run.Lease = queue.Running, queue.Lease{Job: rec.ID, Holder: "h", Fence: 1}
	for name, op := range map[string]*queue.Op{
		"wrong state": {Kind: queue.OpUpdate, Record: run, IfState: queue.Running},
		"wrong fence": {Kind: queue.OpUpdate, Record: run, IfState: queue.Queued, IfFence: 9},
		"second key":  insert(rec),
	} {
		if err := apply(t, s, op)[0]; !errors.Is(err, queue.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := m.record(t, queue.Job{})
	if err := apply(t, s, &queue.Op{Kind: queue.OpUpdate, Record: other, IfState: queue.Queued})[0]; !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("a job that is not there: %v", err)
	}
	same(t, s, rec)
}

func testGroup(t *testing.T, h Harness) {
	s := opened(t, h(t))
	m := newMaker()
	rec, bad, last := m.record(t, queue.Job{}), m.record(t, queue.Job{}), m.record(t, queue.Job{})
	run := rec
	run.State, run.Attempt, run.Lease = queue.Running, 1, queue.Lease{Job: rec.ID, Holder: "h", Fence: 1}
	end := ended(run, queue.Complete, start())
	errs := apply(t, s, insert(rec), &queue.Op{Kind: queue.OpUpdate, Record: run, IfState: queue.Queued},
		&queue.Op{Kind: queue.OpUpdate, Record: bad, IfState: queue.Queued},
		&queue.Op{Kind: queue.OpUpdate, Record: end, IfState: queue.Running, IfFence: 1}, insert(last))
	for i, err := range errs {
		if (i == 2) != (err != nil) {
			t.Errorf("operation %d: %v", i, err)
		}
	}
	same(t, s, end)
	same(t, s, last)
}

func testIdempotency(t *testing.T, h Harness) {
	s := opened(t, h(t))
	m := newMaker()
	job := queue.Job{Tenant: "a", IdempotencyKey: "k", Payload: []byte("1")}
	first := m.record(t, job)
	must(t, s, insert(first))
	var dup *queue.DuplicateError
	err := apply(t, s, insert(m.record(t, job)))[0]
	if !errors.As(err, &dup) || dup.First.ID != first.ID || dup.First.Fingerprint != first.Fingerprint {
		t.Fatalf("a used key: %v", err)
	}
	job.Tenant = "b"
	must(t, s, insert(m.record(t, job)))
	job.IdempotencyKey = ""
	must(t, s, insert(m.record(t, job)), insert(m.record(t, job)))
	found, err := s.Find(context.Background(), "a", "k", start())
	if err != nil || found.ID != first.ID {
		t.Fatalf("find: %v %v", found.ID, err)
	}
	for _, f := range []func() (queue.Record, error){
		func() (queue.Record, error) { return s.Find(context.Background(), "a", "k", start().Add(1e6)) },
		func() (queue.Record, error) { return s.Find(context.Background(), "c", "k", start()) },
		func() (queue.Record, error) { return s.Find(context.Background(), "a", "x", start()) },
	} {
		if _, err := f(); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("find of nothing: %v", err)
		}
	}
	later := m.record(t, queue.Job{Tenant: "a", IdempotencyKey: "k", Submitted: start().Add(25 * time.Hour)})
	must(t, s, insert(later)) // the old key gives way
	if found, err = s.Find(context.Background(), "a", "k", start()); err != nil || found.ID != later.ID {
		t.Errorf("after the window: %v %v", found.ID, err)
	}
}

func testScrub(t *testing.T, h Harness) {
	s := opened(t, h(t))
	m := newMaker()
	kept, gone := m.record(t, queue.Job{Payload: []byte("kept")}), m.record(t, queue.Job{Payload: []byte("gone")})
	atOnce := ended(m.record(t, queue.Job{Payload: []byte("at once")}), queue.Complete, start())
	op := insert(atOnce)
	op.Scrub = true
	must(t, s, insert(kept), insert(gone), op)
	must(t, s, &queue.Op{Kind: queue.OpUpdate, Record: ended(kept, queue.Cancelled, start()), IfState: queue.Queued},
		&queue.Op{Kind: queue.OpUpdate, Record: ended(gone, queue.Cancelled, start()), IfState: queue.Queued, Scrub: true})
	for key, want := range map[int64]string{kept.Key: "kept", gone.Key: "", atOnce.Key: ""} {
		rec, err := s.Get(context.Background(), key)
		if err != nil || string(rec.Payload) != want {
			t.Errorf("payload %q, want %q (%v)", rec.Payload, want, err)
		}
	}
}

func testList(t *testing.T, h Harness) {
	s := opened(t, h(t))
	m := newMaker()
	var all []queue.Record
	for i := range 60 {
		rec := m.record(t, queue.Job{Tenant: fmt.Sprint("t", i%2), Model: fmt.Sprint("m", i%3), Payload: []byte("p"),
			Priority: []string{queue.Interactive, queue.Batch}[i%4/2]})
		if i%5 == 0 {
			rec = ended(rec, queue.Complete, start())
		}
		must(t, s, insert(rec))
		rec.Payload = nil
		all = append(all, rec)
	}
	slices.Reverse(all)
	for _, f := range []queue.Filter{{}, {State: queue.Complete}, {Model: "m1"}, {Tenant: "t0"}, {Priority: queue.Batch},
		{State: queue.Queued, Model: "m2", Tenant: "t1", Priority: queue.Interactive}, {Model: "none"}} {
		want := slices.DeleteFunc(slices.Clone(all), func(r queue.Record) bool {
			return f.State != "" && r.State != f.State || f.Model != "" && r.Model != f.Model ||
				f.Tenant != "" && r.Tenant != f.Tenant || f.Priority != "" && r.Priority != f.Priority
		})
		f.Limit = 7
		var got []queue.Record
		for before := int64(0); ; before = got[len(got)-1].Key {
			page, err := s.List(context.Background(), f, before)
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, page...); len(page) < f.Limit || len(got) > len(all) {
				break
			}
		}
		if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
			t.Errorf("filter %+v: %d rows, want %d, or others", f, len(got), len(want))
		}
	}
}

func testLoad(t *testing.T, h Harness) {
	open := h(t)
	s := opened(t, open)
	m := newMaker()
	want := map[string]string{}
	var high int64
	for i := range 12 {
		rec := m.record(t, queue.Job{Tenant: "t", Model: "m", Payload: fmt.Appendf(nil, "p%d", i)})
		rec.Rank = int64(i)
		rec.State = []queue.State{queue.Queued, queue.Running, queue.Complete}[i%3]
		if rec.State == queue.Running {
			rec.Lease = queue.Lease{Job: rec.ID, Holder: "h", Fence: int64(i)}
		}
		if rec.State == queue.Complete {
			rec = ended(rec, queue.Complete, start())
		} else {
			want[rec.ID] = fmt.Sprintf("%+v", rec)
		}
		must(t, s, insert(rec))
		high = rec.Key
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = opened(t, open)
	var last int64
	snap, err := s.Load(context.Background(), func(r queue.Record) error {
		if r.Key <= last {
			t.Errorf("key %d comes after %d", r.Key, last)
		}
		last = r.Key
		if g := fmt.Sprintf("%+v", r); g != want[r.ID] {
			t.Errorf("loaded\n %s\nwant %s", g, want[r.ID])
		}
		delete(want, r.ID)
		return nil
	})
	if err != nil || len(want) > 0 || snap.MaxKey != high {
		t.Fatalf("%d unfinished jobs were not loaded; highest key %d of %d; %v", len(want), snap.MaxKey, high, err)
	}
	if len(snap.Finished) != 1 || snap.Finished[0] != (queue.Tally{State: queue.Complete, Model: "m", Tenant: "t", Priority: queue.Interactive, N: 4}) {
		t.Fatalf("tallies %+v", snap.Finished)
	}
	stop := errors.New("stop")
	if _, err := s.Load(context.Background(), func(queue.Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the callback's error became %v", err)
	}
}

func testPurge(t *testing.T, h Harness) {
	s := opened(t, h(t))
	m := newMaker()
	var keys []int64
	for i := range 20 {
		rec := m.record(t, queue.Job{Tenant: "t", Model: "m"})
		if i%2 == 0 {
			rec = ended(rec, queue.Complete, start().Add(time.Duration(i)*time.Minute))
		}
		must(t, s, insert(rec))
		keys = append(keys, rec.Key)
	}
	var total int64
	for range 3 {
		gone, err := s.Purge(context.Background(), start().Add(10*time.Minute), 2)
		if err != nil {
			t.Fatal(err)
		}
		var n int64
		for _, g := range gone {
			if g.State != queue.Complete || g.Model != "m" || g.Tenant != "t" || g.Priority != queue.Interactive {
				t.Errorf("tally %+v", g)
			}
			n += g.N
		}
		if n > 2 {
			t.Errorf("%d rows went, at most 2 were asked for", n)
		}
		total += n
	}
	if total != 5 { // those of minutes 0, 2, 4, 6 and 8
		t.Errorf("%d rows were purged, want 5", total)
	}
	for i, k := range keys {
		_, err := s.Get(context.Background(), k)
		if old := i%2 == 0 && i < 10; old != errors.Is(err, queue.ErrNotFound) {
			t.Errorf("row %d: %v", i, err)
		}
	}
}

func testPauses(t *testing.T, h Harness) {
	open := h(t)
	s := opened(t, open)
	a, b := queue.Pause{Model: "m"}, queue.Pause{Model: "m", Tenant: "t"}
	must(t, s, &queue.Op{Kind: queue.OpPause, Pause: a}, &queue.Op{Kind: queue.OpPause, Pause: b}, &queue.Op{Kind: queue.OpPause, Pause: b})
	must(t, s, &queue.Op{Kind: queue.OpResume, Pause: a})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = opened(t, open)
	snap, err := s.Load(context.Background(), func(queue.Record) error { return nil })
	if err != nil || !slices.Equal(snap.Pauses, []queue.Pause{b}) {
		t.Fatalf("pauses %v, %v", snap.Pauses, err)
	}
}

// testWorkers lets many submit and many work at once: every job runs to its end exactly once.
func testWorkers(t *testing.T, h Harness) {
	ctx := t.Context()
	q := queue.New(opened(t, h(t)), queue.Options{})
	defer q.Close()
	const jobs, workers = 400, 8
	var mu sync.Mutex
	ran := map[string]int{}
	var wg, work sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range jobs / workers {
				if _, err := q.Enqueue(ctx, queue.Job{Tenant: fmt.Sprint(w), Model: "m", Payload: []byte("p")}); err != nil {
					t.Error(err)
				}
			}
		})
		work.Go(func() {
			for {
				j, err := q.Next(ctx, queue.ClaimOptions{Worker: fmt.Sprint(w)})
				if errors.Is(err, queue.ErrClosed) {
					return
				}
				if err != nil || string(j.Payload) != "p" {
					t.Errorf("next: %q %v", j.Payload, err)
					return
				}
				mu.Lock()
				ran[j.ID]++
				n := len(ran)
				mu.Unlock()
				if err := q.Finish(ctx, j.Lease, queue.Result{}); err != nil {
					t.Error(err)
				}
				if n == jobs {
					go func() { _ = q.Drain(context.Background()) }() // ends the others' Next
				}
			}
		})
	}
	wg.Wait()
	work.Wait()
	for id, n := range ran {
		if n != 1 {
			t.Errorf("%s ran %d times", id, n)
		}
	}
	counts, err := q.Counts(ctx)
	var done int64
	for _, c := range counts {
		if c.State != queue.Complete {
			t.Errorf("left over: %+v", c)
		}
		done += c.N
	}
	if err != nil || done != jobs {
		t.Errorf("%d jobs complete, %v", done, err)
	}
}
