package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// spy is a store that counts operations and can be made to fail or to wait.
type spy struct {
	queue.Store
	mu     sync.Mutex
	fail   error
	groups [][]queue.OpKind
	gate   chan struct{}
}

func (s *spy) Apply(ctx context.Context, ops []*queue.Op) error {
	s.mu.Lock()
	gate, fail := s.gate, s.fail
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if fail != nil {
		return fail
	}
	var kinds []queue.OpKind
	for _, op := range ops {
		kinds = append(kinds, op.Kind)
	}
	s.mu.Lock()
	s.groups = append(s.groups, kinds)
	s.mu.Unlock()
	return s.Store.Apply(ctx, ops)
}

func (s *spy) set(fail error) {
	s.mu.Lock()
	s.fail = fail
	s.mu.Unlock()
}

func (s *spy) seen() [][]queue.OpKind {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.groups)
}

func TestGroupCommitAndCoalescing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := &spy{Store: queue.NewMemory(), gate: make(chan struct{})}
		q := queue.New(s, queue.Options{})
		first, err := q.Submit(queue.Job{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the first commit is under way
		var tickets []*queue.Ticket
		for range 10 {
			tk, err := q.Submit(queue.Job{State: queue.Running})
			if err != nil {
				t.Fatal(err)
			}
			if err := q.FinishLazy(tk.Lease(), queue.Result{TokensOut: 1}); err != nil {
				t.Fatal(err)
			}
			tickets = append(tickets, tk)
		}
		close(s.gate)
		for _, tk := range append(tickets, first) {
			if err := tk.Wait(ctx); err != nil {
				t.Fatal(err)
			}
		}
		groups := s.seen()
		if len(groups) != 2 || len(groups[0]) != 1 || len(groups[1]) != 10 {
			t.Fatalf("groups %v, want one of 1 and one of 10: insert and finish are one write", groups)
		}
		// a lazy finish triggers no commit of its own until it is 50 ms old
		job, err := q.Claim(ctx, first.ID(), "w", "n")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := q.FinishLazy(job.Lease, queue.Result{}); err != nil {
			t.Fatal(err)
		}
		<-time.After(40 * time.Millisecond) // fake time
		synctest.Wait()
		if n := len(s.seen()); n != 3 {
			t.Errorf("%d groups %v after the finish", n, time.Since(begin))
		}
		if _, err := q.Enqueue(ctx, queue.Job{}); err != nil {
			t.Fatal(err)
		}
		if groups := s.seen(); len(groups) != 4 || len(groups[3]) != 2 {
			t.Errorf("groups %v: the finish should ride on the enqueue", groups)
		}
		q.Close()
	})
}

func TestLazyFinishIsStoredInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		store := queue.NewMemory()
		q := queue.New(store, queue.Options{})
		defer q.Close()
		j, err := q.Enqueue(ctx, queue.Job{State: queue.Running})
		if err != nil {
			t.Fatal(err)
		}
		changes := q.Watch(ctx)
		begin := time.Now()
		if err := q.FinishLazy(j.Lease, queue.Result{}); err != nil {
			t.Fatal(err)
		}
		c := <-changes
		if d := time.Since(begin); c.Job.State != queue.Complete || d > 51*time.Millisecond {
			t.Errorf("%s after %v", c.Job.State, d)
		}
	})
}

func TestStorageFailureTakesNothingForGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := &spy{Store: queue.NewMemory()}
		q := queue.New(s, queue.Options{})
		defer q.Close()
		waiting, err := q.Enqueue(ctx, queue.Job{Model: "m", IdempotencyKey: "k"})
		if err != nil {
			t.Fatal(err)
		}
		other, err := q.Enqueue(ctx, queue.Job{State: queue.Running, Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		s.set(queue.ErrStorageFull)
		if _, err := q.Enqueue(ctx, queue.Job{IdempotencyKey: "k2"}); !errors.Is(err, queue.ErrStorageFull) {
			t.Errorf("enqueue: %v", err)
		}
		if _, err := q.Claim(ctx, waiting.ID, "w", "n"); !errors.Is(err, queue.ErrStorageFull) {
			t.Errorf("claim: %v", err)
		}
		if err := q.Finish(ctx, other.Lease, queue.Result{}); !errors.Is(err, queue.ErrStorageFull) {
			t.Errorf("finish: %v", err)
		}
		if err := q.Pause(ctx, queue.Pause{Model: "m"}); !errors.Is(err, queue.ErrStorageFull) {
			t.Errorf("pause: %v", err)
		}
		line, err := q.Line(ctx, 10)
		if err != nil || len(line) != 1 || line[0].ID != waiting.ID || q.Waiting("m") != 1 || q.Waiting("") != 1 {
			t.Errorf("the line is %v, waiting %d: %v", line, q.Waiting(""), err)
		}
		if j, err := q.Get(ctx, other.ID); err != nil || j.State != queue.Running {
			t.Errorf("the running job is %s, %v", j.State, err)
		}
		if err := q.FinishLazy(other.Lease, queue.Result{}); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * time.Second) // fake time
		s.set(nil)
		if _, err := q.Enqueue(ctx, queue.Job{IdempotencyKey: "k2"}); err != nil {
			t.Errorf("the key of a job that was not stored is taken: %v", err)
		}
		if _, err := q.Claim(ctx, waiting.ID, "w", "n"); err != nil {
			t.Errorf("claim: %v", err)
		}
		<-time.After(time.Second) // fake time
		key, _ := queue.ParseID(other.ID)
		if rec, err := s.Get(ctx, key); err != nil || rec.State != queue.Complete {
			t.Errorf("the lazy finish is stored as %s, %v", rec.State, err)
		}
	})
}

func TestDelayDeadlineAndAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		q := queue.New(queue.NewMemory(), queue.Options{MaxAttempts: 2})
		defer q.Close()
		begin := time.Now()
		late, err := q.Enqueue(ctx, queue.Job{NotBefore: begin.Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		dead, err := q.Enqueue(ctx, queue.Job{NotBefore: begin.Add(time.Hour), Deadline: begin.Add(10 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		if line, _ := q.Line(ctx, 10); len(line) != 0 {
			t.Errorf("delayed jobs are in line: %v", line)
		}
		for attempt := 1; attempt <= 2; attempt++ {
			j, err := q.Next(ctx, queue.ClaimOptions{})
			if err != nil || j.ID != late.ID || j.Attempt != attempt {
				t.Fatalf("next: %+v %v", j, err)
			}
			if d := time.Since(begin); attempt == 1 && (d < time.Minute || d > time.Minute+time.Second) {
				t.Errorf("a job delayed by a minute came after %v", d)
			}
			if err := q.Release(ctx, j.Lease, queue.ReleaseOptions{Delay: time.Second, Reason: "broken"}); err != nil {
				t.Fatal(err)
			}
		}
		if j, err := q.Get(ctx, late.ID); err != nil || j.State != queue.Failed || j.ErrorCode != "WORKER_FAILED" {
			t.Errorf("after two attempts: %+v %v", j, err)
		}
		if j, err := q.Get(ctx, dead.ID); err != nil || j.State != queue.Failed || j.ErrorCode != "DEADLINE_EXCEEDED" {
			t.Errorf("after its deadline: %+v %v", j, err)
		}
	})
}

func TestExtendKeepsALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		q := queue.New(queue.NewMemory(), queue.Options{Lease: 10 * time.Second})
		defer q.Close()
		if _, err := q.Enqueue(ctx, queue.Job{}); err != nil {
			t.Fatal(err)
		}
		j, err := q.Next(ctx, queue.ClaimOptions{})
		if err != nil {
			t.Fatal(err)
		}
		l := j.Lease
		for range 5 {
			<-time.After(8 * time.Second) // fake time
			if l, err = q.Extend(ctx, l, 0); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(11 * time.Second) // fake time
		synctest.Wait()
		if _, err = q.Extend(ctx, l, 0); !errors.Is(err, queue.ErrLeaseLost) {
			t.Errorf("an expired lease was extended: %v", err)
		}
		if err := q.Finish(ctx, l, queue.Result{State: queue.Running}); !errors.Is(err, queue.ErrInvalid) {
			t.Errorf("finish as running: %v", err)
		}
	})
}

func TestPauseByModelAndTenant(t *testing.T) {
	ctx := t.Context()
	store := queue.NewMemory()
	q := queue.New(store, queue.Options{})
	for _, m := range []string{"x", "y"} {
		for _, tn := range []string{"a", "b"} {
			if _, err := q.Enqueue(ctx, queue.Job{Model: m, Tenant: tn}); err != nil {
				t.Fatal(err)
			}
		}
	}
	line := func() (out []string) {
		jobs, err := q.Line(ctx, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			out = append(out, j.Model+j.Tenant)
		}
		slices.Sort(out)
		return out
	}
	if err := q.Pause(ctx, queue.Pause{Model: "x", Tenant: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := q.Pause(ctx, queue.Pause{Tenant: "b"}); err != nil {
		t.Fatal(err)
	}
	if got := line(); !slices.Equal(got, []string{"ya"}) {
		t.Errorf("line %v", got)
	}
	q.Close()
	q = queue.New(store, queue.Options{}) // a pause outlives its queue
	defer q.Close()
	if got := line(); !slices.Equal(got, []string{"ya"}) {
		t.Errorf("line after a restart %v", got)
	}
	if err := q.Resume(ctx, queue.Pause{Tenant: "b"}); err != nil {
		t.Fatal(err)
	}
	if got := line(); !slices.Equal(got, []string{"xb", "ya", "yb"}) {
		t.Errorf("line after resume %v", got)
	}
	if err := q.Pause(ctx, queue.Pause{}); !errors.Is(err, queue.ErrInvalid) {
		t.Errorf("pause of nothing: %v", err)
	}
	if ps, err := q.Pauses(ctx); err != nil || len(ps) != 1 {
		t.Errorf("pauses %v %v", ps, err)
	}
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		q := queue.New(queue.NewMemory(), queue.Options{})
		defer q.Close()
		run, err := q.Enqueue(ctx, queue.Job{State: queue.Running})
		if err != nil {
			t.Fatal(err)
		}
		next := make(chan error, 1)
		go func() {
			_, err := q.Next(ctx, queue.ClaimOptions{})
			next <- err
		}()
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- q.Drain(ctx) }()
		if err := <-next; !errors.Is(err, queue.ErrClosed) {
			t.Errorf("next while draining: %v", err)
		}
		if _, err := q.Submit(queue.Job{}); !errors.Is(err, queue.ErrClosed) {
			t.Errorf("submit while draining: %v", err)
		}
		synctest.Wait()
		select {
		case err := <-drained:
			t.Fatalf("drained with a job running: %v", err)
		default:
		}
		if err := q.Finish(ctx, run.Lease, queue.Result{}); err != nil {
			t.Fatal(err)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

func TestBounds(t *testing.T) {
	ctx := t.Context()
	s := &spy{Store: queue.NewMemory()}
	q := queue.New(s, queue.Options{Max: 2, PayloadCache: 5})
	defer q.Close()
	for i := range 3 {
		_, err := q.Enqueue(ctx, queue.Job{Payload: []byte("long payload")})
		if (i == 2) != errors.Is(err, queue.ErrOverloaded) {
			t.Errorf("job %d: %v", i, err)
		}
	}
	line, err := q.Line(ctx, 5) // payloads beyond the cache come from the store
	if err != nil || len(line) != 2 || string(line[1].Payload) != "long payload" {
		t.Errorf("line %v %v", line, err)
	}
	j, err := q.Next(ctx, queue.ClaimOptions{})
	if err != nil || string(j.Payload) != "long payload" {
		t.Errorf("next %q %v", j.Payload, err)
	}
	for _, bad := range []queue.Job{{ID: "mine"}, {Priority: "urgent"}, {State: queue.Complete}} {
		if _, err := q.Submit(bad); !errors.Is(err, queue.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	id := q.NewID()
	if j, err := q.Enqueue(ctx, queue.Job{ID: id, State: queue.Running}); err != nil || j.ID != id {
		t.Errorf("own id: %v %v", j.ID, err)
	}
	if _, err := q.Enqueue(ctx, queue.Job{ID: id, State: queue.Running}); !errors.Is(err, queue.ErrConflict) {
		t.Errorf("an id used twice: %v", err)
	}
	if _, err := q.List(ctx, queue.Filter{Cursor: "?"}); !errors.Is(err, queue.ErrInvalid) {
		t.Errorf("cursor: %v", err)
	}
}

func TestWatchTellsASlowReader(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	q := queue.New(queue.NewMemory(), queue.Options{Max: -1, Pace: -1})
	defer q.Close()
	changes := q.Watch(ctx)
	for i := range 400 {
		if _, err := q.Enqueue(ctx, queue.Job{Model: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	for len(changes) > 0 {
		if c := <-changes; c.Resync || c.Job.Payload != nil {
			t.Errorf("unexpected %+v", c)
		}
		seen++
	}
	if _, err := q.Enqueue(ctx, queue.Job{Model: "last"}); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; !c.Resync || seen >= 400 {
		t.Errorf("after %d changes: %+v", seen, c)
	}
	if c := <-changes; c.Job.Model != "last" {
		t.Errorf("then %+v", c)
	}
	cancel()
	for range changes { // it is closed
	}
}

func TestNextHonoursModelsAndCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		q := queue.New(queue.NewMemory(), queue.Options{})
		defer q.Close()
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := q.Enqueue(ctx, queue.Job{Model: "a"}); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Next(short, queue.ClaimOptions{Models: []string{"b"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("next: %v", err)
		}
		got := make(chan queue.Job, 1)
		go func() {
			j, err := q.Next(ctx, queue.ClaimOptions{Models: []string{"b", "c"}})
			if err != nil {
				t.Error(err)
			}
			got <- j
		}()
		synctest.Wait()
		for _, m := range []string{"d", "c"} {
			if _, err := q.Enqueue(ctx, queue.Job{Model: m}); err != nil {
				t.Fatal(err)
			}
		}
		if j := <-got; j.Model != "c" {
			t.Errorf("got model %s", j.Model)
		}
	})
}

func TestEndWithoutALease(t *testing.T) {
	ctx := t.Context()
	q := queue.New(queue.NewMemory(), queue.Options{})
	defer q.Close()
	waiting, err := q.Enqueue(ctx, queue.Job{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		j, err := q.End(ctx, waiting.ID, queue.Result{State: queue.Failed, ErrorCode: "PROVISION_FAILED"})
		if err != nil || j.State != queue.Failed || j.ErrorCode != "PROVISION_FAILED" {
			t.Errorf("end: %+v %v", j, err)
		}
	}
	if _, err := q.End(ctx, q.NewID(), queue.Result{}); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("end of nothing: %v", err)
	}
	if n := q.Waiting(""); n != 0 {
		t.Errorf("%d wait", n)
	}
}
